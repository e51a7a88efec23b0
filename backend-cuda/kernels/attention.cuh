// What the kernels of attention share: their parameter and the arithmetic of docs/numerics.md, section 7.
#pragma once

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
static_assert(sizeof(Attention) == 176, "as src/kernels.rs");

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

__device__ __forceinline__ u32 shared_address(const void *p) {
    return (u32)(u64)(__attribute__((address_space(3))) const void *)p;
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

__device__ __forceinline__ i32 quad_max(i32 v) {
    v = max_i32(v, shuffle_xor(v, 1));
    return max_i32(v, shuffle_xor(v, 2));
}
__device__ __forceinline__ u32 quad_sum(u32 v) {
    v += (u32)shuffle_xor((i32)v, 1);
    return v + (u32)shuffle_xor((i32)v, 2);
}
