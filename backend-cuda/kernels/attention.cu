// Causal attention over quantised keys and values, exact (docs/numerics.md, section 7): scores, maxima and sums are integers, so
// tiles may come in any order. Three kernels:
//   attention_general   any head size, any digits: one block of threads for a query row, a head and 128 columns.
//   attention_prepare   then
//   attention_64, _128  one digit, head sizes 64 and 128: eight warps, each with 16 query rows of one head, share the tiles of a
//                       key head. A first pass finds each row's greatest score (its exponent places all block sums), a second
//                       one makes weights and sums.
#include "common.cuh"

struct Attention {
    // Queries [rows, q_ld], scales [rows, heads]; values of two digits are 256 * hi + lo, hi is null where there is one.
    const i8 *q_lo, *q_hi;
    const Scale *q_scale;
    // Keys and values [tokens, kv_ld], scales [tokens, kv_heads].
    const i8 *k_lo, *k_hi;
    const Scale *k_scale;
    const i8 *v_lo, *v_hi;
    const Scale *v_scale;
    i32 *out; // [rows, heads * head_dim]
    Tables tables;
    u32 rows, tokens, start, heads, kv_heads, head_dim, q_ld, kv_ld;
    i32 shift, value_exponent, out_exponent;
    u8 *scratch; // attention_prepare's tiles: tile_bytes(head_dim) for each key head and 64 tokens; unused by attention_general
};

constexpr u32 BLOCK = 64; // keys that share an exponent
constexpr i32 FAR = 40;   // octaves below the greatest at which blocks are left out
constexpr i32 GUARD = 8;  // fraction bits that block sums gain before they are aligned
constexpr i32 UNSEEN = -0x7FFFFFFF - 1;

// The octave above a block's greatest score.
__device__ __forceinline__ i32 block_exponent(i32 max) { return (max + 0xFFFF) >> 16; }

// A value's scale as a factor of weights: 15 bits, saturated just below one half.
__device__ __forceinline__ i32 value_factor(Scale s, i32 value_exponent) {
    return min_i32(shift_round(s.m, (i32)s.e + value_exponent + 15), 16319);
}

// A row's denominator, ready to divide by.
struct Divisor {
    i64 recip;
    i32 top;
};
__device__ __forceinline__ i64 place(i64 v, i32 top) { return top >= 0 ? v >> top : (i64)((u64)v << -top); }
__device__ __forceinline__ Divisor divisor(i64 denominator) {
    i32 top = ilog2_64((u64)denominator) - 30;
    return Divisor{((i64)1 << 61) / place(denominator, top), top};
}
__device__ __forceinline__ i32 divide(i64 numerator, Divisor by, i32 fold, const Attention &a) {
    return shift_round((place(numerator, by.top) >> fold) * by.recip, fold - 61 - a.value_exponent + a.out_exponent);
}

// ---- any head size, any digits ----

constexpr u32 GENERAL = 128; // threads, keys at a time and columns of a block of threads
constexpr u32 MAX_HEAD = 4096;

__device__ __forceinline__ i32 dot4(i32 a, i32 b, i32 sum) {
    i32 d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(sum));
    return d;
}

// Sum of digit products; head sizes are even, only multiples of 4 lie on words.
__device__ __forceinline__ i32 dot_digits(const i8 *q, const i8 *k, u32 n) {
    i32 sum = 0;
    if (n % 4 == 0) {
        for (u32 i = 0; i < n; i += 4) sum = dot4(*(const i32 *)(q + i), *(const i32 *)(k + i), sum);
    } else {
        for (u32 i = 0; i < n; i++) sum += (i32)q[i] * (i32)k[i];
    }
    return sum;
}

KERNEL __launch_bounds__(GENERAL) attention_general(Attention a) {
    __shared__ __attribute__((aligned(16))) i8 query[2][MAX_HEAD];
    __shared__ i32 scores[GENERAL], weights[GENERAL], weighed[GENERAL], maxima[GENERAL / 32];
    u32 tid = thread_x(), t = block_x(), head = block_y(), column = block_z() * GENERAL + tid, n = a.head_dim;
    u32 kv = head / (a.heads / a.kv_heads);
    u64 at = (u64)t * a.q_ld + head * n;
    for (u32 i = tid; i < n; i += GENERAL) {
        query[0][i] = a.q_lo[at + i];
        if (a.q_hi) query[1][i] = a.q_hi[at + i];
    }
    sync_block();
    Scale q_scale = shifted(a.q_scale[(u64)t * a.heads + head], 16 + a.shift);
    u32 keys = a.start + t + 1;
    auto score = [&](u32 key) {
        const u64 k = (u64)key * a.kv_ld + kv * n;
        i64 sum = dot_digits(query[0], a.k_lo + k, n);
        if (a.q_hi) sum += (i64)dot_digits(query[1], a.k_lo + k, n) << 8;
        if (a.k_hi) sum += (i64)dot_digits(query[0], a.k_hi + k, n) << 8;
        if (a.q_hi && a.k_hi) sum += (i64)dot_digits(query[1], a.k_hi + k, n) << 16;
        return scaled(round_sum(sum, (u32)a.shift), q_scale, a.k_scale[(u64)key * a.kv_heads + kv]);
    };

    i32 max = UNSEEN;
    for (u32 key = tid; key < keys; key += GENERAL) max = max_i32(max, score(key));
    for (u32 m = 16; m > 0; m >>= 1) max = max_i32(max, shuffle_xor(max, m));
    if (tid % 32 == 0) maxima[tid / 32] = max;
    sync_block();
    for (u32 i = 0; i < GENERAL / 32; i++) max = max_i32(max, maxima[i]);
    i32 top = block_exponent(max);

    i64 numerator = 0, denominator = 0;
    for (u32 first = 0; first < keys; first += GENERAL) {
        u32 key = first + tid;
        scores[tid] = key < keys ? score(key) : UNSEEN;
        sync_block();
        i32 block_max = UNSEEN;
        u32 base = tid & ~(BLOCK - 1);
        for (u32 i = 0; i < BLOCK; i++) block_max = max_i32(block_max, scores[base + i]);
        i32 weight = 0, factor = 0;
        if (key < keys) {
            weight = exp2_q16((u32)((block_exponent(block_max) << 16) - scores[tid]), a.tables.exp2);
            factor = value_factor(a.v_scale[(u64)key * a.kv_heads + kv], a.value_exponent);
        }
        weights[tid] = weight;
        weighed[tid] = (weight * factor + (1 << 14)) >> 15;
        sync_block();
        for (base = 0; base < GENERAL && first + base < keys; base += BLOCK) {
            block_max = UNSEEN;
            for (u32 i = 0; i < BLOCK; i++) block_max = max_i32(block_max, scores[base + i]);
            i32 octaves = top - block_exponent(block_max);
            if (octaves > FAR) continue;
            u32 count = keys - first - base < BLOCK ? keys - first - base : BLOCK;
            i64 sum = 0, block_weights = 0;
            for (u32 i = 0; i < count; i++) {
                block_weights += weights[base + i];
                if (column < n) {
                    u64 v = (u64)(first + base + i) * a.kv_ld + kv * n + column;
                    i32 value = a.v_hi ? ((i32)a.v_hi[v] << 8) + a.v_lo[v] : a.v_lo[v];
                    sum += (i64)weighed[base + i] * value;
                }
            }
            denominator += (block_weights << GUARD) >> octaves;
            numerator += (i64)((u64)sum << GUARD) >> octaves;
        }
        sync_block();
    }
    if (column < n) {
        a.out[(u64)t * a.heads * n + head * n + column] = divide(numerator, divisor(denominator), a.v_hi ? 14 : 6, a);
    }
}

// ---- one digit, head sizes 64 and 128 ----

// What the fast kernels read of 64 keys and values of one head. Keys' scales are brought to the block's least exponent `low`:
// scale = mantissa * 2^(low + log2 step). `span` is the greatest log2 step.
struct Keys {
    i32 mantissa[BLOCK];
    i32 step[BLOCK];
    u32 factor[BLOCK]; // value factors, doubled
    Scale scale[BLOCK];
    i32 low, span, unused[2];
};
constexpr u32 KEYS_BYTES = sizeof(Keys);
static_assert(KEYS_BYTES == 1040, "a tile starts on 16 bytes");

// A tile in scratch: Keys, then values by column, [head_dim][64].
__device__ __forceinline__ u64 tile_bytes(u32 head_dim) { return KEYS_BYTES + head_dim * BLOCK; }
__device__ __forceinline__ u8 *tile(const Attention &a, u32 kv, u32 block) {
    return a.scratch + ((u64)kv * ((a.tokens + BLOCK - 1) / BLOCK) + block) * tile_bytes(a.head_dim);
}

// Grid: (blocks of 64 tokens, key heads), 128 threads. head_dim is a multiple of 4.
KERNEL __launch_bounds__(128) attention_prepare(Attention a) {
    u32 tid = thread_x(), block = block_x(), kv = block_y(), n = a.head_dim;
    u8 *to = tile(a, kv, block);
    if (tid < 32) {
        Keys *keys = (Keys *)to;
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
            keys->mantissa[i * 32 + tid] = k[i].m;
            keys->step[i * 32 + tid] = k[i].m != 0 ? 1 << min_i32(k[i].e - low, 30) : 1;
            keys->scale[i * 32 + tid] = k[i];
        }
        if (tid == 0) {
            keys->low = low;
            keys->span = high - low;
        }
    }
    // Four columns of four tokens a thread: padding rows are readable, and never weighed.
    u8 *values = to + KEYS_BYTES;
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

// Threads of a block, and warps, each with 16 query rows of one head.
constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / 32;
constexpr u32 STAGES = 3;
// One entry of exp2's table is (value, 256 * step to the next); 16 copies keep half a warp free of bank conflicts.
constexpr u32 COPIES = 16;
constexpr u32 TABLE_BYTES = 256 * COPIES * 8;

template <u32 HD> struct Stage {
    u8 k[BLOCK][HD + 16]; // padded against bank conflicts
    u8 v[HD][BLOCK + 16];
    Keys keys;
};

extern __shared__ __attribute__((aligned(128))) u8 shared[];

__device__ __forceinline__ u32 shared_address(const void *p) {
    return (u32)(u64)(__attribute__((address_space(3))) const void *)p;
}
__device__ __forceinline__ void copy16(u32 to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 N> __device__ __forceinline__ void arrived() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

__device__ __forceinline__ void load_matrix(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void multiply(i32 (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply_low(i32 (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ u32 permute(u32 a, u32 b, u32 bytes) {
    u32 d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(bytes));
    return d;
}
// The low 32 bits of v >> n, 0 <= n <= 32.
__device__ __forceinline__ i32 funnel(i64 v, u32 n) {
    u32 d;
    asm("shf.r.clamp.b32 %0, %1, %2, %3;" : "=r"(d) : "r"((u32)v), "r"((u32)((u64)v >> 32)), "r"(n));
    return (i32)d;
}
// v >> n, zero from n = 32 on.
__device__ __forceinline__ u32 shift_right(u32 v, u32 n) {
    u32 d;
    asm("shr.u32 %0, %1, %2;" : "=r"(d) : "r"(v), "r"(n));
    return d;
}
__device__ __forceinline__ i32 multiply_high_add(i32 a, i32 b, i32 c) {
    i32 d;
    asm("mad.hi.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// Starts the copy of block `block` into a stage. Keys' rows are stored so that a thread's columns of two neighbouring products
// are four keys in a row: key 4a + 2b + c of each 16 is row 8b + 2a + c.
template <u32 HD> __device__ __forceinline__ void fetch(const Attention &a, Stage<HD> *stage, u32 kv, u32 block, bool values) {
    u32 tid = thread_x();
    constexpr u32 WIDE = HD / 16;
    const i8 *k = a.k_lo + (u64)block * BLOCK * a.kv_ld + kv * HD;
    u32 to = shared_address(stage->k);
    for (u32 i = tid; i < BLOCK * WIDE; i += THREADS) {
        u32 key = i / WIDE, chunk = i % WIDE;
        u32 row = (key & ~15u) | (key >> 1 & 1) << 3 | (key >> 2 & 3) << 1 | (key & 1);
        copy16(to + row * (HD + 16) + chunk * 16, k + (u64)key * a.kv_ld + chunk * 16);
    }
    const u8 *from = tile(a, kv, block);
    to = shared_address(&stage->keys);
    if (tid < KEYS_BYTES / 16) copy16(to + tid * 16, from + tid * 16);
    if (values) {
        to = shared_address(stage->v);
        for (u32 i = tid; i < HD * BLOCK / 16; i += THREADS)
            copy16(to + i / 4 * (BLOCK + 16) + i % 4 * 16, from + KEYS_BYTES + i * 16);
    }
}

// One of a thread's two query rows.
struct Row {
    u32 position;
    Scale scale; // times 2^(16 + shift)
};

// Scores of 16 rows and 64 keys: s[j][r][i] is that of row r and key 16 j + 4 (lane % 4) + i, UNSEEN beyond the row's position.
template <u32 HD>
__device__ __forceinline__ void make_scores(i32 (&s)[4][2][4], const u32 (&q)[HD / 32][4], const Stage<HD> *stage, const Row (&row)[2],
                                       u32 first, bool cut) {
    u32 lane = thread_x() % 32;
    u32 address = shared_address(stage->k) + lane % 8 * (HD + 16) + lane / 8 * 16;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        i32 acc[2][4] = {};
#pragma unroll
        for (u32 b = 0; b < 2; b++) {
#pragma unroll
            for (u32 c = 0; c < HD / 64; c++) {
                u32 k[4];
                load_matrix(k, address + (j * 16 + b * 8) * (HD + 16) + c * 64);
                multiply(acc[b], q[2 * c], k[0], k[1]);
                multiply(acc[b], q[2 * c + 1], k[2], k[3]);
            }
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            s[j][0][i] = acc[i / 2][i % 2];
            s[j][1][i] = acc[i / 2][2 + i % 2];
        }
    }
    // round(acc q k 2^(e_q + e_k)) as 64-bit product and shift, where no score can saturate: |acc| <= 2^21, mantissas below 2^15.
    const Keys &keys = stage->keys;
    i32 span = keys.span, n[2];
    bool fast = span <= 9;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        n[r] = row[r].scale.m == 0 ? 32 : -((i32)row[r].scale.e + keys.low);
        fast = fast && n[r] <= 32 && n[r] - span >= 21;
    }
    u32 part = lane % 4 * 4;
    if (warp_ballot(fast) == ~0u) {
        i64 half[2] = {(i64)1 << (n[0] - 1), (i64)1 << (n[1] - 1)};
#pragma unroll
        for (u32 j = 0; j < 4; j++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                i32 mantissa = keys.mantissa[16 * j + part + i], step = keys.step[16 * j + part + i];
#pragma unroll
                for (u32 r = 0; r < 2; r++)
                    s[j][r][i] = funnel((i64)(s[j][r][i] * step) * (i64)(mantissa * row[r].scale.m) + half[r], (u32)n[r]);
            }
    } else {
#pragma unroll
        for (u32 j = 0; j < 4; j++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                Scale k = keys.scale[16 * j + part + i];
                s[j][0][i] = scaled(s[j][0][i], row[0].scale, k);
                s[j][1][i] = scaled(s[j][1][i], row[1].scale, k);
            }
    }
    if (cut) {
#pragma unroll
        for (u32 j = 0; j < 4; j++)
#pragma unroll
            for (u32 r = 0; r < 2; r++)
#pragma unroll
                for (u32 i = 0; i < 4; i++)
                    if (first + 16 * j + part + i > row[r].position) s[j][r][i] = UNSEEN;
    }
}

__device__ __forceinline__ i32 greatest(const i32 (&s)[4][2][4], u32 r) {
    i32 m = UNSEEN;
#pragma unroll
    for (u32 j = 0; j < 4; j++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) m = max_i32(m, s[j][r][i]);
    return m;
}
__device__ __forceinline__ i32 quad_max(i32 v) {
    v = max_i32(v, shuffle_xor(v, 1));
    return max_i32(v, shuffle_xor(v, 2));
}

template <u32 HD> __device__ __forceinline__ void attend(const Attention &a) {
    u32 tid = thread_x(), lane = tid % 32, warp = tid / 32, kv = block_y(), group = a.heads / a.kv_heads;
    auto *stages = (Stage<HD> *)(shared + TABLE_BYTES);
    for (u32 i = tid; i < 256 * COPIES; i += THREADS) {
        i32 v = a.tables.exp2[i / COPIES];
        ((i32 *)shared)[2 * i] = v;
        ((i32 *)shared)[2 * i + 1] = (a.tables.exp2[i / COPIES + 1] - v) * 256;
    }

    // Work: 16 rows of one head of this key head's group; the longest first.
    u32 tiles = (a.rows + 15) / 16, items = tiles * group;
    u32 last_item = (blocks_x() - block_x()) * WARPS - 1;
    u32 item = last_item - (WARPS - 1) + warp;
    bool busy = item < items;
    if (!busy) item = items - 1;
    u32 head = kv * group + item % group, first_row = item / group * 16;
    // Rows beyond the last repeat it.
    auto row_index = [&](u32 r) {
        u32 t = first_row + lane / 4 + 8 * r;
        return t < a.rows ? t : a.rows - 1;
    };
    Row row[2];
    u32 q[HD / 32][4];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = row_index(r);
        row[r].position = a.start + t;
        row[r].scale = shifted(a.q_scale[(u64)t * a.heads + head], 16 + a.shift);
        const u32 *from = (const u32 *)(a.q_lo + (u64)t * a.q_ld + head * HD) + lane % 4;
#pragma unroll
        for (u32 c = 0; c < HD / 32; c++) {
            q[c][r] = from[c * 8];
            q[c][2 + r] = from[c * 8 + 4];
        }
    }
    auto last_row = [&](u32 item) {
        u32 t = item / group * 16 + 15;
        return t < a.rows ? t : a.rows - 1;
    };
    // Blocks of keys that this warp and the whole block of threads see, and the first one that some row of this warp does not see whole.
    u32 blocks = (a.start + last_row(last_item < items ? last_item : items - 1)) / BLOCK + 1;
    u32 mine = (a.start + last_row(item)) / BLOCK + 1, whole = (a.start + first_row + 1) / BLOCK;

    i32 max[2] = {UNSEEN, UNSEEN}, top[2];
    i64 total[HD / 8][4] = {}, denominator[2] = {};
    for (u32 pass = 0; pass < 2; pass++) {
        sync_block();
        for (u32 b = 0; b < STAGES - 1; b++) {
            if (b < blocks) fetch<HD>(a, stages + b, kv, b, pass == 1);
            commit();
        }
        u32 slot = 0, next = STAGES - 1;
        for (u32 b = 0; b < blocks; b++) {
            arrived<STAGES - 2>();
            sync_block();
            if (b + STAGES - 1 < blocks) fetch<HD>(a, stages + next, kv, b + STAGES - 1, pass == 1);
            commit();
            const Stage<HD> *stage = stages + slot;
            slot = slot + 1 == STAGES ? 0 : slot + 1;
            next = next + 1 == STAGES ? 0 : next + 1;
            if (b >= mine) continue;
            bool cut = b >= whole;
            i32 s[4][2][4];
            make_scores<HD>(s, q, stage, row, b * BLOCK, cut);
            if (pass == 0) {
                max[0] = max_i32(max[0], greatest(s, 0));
                max[1] = max_i32(max[1], greatest(s, 1));
                continue;
            }

            i32 right[2], times[2], exponent[2];
            bool far = true, deep = false;
#pragma unroll
            for (u32 r = 0; r < 2; r++) {
                i32 m = quad_max(greatest(s, r));
                bool seen = m != UNSEEN;
                exponent[r] = block_exponent(m);
                i32 octaves = seen ? top[r] - exponent[r] : FAR + 1;
                bool counts = octaves <= FAR;
                far = far && !counts;
                deep = deep || (counts && octaves > GUARD);
                right[r] = max_i32(octaves - GUARD, 0);
                times[r] = counts ? 1 << max_i32(GUARD - octaves, 0) : 0;
                if (!counts) right[r] = 0;
            }
            if (warp_ballot(far) == ~0u) continue;
            deep = warp_ballot(deep) != 0;

            // Weights, and their products with value factors as digits: low ones 0..=255.
            u32 low[2][4], high[2][4];
            u32 weights[2] = {0, 0};
            const u8 *table = shared + lane % COPIES * 8;
            const u32 *factor = stage->keys.factor + lane % 4 * 4;
#pragma unroll
            for (u32 j = 0; j < 4; j++)
#pragma unroll
                for (u32 r = 0; r < 2; r++) {
                    u32 p[4];
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        // Octaves plus 13, the shift that leaves 17 bits of exp2.
                        u32 x = (u32)(((exponent[r] + 13) << 16) - s[j][r][i]);
                        if (cut && s[j][r][i] == UNSEEN) x = 0x7FFF0000;
                        const i32 *entry = (const i32 *)(table + (x >> 1 & 0x7F80));
                        i32 v = multiply_high_add(entry[1], (i32)permute(x, 0, 0x4044), entry[0]);
                        u32 w = (shift_right((u32)v, x >> 16) + 1) >> 1;
                        weights[r] += w;
                        p[i] = w * factor[16 * j + i] + (1 << 15);
                    }
                    u32 p01 = permute(p[0], p[1], 0x7362), p23 = permute(p[2], p[3], 0x7362);
                    low[j / 2][j % 2 * 2 + r] = permute(p01, p23, 0x5410);
                    high[j / 2][j % 2 * 2 + r] = permute(p01, p23, 0x7632);
                }
#pragma unroll
            for (u32 r = 0; r < 2; r++) {
                u32 w = weights[r] + (u32)shuffle_xor((i32)weights[r], 1);
                w += (u32)shuffle_xor((i32)w, 2);
                denominator[r] += (i64)(w >> right[r]) * times[r];
            }
            u32 address = shared_address(stage->v) + lane % 8 * (BLOCK + 16) + lane / 8 * 16;
#pragma unroll
            for (u32 c = 0; c < HD / 8; c++) {
                u32 v[4];
                load_matrix(v, address + c * 8 * (BLOCK + 16));
                i32 h[4] = {}, l[4] = {};
                multiply(h, high[0], v[0], v[1]);
                multiply_low(l, low[0], v[0], v[1]);
                multiply(h, high[1], v[2], v[3]);
                multiply_low(l, low[1], v[2], v[3]);
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    i32 sum = h[i] * 256 + l[i];
                    if (deep) sum >>= right[i / 2];
                    total[c][i] += (i64)sum * (i64)times[i / 2];
                }
            }
        }
        top[0] = block_exponent(quad_max(max[0]));
        top[1] = block_exponent(quad_max(max[1]));
        arrived<0>();
    }

#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = first_row + lane / 4 + 8 * r;
        if (!busy || t >= a.rows) continue;
        Divisor by = divisor(denominator[r]);
        i32 *out = a.out + ((u64)t * a.heads + head) * HD + lane % 4 * 2;
#pragma unroll
        for (u32 c = 0; c < HD / 8; c++) {
            out[c * 8] = divide(total[c][2 * r], by, 6, a);
            out[c * 8 + 1] = divide(total[c][2 * r + 1], by, 6, a);
        }
    }
}

// Grid: (rows / 16 rounded up, times heads / kv_heads, / 8 rounded up; key heads), 256 threads, shared memory
// TABLE_BYTES + STAGES * sizeof(Stage<HD>).
KERNEL __launch_bounds__(THREADS, 1) attention_64(Attention a) { attend<64>(a); }
KERNEL __launch_bounds__(THREADS, 1) attention_128(Attention a) { attend<128>(a); }
static_assert(TABLE_BYTES + STAGES * sizeof(Stage<64>) == 32768 + 3 * 11280, "the host's figure");
static_assert(TABLE_BYTES + STAGES * sizeof(Stage<128>) == 32768 + 3 * 20496, "the host's figure");
