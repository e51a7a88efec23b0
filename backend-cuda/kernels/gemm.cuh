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

// One output column: its scale apart, its bias (0 without).
struct alignas(16) Column {
    i32 m, e, bias, unused;
};
// One output row: its scale times the factor, shifted.
struct Row {
    i32 m, e;
};

__device__ __forceinline__ Column load_column(const Gemm &g, u32 o) {
    if (o >= g.out) return Column{0, -1, 0, 0};
    Scale s = g.w_scale[o];
    return Column{s.m, s.e, g.bias ? g.bias[o] : 0, 0};
}
__device__ __forceinline__ Row load_row(const Gemm &g, u32 t) {
    if (t >= g.rows) return Row{0, -1};
    Scale s = g.a_scale[t];
    if (g.factor) s = times(s, g.factor[t]);
    s = shifted(s, (i32)g.shift);
    return Row{s.m, s.e};
}

// scaled() in fewer operations for a right shift by n = -(row.e + column.e) >= 1:
// with y = x >> (n - 1), (x + 2^(n-1)) >> n = y - (y >> 1); where y leaves 32 bits the result saturates; a shift by more than 63 is one by 63.
__device__ __forceinline__ i32 scaled_right(i32 acc, i32 m, i32 n) {
    i64 y;
    asm("shr.s64 %0, %1, %2;" : "=l"(y) : "l"((i64)acc * m), "r"(n - 1));
    i32 lo = (i32)y, hi = (i32)(y >> 32), v = lo - (lo >> 1);
    if (hi != lo >> 31) v = LIMIT ^ (hi >> 31);
    return clamp_i32(v, -LIMIT, LIMIT);
}
// One output from its rounded sum, bias included.
__device__ __forceinline__ i32 finish(i32 acc, Row row, Column column) {
    i32 n = -(row.e + column.e), m = row.m * column.m;
    i32 v = n > 0 ? scaled_right(acc, m, n) : shift_round((i64)acc * m, -n);
    return clamp_i32(v + column.bias, -LIMIT, LIMIT);
}

// Finishes and stores outputs o and o + 1 of row t; v are their rounded sums, c their columns. Two at once if `pairs`.
__device__ __forceinline__ void finish_pair(const Gemm &g, u32 t, Row row, u32 o, Column c0, Column c1, i32 v0, i32 v1, bool pairs) {
    v0 = finish(v0, row, c0);
    v1 = finish(v1, row, c1);
    if (t >= g.rows || o >= g.out) return;
    i32 *c = g.c + (u64)t * g.ldc + g.column + o;
    if (pairs) {
        using Pair = i32 __attribute__((vector_size(8)));
        if (g.add) {
            Pair old = *(Pair *)c;
            v0 = clamp_i32(v0 + old[0], -LIMIT, LIMIT);
            v1 = clamp_i32(v1 + old[1], -LIMIT, LIMIT);
        }
        *(Pair *)c = Pair{v0, v1};
    } else {
        c[0] = g.add ? clamp_i32(v0 + c[0], -LIMIT, LIMIT) : v0;
        if (o + 1 < g.out) c[1] = g.add ? clamp_i32(v1 + c[1], -LIMIT, LIMIT) : v1;
    }
}
// Whether outputs can be stored two by two.
__device__ __forceinline__ bool stores_pairs(const Gemm &g) {
    return ((g.ldc | g.column | g.out) & 1) == 0 && ((u64)g.c & 7) == 0;
}

// The sum of an output from the sums of its digit pairs, sums[i * stride] of weight 256^i, rounded. One digit each: the sum itself, below 2^31.
template <u32 PAIRS>
__device__ __forceinline__ i32 join(const i32 *sums, u32 stride, u32 shift) {
    if (PAIRS == 1) return sums[0];
    i64 sum = sums[0] + (i64)sums[stride] * 256;
    if (PAIRS > 2) sum += (i64)sums[2 * stride] * 65536;
    return round_sum(sum, shift);
}

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
