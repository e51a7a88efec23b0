// Exact integer matrix products on the tensor cores of sm_80 and later (mma.sync m16n8k32, s8).
//
// Launch: 128 threads a block, grid x = ceil(rows / TILE_M), y = ceil(out / TILE_N), SHARED bytes of dynamic shared memory:
//
//   kernel         TILE_M  TILE_N  SHARED
//   gemm_11           128     128   65536
//   gemm_12           128      64   65536
//   gemm_21            64     128   65536
//   gemm_22            64      64   65536
//   gemm_small_11      64      64   49152
//   gemm_small_12      64      64   73728
//   gemm_small_21      64      64   73728
//
// The numbers in a name are the digits of activations and of weights. The small kernels pay where the others would leave multiprocessors
// without a block. x runs fastest: the activations stay in the L2 cache, the weights pass through once.
//
// Sums of products of digits are exact in 32 bits for 65536 inputs: |lo lo| <= 2^30, lo hi + hi lo <= 2 * 127 * 128 * 65536 < 2^31.
// Wide columns are a step of their own before all others; what they add weighs 256 more, so the sums are multiplied before the rest joins.
#include "mma.cuh"

constexpr u32 THREADS = 128;
// Inputs a step, bytes of a row in shared memory.
constexpr u32 STEP = 64;

extern __shared__ u8 dynamic_shared[];

// Where 16-byte chunk `chunk` of a row is: chunks are exchanged so that neither copies nor ldmatrix meet bank conflicts.
__device__ __forceinline__ u32 place(u32 row, u32 chunk) { return row * STEP + ((chunk ^ (row >> 1 & 3)) << 4); }

// A block of 2 x 2 warps, each of WARP_M x WARP_N outputs.
template <u32 A, u32 W, u32 WARP_M, u32 WARP_N, u32 STAGES>
__device__ __forceinline__ void product(const Gemm &g) {
    constexpr u32 TILE_M = 2 * WARP_M, TILE_N = 2 * WARP_N, PAIRS = A + W - 1;
    constexpr u32 A_BYTES = TILE_M * STEP, W_BYTES = TILE_N * STEP, STAGE = A * A_BYTES + W * W_BYTES;
    constexpr u32 MT = WARP_M / 16, NT = WARP_N / 8;
    __shared__ Row rows[TILE_M];
    __shared__ Column columns[TILE_N];
    const u32 thread = thread_x(), lane = thread & 31, warp = thread >> 5;
    const u32 row0 = block_x() * TILE_M, out0 = block_y() * TILE_N;
    const u32 shared = shared_address(dynamic_shared);

    for (u32 i = thread; i < TILE_M; i += THREADS) rows[i] = load_row(g, row0 + i);
    for (u32 i = thread; i < TILE_N; i += THREADS) columns[i] = load_column(g, out0 + i);

    // Copies: four threads a row, 32 rows at once.
    const u32 copy_row = thread >> 2, copy_chunk = thread & 3;
    const u64 a_from = (u64)(row0 + copy_row) * g.lda + copy_chunk * 16, w_from = (u64)(out0 + copy_row) * g.lda + copy_chunk * 16;
    const u32 to = shared + place(copy_row, copy_chunk);
    const u32 wide = A == 1 && g.wide > 0, steps = g.lda / STEP + wide;
    auto copy = [&](u32 step) {
        if (step < steps) {
            u32 stage = to + step % STAGES * STAGE;
            bool high = wide && step == 0;
            u64 k = (u64)(step - (wide && !high)) * STEP;
            const i8 *a = high ? g.a_hi + (u64)(row0 + copy_row) * STEP + copy_chunk * 16 : g.a_lo + a_from + k;
            u64 a_row = high ? STEP : g.lda;
#pragma unroll
            for (u32 i = 0; i < TILE_M / 32; i++) copy_16(stage + i * 32 * STEP, a + i * 32 * a_row);
            if (A > 1) {
#pragma unroll
                for (u32 i = 0; i < TILE_M / 32; i++) copy_16(stage + A_BYTES + i * 32 * STEP, g.a_hi + a_from + k + (u64)i * 32 * g.lda);
            }
#pragma unroll
            for (u32 d = 0; d < W; d++) {
                const i8 *w = (d == 0 ? g.w_lo : g.w_hi) + w_from + k;
#pragma unroll
                for (u32 i = 0; i < TILE_N / 32; i++) copy_16(stage + A * A_BYTES + d * W_BYTES + i * 32 * STEP, w + (u64)i * 32 * g.lda);
            }
        }
        copies_commit();
    };

    i32 sums[PAIRS][MT][NT][4] = {};
    const u32 warp_row = (warp & 1) * WARP_M, warp_out = (warp >> 1) * WARP_N;
    // ldmatrix of activations: rows 0-7, 8-15 of the first 16 inputs, then of the second; of weights: both halves of the inputs of 8 outputs, then of 8 more.
    const u32 a_row = warp_row + (lane & 15), a_chunk = lane >> 4;
    const u32 w_row = warp_out + (lane & 7) + (lane >> 4) * 8, w_chunk = lane >> 3 & 1;

#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) copy(s);
    for (u32 step = 0; step < steps; step++) {
        copies_wait<STAGES - 2>();
        sync_block();
        copy(step + STAGES - 1);
        const u32 stage = shared + step % STAGES * STAGE;
#pragma unroll
        for (u32 half = 0; half < STEP / 32; half++) {
            u32 a[A][MT][4];
#pragma unroll
            for (u32 d = 0; d < A; d++)
#pragma unroll
                for (u32 i = 0; i < MT; i++) load_matrices(a[d][i], stage + d * A_BYTES + place(a_row + i * 16, half * 2 + a_chunk));
#pragma unroll
            for (u32 d = 0; d < W; d++)
#pragma unroll
                for (u32 j = 0; j < NT; j += 2) {
                    u32 w[4];
                    load_matrices(w, stage + A * A_BYTES + d * W_BYTES + place(w_row + j * 8, half * 2 + w_chunk));
#pragma unroll
                    for (u32 e = 0; e < A; e++)
#pragma unroll
                        for (u32 i = 0; i < MT; i++) {
                            mma(sums[d + e][i][j], a[e][i], w[0], w[1]);
                            mma(sums[d + e][i][j + 1], a[e][i], w[2], w[3]);
                        }
                }
        }
        if (wide && step == 0) {
#pragma unroll
            for (u32 i = 0; i < MT; i++)
#pragma unroll
                for (u32 j = 0; j < NT; j++)
#pragma unroll
                    for (u32 k = 0; k < 4; k++) {
                        if (W == 1) {
                            sums[0][i][j][k] *= 256;
                        } else {
                            sums[W - 1][i][j][k] = sums[W - 1][i][j][k] * 256 + sums[0][i][j][k];
                            sums[0][i][j][k] = 0;
                        }
                    }
        }
    }

    Row own[2 * MT];
#pragma unroll
    for (u32 i = 0; i < 2 * MT; i++) own[i] = rows[warp_row + (lane >> 2) + i * 8];
    const u32 o = warp_out + (lane & 3) * 2;
    finish_parts<NT, 2 * MT, 1>(g, row0 + warp_row + (lane >> 2), own, out0 + o, columns + o, [&](u32 part, u32 i) {
        return join<PAIRS>(&sums[0][i / 4][part][i % 4], MT * NT * 4, g.shift);
    });
}

KERNEL __launch_bounds__(THREADS, 2) gemm_11(Gemm g) { product<1, 1, 64, 64, 4>(g); }
KERNEL __launch_bounds__(THREADS, 2) gemm_12(Gemm g) { product<1, 2, 64, 32, 4>(g); }
KERNEL __launch_bounds__(THREADS, 2) gemm_21(Gemm g) { product<2, 1, 32, 64, 4>(g); }
KERNEL __launch_bounds__(THREADS, 2) gemm_22(Gemm g) { product<2, 2, 32, 32, 4>(g); }
KERNEL __launch_bounds__(THREADS) gemm_small_11(Gemm g) { product<1, 1, 32, 32, 6>(g); }
KERNEL __launch_bounds__(THREADS) gemm_small_12(Gemm g) { product<1, 2, 32, 32, 6>(g); }
KERNEL __launch_bounds__(THREADS) gemm_small_21(Gemm g) { product<2, 1, 32, 32, 6>(g); }
