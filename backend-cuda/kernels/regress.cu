// The prediction of a plane inside a layer: first prediction plus what the innovations of every plane before it add, then RoPE
// (docs/numerics.md, section 9). Each sum is rounded and saturated by itself, in the order of planes, as if one product after the other had been added
// to the layer's whole prediction; but the prediction is read once and never written.
#include "digits.cuh"
#include "mma.cuh"

// Innovations of a plane times the columns of its matrix that lead to this plane.
struct Term {
    const i8 *a_lo, *a_hi; // [rows, 128]; a_hi null: one digit
    const Scale *a_scale;  // [rows]
    const i8 *w;           // [DIM, 128], one digit
    const Scale *w_scale;  // [DIM]
    u32 shift, padding;
};
static_assert(sizeof(Term) == 48, "as src/kernels.rs");
constexpr u32 TERMS = 64;
struct Regress {
    const i32 *x; // the layer's prediction at the plane's first column, rows of `ld` values
    i32 *out;     // [rows, DIM]
    const u64 *steps; // null: not rotated
    const i32 *sine;
    u64 start;
    u32 rows, ld, count, inverse;
    Term terms[TERMS];
};
static_assert(sizeof(Regress) == 56 + 48 * TERMS, "as src/kernels.rs");

extern __shared__ u8 dynamic_shared[];

constexpr u32 TILE = 32, WIDTH = 128, STAGES = 3;
// Chunks of 16 bytes are exchanged so that neither copies nor ldmatrix meet bank conflicts.
__device__ __forceinline__ u32 place(u32 row, u32 chunk) { return row * WIDTH + ((chunk ^ (row & 7)) << 4); }

// Grid (rows / 32); 2 DIM threads; dynamic shared memory: STAGES * (2 * 32 + DIM) * 128 bytes. A warp has 16 rows and 32 columns.
template <u32 DIM>
__device__ __forceinline__ void regress(const Regress &p) {
    constexpr u32 THREADS = 2 * DIM, A_BYTES = TILE * WIDTH, STAGE = 2 * A_BYTES + DIM * WIDTH, NT = 4;
    const u32 thread = thread_x(), lane = thread & 31, warp = thread >> 5, row0 = block_x() * TILE;
    const u32 shared = shared_address(dynamic_shared);
    auto copy = [&](u32 i) {
        if (i < p.count) {
            const Term &t = p.terms[i];
            u32 stage = shared + i % STAGES * STAGE;
            // Chunks of the row's inputs alone: DIM bytes.
            for (u32 c = thread; c < TILE * (DIM / 16); c += THREADS) {
                u32 r = c / (DIM / 16), chunk = c % (DIM / 16);
                u64 from = (u64)(row0 + r) * WIDTH + chunk * 16;
                copy_16(stage + place(r, chunk), t.a_lo + from);
                if (t.a_hi) copy_16(stage + A_BYTES + place(r, chunk), t.a_hi + from);
            }
            for (u32 c = thread; c < DIM * (DIM / 16); c += THREADS) {
                u32 r = c / (DIM / 16), chunk = c % (DIM / 16);
                copy_16(stage + 2 * A_BYTES + place(r, chunk), t.w + (u64)r * WIDTH + chunk * 16);
            }
        }
        copies_commit();
    };
    const u32 warp_row = (warp & 1) * 16, warp_out = (warp >> 1) * 32;
    // The rows and columns whose outputs this thread has: rows t and t + 8, columns o + 8 j and one on.
    const u32 t = warp_row + (lane >> 2), o = warp_out + (lane & 3) * 2;
    i32 value[NT][4];
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) copy(s);
#pragma unroll
    for (u32 j = 0; j < NT; j++)
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            u32 row = row0 + t + (k >> 1) * 8;
            value[j][k] = row < p.rows ? p.x[(u64)row * p.ld + o + j * 8 + (k & 1)] : 0;
        }
    const u32 a_row = warp_row + (lane & 15), a_chunk = lane >> 4;
    const u32 w_row = warp_out + (lane & 7) + (lane >> 4) * 8, w_chunk = lane >> 3 & 1;
    for (u32 i = 0; i < p.count; i++) {
        const Term &term = p.terms[i];
        Scale row_scale[2], column_scale[NT][2];
#pragma unroll
        for (u32 r = 0; r < 2; r++) row_scale[r] = row0 + t + r * 8 < p.rows ? load_scale(term.a_scale + row0 + t + r * 8) : Scale{0, 0};
#pragma unroll
        for (u32 j = 0; j < NT; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) column_scale[j][c] = load_scale(term.w_scale + o + j * 8 + c);
        copies_wait<STAGES - 2>();
        sync_block();
        copy(i + STAGES - 1);
        const u32 stage = shared + i % STAGES * STAGE;
        i32 low[NT][4] = {}, high[NT][4] = {};
        bool two = term.a_hi != (const i8 *)0;
#pragma unroll
        for (u32 half = 0; half < DIM / 32; half++) {
            u32 a[4], b[4];
            load_matrices(a, stage + place(a_row, half * 2 + a_chunk));
            if (two) load_matrices(b, stage + A_BYTES + place(a_row, half * 2 + a_chunk));
#pragma unroll
            for (u32 j = 0; j < NT; j += 2) {
                u32 w[4];
                load_matrices(w, stage + 2 * A_BYTES + place(w_row + j * 8, half * 2 + w_chunk));
                mma(low[j], a, w[0], w[1]), mma(low[j + 1], a, w[2], w[3]);
                if (two) mma(high[j], b, w[0], w[1]), mma(high[j + 1], b, w[2], w[3]);
            }
        }
#pragma unroll
        for (u32 j = 0; j < NT; j++)
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                // At most 128 * 127 * 32767: below 2^30.
                i32 sum = low[j][k] + 256 * high[j][k];
                Scale s = shifted(row_scale[k >> 1], (i32)term.shift);
                i32 v = scaled(round_sum(sum, term.shift), s, column_scale[j][k & 1]);
                value[j][k] = clamp_i32(value[j][k] + v, -LIMIT, LIMIT);
            }
    }
    // Pairs that turn together lie with different warps: by way of shared memory, rows of DIM + 4 values.
    copies_wait<0>();
    sync_block();
    i32 *tile = (i32 *)dynamic_shared;
#pragma unroll
    for (u32 j = 0; j < NT; j++)
#pragma unroll
        for (u32 k = 0; k < 4; k++) tile[(t + (k >> 1) * 8) * (DIM + 4) + o + j * 8 + (k & 1)] = value[j][k];
    sync_block();
    constexpr u32 PAIRS = DIM / 2;
    for (u32 i = thread; i < TILE * PAIRS; i += THREADS) {
        u32 r = i / PAIRS, c = i % PAIRS, row = row0 + r;
        if (row >= p.rows) break;
        i32 x = tile[r * (DIM + 4) + c], y = tile[r * (DIM + 4) + c + PAIRS];
        if (p.steps) {
            u64 phase = p.steps[c] * (p.start + row);
            i64 s = sine(phase, p.sine), e = sine(phase + ((u64)1 << 62), p.sine);
            rotate(x, y, p.inverse ? -s : s, e);
        }
        p.out[(u64)row * DIM + c] = x, p.out[(u64)row * DIM + c + PAIRS] = y;
    }
}
extern "C" __global__ void __launch_bounds__(128) regress_64(Regress p) { regress<64>(p); }
extern "C" __global__ void __launch_bounds__(256) regress_128(Regress p) { regress<128>(p); }
