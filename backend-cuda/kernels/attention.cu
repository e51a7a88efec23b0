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
    // For the fast kernels, with B = 2 * ceil(tokens / 128): kv_heads * B * (64 * head_dim + 1040) + heads * ceil(rows / 16) * B * 32
    // bytes, 16-byte aligned; unused by attention_general.
    u8 *scratch;
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
// scale = mantissa * step * 2^low, `step` a power of two, one everywhere where `span`, the greatest difference of exponents, is at most 1.
struct Keys {
    i32 mantissa[BLOCK];
    i32 step[BLOCK];
    u32 factor[BLOCK]; // value factors, doubled
    Scale scale[BLOCK];
    i32 low, span, unused[2];
};
constexpr u32 KEYS_BYTES = sizeof(Keys);
static_assert(KEYS_BYTES == 1040, "a tile starts on 16 bytes");

// Scratch, of each key head and block of an even number of blocks: values by column, [head_dim][64], of all; then Keys of all; then of
// each item of work (16 rows of one head) and block the exponents of its rows.
__device__ __forceinline__ u64 even_blocks(const Attention &a) { return (a.tokens + 2 * BLOCK - 1) / (2 * BLOCK) * 2; }
__device__ __forceinline__ u8 *values_of(const Attention &a, u32 kv) { return a.scratch + kv * even_blocks(a) * a.head_dim * BLOCK; }
__device__ __forceinline__ Keys *keys_of(const Attention &a, u32 kv) { return (Keys *)values_of(a, a.kv_heads) + kv * even_blocks(a); }
__device__ __forceinline__ i16 *exponents_of(const Attention &a, u64 item) {
    return (i16 *)keys_of(a, a.kv_heads) + item * even_blocks(a) * 16;
}

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

// Warps work in pairs. A pair has 16 query rows of one head. Of each two blocks of keys one warp makes the weights of the first,
// the other those of the second; they exchange them, and each adds half of the columns of both.
constexpr u32 PAIRS = 6;
constexpr u32 THREADS = PAIRS * 64;
constexpr u32 ROWS = 16;
// A line of exp2's table is (step to the next, value); 16 copies keep half a warp free of bank conflicts, at 256 bytes so
// that a line's address takes one byte of its index.
constexpr u32 COPIES = 16;

struct __attribute__((aligned(16))) Words {
    u32 w[4];
};
// What one warp of a pair hands to the other.
struct Half {
    Words weights[4][32]; // digits of weights: low of keys 0..32, low of 32..64, high likewise; by lane
    i64 denominator[ROWS];
    i32 greatest[ROWS];
};
// 16-byte columns are padded against bank conflicts.
template <u32 HD> struct Stage {
    u8 k[2][BLOCK][HD + 16];
    u8 v[2][HD][BLOCK + 16];
    Keys keys[2];
};
template <u32 HD> struct Shared {
    i32 exp2[256][2 * COPIES][2];
    Stage<HD> stage[2];
    Half half[PAIRS][2];
    u8 q[PAIRS][ROWS][HD + 16];
};
extern __shared__ __attribute__((aligned(128))) u8 shared_bytes[];

__device__ __forceinline__ u32 shared_address(const void *p) {
    return (u32)(u64)(__attribute__((address_space(3))) const void *)p;
}
__device__ __forceinline__ void copy16(u32 to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ __forceinline__ void sync_pair(u32 pair) { asm volatile("bar.sync %0, 64;" ::"r"(pair + 1) : "memory"); }

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
// a b + c: a product and a sum, which become one instruction; mad.wide becomes three.
__device__ __forceinline__ i64 multiply_wide_add(i32 a, i32 b, i64 c) {
    i64 d;
    asm("mul.wide.s32 %0, %1, %2;" : "=l"(d) : "r"(a), "r"(b));
    return (i64)((u64)d + (u64)c);
}

// A thread's part in copying stages of two blocks. Keys' rows are stored so that a thread's columns of two neighbouring products are
// four keys in a row: key 4a + 2b + c of each 16 is row 8b + 2a + c. All that is read is there: keys up to a multiple of 128 rows.
template <u32 HD> struct Copier {
    static constexpr u32 WIDE = HD / 16, CHUNKS = 2 * BLOCK * WIDE, KEY_CHUNKS = 2 * KEYS_BYTES / 16;
    static_assert(THREADS % (16 * WIDE) == 0, "a thread's rows differ by multiples of 16");
    const i8 *k;
    const u8 *v, *keys;
    u64 row_bytes;

    __device__ __forceinline__ Copier(const Attention &a, u32 kv) {
        u32 tid = thread_x();
        row_bytes = a.kv_ld;
        k = a.k_lo + (u64)(tid / WIDE) * row_bytes + kv * HD + tid % WIDE * 16;
        v = values_of(a, kv) + tid * 16;
        keys = (const u8 *)keys_of(a, kv) + tid * 16;
    }
    // Starts the copy of blocks b and b + 1.
    __device__ __forceinline__ void start(Stage<HD> &stage, u32 b, bool values) const {
        u32 tid = thread_x(), key = tid / WIDE;
        u32 row = (key & ~15u) | (key >> 1 & 1) << 3 | (key >> 2 & 3) << 1 | (key & 1);
        u32 to = shared_address(stage.k) + row * (HD + 16) + tid % WIDE * 16;
        const i8 *k_from = k + b * BLOCK * row_bytes;
#pragma unroll
        for (u32 i = 0; i < CHUNKS; i += THREADS)
            if (i + THREADS <= CHUNKS || i + tid < CHUNKS) copy16(to + i / WIDE * (HD + 16), k_from + i / WIDE * row_bytes);
        if (tid < KEY_CHUNKS) copy16(shared_address(stage.keys) + tid * 16, keys + b * KEYS_BYTES);
        if (values) {
            to = shared_address(stage.v) + tid / 4 * (BLOCK + 16) + tid % 4 * 16;
            const u8 *v_from = v + (u64)b * HD * BLOCK;
#pragma unroll
            for (u32 i = 0; i < CHUNKS; i += THREADS)
                if (i + THREADS <= CHUNKS || i + tid < CHUNKS) copy16(to + i / 4 * (BLOCK + 16), v_from + i * 16);
        }
    }
};

// One of a thread's two query rows.
struct Row {
    u32 position;
    Scale scale; // times 2^(16 + shift)
};

// How scores of a block are made: round(acc q k 2^(e_q + e_k)) by a product and a shift of 64 bits where no score can saturate
// (|acc| <= 2^21, mantissas below 2^15).
struct Plan {
    i32 span, shift[2];
    bool fast; // the same in a warp
};
__device__ __forceinline__ Plan plan(const Keys &keys, const Row (&row)[2]) {
    Plan p;
    p.span = keys.span;
    bool fast = p.span <= 9;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        p.shift[r] = row[r].scale.m == 0 ? 32 : -((i32)row[r].scale.e + keys.low);
        fast = fast && p.shift[r] <= 32 && p.shift[r] - p.span >= 21;
    }
    p.fast = warp_ballot(fast) == ~0u;
    return p;
}

// Products of 16 rows and `16 N` keys: acc[j][i / 2][2 r + i % 2] is that of row r (of a thread's two) and key 16 j + 4 (lane % 4) + i.
template <u32 HD, u32 N> __device__ __forceinline__ void products(i32 (&acc)[N][2][4], u32 q_at, u32 k_at) {
#pragma unroll
    for (u32 j = 0; j < 8 * N; j++) acc[j / 8][j / 4 % 2][j % 4] = 0;
#pragma unroll
    for (u32 c = 0; c < HD / 64; c++) {
        u32 x[4], y[4];
        load_matrix(x, q_at + c * 64);
        load_matrix(y, q_at + c * 64 + 32);
#pragma unroll
        for (u32 j = 0; j < 2 * N; j++) {
            u32 k[4];
            load_matrix(k, k_at + j * 8 * (HD + 16) + c * 64);
            multiply(acc[j / 2][j % 2], x, k[0], k[1]);
            multiply(acc[j / 2][j % 2], y, k[2], k[3]);
        }
    }
}

// What places scores on the fast path.
struct Place {
    i32 scale[2];
    i64 add[2];
    u32 shift[2];
};
// For sign * score + base, base in 1/65536 octave.
template <i32 SIGN> __device__ __forceinline__ Place placement(const Row (&row)[2], const Plan &plan, const i32 (&base)[2]) {
    Place p;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        i64 half = (i64)1 << (plan.shift[r] - 1);
        p.scale[r] = SIGN * row[r].scale.m;
        p.add[r] = (i64)((u64)base[r] << plan.shift[r]) + (SIGN > 0 ? half : half - 1);
        p.shift[r] = (u32)plan.shift[r];
    }
    return p;
}
// Products to sign * score + base, fast; `at` is the thread's first key. If `COARSE`, what is left of it after `32 - shift` bits more.
template <bool STEP, bool COARSE = false>
__device__ __forceinline__ void place_scores(i32 (&s)[2][4], const Keys &keys, u32 at, const Place &place) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u32 r = i / 2 % 2, key = at + i / 4 * 2 + i % 2;
        i32 acc = STEP ? s[i / 4][i % 4] * keys.step[key] : s[i / 4][i % 4];
        i64 v = multiply_wide_add(acc, keys.mantissa[key] * place.scale[r], place.add[r]);
        s[i / 4][i % 4] = COARSE ? (i32)(v >> 32) : funnel(v, place.shift[r]);
    }
}
// Any scores; those of keys beyond the rows' positions become `unseen`. `first` is the thread's first key counted from token 0.
template <i32 SIGN>
__device__ __forceinline__ void place_any(i32 (&s)[2][4], const Keys &keys, u32 at, const Row (&row)[2], const i32 (&base)[2],
                                          u32 first, i32 unseen) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u32 r = i / 2 % 2, offset = i / 4 * 2 + i % 2;
        i32 v = scaled(s[i / 4][i % 4], row[r].scale, keys.scale[at + offset]);
        s[i / 4][i % 4] = first + offset > row[r].position ? unseen : (i32)((u32)base[r] + (u32)(SIGN * v));
    }
}

__device__ __forceinline__ void raise(i32 (&max)[2], const i32 (&s)[2][4]) {
#pragma unroll
    for (u32 r = 0; r < 2; r++)
        max[r] = max_i32(max[r], max_i32(max_i32(s[0][2 * r], s[0][2 * r + 1]), max_i32(s[1][2 * r], s[1][2 * r + 1])));
}

// Four weights of a row and their products with value factors, as digits (low ones 0..=255). `s` are octaves below the block's exponent
// in 1/65536, plus 13 octaves: the shift that leaves 17 bits of exp2. `table` is the lane's copy of exp2's, an offset in bytes.
__device__ __forceinline__ void weigh(u32 &low, u32 &high, u32 &sum, const i32 (&s)[2][4], u32 r, const u32 *factor, u32 table) {
    u32 p[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        u32 x = (u32)s[i / 2][2 * r + i % 2];
        i64 line = *(const i64 *)(shared_bytes + permute(x, table, 0x7714));
        i32 v = (i32)(line >> 32) + (((i32)line * (i32)(x & 255)) >> 8);
        u32 w = (shift_right((u32)v, x >> 16) + 1) >> 1;
        sum += w;
        p[i] = w * factor[i] + (1 << 15);
    }
    u32 p01 = permute(p[0], p[1], 0x7362), p23 = permute(p[2], p[3], 0x7362);
    low = permute(p01, p23, 0x5410);
    high = permute(p01, p23, 0x7632);
}
constexpr i32 NO_WEIGHT = 0x7FFF0000;

// Greatest scores of a thread's keys; if `COARSE`, without their low `32 - shift` bits.
template <u32 HD, bool STEP, bool COARSE>
__device__ __forceinline__ void maxima_fast(i32 (&max)[2], u32 q_at, u32 k_at, const Keys &keys, u32 part, const Place &place) {
    i32 s[4][2][4];
    products<HD, 4>(s, q_at, k_at);
    max[0] = max[1] = UNSEEN;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        place_scores<STEP, COARSE>(s[j], keys, j * 16 + part, place);
        raise(max, s[j]);
    }
}
template <u32 HD, bool STEP>
__device__ __forceinline__ void weigh_fast(u32 (&low)[2][4], u32 (&high)[2][4], u32 (&weights)[2], u32 q_at, u32 k_at, const Keys &keys,
                                           u32 part, const Place &place, u32 table) {
    i32 s[4][2][4];
    products<HD, 4>(s, q_at, k_at);
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        place_scores<STEP>(s[j], keys, j * 16 + part, place);
#pragma unroll
        for (u32 r = 0; r < 2; r++)
            weigh(low[j / 2][j % 2 * 2 + r], high[j / 2][j % 2 * 2 + r], weights[r], s[j], r, keys.factor + j * 16 + part, table);
    }
}

__device__ __forceinline__ i32 quad_max(i32 v) {
    v = max_i32(v, shuffle_xor(v, 1));
    return max_i32(v, shuffle_xor(v, 2));
}
__device__ __forceinline__ u32 quad_sum(u32 v) {
    v += (u32)shuffle_xor((i32)v, 1);
    return v + (u32)shuffle_xor((i32)v, 2);
}

// How a block's sums of one row are aligned: sum >> right << left, or left out.
struct Alignment {
    i32 right, times;
};
__device__ __forceinline__ Alignment alignment(i32 octaves) {
    if (octaves > FAR) return Alignment{0, 0};
    return Alignment{max_i32(octaves - GUARD, 0), 1 << max_i32(GUARD - octaves, 0)};
}

// Adds a block's products of weights (digits by 16 bytes of keys) and values to the totals of half the columns.
template <u32 HD, bool DEEP>
__device__ __forceinline__ void add_values(i64 (&total)[HD / 16][4], const u32 (&low)[2][4], const u32 (&high)[2][4], u32 v_at,
                                           const Alignment (&align)[2]) {
    constexpr u32 AHEAD = 2;
    u32 v[2][AHEAD][4];
#pragma unroll
    for (u32 d = 0; d < AHEAD; d++) load_matrix(v[0][d], v_at + d * 8 * (BLOCK + 16));
#pragma unroll
    for (u32 c = 0; c < HD / 16; c += AHEAD) {
        u32 now = c / AHEAD % 2;
        i32 h[AHEAD][4] = {}, l[AHEAD][4] = {};
        if (c + AHEAD < HD / 16) {
#pragma unroll
            for (u32 d = 0; d < AHEAD; d++) load_matrix(v[now ^ 1][d], v_at + (c + AHEAD + d) * 8 * (BLOCK + 16));
        }
#pragma unroll
        for (u32 k = 0; k < 2; k++)
#pragma unroll
            for (u32 d = 0; d < AHEAD; d++) {
                multiply(h[d], high[k], v[now][d][2 * k], v[now][d][2 * k + 1]);
                multiply_low(l[d], low[k], v[now][d][2 * k], v[now][d][2 * k + 1]);
            }
#pragma unroll
        for (u32 d = 0; d < AHEAD; d++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                i32 sum = h[d][i] * 256 + l[d][i];
                if (DEEP) sum >>= align[i / 2].right;
                total[c + d][i] = multiply_wide_add(sum, align[i / 2].times, total[c + d][i]);
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
        if (b >= mine) continue;
        const Stage<HD> &stage = shared.stage[b / 2 % 2];
        u32 low[2][4], high[2][4];
        // Octaves of the own block and of the other; the exponents of the next two are on their way.
        i32 octaves[2][2];
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
        sync_pair(pair);
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
    sync_pair(pair);
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
static_assert(sizeof(Shared<64>) == 145216 && sizeof(Shared<128>) == 188224, "the host's figures");
