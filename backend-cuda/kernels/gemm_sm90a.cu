// Exact integer matrix products on Hopper's tensor cores (wgmma, s8): gemm.cu's interface and results, for sm_90a alone.
//
// Launch: 384 threads a block, a grid of one dimension with min(multiprocessors, tiles) blocks (any number is right), where
// tiles = ceil(rows / TILE_M) * ceil(out / TILE_N), SHARED bytes of dynamic shared memory:
//
//   kernel          TILE_M  TILE_N  SHARED
//   gemm_11_sm90a      128     256  204928
//   gemm_12_sm90a      128     128  200832
//   gemm_21_sm90a      128     128  200832
//   gemm_22_sm90a      128     128  200832
//
// They pay from some 512 inputs and 64 tiles on.
//
// A block has one multiprocessor to itself and takes every gridDim-th tile. One warpgroup copies digits, 128 inputs a step, into a ring
// of stages in shared memory; two multiply, each 64 rows of the tile. The copies run ahead into the next tile while results are stored.
// Digits lie in shared memory as wgmma wants them: rows of 128 bytes, 16-byte chunk c of row r in place c ^ (r & 7).
#include "gemm.cuh"
#include "hopper.cuh"

constexpr u32 THREADS = 384, TILE_M = 128;
// Inputs a step, bytes of a row in shared memory; one part of a stage is 128 rows of activations or weights.
constexpr u32 STEP = 128, PART = 128 * STEP;

extern __shared__ __attribute__((aligned(1024))) u8 dynamic_shared[];

// 64 rows x 128 weights, 32 inputs.
__device__ __forceinline__ void multiply(i32 (&d)[64], u64 a, u64 w) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" N64 "}, %64, %65, p; }"
                 : R64(d)
                 : "l"(a), "l"(w)
                 : "memory");
}
// 64 rows x 256 weights, 32 inputs: d of the first 128, e of the second.
__device__ __forceinline__ void multiply(i32 (&d)[64], i32 (&e)[64], u64 a, u64 w) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {" N128 "}, %128, %129, p; }"
                 : R64(d), R64(e)
                 : "l"(a), "l"(w)
                 : "memory");
}

template <u32 A, u32 W>
struct Shape {
    static constexpr u32 PAIRS = A + W - 1;
    // Parts of 128 rows of weights in a stage: one digit of 256 rows, or one or two digits of 128.
    static constexpr u32 W_PARTS = A == 1 ? 2 : W;
    static constexpr u32 TILE_N = A == 1 && W == 1 ? 256 : 128;
    static constexpr u32 STAGE = (A + W_PARTS) * PART, STAGES = A + W_PARTS == 4 ? 3 : 4;
    // Steps that a copying thread has under way when it waits for the oldest. One stage is the one multiplied, one is given back only after the next came.
    static constexpr u32 AHEAD = STAGES - 2;
    // Sums of a multiplying thread: [digit pair, or half of the tile][64].
    static constexpr u32 SUMS = PAIRS == 1 ? 2 : PAIRS;
    static constexpr u32 SHARED = STAGES * STAGE + 2 * TILE_N * sizeof(Column) + 128;
};
static_assert(Shape<1, 1>::SHARED == 204928 && Shape<1, 2>::SHARED == 200832 && Shape<2, 1>::SHARED == 200832 && Shape<2, 2>::SHARED == 200832,
              "as documented above");

// Multiplies `inputs` columns of a stage.
template <u32 A, u32 W, u32 SUMS>
__device__ __forceinline__ void multiply_stage(i32 (&sums)[SUMS][64], u64 a, u64 w, u32 inputs) {
    constexpr u32 NEXT = PART >> 4;
    products_fence();
#pragma unroll
    for (u32 k = 0; k < STEP / 32; k++) {
        if (k * 32 < inputs) {
            // 32 bytes further in every row; part by part.
            u64 ak = a + k * 2, wk = w + k * 2;
            if constexpr (A == 1) {
                multiply(sums[0], sums[1], ak, wk);
            } else if constexpr (W == 1) {
                multiply(sums[0], ak, wk);
                multiply(sums[1], ak + NEXT, wk);
            } else {
                multiply(sums[0], ak, wk);
                multiply(sums[1], ak, wk + NEXT);
                multiply(sums[1], ak + NEXT, wk);
                multiply(sums[2], ak + NEXT, wk + NEXT);
            }
        }
    }
    products_commit();
}

template <u32 A, u32 W>
__device__ __forceinline__ void copy_tiles(const Gemm &g, u32 shared, u32 full, u32 empty) {
    using S = Shape<A, W>;
    const u32 thread = thread_x() & 127, row = thread >> 3, chunk = thread & 7;
    const u32 to = shared + row * STEP + ((chunk ^ (row & 7)) << 4);
    const u32 tiles_m = (g.rows + TILE_M - 1) / TILE_M, tiles = tiles_m * ((g.out + S::TILE_N - 1) / S::TILE_N);
    const u32 wide = A == 1 && g.wide > 0, steps = g.lda / STEP + wide;
    const u64 lda = g.lda;
    u32 count = 0, stage = 0, parity = 1;
    u32 arrived = 0;
    for (u32 tile = block_x(); tile < tiles; tile += blocks_x()) {
        const u32 row0 = tile % tiles_m * TILE_M, out0 = tile / tiles_m * S::TILE_N;
        const u64 a_from = (row0 + row) * lda + chunk * 16, w_from = (out0 + row) * lda + chunk * 16;
        const i8 *w_next = W == 2 ? g.w_hi + w_from : g.w_lo + w_from;
        // A second half past the padded outputs is the first again; its results are not stored.
        if (W == 1 && out0 + 128 < g.out) w_next += 128 * lda;
        for (u32 step = 0; step < steps; step++) {
            barrier_wait(empty + stage * 8, parity);
            const bool high = wide && step == 0;
            const u64 k = (u64)(step - (wide && !high)) * STEP;
            const u32 into = to + stage * S::STAGE;
            if (!high || chunk < 4) {
                const i8 *a = high ? g.a_hi + (u64)(row0 + row) * 64 + chunk * 16 : g.a_lo + a_from + k;
                const u64 a_row = high ? 64 : lda;
#pragma unroll
                for (u32 i = 0; i < 8; i++) copy_16(into + i * 16 * STEP, a + i * 16 * a_row);
                if (A > 1) {
#pragma unroll
                    for (u32 i = 0; i < 8; i++) copy_16(into + PART + i * 16 * STEP, g.a_hi + a_from + k + i * 16 * lda);
                }
#pragma unroll
                for (u32 i = 0; i < 8; i++) copy_16(into + A * PART + i * 16 * STEP, g.w_lo + w_from + k + i * 16 * lda);
                if (S::W_PARTS > 1) {
#pragma unroll
                    for (u32 i = 0; i < 8; i++) copy_16(into + (A + 1) * PART + i * 16 * STEP, w_next + k + i * 16 * lda);
                }
            }
            copies_commit();
            if (++count > S::AHEAD) {
                copies_wait<S::AHEAD>();
                fence_async();
                barrier_arrive(full + arrived * 8);
                if (++arrived == S::STAGES) arrived = 0;
            }
            if (++stage == S::STAGES) stage = 0, parity ^= 1;
        }
    }
    copies_wait<0>();
    fence_async();
    for (u32 left = count < S::AHEAD ? count : S::AHEAD; left > 0; left--) {
        barrier_arrive(full + arrived * 8);
        if (++arrived == S::STAGES) arrived = 0;
    }
}

template <u32 A, u32 W>
__device__ __forceinline__ void multiply_tiles(const Gemm &g, u32 shared, u32 full, u32 empty, Column *columns) {
    using S = Shape<A, W>;
    const u32 thread = thread_x() & 127, lane = thread & 31, group = (thread_x() >> 7) - 1;
    const u32 tiles_m = (g.rows + TILE_M - 1) / TILE_M, tiles = tiles_m * ((g.out + S::TILE_N - 1) / S::TILE_N);
    const u32 wide = A == 1 && g.wide > 0, steps = g.lda / STEP;
    const u64 a_at = describe(shared + group * 64 * STEP), w_at = describe(shared + A * PART);
    columns += group * S::TILE_N;
    u32 stage = 0, parity = 0;
    for (u32 tile = block_x(); tile < tiles; tile += blocks_x()) {
        const u32 row0 = tile % tiles_m * TILE_M + group * 64, out0 = tile / tiles_m * S::TILE_N;
        sync_group(1 + group);
        for (u32 i = thread; i < S::TILE_N; i += 128) columns[i] = load_column(g, out0 + i);
        // Warp w has rows 16 w + lane / 4 and 8 more, of each 8 outputs 2 (lane % 4) and the next.
        const u32 t = row0 + (thread >> 5) * 16 + (lane >> 2), o = (lane & 3) * 2;
        const Row rows[2] = {load_row(g, t), load_row(g, t + 8)};
        if (g.add) {
            // A line holds 32 outputs.
            for (u32 i = thread; i < 64 * (S::TILE_N / 32); i += 128) {
                const u32 t = row0 + i % 64, o = out0 + i / 64 * 32;
                if (t < g.rows && o < g.out) prefetch(g.c + (u64)t * g.ldc + g.column + o);
            }
        }
        sync_group(1 + group);

        i32 sums[S::SUMS][64];
#pragma unroll
        for (u32 i = 0; i < S::SUMS * 64; i++) sums[i / 64][i % 64] = zero();
        if (wide) {
            barrier_wait(full + stage * 8, parity);
            multiply_stage<A, W>(sums, a_at + stage * (S::STAGE >> 4), w_at + stage * (S::STAGE >> 4), 64);
            products_wait<0>();
            if (lane == 0) barrier_arrive(empty + stage * 8);
            if (++stage == S::STAGES) stage = 0, parity ^= 1;
#pragma unroll
            for (u32 i = 0; i < 64; i++) {
                if (W == 1) {
                    sums[0][i] *= 256;
                    sums[1][i] *= 256;
                } else {
                    sums[1][i] = sums[1][i] * 256 + sums[0][i];
                    sums[0][i] = zero();
                }
            }
        }
        u32 last = stage;
        for (u32 step = 0; step < steps; step++) {
            barrier_wait(full + stage * 8, parity);
            multiply_stage<A, W>(sums, a_at + stage * (S::STAGE >> 4), w_at + stage * (S::STAGE >> 4), STEP);
            products_wait<1>();
            if (step > 0 && lane == 0) barrier_arrive(empty + last * 8);
            last = stage;
            if (++stage == S::STAGES) stage = 0, parity ^= 1;
        }
        products_wait<0>();
        if (lane == 0) barrier_arrive(empty + last * 8);

        if (S::PAIRS > 1) {
#pragma unroll
            for (u32 i = 0; i < 64; i++) sums[0][i] = join<S::PAIRS>(&sums[0][i], 64, g.shift);
        }
        finish_parts<S::TILE_N / 32, 2, 4>(g, t, rows, out0 + o, columns + o, [&](u32 part, u32 i) { return sums[part / 4][part % 4 * 16 + i]; });
    }
}

template <u32 A, u32 W>
__device__ __forceinline__ void product(const Gemm &g) {
    using S = Shape<A, W>;
    const u32 shared = shared_address(dynamic_shared);
    Column *columns = (Column *)(dynamic_shared + S::STAGES * S::STAGE);
    const u32 full = shared + S::SHARED - 128, empty = full + 64;
    if (thread_x() == 0) {
        for (u32 i = 0; i < S::STAGES; i++) {
            barrier_init(full + i * 8, 128);
            barrier_init(empty + i * 8, 8);
        }
    }
    sync_block();
    // Registers move from the warpgroup that copies to those that multiply.
    if (thread_x() < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        copy_tiles<A, W>(g, shared, full, empty);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        multiply_tiles<A, W>(g, shared, full, empty, columns);
    }
}

KERNEL __launch_bounds__(THREADS, 1) gemm_11_sm90a(Gemm g) { product<1, 1>(g); }
KERNEL __launch_bounds__(THREADS, 1) gemm_12_sm90a(Gemm g) { product<1, 2>(g); }
KERNEL __launch_bounds__(THREADS, 1) gemm_21_sm90a(Gemm g) { product<2, 1>(g); }
KERNEL __launch_bounds__(THREADS, 1) gemm_22_sm90a(Gemm g) { product<2, 2>(g); }
