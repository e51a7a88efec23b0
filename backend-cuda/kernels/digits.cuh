// Rows to digits: what every kernel that quantises shares (docs/numerics.md, section 3).
#pragma once
#include "common.cuh"

__device__ __forceinline__ u32 magnitude(i32 v) { return v < 0 ? 0u - (u32)v : (u32)v; }
__device__ __forceinline__ u32 max_u32(u32 a, u32 b) { return a > b ? a : b; }

// Largest value of `v` over the block, for every thread. `shared` has 32 entries.
__device__ __forceinline__ u32 block_max(u32 v, u32 *shared) {
    v = warp_max(v);
    u32 warp = thread_x() >> 5, warps = (threads_x() + 31) >> 5;
    sync_block();
    if ((thread_x() & 31) == 0) shared[warp] = v;
    sync_block();
    u32 all = 0;
    for (u32 w = 0; w < warps; w++) all = max_u32(all, shared[w]);
    return all;
}
__device__ __forceinline__ u64 block_sum(u64 v, u64 *shared) {
    v = warp_sum(v);
    u32 warp = thread_x() >> 5, warps = (threads_x() + 31) >> 5;
    sync_block();
    if ((thread_x() & 31) == 0) shared[warp] = v;
    sync_block();
    u64 all = 0;
    for (u32 w = 0; w < warps; w++) all += shared[w];
    return all;
}

// The left shift that fills 30 bits.
__device__ __forceinline__ i32 shift_to_30(u32 top) { return max_i32(29 - ilog2(top), 0); }

// Floor of the square root, v < 2^63: the float's root is off by one at most, and is put right.
__device__ __forceinline__ u64 isqrt(u64 v) {
    u64 x = (u64)square_root((double)v);
    if (x * x > v) x--;
    else if ((x + 1) * (x + 1) <= v) x++;
    return x;
}

__device__ __forceinline__ Scale inverse_rms(u64 sum, u32 len, i32 n, i32 exponent, Scale eps) {
    i32 unit = 14 - n - exponent;
    i32 s = (i32)eps.e - 2 * unit + 16;
    u64 e;
    if (eps.m == 0 || s < -15) e = 0;
    else if (s < 0) e = (u64)eps.m >> -s;
    else if (s > 46) e = (u64)1 << 61;
    else e = (u64)eps.m << s;
    if (e > (u64)1 << 61) e = (u64)1 << 61;
    u64 mean = (sum << 16) / len + e;
    if (mean == 0) return Scale{0, 0};
    i32 lift = (__builtin_clzll(mean) - 1) & ~1;
    u64 root = isqrt(mean << lift);
    return make_scale(((u64)1 << 62) / root, -62 + 8 + lift / 2 - unit);
}
__device__ __forceinline__ u64 square_17(i32 v, i32 n) {
    i64 y = (((i32)((u32)v << n)) + (1 << 13)) >> 14;
    return (u64)(y * y);
}

// How values become digits: q = round(v / scale), the scale cut from the largest magnitude `cut` >= 1.
struct Step {
    i32 n, recip; // recip < 2^31: levels * 2^bits / full, full >= 2^29
    u32 bits;
    u64 full;
    u64 levels;
};
__device__ __forceinline__ Step make_step(u32 cut, bool two) {
    Step s;
    s.n = shift_to_30(cut);
    s.full = (u64)cut << s.n;
    s.bits = two ? 45 : 53;
    s.levels = two ? 32639 : 127;
    s.recip = (i32)((s.levels << s.bits) / s.full);
    return s;
}
// |v| <= cut: v << n fills 30 bits.
__device__ __forceinline__ i32 digit(i32 v, const Step &s) {
    i64 product = (i64)(i32)((u32)v << s.n) * (i64)s.recip;
    return (i32)((product + ((i64)1 << (s.bits - 1))) >> s.bits);
}
// |v| <= 257 cut.
__device__ __forceinline__ i32 wide_digit(i32 v, const Step &s) {
    i64 product = (i64)((u64)(i64)v << s.n) * (i64)(s.recip >> 9);
    return (i32)((product + ((i64)1 << (s.bits - 10))) >> (s.bits - 9));
}
__device__ __forceinline__ Scale step_scale(const Step &s, i32 exponent, Scale gain) {
    return times(make_scale((s.full << 20) / s.levels, -20 - s.n - exponent), gain);
}

// sin(phase / 2^64 turns), Q30.
__device__ __forceinline__ i32 sine(u64 phase, const i32 *table) {
    u32 i = (u32)(phase >> 52);
    i64 f = (i64)(phase >> 32 & 0xFFFFF);
    i64 a = table[i], b = table[i + 1];
    return (i32)(a + (((b - a) * f + (1 << 19)) >> 20));
}
__device__ __forceinline__ void rotate(i32 &x, i32 &y, i64 s, i64 c) {
    i64 a = x, b = y;
    x = saturate((a * c - b * s + (1 << 29)) >> 30);
    y = saturate((b * c + a * s + (1 << 29)) >> 30);
}

// Where quantised rows go, as src/buffer.rs lays them out.
struct Digits {
    i8 *lo, *hi;   // [rows, ld]; hi: [rows, ld] for two digits, [rows, 64] for wide columns of one-digit rows, else null
    Scale *scales; // [rows, groups]
    u32 ld, groups, two;
    i32 exponent;
    Scale gain;
};
static_assert(sizeof(Digits) == 48, "as src/kernels.rs");

// A warp makes digits of 32 N values: lane l holds those at l + 32 j. They become group `g` of a row. Returns nothing; values are spoiled.
template <int N>
__device__ __forceinline__ void warp_digits(i32 (&v)[N], const Digits &d, u32 hadamard, u64 row, u32 g, u32 lane) {
    i32 exponent = d.exponent;
    u32 top = 0;
#pragma unroll
    for (int j = 0; j < N; j++) top = max_u32(top, magnitude(v[j]));
    top = warp_max(top);
    if (hadamard > 0 && top > 0) {
        i32 shift = 29 - (i32)hadamard - ilog2(top);
        exponent += shift;
#pragma unroll
        for (int j = 0; j < N; j++)
            v[j] = shift >= 0 ? (i32)((u32)v[j] << shift) : (v[j] + (1 << (-shift - 1))) >> -shift;
        // Sums are exact: their order is free.
#pragma unroll
        for (u32 h = 0; h < 5; h++) {
            if (h >= hadamard) break;
            bool upper = lane >> h & 1;
#pragma unroll
            for (int j = 0; j < N; j++) {
                i32 other = shuffle_xor(v[j], 1u << h);
                v[j] = upper ? other - v[j] : v[j] + other;
            }
        }
#pragma unroll
        for (int half = 1; half < N; half *= 2) {
            if (32u * half >= 1u << hadamard) break;
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (j & half) continue;
                i32 a = v[j], b = v[j + half];
                v[j] = a + b, v[j + half] = a - b;
            }
        }
        top = 0;
#pragma unroll
        for (int j = 0; j < N; j++) top = max_u32(top, magnitude(v[j]));
        top = warp_max(top);
    }
    u64 at = row * d.ld + (u64)g * (32 * N) + lane;
    i8 *lo = d.lo + at, *hi = d.two ? d.hi + at : (i8 *)0;
    Scale scale = Scale{0, 0};
    if (top > 0) {
        Step s = make_step(top, d.two);
        scale = step_scale(s, exponent, d.gain);
#pragma unroll
        for (int j = 0; j < N; j++) {
            i32 q = digit(v[j], s);
            i8 low = (i8)q;
            lo[32 * j] = low;
            if (hi) hi[32 * j] = (i8)((q - low) >> 8);
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; j++) {
            lo[32 * j] = 0;
            if (hi) hi[32 * j] = 0;
        }
    }
    // Columns behind the last of a row are zeros.
    if (g + 1 == d.groups)
        for (u32 i = d.groups * 32 * N + lane; i < d.ld; i += 32) {
            d.lo[row * d.ld + i] = 0;
            if (hi) d.hi[row * d.ld + i] = 0;
        }
    if (lane == 0) d.scales[row * d.groups + g] = scale;
}
