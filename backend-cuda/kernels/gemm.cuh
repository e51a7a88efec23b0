// What the matrix products share: their parameter, asynchronous copies, and the way from exact digit sums to stored values
// (docs/numerics.md, section 4).
#pragma once
#include "common.cuh"

// out[t][o] (+)= a[t] . w[o], the only parameter of every gemm kernel. Pointers to digits are aligned to 16 bytes.
struct Gemm {
    // Activations [rows, lda], one byte a digit. Two digits: value = 256 * hi + lo, lo in -128..=127.
    // One digit: a_hi is null or, with `wide`, [rows, 64]: high digits of the first 64 columns, zeros from `wide` on.
    const i8 *a_lo, *a_hi;
    const Scale *a_scale; // [rows]
    const Scale *factor;  // [rows] or null: more to multiply a_scale with
    // Weights [out rounded up to 128 with zeros, lda], the digits alike; w_hi is null for one digit.
    const i8 *w_lo, *w_hi;
    const Scale *w_scale; // [out]
    const i32 *bias;      // [out] or null; magnitudes at most LIMIT
    i32 *c;               // [rows, ldc]: columns column..column + out are written
    // lda is a multiple of 128, zeros from the inputs on. Rows up to the next multiple of 128 are readable.
    u32 rows, out, lda, ldc, column;
    u32 shift; // data.rs, product_shift; 0 wherever both operands have one digit
    u32 add;   // 1: add to c instead of replacing it
    u32 wide;  // columns of one-digit activations that have two
};
static_assert(sizeof(Gemm) == 104, "the host passes these bytes");

// One output column: its scale m * 2^-n and its bias (0 without); `floor` is n, or far below it where the bias is too large for finish_part.
struct alignas(16) Column {
    i32 m, n, bias, floor;
};
// One output row: its scale times the factor, shifted, m * 2^-(n + 1).
struct Row {
    i32 m, n;
};
// Bound of products and biases with which finish_part works: their sums do not saturate.
constexpr i32 QUICK = 1 << 29;

// A scale in one load.
__device__ __forceinline__ Scale load_scale(const Scale *p) {
    u32 bits = *(const u32 *)p;
    return Scale{(i16)bits, (i16)(bits >> 16)};
}
__device__ __forceinline__ Column load_column(const Gemm &g, u32 o) {
    if (o >= g.out) return Column{0, 64, 0, 64};
    Scale s = load_scale(g.w_scale + o);
    i32 bias = g.bias ? g.bias[o] : 0, n = s.m == 0 ? 64 : -s.e;
    return Column{s.m, n, bias, bias > -QUICK && bias < QUICK ? n : -(1 << 20)};
}
__device__ __forceinline__ Row load_row(const Gemm &g, u32 t) {
    if (t >= g.rows) return Row{0, 64};
    Scale s = load_scale(g.a_scale + t);
    if (g.factor) s = times(s, load_scale(g.factor + t));
    s = shifted(s, (i32)g.shift);
    return Row{s.m, s.m == 0 ? 64 : -s.e - 1};
}

// Stored outputs go through one of two paths. A part is PAIRS x ROWS x 2 outputs of one thread: columns c and c + 1, 8 apart from pair to pair,
// rows 8 apart. finish_part does a part in few operations, if all of it allows that; finish_pair does any output.
#if defined(__clang__) && !defined(__CUDACC__)
using Pair = i32 __attribute__((ext_vector_type(2)));
#else
using Pair = int2;
#endif

// Whether outputs can be stored two by two, as finish_part does.
__device__ __forceinline__ bool stores_pairs(const Gemm &g) { return ((g.ldc | g.column | g.out) & 1) == 0 && ((u64)g.c & 7) == 0; }

// What finish_part adds to, if the product adds: all of it at once, since loads do not pass stores.
template <u32 ROWS, u32 PAIRS>
__device__ __forceinline__ void load_part(const Gemm &g, u32 t, u32 o, Pair (&old)[PAIRS * ROWS]) {
#pragma unroll
    for (u32 j = 0; j < PAIRS; j++)
#pragma unroll
        for (u32 r = 0; r < ROWS; r++)
            if (t + r * 8 < g.rows && o + j * 8 < g.out) old[j * ROWS + r] = *(const Pair *)(g.c + (u64)(t + r * 8) * g.ldc + g.column + o + j * 8);
}
// Finishes and stores the outputs of rounded sums v from row t and output o on; false, with nothing stored, where an output needs finish_pair.
//
// With x = sum * m and y = x >> (n - 1) (shifts by more than 63 are shifts by 63), (x + 2^(n-1)) >> n = y - (y >> 1), n >= 1.
// If -2^30 <= y < 2^30 everywhere, and no bias is large, nothing saturates. That takes ten operations an output, where 64-bit arithmetic takes thirty.
template <u32 ROWS, u32 PAIRS>
__device__ __forceinline__ bool finish_part(const Gemm &g, u32 t, const Row (&rows)[ROWS], u32 o, const Column *columns, i32 (&v)[PAIRS * ROWS * 2],
                                            const Pair (&old)[PAIRS * ROWS]) {
    i32 floor = columns[0].floor, row_floor = rows[0].n, least = 0, most = 0;
    bool fits = true;
#pragma unroll
    for (u32 r = 1; r < ROWS; r++) row_floor = min_i32(row_floor, rows[r].n);
#pragma unroll
    for (u32 j = 0; j < PAIRS * 2; j++) {
        const Column c = columns[j / 2 * 8 + j % 2];
        floor = min_i32(floor, c.floor);
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            i32 &out = v[(j / 2 * ROWS + r) * 2 + j % 2];
            i64 y;
            asm("shr.s64 %0, %1, %2;" : "=l"(y) : "l"((i64)out * (rows[r].m * c.m)), "r"(rows[r].n + c.n));
            i32 lo = (i32)y;
            fits &= (i32)(y >> 32) == lo >> 31;
            least = min_i32(least, lo);
            most = max_i32(most, lo);
            out = lo - (lo >> 1) + c.bias;
        }
    }
    if (!fits || least < -2 * QUICK || most >= 2 * QUICK || floor + row_floor < 0) return false;
    if (g.add) {
#pragma unroll
        for (u32 i = 0; i < PAIRS * ROWS * 2; i++) v[i] = clamp_i32(v[i] + (i % 2 == 0 ? old[i / 2].x : old[i / 2].y), -LIMIT, LIMIT);
    }
#pragma unroll
    for (u32 j = 0; j < PAIRS; j++)
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            const u32 i = j * ROWS + r;
            if (t + r * 8 < g.rows && o + j * 8 < g.out) *(Pair *)(g.c + (u64)(t + r * 8) * g.ldc + g.column + o + j * 8) = Pair{v[i * 2], v[i * 2 + 1]};
        }
    return true;
}

__device__ __forceinline__ i32 finish(i32 acc, Row row, Column column) {
    return clamp_i32(shift_round((i64)acc * (row.m * column.m), -1 - row.n - column.n) + column.bias, -LIMIT, LIMIT);
}
// Finishes and stores outputs o and o + 1 of row t; v are their rounded sums, c their columns.
__device__ __forceinline__ void finish_pair(const Gemm &g, u32 t, Row row, u32 o, Column c0, Column c1, i32 v0, i32 v1) {
    v0 = finish(v0, row, c0);
    v1 = finish(v1, row, c1);
    if (t >= g.rows) return;
    i32 *c = g.c + (u64)t * g.ldc + g.column + o;
    if (o < g.out) c[0] = g.add ? clamp_i32(v0 + c[0], -LIMIT, LIMIT) : v0;
    if (o + 1 < g.out) c[1] = g.add ? clamp_i32(v1 + c[1], -LIMIT, LIMIT) : v1;
}

// Finishes and stores PARTS parts from row t and output o on; sum(part, i) gives sum i of a part, part a constant wherever it is called.
template <u32 PARTS, u32 ROWS, u32 PAIRS, typename Sum>
__device__ __forceinline__ void finish_parts(const Gemm &g, u32 t, const Row (&rows)[ROWS], u32 o, const Column *columns, Sum sum) {
    constexpr u32 VALUES = PAIRS * ROWS * 2;
    u32 left = 0;
    if (stores_pairs(g)) {
#pragma unroll
        for (u32 part = 0; part < PARTS; part++) {
            Pair old[VALUES / 2] = {};
            if (g.add) load_part<ROWS, PAIRS>(g, t, o + part * PAIRS * 8, old);
            i32 v[VALUES];
#pragma unroll
            for (u32 i = 0; i < VALUES; i++) v[i] = sum(part, i);
            if (!finish_part<ROWS, PAIRS>(g, t, rows, o + part * PAIRS * 8, columns + part * PAIRS * 8, v, old)) left |= 1 << part;
        }
    } else {
        left = (u32)((1ull << PARTS) - 1);
    }
    // The rest one part at a time, by the same instructions: for every output apart they would outgrow the instruction cache.
    if (left == 0) return;
#pragma unroll 1
    for (u32 part = 0; part < PARTS; part++) {
        if ((left >> part & 1) == 0) continue;
        i32 v[VALUES];
#pragma unroll
        for (u32 k = 0; k < PARTS; k++)
            if (k == part) {
#pragma unroll
                for (u32 i = 0; i < VALUES; i++) v[i] = sum(k, i);
            }
        const Column *c = columns + part * PAIRS * 8;
#pragma unroll
        for (u32 i = 0; i < VALUES / 2; i++) {
            const u32 j = i / ROWS * 8, r = i % ROWS;
            finish_pair(g, t + r * 8, rows[r], o + part * PAIRS * 8 + j, c[j], c[j + 1], v[i * 2], v[i * 2 + 1]);
        }
    }
}

// The sum of an output from the sums of its digit pairs, sums[i * stride] of weight 256^i, rounded. One digit each: the sum itself, below 2^31.
template <u32 PAIRS>
__device__ __forceinline__ i32 join(const i32 *sums, u32 stride, u32 shift) {
    if (PAIRS == 1) return sums[0];
    // round_sum(), with the half in the lowest sum: that is at most 2^30, the shift at most 15.
    i64 sum = sums[0] + ((1 << shift) >> 1) + (i64)sums[stride] * 256;
    if (PAIRS > 2) sum += (i64)sums[2 * stride] * 65536;
    return (i32)(sum >> shift);
}

// Brings the line of an address into the L2 cache.
__device__ __forceinline__ void prefetch(const void *global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }
__device__ __forceinline__ u32 shared_address(const void *p) {
    u32 address;
    asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(address) : "l"(p));
    return address;
}
// 16 bytes from global to shared memory, past the registers.
__device__ __forceinline__ void copy_16(u32 shared, const i8 *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(__builtin_addressof(*global)) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of the committed groups of this thread are under way.
template <u32 N>
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
