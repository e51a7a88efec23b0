// What a coded plane tells the predictor (docs/numerics.md, section 8). The definition is the predictor's portable/coding.rs; names are its.
#include "digits.cuh"
#include "plane.cuh"

// round(2^15 * 2^(-i/16)); a test of the crate compares them with codec-core's.
__constant__ i32 INV[16] = {32768, 31379, 30048, 28774, 27554, 26386, 25268, 24196, 23170, 22188, 21247, 20347, 19484, 18658, 17867, 17109};
constexpr i32 Z_LIMIT = 16384;

__device__ __forceinline__ i32 magnitudes(Format f) { return 1 << (f.w - 1); }

__device__ __forceinline__ i32 rank_of_code(Format f, u32 code) {
    i32 m = (i32)code & (magnitudes(f) - 1);
    return ((i32)code & magnitudes(f)) ? -1 - m : m;
}
__device__ __forceinline__ i32 mid_within(Format f, i32 m, i32 exponent) {
    i32 e = m >> f.mb, frac = m & ((1 << f.mb) - 1);
    i32 sig = e == 0 ? frac : frac + (1 << f.mb);
    i32 quarters = 4 * sig - (frac == 0 && e >= 2 ? 1 : 2);
    if (quarters < 0) quarters = 0;
    i32 shift = (e > 1 ? e : 1) - f.bias - f.mb - 2 + exponent;
    shift = clamp_i32(shift, -31, 31);
    u64 wide = ((u64)(u32)quarters << 31) >> (31 - shift);
    return wide >= (u64)FIXED_LIMIT ? FIXED_LIMIT - 1 : (i32)wide;
}
__device__ __forceinline__ i32 edge(Format f, i32 rank, i32 exponent) {
    i32 sign = rank >> 31, m = (rank ^ sign) - sign;
    i32 mid = m >= magnitudes(f) ? FIXED_LIMIT - 1 : mid_within(f, m, exponent);
    return (mid ^ sign) - sign;
}
__device__ __forceinline__ i32 normalise(i32 edge, i32 mu, i32 q) {
    i64 t = ((i64)(edge - mu) * 1024) >> (q >> 4);
    i64 z = (t * INV[q & 15]) >> 15;
    return z > Z_LIMIT ? Z_LIMIT : z < -Z_LIMIT ? -Z_LIMIT : (i32)z;
}

// The value of a code with `exponent` fraction bits.
__device__ __forceinline__ i32 value_of(Format f, u32 code, u32 m, i32 e, i32 exponent) {
    i64 mag = (i64)(code & ((1u << (f.w - 1)) - 1));
    i32 field = (i32)(mag >> f.mb);
    i64 frac = mag & ((1 << f.mb) - 1), sig = field == 0 ? frac : frac | 1 << f.mb;
    i32 v = shift_round(sig * (i64)m, max_i32(field, 1) - f.bias - f.mb + e + exponent);
    return code >> (f.w - 1) ? -v : v;
}

// The innovation of a code, in code units.
__device__ __forceinline__ i32 innovation_of(Format f, i32 exponent, u32 code, i32 mu, i32 channel, i32 token, const i32 *log2, const i32 *shrink) {
    i32 rank = rank_of_code(f, code);
    i32 lo = edge(f, rank, exponent) - mu, hi = edge(f, rank + 1, exponent) - mu;
    i32 q = scale_index(channel, token);
    i64 near = 0 < lo ? lo : 0 > hi ? hi : 0;
    i64 centre = ((i64)lo + (i64)hi) >> 1, width = (i64)hi - (i64)lo;
    i32 t = clamp_i32((log2_q12(width < 1 ? 1 : (u64)width, log2) >> 8) - q, -128, 127);
    return saturate(((near << 15) + (centre - near) * (i64)shrink[t + 128]) >> 15);
}

struct Observe {
    Pricing p;
    const u16 *codes;
    i32 *value, *innovation, *energy;
    const i32 *log2, *shrink;
    u32 unit_m;
    i32 unit_e, exponent; // of values
    u32 rows;
};
static_assert(sizeof(Observe) == 136, "as src/kernels.rs");
// Grid covers rows, a warp each.
KERNEL observe(Observe k) {
    u32 lane = thread_x() & 31, row = (block_x() * threads_x() + thread_x()) >> 5;
    if (row >= k.rows) return;
    const Format f = k.p.format;
    u64 sum = 0, base = (u64)row * k.p.cols;
    i32 token = (i16)k.p.token[row];
    for (u32 c = lane; c < k.p.cols; c += 32) {
        u64 at = base + c;
        u32 code = k.codes[at];
        i32 mu = to_code(k.p, k.p.mu[at]), channel = k.p.channel[c];
        k.value[at] = value_of(f, code, k.unit_m, k.unit_e, k.exponent);
        i32 v = innovation_of(f, k.p.exponent, code, mu, channel, token, k.log2, k.shrink);
        i32 z = normalise(v, 0, scale_index(channel, 0));
        sum += (u64)((i64)z * (i64)z);
        k.innovation[at] = shift_round((i64)v * (i64)k.unit_m, -23);
    }
    sum = warp_sum(sum);
    if (lane == 0) k.energy[row] = log2_q12(sum / k.p.cols + 1024, k.log2) - (20 << 12);
}

// Grid covers count.
KERNEL values(const u16 *codes, Format f, u32 m, i32 e, i32 exponent, i32 *out, u64 count) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i < count) out[i] = value_of(f, codes[i], m, e, exponent);
}

// What `observe` gives, put into the columns of a layer's matrices, turned back, and as digits.
struct Learn {
    Observe o;        // value and innovation: at the plane's first column, rows of `ld` values; null if nothing is kept
    const u64 *steps; // null: innovations are not turned
    const i32 *sine;
    u64 start;
    Digits d; // lo null: no digits
    u32 ld, inverse;
};
static_assert(sizeof(Learn) == 216, "as src/kernels.rs");
template <int N>
__device__ __forceinline__ void learn(const Learn &k) {
    u32 lane = thread_x() & 31, row = (block_x() * threads_x() + thread_x()) >> 5;
    if (row >= k.o.rows) return;
    const Format f = k.o.p.format;
    u64 sum = 0, at = (u64)row * (32 * N) + lane, to = (u64)row * k.ld + lane;
    i32 token = (i16)k.o.p.token[row], v[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        u32 code = k.o.codes[at + 32 * j];
        i32 mu = to_code(k.o.p, k.o.p.mu[at + 32 * j]), channel = k.o.p.channel[lane + 32 * j];
        i32 x = innovation_of(f, k.o.p.exponent, code, mu, channel, token, k.o.log2, k.o.shrink);
        i32 z = normalise(x, 0, scale_index(channel, 0));
        sum += (u64)((i64)z * (i64)z);
        v[j] = shift_round((i64)x * (i64)k.o.unit_m, -23);
        if (k.o.value) k.o.value[to + 32 * j] = value_of(f, code, k.o.unit_m, k.o.unit_e, k.o.exponent);
    }
    sum = warp_sum(sum);
    if (lane == 0) k.o.energy[row] = log2_q12(sum / (32 * N) + 1024, k.o.log2) - (20 << 12);
    if (!k.o.value) return;
    if (k.steps) {
        u64 position = k.start + row;
#pragma unroll
        for (int j = 0; j < N / 2; j++) {
            u64 phase = k.steps[lane + 32 * j] * position;
            i64 s = sine(phase, k.sine), c = sine(phase + ((u64)1 << 62), k.sine);
            rotate(v[j], v[j + N / 2], k.inverse ? -s : s, c);
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) k.o.innovation[to + 32 * j] = v[j];
    if (k.d.lo) warp_digits<N>(v, k.d, 0, row, 0, lane);
}
// Grid covers rows, a warp each; planes of 64, 128 and 256 columns.
KERNEL learn_64(Learn k) { learn<2>(k); }
KERNEL learn_128(Learn k) { learn<4>(k); }
KERNEL learn_256(Learn k) { learn<8>(k); }
