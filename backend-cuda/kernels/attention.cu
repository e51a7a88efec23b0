// Causal attention over quantised keys and values, exact (docs/numerics.md, section 7): scores, maxima and sums are integers, so
// tiles may come in any order. Kernels:
//   attention_general   any head size, any digits: one block of threads for a query row, a head and 128 columns.
//   attention_prepare   then
//   attention_64, _128  one digit, head sizes 64 and 128: pairs of warps, each with 16 query rows of one head, share the tiles of a
//                       key head. A first pass finds the exponents of blocks and rows, a second one makes weights and sums.
#include "attention_general.cuh"
#include "attention_scores.cuh"

// Grid: (blocks of 64 tokens, key heads), 128 threads. head_dim is a multiple of 4.
KERNEL __launch_bounds__(128) attention_prepare(Attention a) {
    u32 tid = thread_x(), block = block_x(), kv = block_y(), n = a.head_dim;
    if (tid < 32) {
        Keys *keys = keys_of(a, kv) + block;
        Scale k[2];
        i32 low = 1 << 15, high = -(1 << 15);
        for (u32 i = 0; i < 2; i++) {
            u32 key = block * BLOCK + i * 32 + tid;
            bool there = key < a.tokens;
            k[i] = there ? a.k_scale[(u64)key * a.kv_heads + kv] : Scale{0, 0};
            Scale v = there ? a.v_scale[(u64)key * a.kv_heads + kv] : Scale{0, 0};
            keys->factor[i * 32 + tid] = 2 * (u32)value_factor(v, a.value_exponent);
            if (k[i].m != 0) {
                low = min_i32(low, k[i].e);
                high = max_i32(high, k[i].e);
            }
        }
        for (u32 m = 16; m > 0; m >>= 1) {
            low = min_i32(low, shuffle_xor(low, m));
            high = max_i32(high, shuffle_xor(high, m));
        }
        if (low > high) low = high = 0;
        for (u32 i = 0; i < 2; i++) {
            i32 up = k[i].m != 0 ? min_i32(k[i].e - low, 30) : 0;
            bool folded = high - low <= 1;
            keys->mantissa[i * 32 + tid] = folded ? k[i].m << up : k[i].m;
            keys->step[i * 32 + tid] = folded ? 1 : 1 << up;
            keys->scale[i * 32 + tid] = k[i];
        }
        if (tid == 0) {
            keys->low = low;
            keys->span = high - low;
        }
    }
    // Four columns of four tokens a thread: padding rows are readable, and never weighed.
    u8 *values = values_of(a, kv) + (u64)block * n * BLOCK;
    for (u32 i = tid; i < n / 4 * (BLOCK / 4); i += 128) {
        u32 column = i % (n / 4) * 4, token = i / (n / 4) * 4;
        u32 r[4];
        for (u32 j = 0; j < 4; j++)
            r[j] = *(const u32 *)(a.v_lo + (u64)(block * BLOCK + token + j) * a.kv_ld + kv * n + column);
        for (u32 c = 0; c < 4; c++) {
            u32 word = 0;
            for (u32 j = 0; j < 4; j++) word |= (r[j] >> (8 * c) & 255) << (8 * j);
            *(u32 *)(values + (column + c) * BLOCK + token) = word;
        }
    }
}

template <u32 HD> __device__ __forceinline__ void attend(const Attention &a) {
    Shared<HD> &shared = *(Shared<HD> *)shared_bytes;
    u32 tid = thread_x(), lane = tid % 32, pair = tid / 64, side = tid / 32 % 2, kv = block_y(), group = a.heads / a.kv_heads;
    for (u32 i = tid; i < 256 * COPIES; i += THREADS) {
        i32 v = a.tables.exp2[i / COPIES];
        shared.exp2[i / COPIES][i % COPIES][0] = a.tables.exp2[i / COPIES + 1] - v;
        shared.exp2[i / COPIES][i % COPIES][1] = v;
    }

    // Work: 16 rows of one head of this key head's group; the longest first. Rows beyond the last repeat it.
    u32 items = (a.rows + ROWS - 1) / ROWS * group, first_item = (blocks_x() - 1 - block_x()) * PAIRS;
    u32 item = first_item + pair < items ? first_item + pair : items - 1;
    bool busy = first_item + pair < items;
    u32 head = kv * group + item % group, first_row = item / group * ROWS;
    auto clamped = [&](u32 t) { return t < a.rows ? t : a.rows - 1; };
    for (u32 i = tid % 64; i < ROWS * (HD / 16); i += 64) {
        u32 r = i / (HD / 16), chunk = i % (HD / 16);
        copy16(shared_address(shared.q[pair][r]) + chunk * 16, a.q_lo + (u64)clamped(first_row + r) * a.q_ld + head * HD + chunk * 16);
    }
    Row row[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = clamped(first_row + lane / 4 + 8 * r);
        row[r].position = a.start + t;
        row[r].scale = shifted(a.q_scale[(u64)t * a.heads + head], 16 + a.shift);
    }
    // Blocks of keys that the block of threads and this pair see, and those that all rows of the pair see whole.
    u32 last_item = first_item + PAIRS < items ? first_item + PAIRS - 1 : items - 1;
    u32 blocks = (a.start + clamped(last_item / group * ROWS + ROWS - 1)) / BLOCK + 1;
    u32 mine = (a.start + clamped(first_row + ROWS - 1)) / BLOCK + 1, whole = (a.start + first_row + 1) / BLOCK;
    if (!busy) mine = 0;
    Half &own = shared.half[pair][side], &other = shared.half[pair][1 - side];
    i16 *exponent_at = exponents_of(a, (u64)kv * items + item) + lane / 4;
    const Copier<HD> copier(a, kv);
    const u32 part = lane % 4 * 4, k_lane = lane % 8 * (HD + 16) + lane / 8 * 16;
    const u32 q_at = shared_address(shared.q[pair]) + lane % 16 * (HD + 16) + lane / 16 * 16;

    // Pass one: exponents of blocks and each row's greatest score.
    i32 top[2] = {UNSEEN, UNSEEN};
    copier.start(shared.stage[0], 0, false);
    for (u32 b = 0; b < blocks; b += 2) {
        copies_done();
        sync_block();
        if (b + 2 < blocks) copier.start(shared.stage[b / 2 % 2 ^ 1], b + 2, false);
        if (b + side >= mine) continue;
        const Stage<HD> &stage = shared.stage[b / 2 % 2];
        const Keys &keys = stage.keys[side];
        Plan how = plan(keys, row);
        const i32 base[2] = {0, 0};
        i32 max[2] = {UNSEEN, UNSEEN};
        u32 k_at = shared_address(stage.k[side]) + k_lane;
        if (how.fast && b + side < whole) {
            Place place = placement<1>(row, how, base);
            bool clear = false;
            if (how.span <= 1) {
                // The high words nearly always tell the octave.
                maxima_fast<HD, false, true>(max, q_at, k_at, keys, part, place);
                clear = true;
#pragma unroll
                for (u32 r = 0; r < 2; r++) {
                    u32 n = 32 - place.shift[r];
                    i32 m = (i32)((u32)quad_max(max[r]) << n);
                    clear = clear && block_exponent(m) == block_exponent(m + (1 << n) - 1);
                    max[r] = m;
                }
            }
            if (warp_ballot(clear) != ~0u) maxima_fast<HD, true, false>(max, q_at, k_at, keys, part, place);
        } else {
#pragma unroll 1
            for (u32 j = 0; j < 4; j++) {
                i32 s[1][2][4];
                products<HD, 1>(s, q_at, k_at + j * 16 * (HD + 16));
                place_any<1>(s[0], keys, j * 16 + part, row, base, (b + side) * BLOCK + j * 16 + part, UNSEEN);
                raise(max, s[0]);
            }
        }
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            max[r] = quad_max(max[r]);
            top[r] = max_i32(top[r], max[r]);
            if (lane % 4 == 0) exponent_at[(b + side) * 16 + 8 * r] = (i16)block_exponent(max[r]);
        }
    }
    if (lane % 4 == 0) {
#pragma unroll
        for (u32 r = 0; r < 2; r++) own.greatest[lane / 4 + 8 * r] = top[r];
    }
    sync_block();
    copier.start(shared.stage[0], 0, true);
#pragma unroll
    for (u32 r = 0; r < 2; r++) top[r] = block_exponent(max_i32(top[r], other.greatest[lane / 4 + 8 * r]));

    // Pass two: weights and sums.
    i64 total[HD / 16][4] = {}, denominator[2] = {};
    const u32 table = lane % COPIES * 8;
    i32 next[2][2] = {};
#pragma unroll
    for (u32 h = 0; h < 2; h++)
#pragma unroll
        for (u32 r = 0; r < 2; r++)
            if (mine > 0) next[h][r] = exponent_at[(h ^ side) * 16 + 8 * r];
    for (u32 b = 0; b < blocks; b += 2) {
        copies_done();
        sync_block();
        if (b + 2 < blocks) copier.start(shared.stage[b / 2 % 2 ^ 1], b + 2, true);
        const Stage<HD> &stage = shared.stage[b / 2 % 2];
        u32 low[2][4], high[2][4];
        i32 octaves[2][2];
        const bool here = b < mine;
        if (here) {
            // Octaves of the own block and of the other; the exponents of the next two are on their way.
#pragma unroll
            for (u32 h = 0; h < 2; h++)
#pragma unroll
                for (u32 r = 0; r < 2; r++) {
                    octaves[h][r] = b + (h ^ side) < mine ? top[r] - next[h][r] : FAR + 1;
                    if (b + 2 < mine) next[h][r] = exponent_at[(b + 2 + (h ^ side)) * 16 + 8 * r];
                }
            if (warp_ballot(octaves[0][0] <= FAR || octaves[0][1] <= FAR) != 0) {
                const Keys &keys = stage.keys[side];
                Plan how = plan(keys, row);
                i32 base[2];
#pragma unroll
                for (u32 r = 0; r < 2; r++) base[r] = (i32)((u32)(top[r] - octaves[0][r] + 13) << 16);
                u32 weights[2] = {0, 0};
                u32 k_at = shared_address(stage.k[side]) + k_lane;
                if (how.fast && b + side < whole) {
                    Place place = placement<-1>(row, how, base);
                    if (how.span <= 1) {
                        weigh_fast<HD, false>(low, high, weights, q_at, k_at, keys, part, place, table);
                    } else {
                        weigh_fast<HD, true>(low, high, weights, q_at, k_at, keys, part, place, table);
                    }
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        own.weights[i][lane] = *(Words *)low[i];
                        own.weights[2 + i][lane] = *(Words *)high[i];
                    }
                } else {
#pragma unroll 1
                    for (u32 j = 0; j < 4; j++) {
                        i32 s[1][2][4];
                        products<HD, 1>(s, q_at, k_at + j * 16 * (HD + 16));
                        place_any<-1>(s[0], keys, j * 16 + part, row, base, (b + side) * BLOCK + j * 16 + part, NO_WEIGHT);
#pragma unroll
                        for (u32 r = 0; r < 2; r++)
                            weigh(own.weights[j / 2][lane].w[j % 2 * 2 + r], own.weights[2 + j / 2][lane].w[j % 2 * 2 + r], weights[r], s[0], r,
                                  keys.factor + j * 16 + part, table);
                    }
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        *(Words *)low[i] = own.weights[i][lane];
                        *(Words *)high[i] = own.weights[2 + i][lane];
                    }
                }
#pragma unroll
                for (u32 r = 0; r < 2; r++) {
                    Alignment align = alignment(octaves[0][r]);
                    denominator[r] += (i64)(quad_sum(weights[r]) >> align.right) * align.times;
                }
            }
        }
        // Pairs wait for each other too: they share the stages, and compute-sanitizer does not follow barriers of some warps between copies and reads.
        sync_block();
        if (!here) continue;
        // Own block, then the other's.
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            Alignment align[2];
            bool deep = false, near = false;
#pragma unroll
            for (u32 r = 0; r < 2; r++) {
                align[r] = alignment(octaves[h][r]);
                near = near || octaves[h][r] <= FAR;
                deep = deep || align[r].right != 0;
            }
            if (warp_ballot(near) == 0) continue;
            if (h == 1) {
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    *(Words *)low[i] = other.weights[i][lane];
                    *(Words *)high[i] = other.weights[2 + i][lane];
                }
            }
            u32 v_at = shared_address(stage.v[h ^ side][side * (HD / 2) + lane % 8]) + lane / 8 * 16;
            if (warp_ballot(deep) == 0) {
                add_values<HD, false>(total, low, high, v_at, align);
            } else {
                add_values<HD, true>(total, low, high, v_at, align);
            }
        }
    }

    if (lane % 4 == 0) {
#pragma unroll
        for (u32 r = 0; r < 2; r++) own.denominator[lane / 4 + 8 * r] = denominator[r];
    }
    sync_block();
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = first_row + lane / 4 + 8 * r;
        if (!busy || t >= a.rows) continue;
        Divisor by = divisor(denominator[r] + other.denominator[lane / 4 + 8 * r]);
        i32 *out = a.out + ((u64)t * a.heads + head) * HD + side * (HD / 2) + lane % 4 * 2;
#pragma unroll
        for (u32 c = 0; c < HD / 16; c++) {
            out[c * 8] = divide(total[c][2 * r], by, 6, a);
            out[c * 8 + 1] = divide(total[c][2 * r + 1], by, 6, a);
        }
    }
}

// Grid: (ceil(ceil(rows / 16) * (heads / kv_heads) / 6), kv_heads), 384 threads, sizeof(Shared<HD>) bytes of dynamic shared memory.
KERNEL __launch_bounds__(THREADS, 1) attention_64(Attention a) { attend<64>(a); }
KERNEL __launch_bounds__(THREADS, 1) attention_128(Attention a) { attend<128>(a); }
static_assert(sizeof(Shared<64>) == 112448 && sizeof(Shared<128>) == 155456, "the host's figures");
