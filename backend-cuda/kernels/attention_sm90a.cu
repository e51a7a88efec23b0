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
            keys.factor[key % KEYS] = 2 * (u32)value_factor(v, a.value_exponent);
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
            keys.mantissa[key] = folded ? k[i].m << up : k[i].m;
            keys.step[key] = folded ? 1 : 1 << up;
            keys.scale[key] = k[i];
            f32 f = (f32)k[i].m * power_of_two(min_i32(above, WIDEST));
            keys.scale_f[key] = f;
            keys.offset_f[key] = -MAGIC * f;
        }
        if (lane == 0) {
            keys.low[block] = low;
            keys.span[block] = high - low;
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
template <u32 N> __device__ __forceinline__ void place_any(i32 (&s)[N], const Keys &keys, u32 at, const Rows &rows, u32 first, i32 unseen) {
    i32 slow[N]; // in local memory, since its indices are known too late for registers
#pragma unroll
    for (u32 i = 0; i < N; i++) slow[i] = s[i];
#pragma unroll 1
    for (u32 i = 0; i < N; i++) {
        u32 r = i / 2 % 2, key = i / 8 * 16 + i / 4 % 2 * 2 + i % 2;
        Scale scale = {(i16)choose(r, rows.m), (i16)choose(r, rows.e)};
        u32 position = (u32)choose(r, rows.position);
        slow[i] = first + key > position ? unseen : scaled(slow[i], scale, keys.scale[at + key]);
    }
#pragma unroll
    for (u32 i = 0; i < N; i++) s[i] = slow[i];
}

// Copies tiles into the ring: `total` steps, the first half of them without values.
struct Copies {
    Shared &shared;
    const Tile *tiles;
    const Keys *keys;
    u32 half;

    __device__ __forceinline__ void start(u32 step) const {
        u32 slot = step % STAGES, tile = step < half ? step : step - half, bytes = step < half ? sizeof(Tile::k) : sizeof(Tile);
        u32 full = shared_address(&shared.full[slot]);
        if (step >= STAGES) barrier_wait(shared_address(&shared.empty[slot]), step / STAGES - 1 & 1);
        barrier_expect(full, bytes + sizeof(Keys));
        copy_bulk(shared_address(&shared.tile[slot]), tiles + tile, bytes, full);
        copy_bulk(shared_address(&shared.keys[slot]), keys + tile, sizeof(Keys), full);
    }
    // Waits for a step's tile; the first thread starts the copy of a later one, whose place the step before had.
    __device__ __forceinline__ void wait(u32 step) const {
        barrier_wait(shared_address(&shared.full[step % STAGES]), step / STAGES & 1);
        if (thread_x() == 0 && step + STAGES - 1 < 2 * half) start(step + STAGES - 1);
        sync_warp();
    }
    // Every thread for itself: one for its warp would do, but compute-sanitizer does not see that the others have read by then.
    __device__ __forceinline__ void release(u32 step) const { barrier_arrive(shared_address(&shared.empty[step % STAGES])); }
};

// Pass one, two blocks: the exponent of one of the thread's rows (lane & 1) and one block (lane >> 1 & 1).
// A float's scale is exact and so is `MAGIC + product`, so that what a sum rounds is exact and the greatest of rounded scores is the greatest
// score, rounded by less than 2^-23 of itself. That tells the exponent but where it lies as close to an octave's end.
__device__ __forceinline__ i32 exponent_of(i32 (&s)[64], const Keys &keys, const Rows &rows, u32 first, bool whole) {
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
        place_any(s, keys, part, rows, first + part, UNSEEN);
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
__device__ __forceinline__ void place(i32 (&s)[32], const Keys &keys, u32 h, const Rows &rows, const i32 (&base)[2], u32 first, bool whole) {
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
        place_any(s, keys, at, rows, first + part, 0);
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
__device__ __forceinline__ void weigh(u32 (&low)[8], u32 (&high)[8], u32 (&sum)[2], const i32 (&s)[32], const Keys &keys, u32 at, const Exp2 &exp2, u32 copy) {
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

// Grid: key heads * ceil(ceil(rows / 64) * (heads / key heads) / 2) blocks of 256 threads, sizeof(Shared) bytes of dynamic shared memory.
KERNEL __launch_bounds__(256, 1) attention_128_sm90a(Attention a) {
    Shared &shared = *(Shared *)shared_bytes;
    const u32 tid = thread_x(), group = tid / 128, lane = tid % 32, kv = block_x() % a.kv_heads, heads = a.heads / a.kv_heads;
    // Work: 64 rows of one head of this key head's; the longest first. Rows beyond the last repeat it.
    const u32 items = (a.rows + ROWS - 1) / ROWS * heads, first_item = (blocks_x() - 1 - block_x()) / a.kv_heads * GROUPS;
    const u32 last_item = first_item + GROUPS < items ? first_item + GROUPS - 1 : items - 1;
    const u32 item = first_item + group < items ? first_item + group : items - 1;
    const u32 head = kv * heads + item % heads, first_row = item / heads * ROWS;
    auto clamped = [&](u32 t) { return t < a.rows ? t : a.rows - 1; };
    // Tiles that the block of threads and this warpgroup read.
    const u32 tiles = (a.start + clamped(last_item / heads * ROWS + ROWS - 1)) / KEYS + 1;
    const u32 blocks = first_item + group < items ? (a.start + clamped(first_row + ROWS - 1)) / BLOCK + 1 : 0;
    const Copies copies{shared, values_of(a, kv), keys_of(a, kv), tiles};
    if (tid == 0) {
        for (u32 i = 0; i < STAGES; i++) {
            barrier_init(shared_address(&shared.full[i]), 1);
            barrier_init(shared_address(&shared.empty[i]), GROUPS * 128);
        }
        barrier_init(shared_address(&shared.table), 1);
        fence_async();
        for (u32 i = 0; i + 1 < STAGES && i < 2 * tiles; i++) copies.start(i);
        barrier_expect(shared_address(&shared.table), sizeof(Exp2));
        copy_bulk(shared_address(&shared.exp2), exp2_of(a), sizeof(Exp2), shared_address(&shared.table));
    }
    // The thread's rows, those of its warp from `row` on; queries in shared memory as tiles are.
    const u32 row = first_row + tid / 32 % 4 * 16, part = lane % 4 * 4;
    Rows rows;
    u32 q[16];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = clamped(row + lane / 4 + 8 * r), in_tile = tid / 32 % 4 * 16 + lane / 4 + 8 * r;
        rows.position[r] = (i32)(a.start + t);
        Scale scale = shifted(a.q_scale[(u64)t * a.heads + head], 16 + a.shift);
        rows.m[r] = scale.m;
        rows.e[r] = scale.e;
        const i8 *from = a.q_lo + (u64)t * a.q_ld + head * HD + part;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u32 word = *(const u32 *)(from + i * 16);
            q[i / 2 * 4 + i % 2 * 2 + r] = word;
            *(u32 *)(shared.q[group][in_tile] + ((i ^ (in_tile & 7)) << 4) + part) = word;
        }
    }
    fence_async();
    sync_block();
    const u32 whole = (a.start + clamped(row) + 1) / BLOCK; // blocks that all of the warp's rows see whole
    i16 *exponents = exponents_of(a, (u64)kv * items + item) + tid / 32 % 4 * 16 + lane / 4;

    // Pass one: exponents of blocks and each row's greatest.
    i32 greatest = block_exponent(UNSEEN);
    for (u32 step = 0; step < tiles; step++) {
        copies.wait(step);
        if (2 * step < blocks) {
            const Keys &keys = shared.keys[step % STAGES];
            i32 s[64];
            multiply_keys(s, q, describe(shared_address(shared.tile[step % STAGES].k)));
            i32 exponent = exponent_of(s, keys, rows, step * KEYS, 2 * step + 2 <= whole);
            greatest = max_i32(greatest, exponent);
            exponents[(2 * step + (lane >> 1 & 1)) * ROWS + (lane & 1) * 8] = (i16)exponent;
        }
        copies.release(step);
    }
    greatest = max_i32(greatest, shuffle_xor(greatest, 2));
    const i32 top[2] = {shuffle(greatest, lane & ~1u), shuffle(greatest, lane | 1)};
    sync_warp();
    barrier_wait(shared_address(&shared.table), 0);

    // Pass two: weights and sums.
    const u64 query = describe(shared_address(shared.q[group]));
    i64 total[2][32] = {}, denominator[2] = {};
    i32 next[2] = {};
    if (blocks > 0) {
        next[0] = exponents[0];
        next[1] = exponents[8];
    }
    for (u32 step = tiles; step < 2 * tiles; step++) {
        copies.wait(step);
        const Keys &keys = shared.keys[step % STAGES];
        const Tile &tile = shared.tile[step % STAGES];
#pragma unroll 1
        for (u32 h = 0; h < 2; h++) {
            const u32 block = 2 * (step - tiles) + h;
            if (block >= blocks) break;
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
                if (block + 1 < blocks) next[r] = exponents[(block + 1) * ROWS + 8 * r];
            }
            deep = warp_ballot(deep) != 0;
            u32 low[8], high[8], weights[2];
            {
                i32 s[32];
                multiply_keys(s, query, describe(shared_address(tile.k[h * BLOCK])));
                place(s, keys, h, rows, base, block * BLOCK, block < whole);
                weigh(low, high, weights, s, keys, h * BLOCK + part, shared.exp2, lane * 8);
            }
            if (deep) {
#pragma unroll
                for (u32 r = 0; r < 2; r++) {
                    i32 sum = shift_right((i32)quad_sum(weights[r]), right[r]);
                    if (lane % 4 == 0) denominator[r] += (i64)sum * times[r];
                }
            } else {
#pragma unroll
                for (u32 r = 0; r < 2; r++) denominator[r] = multiply_wide_add((i32)weights[r], times[r], denominator[r]);
            }
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                i32 of_high[32], of_low[32];
                multiply_values(of_high, of_low, high, low, describe(shared_address(tile.v[c * 64])) + h * (BLOCK / 16));
                if (deep) {
                    add_sums<true>(total[c], of_high, of_low, right, times);
                } else {
                    add_sums<false>(total[c], of_high, of_low, right, times);
                }
            }
        }
        copies.release(step);
    }

    // Fast where quotients are a product's high word shifted; |numerator / 2^(top + 6)| < 2^31.
    const i32 n = 61 - 6 + a.value_exponent - a.out_exponent;
    Divisor by[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        i64 d = denominator[r];
#pragma unroll
        for (u32 m = 1; m < 4; m *= 2) d += (i64)((u64)(u32)shuffle_xor((i32)(d >> 32), m) << 32 | (u32)shuffle_xor((i32)d, m));
        by[r] = divisor(d);
    }
    if (blocks == 0) return;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = row + lane / 4 + 8 * r;
        if (t >= a.rows) continue;
        i32 *out = a.out + ((u64)t * a.heads + head) * HD + lane % 4 * 2;
        if (n >= 33 && n <= 62 && by[r].recip < (i64)1 << 31) {
            const i64 half = (i64)1 << (n - 1);
#pragma unroll
            for (u32 i = 0; i < 64; i++) {
                if (i / 2 % 2 != r) continue;
                i32 numerator = funnel((i64)((u64)total[i / 32][i % 32] << 1), (u32)(by[r].top + 7));
                i32 v = (i32)(multiply_wide_add(numerator, (i32)by[r].recip, half) >> 32) >> (n - 32);
                out[i / 4 * 8 + i % 2] = clamp_i32(v, -LIMIT, LIMIT);
            }
        } else {
            i64 slow[32]; // in local memory
#pragma unroll
            for (u32 i = 0; i < 32; i++) slow[i] = total[i / 16][i % 16 / 2 * 4 + 2 * r + i % 2];
#pragma unroll 1
            for (u32 i = 0; i < 32; i++) out[i / 2 * 8 + i % 2] = divide(slow[i], by[r], 6, a);
        }
    }
}
static_assert(sizeof(Shared) == 226304, "the host's figure");
