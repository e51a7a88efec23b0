// Rows of fixed-point values: quantisation, norms, rotations and everything else that works on one row or one element at a time
// (docs/numerics.md, sections 3, 5, 6 and 8). Every kernel says how it is launched; src/backend.rs holds the other end.
#include "common.cuh"

// Largest value of `v` over the block, for every thread. `shared` has 32 entries.
__device__ u32 block_max(u32 v, u32 *shared) {
    v = warp_max(v);
    u32 warp = thread_x() >> 5, warps = (threads_x() + 31) >> 5;
    sync_block();
    if ((thread_x() & 31) == 0) shared[warp] = v;
    sync_block();
    u32 all = 0;
    for (u32 w = 0; w < warps; w++) all = shared[w] > all ? shared[w] : all;
    return all;
}
__device__ u64 block_sum(u64 v, u64 *shared) {
    v = warp_sum(v);
    u32 warp = thread_x() >> 5, warps = (threads_x() + 31) >> 5;
    sync_block();
    if ((thread_x() & 31) == 0) shared[warp] = v;
    sync_block();
    u64 all = 0;
    for (u32 w = 0; w < warps; w++) all += shared[w];
    return all;
}
__device__ __forceinline__ u32 magnitude(i32 v) { return v < 0 ? 0u - (u32)v : (u32)v; }

// The left shift that fills 30 bits.
__device__ __forceinline__ i32 shift_to_30(u32 top) { return max_i32(29 - ilog2(top), 0); }

// Floor of the square root, v < 2^63.
__device__ u64 isqrt(u64 v) {
    if (v == 0) return 0;
    // Newton's method from above: it falls until it stands.
    u64 x = (u64)1 << ((ilog2_64(v) >> 1) + 1);
    for (;;) {
        u64 y = (x + v / x) >> 1;
        if (y >= x) return x;
        x = y;
    }
}

__device__ Scale inverse_rms(u64 sum, u32 len, i32 n, i32 exponent, Scale eps) {
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
// 1 / rms of a group of `len` values, whole block.
__device__ Scale block_inverse_rms(const i32 *x, u32 len, i32 exponent, Scale eps, u64 *shared) {
    u32 a = 0;
    for (u32 i = thread_x(); i < len; i += threads_x()) {
        u32 m = magnitude(x[i]);
        a = m > a ? m : a;
    }
    a = block_max(a, (u32 *)shared);
    i32 n = a == 0 ? 0 : shift_to_30(a);
    u64 sum = 0;
    for (u32 i = thread_x(); i < len; i += threads_x()) sum += square_17(x[i], n);
    return inverse_rms(block_sum(sum, shared), len, n, exponent, eps);
}

struct Quantise {
    const i32 *x;  // [rows, cols]
    i8 *lo, *hi;   // [rows, ld]; hi: [rows, ld] for two digits, [rows, 64] for wide columns of one-digit rows, else null
    Scale *scales; // [rows, groups]
    i32 *scratch;  // a copy of x where a group does not fit shared memory, else null
    u32 cols, ld, group, hadamard, digits, wide;
    i32 exponent;
    Scale eps, gain;
    u32 norm;
};
static_assert(sizeof(Quantise) == 80, "as src/kernels.rs");

// Grid (rows * groups), a block a group; dynamic shared memory: group * 4 bytes unless scratch is given.
KERNEL quantise(Quantise p) {
    extern __shared__ i32 dynamic[];
    __shared__ u64 shared[32];
    u32 group = p.group, groups = p.cols / group, t0 = thread_x(), step = threads_x();
    u32 g = block_x() % groups, row = block_x() / groups;
    u64 at = (u64)row * p.cols + (u64)g * group;
    const i32 *x = p.x + at;
    i32 *y = p.scratch ? p.scratch + at : dynamic;
    i32 exponent = p.exponent;
    u32 top = 0;
    for (u32 i = t0; i < group; i += step) {
        i32 v = x[i];
        y[i] = v;
        u32 m = magnitude(v);
        top = m > top ? m : top;
    }
    u32 all = block_max(top, (u32 *)shared);
    if (p.hadamard > 0 && all > 0) {
        i32 shift = 29 - (i32)p.hadamard - ilog2(all);
        exponent += shift;
        for (u32 i = t0; i < group; i += step) {
            i32 v = y[i];
            y[i] = shift >= 0 ? (i32)((u32)v << shift) : (v + (1 << (-shift - 1))) >> -shift;
        }
        for (u32 h = 0; h < p.hadamard; h++) {
            sync_block();
            u32 half = 1u << h;
            for (u32 i = t0; i < group / 2; i += step) {
                u32 a = ((i >> h) << (h + 1)) | (i & (half - 1));
                i32 u = y[a], v = y[a + half];
                y[a] = u + v;
                y[a + half] = u - v;
            }
        }
        sync_block();
        top = 0;
        for (u32 i = t0; i < group; i += step) {
            u32 m = magnitude(y[i]);
            top = m > top ? m : top;
        }
        all = block_max(top, (u32 *)shared);
    }
    i8 *lo = p.lo + (u64)row * p.ld + (u64)g * group;
    bool two = p.digits == 2;
    i8 *hi = two ? p.hi + (u64)row * p.ld + (u64)g * group : p.wide ? p.hi + (u64)row * 64 : (i8 *)0;
    Scale *scale = p.scales + (u64)row * groups + g;
    if (all == 0) {
        for (u32 i = t0; i < group; i += step) {
            lo[i] = 0;
            if (two) hi[i] = 0;
        }
        if (!two && p.wide)
            for (u32 i = t0; i < 64; i += step) hi[i] = 0;
        if (t0 == 0) *scale = Scale{0, 0};
        return;
    }
    u32 rest = 0, far = 0;
    for (u32 i = t0; i < group; i += step) {
        u32 m = magnitude(y[i]);
        if (i < p.wide) far = m > far ? m : far;
        else rest = m > rest ? m : rest;
    }
    u64 levels = two ? 32639 : 127;
    if (p.wide) {
        rest = block_max(rest, (u32 *)shared);
        far = block_max(far, (u32 *)shared);
    } else {
        rest = all;
    }
    u64 stepmax = ((u64)far * levels + 32638) / 32639;
    if (rest > stepmax) stepmax = rest;
    u32 cut = stepmax < 1 ? 1 : (u32)stepmax;
    i32 n = shift_to_30(cut);
    u64 full = (u64)cut << n;
    u32 bits = two ? 45 : 53;
    i64 recip = (i64)((levels << bits) / full);
    for (u32 i = t0; i < group; i += step) {
        i64 v = (i64)((u64)(i64)y[i] << n);
        i32 q;
        if (i < p.wide) q = (i32)((v * (recip >> 9) + ((i64)1 << (bits - 10))) >> (bits - 9));
        else q = (i32)((v * recip + ((i64)1 << (bits - 1))) >> bits);
        i8 low = (i8)q;
        lo[i] = low;
        if (two) hi[i] = (i8)((q - low) >> 8);
        else if (i < p.wide) hi[i] = (i8)((q - low) >> 8);
    }
    if (!two && p.wide)
        for (u32 i = p.wide + t0; i < 64; i += step) hi[i] = 0;
    Scale s = times(make_scale((full << 20) / levels, -20 - n - exponent), p.gain);
    if (p.norm) {
        i32 m = shift_to_30(all);
        u64 sum = 0;
        for (u32 i = t0; i < group; i += step) sum += square_17(y[i], m);
        s = times(s, inverse_rms(block_sum(sum, shared), group, m, exponent, p.eps));
    }
    if (t0 == 0) *scale = s;
}

// Grid (rows); rms of each row.
KERNEL rms(const i32 *x, u32 cols, i32 exponent, Scale eps, Scale *out) {
    __shared__ u64 shared[32];
    Scale s = block_inverse_rms(x + (u64)block_x() * cols, cols, exponent, eps, shared);
    if (thread_x() == 0) out[block_x()] = reciprocal(s);
}

// Grid (rows * heads): heads of `dim` columns from `column` on, in place.
KERNEL head_norm(i32 *x, u32 cols, u32 column, u32 heads, u32 dim, i32 exponent, Scale eps, const Scale *weight) {
    __shared__ u64 shared[32];
    i32 *y = x + (u64)(block_x() / heads) * cols + column + (u64)(block_x() % heads) * dim;
    Scale inverse = block_inverse_rms(y, dim, exponent, eps, shared);
    sync_block();
    for (u32 i = thread_x(); i < dim; i += threads_x()) {
        Scale w = weight[i];
        bool minus = w.m < 0;
        w.m = minus ? (i16)-w.m : w.m;
        i32 v = scaled(y[i], inverse, w);
        y[i] = minus ? -v : v;
    }
}

__device__ __forceinline__ i32 sine(u64 phase, const i32 *table) {
    u32 i = (u32)(phase >> 52);
    i64 f = (i64)(phase >> 32 & 0xFFFFF);
    i64 a = table[i], b = table[i + 1];
    return (i32)(a + (((b - a) * f + (1 << 19)) >> 20));
}

struct Rope {
    const i32 *x;
    i32 *out; // [rows, width]
    const u64 *steps;
    const i32 *sine;
    u64 start;
    u32 cols, column, width, dim, inverse;
};
static_assert(sizeof(Rope) == 64, "as src/kernels.rs");
// Grid (rows): columns column..column+width of x, heads of `dim`, rotated.
KERNEL rope(Rope p) {
    u32 row = block_x(), half = p.dim / 2, heads = p.width / p.dim;
    const i32 *x = p.x + (u64)row * p.cols + p.column;
    i32 *out = p.out + (u64)row * p.width;
    u64 position = p.start + row;
    // Threads take pairs, then heads: the angle of a pair is found once.
    u32 across = threads_x() < half ? threads_x() : half;
    u32 slices = threads_x() / across, slice = thread_x() / across;
    if (slice >= slices) return;
    for (u32 i = thread_x() % across; i < half; i += across) {
        u64 phase = p.steps[i] * position;
        i64 s = sine(phase, p.sine), c = sine(phase + ((u64)1 << 62), p.sine);
        if (p.inverse) s = -s;
        for (u32 h = slice; h < heads; h += slices) {
            i64 a = x[h * p.dim + i], b = x[h * p.dim + i + half];
            out[h * p.dim + i] = saturate((a * c - b * s + (1 << 29)) >> 30);
            out[h * p.dim + i + half] = saturate((b * c + a * s + (1 << 29)) >> 30);
        }
    }
}

// Grid covers rows * width elements.
KERNEL columns(const i32 *x, u32 cols, u32 column, u32 width, i32 *out, u64 count) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i >= count) return;
    out[i] = x[i / width * cols + column + i % width];
}

// x[.., column..column+width] += y, saturated.
KERNEL add(i32 *x, u32 cols, u32 column, u32 width, const i32 *y, u64 count) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i >= count) return;
    u64 at = i / width * cols + column + i % width;
    x[at] = saturate((i64)x[at] + (i64)y[i]);
}

// x[.., column..column+width] = y.
KERNEL put(i32 *x, u32 cols, u32 column, u32 width, const i32 *y, u64 count) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i >= count) return;
    x[i / width * cols + column + i % width] = y[i];
}

KERNEL silu(const i32 *x, u32 width, i32 gate, i32 up, i32 out_exponent, const i32 *logistic, i32 *out, u64 count) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i >= count) return;
    u64 at = i / width * 2 * width + i % width;
    i32 g = x[at], u = x[at + width];
    i32 z = shift_round(g, 20 - gate);
    u32 a = z < 0 ? 0u - (u32)z : (u32)z;
    if (a > (16 << 20) - 1) a = (16 << 20) - 1;
    u32 j = a >> 13, f = a & 8191;
    i64 lo = logistic[j], hi = logistic[j + 1];
    i64 v = lo + (((hi - lo) * (i64)f) >> 13);
    i64 sigma = z < 0 ? (1 << 30) - v : v;
    i64 s = ((i64)g * sigma + (1 << 29)) >> 30;
    out[i] = shift_round(s * (i64)u, out_exponent - gate - up);
}

// Grid (rows): log2 of the mean square of columns.
KERNEL power(const i32 *x, u32 cols, u32 column, u32 width, i32 exponent, const i32 *log2, i32 *out) {
    __shared__ u64 shared[32];
    const i32 *row = x + (u64)block_x() * cols + column;
    u64 sum = 0;
    for (u32 i = thread_x(); i < width; i += threads_x()) {
        i64 v = (i64)row[i] >> 8;
        sum += (u64)(v * v);
    }
    sum = block_sum(sum, shared);
    if (thread_x() == 0) out[block_x()] = log2_q12(sum / width + 1, log2) - ((2 * (exponent - 8)) << 12);
}

constexpr u32 FEATURES = 64;
struct TokenScale {
    const i32 *feature[FEATURES];
    i32 weight[FEATURES];
    i64 bias;
    i64 *partial; // sums of features that came before, unless these are the first
    i32 *out;     // null if more features follow
    u32 count, rows, first;
};
static_assert(sizeof(TokenScale) == 808, "as src/kernels.rs");
// Grid covers rows.
KERNEL token_scale(TokenScale p) {
    u32 t = block_x() * threads_x() + thread_x();
    if (t >= p.rows) return;
    i64 sum = p.first ? p.bias : p.partial[t];
    for (u32 i = 0; i < p.count; i++) sum += (i64)p.feature[i][t] * (i64)p.weight[i];
    if (p.out) {
        i64 v = (sum + (1 << 27)) >> 28;
        p.out[t] = v > 400 ? 400 : v < -400 ? -400 : (i32)v;
    } else {
        p.partial[t] = sum;
    }
}
