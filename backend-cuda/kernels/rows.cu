// Rows of fixed-point values: norms, rotations and everything else that works on one row or one element at a time and gives no digits
// (docs/numerics.md, sections 3, 5, 6 and 8). Every kernel says how it is launched; src/backend.rs holds the other end.
#include "digits.cuh"

// Grid (rows); rms of each row.
KERNEL rms(const i32 *x, u32 cols, i32 exponent, Scale eps, Scale *out) {
    __shared__ u64 shared[32];
    x += (u64)block_x() * cols;
    u32 top = 0, t0 = thread_x(), step = threads_x();
    // Rows of up to 16 values a thread are read once, four at a time.
    Quad own[4];
    const bool whole = cols % 4 == 0 && cols <= 16 * step;
    if (whole) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u32 i = 4 * (t0 + j * step);
            own[j] = i < cols ? *(const Quad *)(x + i) : Quad{};
#pragma unroll
            for (u32 k = 0; k < 4; k++) top = max_u32(top, magnitude(own[j].of[k]));
        }
    } else {
        for (u32 i = t0; i < cols; i += step) top = max_u32(top, magnitude(x[i]));
    }
    top = block_max(top, (u32 *)shared);
    i32 n = top == 0 ? 0 : shift_to_30(top);
    u64 sum = 0;
    if (whole) {
#pragma unroll
        for (u32 j = 0; j < 4; j++)
#pragma unroll
            for (u32 k = 0; k < 4; k++) sum += square_17(own[j].of[k], n);
    } else {
        for (u32 i = t0; i < cols; i += step) sum += square_17(x[i], n);
    }
    Scale s = inverse_rms(block_sum(sum, shared), cols, n, exponent, eps);
    if (t0 == 0) out[block_x()] = reciprocal(s);
}

// Grid covers `count` = rows * heads warps: heads of `dim` columns from `column` on, in place.
KERNEL head_norm(i32 *x, u32 cols, u32 column, u32 heads, u32 dim, i32 exponent, Scale eps, const Scale *weight, u64 count) {
    u64 item = ((u64)block_x() * threads_x() + thread_x()) >> 5;
    u32 lane = thread_x() & 31;
    if (item >= count) return;
    i32 *y = x + item / heads * cols + column + item % heads * dim;
    u32 top = 0;
    for (u32 i = lane; i < dim; i += 32) top = max_u32(top, magnitude(y[i]));
    top = warp_max(top);
    i32 n = top == 0 ? 0 : shift_to_30(top);
    u64 sum = 0;
    for (u32 i = lane; i < dim; i += 32) sum += square_17(y[i], n);
    Scale inverse = inverse_rms(warp_sum(sum), dim, n, exponent, eps);
    for (u32 i = lane; i < dim; i += 32) {
        Scale w = weight[i];
        bool minus = w.m < 0;
        w.m = minus ? (i16)-w.m : w.m;
        i32 v = scaled(y[i], inverse, w);
        y[i] = minus ? -v : v;
    }
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
            i32 a = x[h * p.dim + i], b = x[h * p.dim + i + half];
            rotate(a, b, s, c);
            out[h * p.dim + i] = a, out[h * p.dim + i + half] = b;
        }
    }
}

// Grid covers rows * width elements.
KERNEL columns(const i32 *x, u32 cols, u32 column, u32 width, i32 *out, u64 count) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i >= count) return;
    out[i] = x[i / width * cols + column + i % width];
}

// Grid covers count = rows * cols elements.
KERNEL repeat(const i32 *row, u32 cols, i32 *out, u64 count) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i < count) out[i] = row[i % cols];
}

// Grid (rows): weights of output outputs[row] times their scale; zeros for -1.
KERNEL lookup(const i8 *lo, const i8 *hi, const Scale *scales, u32 ld, u32 cols, const i32 *outputs, i32 *out) {
    i32 o = outputs[block_x()];
    i32 *y = out + (u64)block_x() * cols;
    Scale s = o < 0 ? Scale{0, 0} : scales[o];
    for (u32 i = thread_x(); i < cols; i += threads_x()) {
        i32 q = 0;
        if (o >= 0) q = lo[(u64)o * ld + i] + (hi ? 256 * hi[(u64)o * ld + i] : 0);
        y[i] = scaled(q, s, Scale{1 << 14, -14});
    }
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
    u32 i = 0;
    // Eight features are asked for before any is used: what they cost is waiting for memory.
    for (; i + 8 <= p.count; i += 8) {
        i32 f[8];
#pragma unroll
        for (u32 j = 0; j < 8; j++) f[j] = p.feature[i + j][t];
#pragma unroll
        for (u32 j = 0; j < 8; j++) sum += (i64)f[j] * (i64)p.weight[i + j];
    }
    for (; i < p.count; i++) sum += (i64)p.feature[i][t] * (i64)p.weight[i];
    if (p.out) {
        i64 v = (sum + (1 << 27)) >> 28;
        p.out[t] = v > 400 ? 400 : v < -400 ? -400 : (i32)v;
    } else {
        p.partial[t] = sum;
    }
}
