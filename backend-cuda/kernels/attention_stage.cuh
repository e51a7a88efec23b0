// The fast kernels' memory: scratch, stages of shared memory, and the instructions that move and multiply what they hold.
#pragma once

#include "attention.cuh"

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

// Warps work in pairs. A pair has 16 query rows of one head. Of each two blocks of keys one warp makes the weights of the first,
// the other those of the second; they exchange them, and each adds half of the columns of both.
constexpr u32 PAIRS = 6;
constexpr u32 THREADS = PAIRS * 64;
constexpr u32 ROWS = 16;
// A line of exp2's table is (step to the next, value); 16 copies keep half a warp free of bank conflicts.
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
    i32 exp2[256][COPIES][2];
    Stage<HD> stage[2];
    Half half[PAIRS][2];
    u8 q[PAIRS][ROWS][HD + 16];
};
extern __shared__ __attribute__((aligned(128))) u8 shared_bytes[];

__device__ __forceinline__ void copy16(u32 to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

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
