// What every kernel uses: integer types, the fixed-point arithmetic of docs/numerics.md section 1, and warp helpers.
// No CUDA header is needed: clang compiles this alone (see ci/ptx.sh), nvcc too.
#pragma once

using i8 = signed char;
using u8 = unsigned char;
using i16 = short;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;
using f32 = float;

#if defined(__clang__) && !defined(__CUDACC__)
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __forceinline__ __inline__ __attribute__((always_inline))
__device__ __forceinline__ u32 thread_x() { return __nvvm_read_ptx_sreg_tid_x(); }
__device__ __forceinline__ u32 block_x() { return __nvvm_read_ptx_sreg_ctaid_x(); }
__device__ __forceinline__ u32 block_y() { return __nvvm_read_ptx_sreg_ctaid_y(); }
__device__ __forceinline__ u32 block_z() { return __nvvm_read_ptx_sreg_ctaid_z(); }
__device__ __forceinline__ u32 threads_x() { return __nvvm_read_ptx_sreg_ntid_x(); }
__device__ __forceinline__ u32 blocks_x() { return __nvvm_read_ptx_sreg_nctaid_x(); }
__device__ __forceinline__ void sync_block() { __syncthreads(); }
__device__ __forceinline__ void sync_warp() { __nvvm_bar_warp_sync(~0u); }
__device__ __forceinline__ u32 warp_ballot(bool p) { return __nvvm_vote_ballot_sync(~0u, p); }
__device__ __forceinline__ i32 shuffle(i32 v, u32 lane) { return __nvvm_shfl_sync_idx_i32(~0u, v, lane, 31); }
__device__ __forceinline__ i32 shuffle_xor(i32 v, u32 mask) { return __nvvm_shfl_sync_bfly_i32(~0u, v, mask, 31); }
__device__ __forceinline__ void atomic_min(u32 *p, u32 v) { __nvvm_atom_min_gen_ui(p, v); }
__device__ __forceinline__ void atomic_add(u64 *p, u64 v) { __nvvm_atom_add_gen_ll((i64 *)p, (i64)v); }
__device__ __forceinline__ double square_root(double v) { return __nvvm_sqrt_rn_d(v); }
#else
__device__ __forceinline__ u32 thread_x() { return threadIdx.x; }
__device__ __forceinline__ u32 block_x() { return blockIdx.x; }
__device__ __forceinline__ u32 block_y() { return blockIdx.y; }
__device__ __forceinline__ u32 block_z() { return blockIdx.z; }
__device__ __forceinline__ u32 threads_x() { return blockDim.x; }
__device__ __forceinline__ u32 blocks_x() { return gridDim.x; }
__device__ __forceinline__ void sync_block() { __syncthreads(); }
__device__ __forceinline__ void sync_warp() { __syncwarp(); }
__device__ __forceinline__ u32 warp_ballot(bool p) { return __ballot_sync(~0u, p); }
__device__ __forceinline__ i32 shuffle(i32 v, u32 lane) { return __shfl_sync(~0u, v, lane); }
__device__ __forceinline__ i32 shuffle_xor(i32 v, u32 mask) { return __shfl_xor_sync(~0u, v, mask); }
__device__ __forceinline__ void atomic_min(u32 *p, u32 v) { atomicMin(p, v); }
__device__ __forceinline__ void atomic_add(u64 *p, u64 v) { atomicAdd(p, v); }
__device__ __forceinline__ double square_root(double v) { return __dsqrt_rn(v); }
#endif

#define KERNEL extern "C" __global__ void

// Quad values, read or written at once.
struct alignas(16) Quad {
    i32 of[4];
};

// Largest magnitude of a fixed-point value.
constexpr i32 LIMIT = (1 << 30) - 1;

__device__ __forceinline__ i32 min_i32(i32 a, i32 b) { return a < b ? a : b; }
__device__ __forceinline__ i32 max_i32(i32 a, i32 b) { return a > b ? a : b; }
__device__ __forceinline__ i32 clamp_i32(i32 v, i32 lo, i32 hi) { return max_i32(lo, min_i32(v, hi)); }
// Position of the highest set bit, v > 0.
__device__ __forceinline__ i32 ilog2(u32 v) { return 31 - __builtin_clz(v); }
__device__ __forceinline__ i32 ilog2_64(u64 v) { return 63 - __builtin_clzll(v); }

__device__ __forceinline__ i32 saturate(i64 v) {
    return v > LIMIT ? LIMIT : v < -LIMIT ? -LIMIT : (i32)v;
}

// rs(v, shift): round(v * 2^shift), halves toward plus infinity, saturated. Any shift; |v| < 2^62.
__device__ __forceinline__ i32 shift_round(i64 v, i32 shift) {
    if (shift < 0) {
        i32 n = -shift;
        return n > 62 ? 0 : saturate((v + ((i64)1 << (n - 1))) >> n);
    }
    if (v == 0) return 0;
    if (shift > 30) return v > 0 ? LIMIT : -LIMIT;
    i64 bound = (i64)1 << 31;
    v = v > bound ? bound : v < -bound ? -bound : v;
    return saturate((i64)((u64)v << shift));
}

// A scale m * 2^e: m 0 or 2^14..2^15. Stored as two i16, m first, as speckv_predictor::fixed::Scale.
struct Scale {
    i16 m;
    i16 e;
};
static_assert(sizeof(Scale) == 4, "scales are 32 bits");

__device__ __forceinline__ Scale make_scale(u64 v, i32 e) {
    if (v == 0) return Scale{0, 0};
    i32 top = ilog2_64(v);
    u64 m;
    if (top <= 14) {
        m = v << (14 - top);
        e -= 14 - top;
    } else {
        i32 n = top - 14;
        m = ((v >> (n - 1)) + 1) >> 1;
        e += n;
        if (m == 1 << 15) {
            m = 1 << 14;
            e += 1;
        }
    }
    return Scale{(i16)m, (i16)clamp_i32(e, -4096, 4096)};
}
__device__ __forceinline__ Scale times(Scale a, Scale b) {
    return make_scale((u64)((u32)a.m * (u32)b.m), (i32)a.e + (i32)b.e);
}
// self * 2^n
__device__ __forceinline__ Scale shifted(Scale a, i32 n) {
    return a.m == 0 ? a : Scale{a.m, (i16)clamp_i32((i32)a.e + n, -4096, 4096)};
}
__device__ __forceinline__ Scale reciprocal(Scale a) {
    return a.m == 0 ? a : make_scale(((u64)1 << 44) / (u64)a.m, -44 - (i32)a.e);
}
// round(acc * a * b), saturated; |acc| < 2^31.
__device__ __forceinline__ i32 scaled(i32 acc, Scale a, Scale b) {
    return shift_round((i64)acc * (i64)((i32)a.m * (i32)b.m), (i32)a.e + (i32)b.e);
}
// The rounding of exact sums to 31 bits.
__device__ __forceinline__ i32 round_sum(i64 sum, u32 shift) {
    return shift == 0 ? (i32)sum : (i32)((sum + ((i64)1 << (shift - 1))) >> shift);
}

// Tables of docs/numerics.md section 2, in global memory, made by the host.
struct Tables {
    const i32 *sine;     // 4097
    const i32 *exp2;     // 257
    const i32 *logistic; // 2049
    const i32 *log2;     // 257
    const i32 *shrink;   // 256
};

// log2(v), 12 fractional bits, v >= 1.
__device__ __forceinline__ i32 log2_q12(u64 v, const i32 *table) {
    i32 top = ilog2_64(v);
    u64 n = top >= 16 ? v >> (top - 16) : v << (16 - top);
    i32 i = (i32)(n >> 8 & 255), f = (i32)(n & 255);
    return (top << 12) + table[i] + (((table[i + 1] - table[i]) * f) >> 8);
}
// 2^(-x / 65536), 16 fractional bits.
__device__ __forceinline__ i32 exp2_q16(u32 x, const i32 *table) {
    u32 octave = x >> 16;
    if (octave >= 18) return 0;
    i32 i = (i32)(x >> 8 & 255), f = (i32)(x & 255);
    // |difference| < 2^22, f < 2^8: 30 bits.
    i32 v = table[i] + (((table[i + 1] - table[i]) * f) >> 8);
    return (i32)(((i64)v + ((i64)1 << (13 + octave))) >> (14 + octave));
}

__device__ __forceinline__ u32 warp_max(u32 v) {
    for (u32 m = 16; m > 0; m >>= 1) {
        u32 other = (u32)shuffle_xor((i32)v, m);
        v = v > other ? v : other;
    }
    return v;
}
__device__ __forceinline__ u64 warp_sum(u64 v) {
    for (u32 m = 16; m > 0; m >>= 1) {
        u32 lo = (u32)shuffle_xor((i32)(u32)v, m), hi = (u32)shuffle_xor((i32)(u32)(v >> 32), m);
        v += (u64)hi << 32 | lo;
    }
    return v;
}
