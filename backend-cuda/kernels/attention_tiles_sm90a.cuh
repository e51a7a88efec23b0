// What attention for compute capability 9.0 reads and how it lies: tiles of 128 keys and values in scratch and in shared memory, and the
// products over them.
#pragma once

#include "attention.cuh"
#include "hopper.cuh"

constexpr u32 HD = 128;   // columns of a head
constexpr u32 KEYS = 128; // keys of a tile: two blocks
constexpr u32 ROWS = 64;  // query rows of a block of threads
constexpr u32 GROUPS = 4; // warpgroups of a block of threads
constexpr u32 TILES = 3;  // tiles in shared memory in the second pass
constexpr u32 SLOTS = 4;  // blocks' weights there

// What each pass reads of the keys of a tile. Scales are brought to their block's least exponent `low`: scale = mantissa * step * 2^low, `step`
// a power of two, one everywhere where `span`, the greatest difference of exponents, is at most 1.
struct __attribute__((aligned(16))) KeysOne {
    f32 scale_f[KEYS], offset_f[KEYS]; // scale / 2^low, and -MAGIC times it; exact if span <= WIDEST
    Scale scale[KEYS];
    i32 low[2], span[2];
};
struct __attribute__((aligned(16))) KeysTwo {
    i32 mantissa[KEYS], step[KEYS];
    u32 factor[KEYS]; // value factors, doubled
    Scale scale[KEYS];
    i32 low[2], span[2];
};
struct Keys {
    KeysOne one;
    KeysTwo two;
};
static_assert(sizeof(KeysOne) == 1552 && sizeof(KeysTwo) == 2064 && sizeof(Keys) == 3616, "copies are multiples of 16 bytes; the host's figure");
// An integer below 2^22 plus MAGIC's bits are those of MAGIC plus the integer.
constexpr f32 MAGIC = 12582912.0f;
constexpr i32 MAGIC_BITS = 0x4B400000;
constexpr i32 WIDEST = 60;

// Keys of 128 bytes: row n of each 16 is key 4a + 2b + c, n = 8b + 2a + c, so that a thread's sums are those of four keys in a row. Then
// values by column, 128 bytes of keys each. As wgmma wants both: 16-byte chunk c of row r in place c ^ (r & 7).
struct __attribute__((aligned(1024))) Tile {
    u8 k[KEYS][HD], v[HD][KEYS];
};

// exp2 for scores that count down from zero: T[j] = EXP2[256 - j] and the step to the next, D[j] = EXP2[255 - j] - T[j], so that 2^(y / 65536)
// for y <= 0 is T[j] + (D[j] * f >> 8), j = y >> 8 & 255, f = y & 255. A copy a lane: no bank conflicts, and `y & 0xFF00` is an offset.
struct Exp2 {
    u32 line[256][32][2];
};

// Scratch: exp2, tiles of all key heads, Keys of all, then of each item of work (64 rows of one head) and block the exponents of its rows.
__device__ __forceinline__ u32 tiles_of(const Attention &a) { return (a.tokens + KEYS - 1) / KEYS; }
__device__ __forceinline__ Exp2 *exp2_of(const Attention &a) { return (Exp2 *)a.scratch; }
__device__ __forceinline__ Tile *values_of(const Attention &a, u32 kv) {
    return (Tile *)(a.scratch + sizeof(Exp2)) + (u64)kv * tiles_of(a);
}
__device__ __forceinline__ Keys *keys_of(const Attention &a, u32 kv) { return (Keys *)values_of(a, a.kv_heads) + (u64)kv * tiles_of(a); }
__device__ __forceinline__ i16 *exponents_of(const Attention &a, u64 item) {
    return (i16 *)keys_of(a, a.kv_heads) + item * tiles_of(a) * (2 * ROWS);
}

template <class T> struct __attribute__((aligned(16))) Four {
    T v[4];
};

// Digits of the weights of 64 rows and a block of keys: high ones, then low ones, as wgmma wants them; and how sums of rows are aligned:
// sum >> right, times.
struct __attribute__((aligned(1024))) Weights {
    u8 digits[ROWS][2 * BLOCK];
};
struct Alignments {
    i32 of[ROWS][2];
};

struct Shared {
    union {
        u8 k[GROUPS][2][KEYS][HD]; // pass one: two tiles of keys a warpgroup
        struct {
            Tile tile[TILES];
            Weights weights[SLOTS];
        };
    };
    u8 q[ROWS][HD];
    Exp2 exp2;
    KeysOne one[GROUPS][2];
    KeysTwo two[TILES];
    Alignments alignments[SLOTS];
    i64 denominator[2][ROWS];
    i32 greatest[GROUPS][ROWS];
    u64 first[GROUPS][2], full[TILES], empty[TILES], filled[SLOTS], free[SLOTS], table;
};
extern __shared__ __attribute__((aligned(1024))) u8 shared_bytes[];

// A bulk copy of `bytes` bytes, of 16 and on 16, that the barrier counts.
__device__ __forceinline__ void copy_bulk(u32 to, const void *from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
                 "r"(barrier)
                 : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("{ .reg .b64 t; mbarrier.arrive.expect_tx.shared.b64 t, [%0], %1; }" ::"r"(barrier), "r"(bytes) : "memory");
}

#define W4(d, i) "=&r"(d[i]), "=&r"(d[i + 1]), "=&r"(d[i + 2]), "=&r"(d[i + 3])
#define W16(d, i) W4(d, i), W4(d, i + 4), W4(d, i + 8), W4(d, i + 12)
#define W32(d) W16(d, 0), W16(d, 16)
#define IN4(a, i) "r"(a[i]), "r"(a[i + 1]), "r"(a[i + 2]), "r"(a[i + 3])
#define N32A                                                                                                         \
    N8(0, 1, 2, 3, 4, 5, 6, 7) ", " N8(8, 9, 10, 11, 12, 13, 14, 15) ", " N8(16, 17, 18, 19, 20, 21, 22, 23) ", " N8( \
        24, 25, 26, 27, 28, 29, 30, 31)
#define N32B                                                                                                              \
    N8(32, 33, 34, 35, 36, 37, 38, 39) ", " N8(40, 41, 42, 43, 44, 45, 46, 47) ", " N8(48, 49, 50, 51, 52, 53, 54, 55) ", " N8( \
        56, 57, 58, 59, 60, 61, 62, 63)
#define SET_OR_ADD ".reg .pred set, add; setp.ne.b32 set, 0, 0; setp.ne.b32 add, 1, 0;\n"
#define DONE "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n"

// Queries in registers (four of each 32 columns) by 128 keys: s[8 J + 4 b + 2 r + c] is that of a thread's row r and key
// 16 J + 4 (lane % 4) + 2 b + c.
__device__ __forceinline__ void multiply_keys(i32 (&s)[64], const u32 (&q)[16], u64 keys) {
    asm volatile("{ " SET_OR_ADD ".reg .b64 k;\n"
                 "wgmma.fence.sync.aligned;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" N64 "}, {%64, %65, %66, %67}, %80, set;\n"
                 "add.s64 k, %80, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" N64 "}, {%68, %69, %70, %71}, k, add;\n"
                 "add.s64 k, %80, 4;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" N64 "}, {%72, %73, %74, %75}, k, add;\n"
                 "add.s64 k, %80, 6;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" N64 "}, {%76, %77, %78, %79}, k, add;\n" DONE "}"
                 : W16(s, 0), W16(s, 16), W16(s, 32), W16(s, 48)
                 : IN4(q, 0), IN4(q, 4), IN4(q, 8), IN4(q, 12), "l"(keys)
                 : "memory");
}
// Queries in shared memory by 64 keys: s as above.
__device__ __forceinline__ void multiply_keys(i32 (&s)[32], u64 query, u64 keys) {
    asm volatile("{ " SET_OR_ADD ".reg .b64 q, k;\n"
                 "wgmma.fence.sync.aligned;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" N32A "}, %32, %33, set;\n"
                 "add.s64 q, %32, 2; add.s64 k, %33, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" N32A "}, q, k, add;\n"
                 "add.s64 q, %32, 4; add.s64 k, %33, 4;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" N32A "}, q, k, add;\n"
                 "add.s64 q, %32, 6; add.s64 k, %33, 6;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" N32A "}, q, k, add;\n" DONE "}"
                 : W32(s)
                 : "l"(query), "l"(keys)
                 : "memory");
}
// Digits of the weights of 64 keys in shared memory by 64 columns of values.
__device__ __forceinline__ void multiply_values(i32 (&h)[32], i32 (&l)[32], u64 weights, u64 values) {
    asm volatile("{ " SET_OR_ADD ".reg .b64 w, v;\n"
                 "wgmma.fence.sync.aligned;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" N32A "}, %64, %65, set;\n"
                 "add.s64 w, %64, 4;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" N32B "}, w, %65, set;\n"
                 "add.s64 w, %64, 2; add.s64 v, %65, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" N32A "}, w, v, add;\n"
                 "add.s64 w, %64, 6;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" N32B "}, w, v, add;\n" DONE "}"
                 : W32(h), W32(l)
                 : "l"(weights), "l"(values)
                 : "memory");
}
