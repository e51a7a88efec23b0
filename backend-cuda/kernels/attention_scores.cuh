// The fast kernels' steps for 16 rows and a block of keys: scores, weights, and sums of weighted values.
#pragma once

#include "attention_stage.cuh"

// One of a thread's two query rows.
struct Row {
    u32 position;
    Scale scale; // times 2^(16 + shift)
};

// How scores of a block are made: round(acc q k 2^(e_q + e_k)) by a product and a shift of 64 bits where no score can saturate
// (|acc| <= 2^21, mantissas below 2^15).
struct Plan {
    i32 span, shift[2];
    bool fast; // the same in a warp
};
__device__ __forceinline__ Plan plan(const Keys &keys, const Row (&row)[2]) {
    Plan p;
    p.span = keys.span;
    bool fast = p.span <= 9;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        p.shift[r] = row[r].scale.m == 0 ? 32 : -((i32)row[r].scale.e + keys.low);
        fast = fast && p.shift[r] <= 32 && p.shift[r] - p.span >= 21;
    }
    p.fast = warp_ballot(fast) == ~0u;
    return p;
}

// Products of 16 rows and `16 N` keys: acc[j][i / 2][2 r + i % 2] is that of row r (of a thread's two) and key 16 j + 4 (lane % 4) + i.
template <u32 HD, u32 N> __device__ __forceinline__ void products(i32 (&acc)[N][2][4], u32 q_at, u32 k_at) {
#pragma unroll
    for (u32 j = 0; j < 8 * N; j++) acc[j / 8][j / 4 % 2][j % 4] = 0;
#pragma unroll
    for (u32 c = 0; c < HD / 64; c++) {
        u32 x[4], y[4];
        load_matrix(x, q_at + c * 64);
        load_matrix(y, q_at + c * 64 + 32);
#pragma unroll
        for (u32 j = 0; j < 2 * N; j++) {
            u32 k[4];
            load_matrix(k, k_at + j * 8 * (HD + 16) + c * 64);
            multiply(acc[j / 2][j % 2], x, k[0], k[1]);
            multiply(acc[j / 2][j % 2], y, k[2], k[3]);
        }
    }
}

// What places scores on the fast path.
struct Place {
    i32 scale[2];
    i64 add[2];
    u32 shift[2];
};
// For sign * score + base, base in 1/65536 octave.
template <i32 SIGN> __device__ __forceinline__ Place placement(const Row (&row)[2], const Plan &plan, const i32 (&base)[2]) {
    Place p;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        i64 half = (i64)1 << (plan.shift[r] - 1);
        p.scale[r] = SIGN * row[r].scale.m;
        p.add[r] = (i64)((u64)base[r] << plan.shift[r]) + (SIGN > 0 ? half : half - 1);
        p.shift[r] = (u32)plan.shift[r];
    }
    return p;
}
// Products to sign * score + base, fast; `at` is the thread's first key. If `COARSE`, what is left of it after `32 - shift` bits more.
template <bool STEP, bool COARSE = false>
__device__ __forceinline__ void place_scores(i32 (&s)[2][4], const Keys &keys, u32 at, const Place &place) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u32 r = i / 2 % 2, key = at + i / 4 * 2 + i % 2;
        i32 acc = STEP ? s[i / 4][i % 4] * keys.step[key] : s[i / 4][i % 4];
        i64 v = multiply_wide_add(acc, keys.mantissa[key] * place.scale[r], place.add[r]);
        s[i / 4][i % 4] = COARSE ? (i32)(v >> 32) : funnel(v, place.shift[r]);
    }
}
// Any scores; those of keys beyond the rows' positions become `unseen`. `first` is the thread's first key counted from token 0.
template <i32 SIGN>
__device__ __forceinline__ void place_any(i32 (&s)[2][4], const Keys &keys, u32 at, const Row (&row)[2], const i32 (&base)[2],
                                          u32 first, i32 unseen) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u32 r = i / 2 % 2, offset = i / 4 * 2 + i % 2;
        i32 v = scaled(s[i / 4][i % 4], row[r].scale, keys.scale[at + offset]);
        s[i / 4][i % 4] = first + offset > row[r].position ? unseen : (i32)((u32)base[r] + (u32)(SIGN * v));
    }
}

__device__ __forceinline__ void raise(i32 (&max)[2], const i32 (&s)[2][4]) {
#pragma unroll
    for (u32 r = 0; r < 2; r++)
        max[r] = max_i32(max[r], max_i32(max_i32(s[0][2 * r], s[0][2 * r + 1]), max_i32(s[1][2 * r], s[1][2 * r + 1])));
}

// Four weights of a row and their products with value factors, as digits (low ones 0..=255). `s` are octaves below the block's exponent
// in 1/65536, plus 13 octaves: the shift that leaves 17 bits of exp2. `table` is the lane's copy of exp2's, an offset in bytes.
__device__ __forceinline__ void weigh(u32 &low, u32 &high, u32 &sum, const i32 (&s)[2][4], u32 r, const u32 *factor, u32 table) {
    u32 p[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        u32 x = (u32)s[i / 2][2 * r + i % 2];
        i64 line = *(const i64 *)(shared_bytes + ((x >> 1 & 0x7F80) | table));
        i32 v = (i32)(line >> 32) + (((i32)line * (i32)(x & 255)) >> 8);
        u32 w = (shift_right((u32)v, x >> 16) + 1) >> 1;
        sum += w;
        p[i] = w * factor[i] + (1 << 15);
    }
    u32 p01 = permute(p[0], p[1], 0x7362), p23 = permute(p[2], p[3], 0x7362);
    low = permute(p01, p23, 0x5410);
    high = permute(p01, p23, 0x7632);
}
constexpr i32 NO_WEIGHT = 0x7FFF0000;

// Greatest scores of a thread's keys; if `COARSE`, without their low `32 - shift` bits.
template <u32 HD, bool STEP, bool COARSE>
__device__ __forceinline__ void maxima_fast(i32 (&max)[2], u32 q_at, u32 k_at, const Keys &keys, u32 part, const Place &place) {
    i32 s[4][2][4];
    products<HD, 4>(s, q_at, k_at);
    max[0] = max[1] = UNSEEN;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        place_scores<STEP, COARSE>(s[j], keys, j * 16 + part, place);
        raise(max, s[j]);
    }
}
template <u32 HD, bool STEP>
__device__ __forceinline__ void weigh_fast(u32 (&low)[2][4], u32 (&high)[2][4], u32 (&weights)[2], u32 q_at, u32 k_at, const Keys &keys,
                                           u32 part, const Place &place, u32 table) {
    i32 s[4][2][4];
    products<HD, 4>(s, q_at, k_at);
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        place_scores<STEP>(s[j], keys, j * 16 + part, place);
#pragma unroll
        for (u32 r = 0; r < 2; r++)
            weigh(low[j / 2][j % 2 * 2 + r], high[j / 2][j % 2 * 2 + r], weights[r], s[j], r, keys.factor + j * 16 + part, table);
    }
}

// How a block's sums of one row are aligned: sum >> right << left, or left out.
struct Alignment {
    i32 right, times;
};
__device__ __forceinline__ Alignment alignment(i32 octaves) {
    if (octaves > FAR) return Alignment{0, 0};
    return Alignment{max_i32(octaves - GUARD, 0), 1 << max_i32(GUARD - octaves, 0)};
}

// Adds a block's products of weights (digits by 16 bytes of keys) and values to the totals of half the columns.
template <u32 HD, bool DEEP>
__device__ __forceinline__ void add_values(i64 (&total)[HD / 16][4], const u32 (&low)[2][4], const u32 (&high)[2][4], u32 v_at,
                                           const Alignment (&align)[2]) {
    constexpr u32 AHEAD = 2;
    u32 v[2][AHEAD][4];
#pragma unroll
    for (u32 d = 0; d < AHEAD; d++) load_matrix(v[0][d], v_at + d * 8 * (BLOCK + 16));
#pragma unroll
    for (u32 c = 0; c < HD / 16; c += AHEAD) {
        u32 now = c / AHEAD % 2;
        i32 h[AHEAD][4] = {}, l[AHEAD][4] = {};
        if (c + AHEAD < HD / 16) {
#pragma unroll
            for (u32 d = 0; d < AHEAD; d++) load_matrix(v[now ^ 1][d], v_at + (c + AHEAD + d) * 8 * (BLOCK + 16));
        }
#pragma unroll
        for (u32 k = 0; k < 2; k++)
#pragma unroll
            for (u32 d = 0; d < AHEAD; d++) {
                multiply(h[d], high[k], v[now][d][2 * k], v[now][d][2 * k + 1]);
                multiply_low(l[d], low[k], v[now][d][2 * k], v[now][d][2 * k + 1]);
            }
#pragma unroll
        for (u32 d = 0; d < AHEAD; d++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                i32 sum = h[d][i] * 256 + l[d][i];
                if (DEEP) sum >>= align[i / 2].right;
                total[c + d][i] = multiply_wide_add(sum, align[i / 2].times, total[c + d][i]);
            }
    }
}
