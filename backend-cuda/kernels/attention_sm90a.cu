// Causal attention over quantised keys and values on Hopper's tensor cores (wgmma, s8): attention.cu's results for one digit and head
// size 128. Kernels, in this order:
//   attention_prepare_sm90a   lays keys and values out in scratch as tiles of 128, ready to be copied and multiplied.
//   attention_128_sm90a       two warpgroups, each with 64 query rows of one head, share the tiles of a key head. A first pass finds
//                             the exponents of blocks and rows, a second one makes weights and sums.
// Everything is exact: floats are used only where what they round off is shown not to matter.
#include "attention_tiles_sm90a.cuh"

// Floats, by bits; what they compute is written out, lest a compiler contract or reorder it.
constexpr i32 LOWEST_BITS = (i32)0xFF800000;
__device__ __forceinline__ f32 as_float(i32 v) { return __builtin_bit_cast(f32, v); }
__device__ __forceinline__ i32 as_int(f32 v) { return __builtin_bit_cast(i32, v); }
// -126 <= n <= 127
__device__ __forceinline__ f32 power_of_two(i32 n) { return as_float((n + 127) << 23); }
__device__ __forceinline__ f32 magnitude(f32 v) { return as_float(as_int(v) & 0x7FFFFFFF); }
__device__ __forceinline__ f32 multiply_add(f32 a, f32 b, f32 c) {
    f32 d;
    asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(a), "f"(b), "f"(c));
    return d;
}
// The other one if one is no number.
__device__ __forceinline__ f32 maximum(f32 a, f32 b) {
    f32 d;
    asm("max.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
    return d;
}
__device__ __forceinline__ i32 floor_int(f32 v) {
    i32 d;
    asm("cvt.rmi.s32.f32 %0, %1;" : "=r"(d) : "f"(v));
    return d;
}
// v << n, zero from n = 32 on.
__device__ __forceinline__ u32 shift_left(u32 v, u32 n) {
    u32 d;
    asm("shl.b32 %0, %1, %2;" : "=r"(d) : "r"(v), "r"(n));
    return d;
}
// v >> n, the sign from n = 31 on.
__device__ __forceinline__ i32 shift_right(i32 v, i32 n) {
    i32 d;
    asm("shr.s32 %0, %1, %2;" : "=r"(d) : "r"(v), "r"(n));
    return d;
}
// The high word of a * b + c.
__device__ __forceinline__ u32 high_word(u32 a, u32 b, u64 c) {
    u64 d;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(d) : "r"(a), "r"(b));
    return (u32)((d + c) >> 32);
}

constexpr i32 NO_WEIGHT = (i32)0xFFFF0000;

// Grid: (tiles, key heads), 128 threads.
KERNEL __launch_bounds__(128) attention_prepare_sm90a(Attention a) {
    u32 tid = thread_x(), at = block_x(), kv = block_y(), tiles = tiles_of(a);
    const i32 *exp2 = a.tables.exp2;
    for (u32 j = kv * tiles + at; j < 256; j += tiles * a.kv_heads) {
        u32 value = (u32)exp2[256 - j];
        if (tid < 64) exp2_of(a)->line[j][tid / 2][tid % 2] = tid % 2 ? value : (u32)exp2[255 - j] - value;
    }
    Keys &keys = keys_of(a, kv)[at];
    if (tid < 64) {
        // A warp a block.
        u32 block = tid / 32, lane = tid % 32;
        Scale k[2];
        i32 low = 1 << 15, high = -(1 << 15);
        for (u32 i = 0; i < 2; i++) {
            u32 key = at * KEYS + block * BLOCK + i * 32 + lane;
            bool there = key < a.tokens;
            k[i] = there ? a.k_scale[(u64)key * a.kv_heads + kv] : Scale{0, 0};
            Scale v = there ? a.v_scale[(u64)key * a.kv_heads + kv] : Scale{0, 0};
            keys.two.factor[key % KEYS] = 2 * (u32)value_factor(v, a.value_exponent);
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
            u32 key = block * BLOCK + i * 32 + lane;
            i32 above = k[i].m != 0 ? k[i].e - low : 0, up = min_i32(above, 30);
            bool folded = high - low <= 1;
            keys.two.mantissa[key] = folded ? k[i].m << up : k[i].m;
            keys.two.step[key] = folded ? 1 : 1 << up;
            keys.one.scale[key] = keys.two.scale[key] = k[i];
            f32 f = (f32)k[i].m * power_of_two(min_i32(above, WIDEST));
            keys.one.scale_f[key] = f;
            keys.one.offset_f[key] = -MAGIC * f;
        }
        if (lane == 0) {
            keys.one.low[block] = keys.two.low[block] = low;
            keys.one.span[block] = keys.two.span[block] = high - low;
        }
    }
    // Padding rows are readable, and never weighed.
    Tile &tile = values_of(a, kv)[at];
    const i8 *k_from = a.k_lo + (u64)at * KEYS * a.kv_ld + kv * HD, *v_from = a.v_lo + (u64)at * KEYS * a.kv_ld + kv * HD;
    for (u32 i = tid; i < KEYS * (HD / 16); i += 128) {
        u32 key = i / (HD / 16), chunk = i % (HD / 16);
        u32 row = (key & ~15u) | (key >> 1 & 1) << 3 | (key >> 2 & 3) << 1 | (key & 1);
        *(Four<u32> *)(tile.k[row] + ((chunk ^ (row & 7)) << 4)) = *(const Four<u32> *)(k_from + (u64)key * a.kv_ld + chunk * 16);
    }
    // Four columns of four keys a thread.
    for (u32 i = tid; i < HD / 4 * (KEYS / 4); i += 128) {
        u32 column = i % (HD / 4) * 4, key = i / (HD / 4) * 4;
        u32 r[4];
        for (u32 j = 0; j < 4; j++) r[j] = *(const u32 *)(v_from + (u64)(key + j) * a.kv_ld + column);
        for (u32 c = 0; c < 4; c++) {
            u32 word = 0, row = column + c;
            for (u32 j = 0; j < 4; j++) word |= (r[j] >> (8 * c) & 255) << (8 * j);
            *(u32 *)(tile.v[row] + ((key >> 4 ^ (row & 7)) << 4) + key % 16) = word;
        }
    }
}

// A thread's two query rows, and where its warpgroup stands.
struct Rows {
    i32 m[2], e[2]; // scales times 2^16
    i32 position[2];
};
// One of two without an index, which would move both to memory.
__device__ __forceinline__ i32 choose(u32 r, const i32 (&of)[2]) { return of[0] ^ ((of[0] ^ of[1]) & -(i32)r); }

// Makes exact scores of products in place, at leisure: those of keys beyond the rows' positions become `unseen`. `first` is the thread's
// first key counted from token 0, `at` in the tile.
template <u32 N> __device__ __forceinline__ void place_any(i32 (&s)[N], const Scale *scales, u32 at, const Rows &rows, u32 first, i32 unseen) {
    i32 slow[N]; // in local memory, since its indices are known too late for registers
#pragma unroll
    for (u32 i = 0; i < N; i++) slow[i] = s[i];
#pragma unroll 1
    for (u32 i = 0; i < N; i++) {
        u32 r = i / 2 % 2, key = i / 8 * 16 + i / 4 % 2 * 2 + i % 2;
        Scale scale = {(i16)choose(r, rows.m), (i16)choose(r, rows.e)};
        u32 position = (u32)choose(r, rows.position);
        slow[i] = first + key > position ? unseen : scaled(slow[i], scale, scales[at + key]);
    }
#pragma unroll
    for (u32 i = 0; i < N; i++) s[i] = slow[i];
}

// Pass one, two blocks: the exponent of one of the thread's rows (lane & 1) and one block (lane >> 1 & 1).
// A float's scale is exact and so is `MAGIC + product`, so that what a sum rounds is exact and the greatest of rounded scores is the greatest
// score, rounded by less than 2^-23 of itself. That tells the exponent but where it lies as close to an octave's end.
__device__ __forceinline__ i32 exponent_of(i32 (&s)[64], const KeysOne &keys, const Rows &rows, u32 first, bool whole) {
    const u32 lane = thread_x() % 32, part = lane % 4 * 4, r = lane & 1, h = lane >> 1 & 1;
#pragma unroll
    for (u32 i = 0; i < 64; i++) s[i] += MAGIC_BITS;
    if (!whole) {
#pragma unroll
        for (u32 i = 0; i < 64; i++) {
            if (first + part + i / 8 * 16 + i / 4 % 2 * 2 + i % 2 > (u32)rows.position[i / 2 % 2]) s[i] = LOWEST_BITS;
        }
    }
    f32 max[2][2];
#pragma unroll
    for (u32 j = 0; j < 8; j++) {
        Four<f32> scale = *(const Four<f32> *)&keys.scale_f[j * 16 + part], offset = *(const Four<f32> *)&keys.offset_f[j * 16 + part];
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            // A scale of zero makes a hidden key's score no number, which maximum leaves out.
            f32 score = multiply_add(as_float(s[j * 8 + i]), scale.v[i / 4 * 2 + i % 2], offset.v[i / 4 * 2 + i % 2]);
            f32 &m = max[i / 2 % 2][j / 4];
            m = j % 4 == 0 && (i & ~2u) == 0 ? maximum(score, as_float(LOWEST_BITS)) : maximum(m, score);
        }
    }
    // Of four maxima in each of four lanes, one a lane.
    f32 mine[2];
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        f32 other = as_float(shuffle_xor(as_int(r ? max[0][i] : max[1][i]), 1));
        mine[i] = maximum(r ? max[1][i] : max[0][i], other);
    }
    f32 m = maximum(h ? mine[1] : mine[0], as_float(shuffle_xor(as_int(h ? mine[0] : mine[1]), 2)));

    const i32 q_m = choose(r, rows.m), q_e = choose(r, rows.e);
    i32 e = q_m != 0 ? q_e - 16 + keys.low[h] : 0;
    bool sure = keys.span[h] <= WIDEST && e >= -100 && e <= 60;
    // In octaves. score = floor(z * 2^16 + 1/2) is at most 2^16 E from z < E + 2^-17 on.
    f32 z = m * ((f32)q_m * power_of_two(clamp_i32(e, -100, 60)));
    f32 above = multiply_add(magnitude(z), 0x1p-21f, z) - 0x1p-17f, below = multiply_add(magnitude(z), -0x1p-21f, z) - 0x1p-17f;
    i32 exponent = floor_int(above) + 1;
    sure = sure && exponent == floor_int(below) + 1 && magnitude(z) < 8192.0f;
    if (m == as_float(LOWEST_BITS)) {
        exponent = block_exponent(UNSEEN);
        sure = true;
    }
    if (warp_ballot(sure) != ~0u) {
#pragma unroll
        for (u32 i = 0; i < 64; i++) s[i] -= MAGIC_BITS;
        place_any(s, keys.scale, part, rows, first + part, UNSEEN);
        i32 top[2][2];
#pragma unroll
        for (u32 i = 0; i < 64; i++) {
            i32 &t = top[i / 2 % 2][i / 32];
            t = i % 32 < 4 && i % 2 == 0 ? s[i] : max_i32(t, s[i]);
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            i32 t = max_i32(top[i % 2][i / 2], shuffle_xor(top[i % 2][i / 2], 1));
            t = max_i32(t, shuffle_xor(t, 2));
            if (lane % 4 == i) exponent = block_exponent(t);
        }
    }
    return exponent;
}

// Pass two: scores of a block in place, less their row's exponent, plus 19 octaves, in 1/65536. `base` is that sum's second part.
__device__ __forceinline__ void place(i32 (&s)[32], const KeysTwo &keys, u32 h, const Rows &rows, const i32 (&base)[2], u32 first, bool whole) {
    const u32 part = thread_x() % 4 * 4, at = h * BLOCK + part;
    i32 shift[2];
    const i32 span = keys.span[h];
    bool fast = span <= 9;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        shift[r] = rows.m[r] == 0 ? 32 : -(rows.e[r] + keys.low[h]);
        fast = fast && shift[r] <= 32 && shift[r] - span >= 21;
    }
    if (warp_ballot(fast) != ~0u) {
        place_any(s, keys.scale, at, rows, first + part, 0);
#pragma unroll
        for (u32 i = 0; i < 32; i++) s[i] = (i32)((u32)s[i] + (u32)base[i / 2 % 2]);
    } else {
        i64 add[2];
#pragma unroll
        for (u32 r = 0; r < 2; r++) add[r] = (i64)((u64)base[r] << shift[r]) + ((i64)1 << (shift[r] - 1));
        if (span > 1) {
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                Four<i32> step = *(const Four<i32> *)&keys.step[at + j * 16];
#pragma unroll
                for (u32 i = 0; i < 8; i++) s[j * 8 + i] *= step.v[i / 4 * 2 + i % 2];
            }
        }
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            Four<i32> mantissa = *(const Four<i32> *)&keys.mantissa[at + j * 16];
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                u32 r = i / 2 % 2;
                i64 v = multiply_wide_add(s[j * 8 + i], mantissa.v[i / 4 * 2 + i % 2] * rows.m[r], add[r]);
                s[j * 8 + i] = funnel(v, (u32)shift[r]);
            }
        }
    }
    if (!whole) {
#pragma unroll
        for (u32 i = 0; i < 32; i++) {
            if (first + part + i / 8 * 16 + i / 4 % 2 * 2 + i % 2 > (u32)rows.position[i / 2 % 2]) s[i] = NO_WEIGHT;
        }
    }
}

// Weights of a block's scores, and their products with value factors as digits, 256 high + low, both signed: word 2 J + r of a thread's
// row r.
__device__ __forceinline__ void weigh(u32 (&low)[8], u32 (&high)[8], u32 (&sum)[2], const i32 (&s)[32], const KeysTwo &keys, u32 at, const Exp2 &exp2, u32 copy) {
    sum[0] = sum[1] = 0;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        Four<u32> factor = *(const Four<u32> *)&keys.factor[at + j * 16];
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            u32 p[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 y = (u32)s[j * 8 + i / 2 * 4 + 2 * r + i % 2];
                // T 2^32 + D: D has 22 bits, D f 2^24 none of the low 24, so that it does not carry.
                u64 line = *(const u64 *)((const u8 *)&exp2 + ((y & 0xFF00) | copy));
                u32 v = high_word((u32)line, y << 24, line);
                // Octaves and rounding in one.
                u32 w = high_word(v, shift_left(1, (u32)((i32)y >> 16)), 1u << 31);
                sum[r] += w;
                p[i] = w * factor.v[i] + (1 << 15 | 128 << 16);
            }
            u32 p01 = permute(p[0], p[1], 0x7362), p23 = permute(p[2], p[3], 0x7362);
            low[2 * j + r] = permute(p01, p23, 0x5410) ^ 0x80808080;
            high[2 * j + r] = permute(p01, p23, 0x7632);
        }
    }
}

// Adds a block's sums of 64 columns to their totals, aligned; of rows that need a shift to the right if DEEP.
template <bool DEEP>
__device__ __forceinline__ void add_sums(i64 (&total)[32], const i32 (&h)[32], const i32 (&l)[32], const i32 (&right)[2], const i32 (&times)[2]) {
#pragma unroll
    for (u32 i = 0; i < 32; i++) {
        i32 sum = h[i] * 256 + l[i];
        if (DEEP) sum = shift_right(sum, right[i / 2 % 2]);
        // In one piece, lest products outlive a branch for their sums to come after it.
        asm volatile("{ .reg .b64 t; mul.wide.s32 t, %1, %2; add.s64 %0, %0, t; }" : "+l"(total[i]) : "r"(sum), "r"(times[i / 2 % 2]));
    }
}

// What all threads of a block know.
struct Work {
    const Attention &a;
    u32 head, first_row, tiles, blocks;
    const Tile *from;
    const Keys *keys;
    i16 *exponents; // those of the thread's first row

    // Starts the copy of a tile's keys for pass one.
    __device__ __forceinline__ void start_keys(Shared &shared, u32 group, u32 n, u32 tile) const {
        u32 barrier = shared_address(&shared.first[group][n]);
        barrier_expect(barrier, sizeof(Tile::k) + sizeof(KeysOne));
        copy_bulk(shared_address(shared.k[group][n]), from[tile].k, sizeof(Tile::k), barrier);
        copy_bulk(shared_address(&shared.one[group][n]), &keys[tile].one, sizeof(KeysOne), barrier);
    }
    // Of a whole tile for pass two.
    __device__ __forceinline__ void start_tile(Shared &shared, u32 tile) const {
        u32 barrier = shared_address(&shared.full[tile % TILES]);
        barrier_expect(barrier, sizeof(Tile) + sizeof(KeysTwo));
        copy_bulk(shared_address(&shared.tile[tile % TILES]), from + tile, sizeof(Tile), barrier);
        copy_bulk(shared_address(&shared.two[tile % TILES]), &keys[tile].two, sizeof(KeysTwo), barrier);
    }
};
__device__ __forceinline__ void arrive_warp(u64 *barrier) {
    sync_warp();
    if (thread_x() % 32 == 0) barrier_arrive(shared_address(barrier));
}

// Pass two, one warpgroup: weights of every other block, from `h` on.
__device__ __forceinline__ void make_weights(Shared &shared, const Work &work, const Rows &rows, u32 h, u32 whole) {
    const u32 lane = thread_x() % 32, in_tile = thread_x() / 32 % 4 * 16 + lane / 4, part = lane % 4 * 4;
    i32 top[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        top[r] = block_exponent(UNSEEN);
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) top[r] = max_i32(top[r], shared.greatest[g][in_tile + 8 * r]);
    }
    const u64 query = describe(shared_address(shared.q));
    i64 denominator[2] = {};
    i32 next[2] = {};
    if (h < work.blocks) {
        next[0] = work.exponents[h * ROWS];
        next[1] = work.exponents[h * ROWS + 8];
    }
    barrier_wait(shared_address(&shared.table), 0);
#pragma unroll 1
    for (u32 tile = 0; tile < work.tiles; tile++) {
        const u32 at = tile % TILES, block = 2 * tile + h, slot = block % SLOTS;
        barrier_wait(shared_address(&shared.full[at]), tile / TILES & 1);
        if (block < work.blocks) {
            const KeysTwo &keys = shared.two[at];
            i32 base[2], right[2], times[2];
            bool deep = false;
#pragma unroll
            for (u32 r = 0; r < 2; r++) {
                i32 octaves = top[r] - next[r];
                base[r] = (i32)((u32)(19 - next[r]) << 16);
                bool far = octaves > FAR;
                right[r] = far ? 0 : max_i32(octaves - GUARD, 0);
                times[r] = far ? 0 : 1 << max_i32(GUARD - octaves, 0);
                deep = deep || right[r] != 0;
                if (block + 2 < work.blocks) next[r] = work.exponents[(block + 2) * ROWS + 8 * r];
            }
            u32 low[8], high[8], weights[2];
            {
                i32 s[32];
                multiply_keys(s, query, describe(shared_address(shared.tile[at].k[h * BLOCK])));
                place(s, keys, h, rows, base, block * BLOCK, block < whole);
                weigh(low, high, weights, s, keys, h * BLOCK + part, shared.exp2, lane * 8);
            }
            arrive_warp(&shared.empty[at]);
            if (warp_ballot(deep) != 0) {
#pragma unroll
                for (u32 r = 0; r < 2; r++) {
                    i32 sum = shift_right((i32)quad_sum(weights[r]), right[r]);
                    if (lane % 4 == 0) denominator[r] += (i64)sum * times[r];
                }
            } else {
#pragma unroll
                for (u32 r = 0; r < 2; r++) denominator[r] = multiply_wide_add((i32)weights[r], times[r], denominator[r]);
            }
            if (block >= SLOTS) barrier_wait(shared_address(&shared.free[slot]), (block / SLOTS - 1) & 1);
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                u32 row = in_tile + i % 2 * 8, chunk = i / 2;
                u8 *to = shared.weights[slot].digits[row] + part;
                *(u32 *)(to + ((chunk ^ (row & 7)) << 4)) = high[i];
                *(u32 *)(to + (((chunk + 4) ^ (row & 7)) << 4)) = low[i];
            }
            if (lane % 4 == 0) {
#pragma unroll
                for (u32 r = 0; r < 2; r++) {
                    shared.alignments[slot].of[in_tile + 8 * r][0] = right[r];
                    shared.alignments[slot].of[in_tile + 8 * r][1] = times[r];
                }
            }
            fence_async();
            arrive_warp(&shared.filled[slot]);
        } else {
            arrive_warp(&shared.empty[at]);
        }
    }
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        i64 d = denominator[r];
#pragma unroll
        for (u32 m = 1; m < 4; m *= 2) d += (i64)((u64)(u32)shuffle_xor((i32)(d >> 32), m) << 32 | (u32)shuffle_xor((i32)d, m));
        if (lane % 4 == 0) shared.denominator[h][in_tile + 8 * r] = d;
    }
}

// Pass two, one warpgroup: sums of half of the columns.
__device__ __forceinline__ void add_values(Shared &shared, const Work &work, u32 c) {
    const Attention &a = work.a;
    const u32 lane = thread_x() % 32, in_tile = thread_x() / 32 % 4 * 16 + lane / 4;
    i64 total[32] = {};
#pragma unroll 1
    for (u32 block = 0; block < work.blocks; block++) {
        const u32 tile = block / 2, at = tile % TILES, slot = block % SLOTS;
        if (block % 2 == 0) {
            barrier_wait(shared_address(&shared.full[at]), tile / TILES & 1);
            // Into the place of the tile before.
            if (thread_x() == 2 * 128 && tile > 0 && tile + TILES - 1 < work.tiles) {
                barrier_wait(shared_address(&shared.empty[(tile - 1) % TILES]), (tile - 1) / TILES & 1);
                work.start_tile(shared, tile + TILES - 1);
            }
            sync_warp();
        }
        barrier_wait(shared_address(&shared.filled[slot]), block / SLOTS & 1);
        i32 right[2], times[2];
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            right[r] = shared.alignments[slot].of[in_tile + 8 * r][0];
            times[r] = shared.alignments[slot].of[in_tile + 8 * r][1];
        }
        i32 high[32], low[32];
        multiply_values(high, low, describe(shared_address(&shared.weights[slot])),
                        describe(shared_address(shared.tile[at].v[c * 64])) + block % 2 * (BLOCK / 16));
        arrive_warp(&shared.free[slot]);
        if (block % 2 != 0 || block + 1 == work.blocks) arrive_warp(&shared.empty[at]);
        if (warp_ballot((right[0] | right[1]) != 0) != 0) {
            add_sums<true>(total, high, low, right, times);
        } else {
            add_sums<false>(total, high, low, right, times);
        }
    }
    sync_block();

    // Fast where quotients are a product's high word shifted; |numerator / 2^(top + 6)| < 2^31.
    const i32 n = 61 - 6 + a.value_exponent - a.out_exponent;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = work.first_row + in_tile + 8 * r;
        if (t >= a.rows) continue;
        Divisor by = divisor(shared.denominator[0][in_tile + 8 * r] + shared.denominator[1][in_tile + 8 * r]);
        i32 *out = a.out + ((u64)t * a.heads + work.head) * HD + c * 64 + lane % 4 * 2;
        if (n >= 33 && n <= 62 && by.recip < (i64)1 << 31) {
            const i64 half = (i64)1 << (n - 1);
#pragma unroll
            for (u32 i = 0; i < 32; i++) {
                if (i / 2 % 2 != r) continue;
                i32 numerator = funnel((i64)((u64)total[i] << 1), (u32)(by.top + 7));
                i32 v = (i32)(multiply_wide_add(numerator, (i32)by.recip, half) >> 32) >> (n - 32);
                out[i / 4 * 8 + i % 2] = clamp_i32(v, -LIMIT, LIMIT);
            }
        } else {
            i64 slow[16]; // in local memory
#pragma unroll
            for (u32 i = 0; i < 16; i++) slow[i] = total[i / 2 * 4 + 2 * r + i % 2];
#pragma unroll 1
            for (u32 i = 0; i < 16; i++) out[i / 2 * 8 + i % 2] = divide(slow[i], by, 6, a);
        }
    }
}

// Grid: heads * ceil(rows / 64) blocks of 512 threads, sizeof(Shared) bytes of dynamic shared memory.
KERNEL __launch_bounds__(512, 1) attention_128_sm90a(Attention a) {
    Shared &shared = *(Shared *)shared_bytes;
    const u32 tid = thread_x(), group = tid / 128, lane = tid % 32, kv = block_x() % a.kv_heads, heads = a.heads / a.kv_heads;
    // Work: 64 rows of one head; the longest first. Rows beyond the last repeat it.
    const u32 items = (a.rows + ROWS - 1) / ROWS * heads, item = items - 1 - block_x() / a.kv_heads;
    auto clamped = [&](u32 t) { return t < a.rows ? t : a.rows - 1; };
    const u32 first_row = item / heads * ROWS, last = a.start + clamped(first_row + ROWS - 1), in_tile = tid / 32 % 4 * 16 + lane / 4;
    const Work work{a, kv * heads + item % heads, first_row, last / KEYS + 1, last / BLOCK + 1, values_of(a, kv), keys_of(a, kv),
                    exponents_of(a, (u64)kv * items + item) + in_tile};
    if (tid == 0) {
        for (u32 i = 0; i < GROUPS * 2; i++) barrier_init(shared_address(shared.first[0] + i), 1);
        for (u32 i = 0; i < TILES; i++) {
            barrier_init(shared_address(&shared.full[i]), 1);
            barrier_init(shared_address(&shared.empty[i]), GROUPS * 4);
        }
        for (u32 i = 0; i < SLOTS; i++) {
            barrier_init(shared_address(&shared.filled[i]), 4);
            barrier_init(shared_address(&shared.free[i]), 2 * 4);
        }
        barrier_init(shared_address(&shared.table), 1);
    }
    const u32 part = lane % 4 * 4;
    Rows rows;
    u32 q[16];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 row = in_tile + 8 * r, t = clamped(first_row + row);
        rows.position[r] = (i32)(a.start + t);
        Scale scale = shifted(a.q_scale[(u64)t * a.heads + work.head], 16 + a.shift);
        rows.m[r] = scale.m;
        rows.e[r] = scale.e;
        const i8 *from = a.q_lo + (u64)t * a.q_ld + work.head * HD + part;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u32 word = *(const u32 *)(from + i * 16);
            q[i / 2 * 4 + i % 2 * 2 + r] = word;
            if (group == 0) *(u32 *)(shared.q[row] + ((i ^ (row & 7)) << 4) + part) = word;
        }
    }
    fence_async();
    sync_block();
    const bool leads = tid % 128 == 0;
    if (leads) {
        for (u32 n = 0; n < 2; n++)
            if (group + n * GROUPS < work.tiles) work.start_keys(shared, group, n, group + n * GROUPS);
        if (group == GROUPS - 1) {
            barrier_expect(shared_address(&shared.table), sizeof(Exp2));
            copy_bulk(shared_address(&shared.exp2), exp2_of(a), sizeof(Exp2), shared_address(&shared.table));
        }
    }
    sync_warp();
    const u32 whole = (a.start + clamped(first_row + tid / 32 % 4 * 16) + 1) / BLOCK; // blocks that all of the warp's rows see whole

    // Pass one: exponents of blocks and each row's greatest. A warpgroup has every fourth tile.
    i32 greatest = block_exponent(UNSEEN);
    u32 n = 0;
#pragma unroll 1
    for (u32 tile = group; tile < work.tiles; tile += GROUPS, n++) {
        barrier_wait(shared_address(&shared.first[group][n % 2]), n / 2 & 1);
        i32 s[64];
        multiply_keys(s, q, describe(shared_address(shared.k[group][n % 2])));
        i32 exponent = exponent_of(s, shared.one[group][n % 2], rows, tile * KEYS, 2 * tile + 2 <= whole);
        greatest = max_i32(greatest, exponent);
        work.exponents[(2 * tile + (lane >> 1 & 1)) * ROWS + (lane & 1) * 8] = (i16)exponent;
        sync_group(1 + group);
        if (leads && tile + 2 * GROUPS < work.tiles) work.start_keys(shared, group, n % 2, tile + 2 * GROUPS);
        sync_warp();
    }
    // The first tiles of pass two lie where this warpgroup's keys lay.
    if (leads && group < TILES && group < work.tiles) work.start_tile(shared, group);
    sync_warp();
    greatest = max_i32(greatest, shuffle_xor(greatest, 2));
    if (lane % 4 < 2) shared.greatest[group][in_tile + 8 * (lane & 1)] = greatest;
    sync_block();

    if (group < 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 96;");
        make_weights(shared, work, rows, group, whole);
        sync_block();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
        add_values(shared, work, group - 2);
    }
}
static_assert(sizeof(Shared) == 228352, "the host's figure");
