// Operations that end in digits (docs/numerics.md, sections 3, 5 and 6). Every kernel says how it is launched; src/quantise.rs holds the other end.
#include "digits.cuh"

struct Quantise {
    const i32 *x; // [rows, cols]; for activate [rows, 2 cols]
    i32 *scratch; // [rows * groups, room] where a group does not fit shared memory, else null
    Digits d;
    u32 cols, group, hadamard, wide, rows;
    u32 room; // of a group: place(group)
    Scale eps;
    u32 norm;
    i32 gate, up, out; // of activate
    const i32 *logistic;
};
static_assert(sizeof(Quantise) == 120, "as src/kernels.rs");

// Where a group's value `i` lies in `y`: four words are left out after every 64, so that the transform's strides meet different banks.
__device__ __forceinline__ u32 place(u32 i) { return i + (i >> 6 << 2); }

// Butterflies over R bits of the index from bit `h` on.
template <int R>
__device__ __forceinline__ void butterflies(i32 *y, u32 group, u32 h) {
    for (u32 u = thread_x(); u < group >> R; u += threads_x()) {
        u32 base = (u >> h << (h + R)) | (u & ((1u << h) - 1));
        i32 v[1 << R];
        bool four = R == 2 && h == 0;
        if (four) {
            Quad all = *(const Quad *)(y + place(base));
#pragma unroll
            for (u32 k = 0; k < 1u << R; k++) v[k] = all.of[k & 3];
        } else {
#pragma unroll
            for (u32 k = 0; k < 1u << R; k++) v[k] = y[place(base + (k << h))];
        }
#pragma unroll
        for (u32 half = 1; half < 1u << R; half *= 2)
#pragma unroll
            for (u32 k = 0; k < 1u << R; k++)
                if (!(k & half)) {
                    i32 a = v[k], b = v[k + half];
                    v[k] = a + b, v[k + half] = a - b;
                }
#pragma unroll
        for (u32 k = 0; k < 1u << R; k++)
            if (!four) y[place(base + (k << h))] = v[k];
        if (four) *(Quad *)(y + place(base)) = Quad{{v[0], v[1], v[2 % (1 << R)], v[3 % (1 << R)]}};
    }
}
// The Hadamard transform of each block of 2^log2 values, which have room for it; several bits at a time.
__device__ __forceinline__ void transform(i32 *y, u32 group, u32 log2) {
    for (u32 h = 0; h < log2;) {
        sync_block();
        // Two bits first, which are read and written at once: what follows meets all banks.
        u32 left = log2 - h, bits = h == 0 && left > 2 ? 2 : left > 4 ? 4 : left;
        if (bits == 1) butterflies<1>(y, group, h);
        else if (bits == 2) butterflies<2>(y, group, h);
        else if (bits == 3) butterflies<3>(y, group, h);
        else butterflies<4>(y, group, h);
        h += bits;
    }
    sync_block();
}

// The group `y` of the block, in place of which transformed values may come; `top` is this thread's largest magnitude.
__device__ __forceinline__ void block_digits(const Quantise &p, i32 *y, u32 top, u64 row, u32 g, u64 *shared) {
    u32 group = p.group, t0 = thread_x(), step = threads_x();
    i32 exponent = p.d.exponent;
    u32 all = block_max(top, (u32 *)shared);
    if (p.hadamard > 0 && all > 0) {
        i32 shift = 29 - (i32)p.hadamard - ilog2(all);
        exponent += shift;
        for (u32 i = t0; i < group; i += step) {
            i32 v = y[place(i)];
            y[place(i)] = shift >= 0 ? (i32)((u32)v << shift) : (v + (1 << (-shift - 1))) >> -shift;
        }
        transform(y, group, p.hadamard);
        top = 0;
        for (u32 i = t0; i < group; i += step) top = max_u32(top, magnitude(y[place(i)]));
        all = block_max(top, (u32 *)shared);
    }
    bool two = p.d.two;
    i8 *lo = p.d.lo + row * p.d.ld + (u64)g * group;
    i8 *hi = two ? p.d.hi + row * p.d.ld + (u64)g * group : (i8 *)0;
    i8 *wide = p.wide && !two ? p.d.hi + row * 64 : (i8 *)0;
    if (g + 1 == p.d.groups)
        for (u32 i = group + t0; i < p.d.ld - g * group; i += step) {
            lo[i] = 0;
            if (hi) hi[i] = 0;
        }
    if (wide)
        for (u32 i = (all ? p.wide : 0) + t0; i < 64; i += step) wide[i] = 0;
    Scale *scale = p.d.scales + row * p.d.groups + g;
    if (all == 0) {
        for (u32 i = t0; i < group; i += step) {
            lo[i] = 0;
            if (hi) hi[i] = 0;
        }
        if (t0 == 0) *scale = Scale{0, 0};
        return;
    }
    u32 cut = all;
    if (p.wide) {
        u32 rest = 0, far = 0;
        for (u32 i = t0; i < group; i += step) {
            u32 m = magnitude(y[place(i)]);
            if (i < p.wide) far = max_u32(far, m);
            else rest = max_u32(rest, m);
        }
        rest = block_max(rest, (u32 *)shared), far = block_max(far, (u32 *)shared);
        u64 least = ((u64)far * (two ? 32639 : 127) + 32638) / 32639;
        cut = rest > least ? rest : (u32)least;
        if (cut < 1) cut = 1;
    }
    Step s = make_step(cut, two);
    if (group % 4 == 0) {
        for (u32 i = 4 * t0; i < group; i += 4 * step) {
            Quad v = *(const Quad *)(y + place(i));
            u32 low = 0, high = 0;
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                i32 q = i + j < p.wide ? wide_digit(v.of[j], s) : digit(v.of[j], s);
                i8 l = (i8)q;
                i32 h = (q - l) >> 8;
                low |= (u32)(u8)l << 8 * j, high |= (u32)(u8)h << 8 * j;
                if (i + j < p.wide && wide) wide[i + j] = (i8)h;
            }
            *(u32 *)(lo + i) = low;
            if (hi) *(u32 *)(hi + i) = high;
        }
    } else {
        for (u32 i = t0; i < group; i += step) {
            i32 v = y[place(i)], q = i < p.wide ? wide_digit(v, s) : digit(v, s);
            i8 l = (i8)q;
            lo[i] = l;
            if (hi) hi[i] = (i8)((q - l) >> 8);
            if (i < p.wide && wide) wide[i] = (i8)((q - l) >> 8);
        }
    }
    Scale result = step_scale(s, exponent, p.d.gain);
    if (p.norm) {
        i32 m = shift_to_30(all);
        u64 sum = 0;
        for (u32 i = t0; i < group; i += step) sum += square_17(y[place(i)], m);
        result = times(result, inverse_rms(block_sum(sum, shared), group, m, exponent, p.eps));
    }
    if (t0 == 0) *scale = result;
}

// Grid (rows * groups), a block a group; dynamic shared memory: room * 4 bytes unless scratch is given.
extern "C" __global__ void __launch_bounds__(512, 2) quantise(Quantise p) {
    extern __shared__ i32 dynamic[];
    __shared__ u64 shared[32];
    u32 group = p.group, g = block_x() % p.d.groups, t0 = thread_x(), step = threads_x();
    u64 row = block_x() / p.d.groups, at = row * p.cols + (u64)g * group;
    const i32 *x = p.x + at;
    i32 *y = p.scratch ? p.scratch + (u64)block_x() * p.room : dynamic;
    u32 top = 0;
    if (group % 4 == 0) {
        for (u32 i = 4 * t0; i < group; i += 4 * step) {
            Quad v = *(const Quad *)(x + i);
#pragma unroll
            for (u32 j = 0; j < 4; j++) top = max_u32(top, magnitude(v.of[j]));
            *(Quad *)(y + place(i)) = v;
        }
    } else {
        for (u32 i = t0; i < group; i += step) {
            y[place(i)] = x[i];
            top = max_u32(top, magnitude(x[i]));
        }
    }
    block_digits(p, y, top, row, g, shared);
}

__device__ __forceinline__ i32 silu_of(i32 g, i32 u, const Quantise &p, const i32 *logistic) {
    i32 n = p.gate - 20, z;
    // |g| < 2^30: 32 bits are enough to round.
    if (n > 0) z = n > 30 ? 0 : (g + (1 << (n - 1))) >> n;
    else z = shift_round(g, -n);
    u32 a = magnitude(z);
    a = a > (16u << 20) - 1 ? (16u << 20) - 1 : a;
    u32 j = a >> 13, f = a & 8191;
    i32 low = logistic[j];
    i32 v = low + (i32)(((i64)(logistic[j + 1] - low) * (i64)f) >> 13);
    i32 sigma = z < 0 ? (1 << 30) - v : v;
    i32 s = (i32)(((i64)g * (i64)sigma + (1 << 29)) >> 30);
    return shift_round((i64)s * (i64)u, p.out - p.gate - p.up);
}
// Grid: any number of blocks, which take row after row; one group. Dynamic shared memory: 2052 * 4 bytes of table, then room * 4 bytes unless
// scratch is given.
extern "C" __global__ void __launch_bounds__(512, 2) activate(Quantise p) {
    extern __shared__ i32 dynamic[];
    __shared__ u64 shared[32];
    u32 cols = p.cols, t0 = thread_x(), step = threads_x();
    for (u32 i = t0; i < 2049; i += step) dynamic[i] = p.logistic[i];
    sync_block();
    for (u64 row = block_x(); row < p.rows; row += blocks_x()) {
        const i32 *gate = p.x + row * 2 * cols, *up = gate + cols;
        i32 *y = p.scratch ? p.scratch + row * p.room : dynamic + 2052;
        u32 top = 0;
        if (cols % 4 == 0) {
            for (u32 i = 4 * t0; i < cols; i += 4 * step) {
                Quad g = *(const Quad *)(gate + i), u = *(const Quad *)(up + i), v;
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    v.of[j] = silu_of(g.of[j], u.of[j], p, dynamic);
                    top = max_u32(top, magnitude(v.of[j]));
                }
                *(Quad *)(y + place(i)) = v;
            }
        } else {
            for (u32 i = t0; i < cols; i += step) {
                i32 v = silu_of(gate[i], up[i], p, dynamic);
                y[place(i)] = v;
                top = max_u32(top, magnitude(v));
            }
        }
        block_digits(p, y, top, row, 0, shared);
        // The row's values are read by other threads until here.
        sync_block();
    }
}

struct Heads {
    const i32 *x;
    Digits d;
    const Scale *weight; // null: no norm
    const u64 *steps;    // null: no rotation
    const i32 *sine;
    u64 start;
    u32 cols, column, rows, hadamard, inverse;
    i32 exponent; // before the norm
    Scale eps;
    u32 each; // heads of a warp, which share their angles
};
static_assert(sizeof(Heads) == 120, "as src/kernels.rs");

template <int N>
__device__ __forceinline__ void heads(const Heads &p) {
    u32 lane = thread_x() & 31, slices = (p.d.groups + p.each - 1) / p.each;
    u64 item = ((u64)block_x() * threads_x() + thread_x()) >> 5, row = item / slices;
    u32 first = (u32)(item % slices) * p.each, last = p.d.groups - first < p.each ? p.d.groups : first + p.each;
    if (row >= p.rows) return;
    i32 s[N / 2], c[N / 2];
    if (p.steps) {
        u64 position = p.start + row;
#pragma unroll
        for (int j = 0; j < N / 2; j++) {
            u64 phase = p.steps[lane + 32 * j] * position;
            s[j] = sine(phase, p.sine), c[j] = sine(phase + ((u64)1 << 62), p.sine);
            if (p.inverse) s[j] = -s[j];
        }
    }
    for (u32 g = first; g < last; g++) {
        const i32 *x = p.x + row * p.cols + p.column + (u64)g * (32 * N) + lane;
        i32 v[N];
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = x[32 * j];
        if (p.weight) {
            u32 top = 0;
#pragma unroll
            for (int j = 0; j < N; j++) top = max_u32(top, magnitude(v[j]));
            top = warp_max(top);
            i32 n = top == 0 ? 0 : shift_to_30(top);
            u64 sum = 0;
#pragma unroll
            for (int j = 0; j < N; j++) sum += square_17(v[j], n);
            Scale inverse = inverse_rms(warp_sum(sum), 32 * N, n, p.exponent, p.eps);
#pragma unroll
            for (int j = 0; j < N; j++) {
                Scale w = p.weight[lane + 32 * j];
                bool minus = w.m < 0;
                w.m = minus ? (i16)-w.m : w.m;
                i32 y = scaled(v[j], inverse, w);
                v[j] = minus ? -y : y;
            }
        }
        if (p.steps) {
#pragma unroll
            for (int j = 0; j < N / 2; j++) rotate(v[j], v[j + N / 2], s[j], c[j]);
        }
        warp_digits<N>(v, p.d, p.hadamard, row, g, lane);
    }
}
// Grid covers rows * slices of `each` heads, a warp each; heads of 64, 128 and 256 columns.
KERNEL heads_64(Heads p) { heads<2>(p); }
KERNEL heads_128(Heads p) { heads<4>(p); }
KERNEL heads_256(Heads p) { heads<8>(p); }
