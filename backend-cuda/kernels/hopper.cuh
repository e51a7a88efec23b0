// What kernels for compute capability 9.0 alone share: barriers in shared memory, and wgmma's order and operands.
#pragma once

#include "common.cuh"

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"(barrier) : "memory");
}
// Waits until the phase of this parity is complete.
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!done);
}
// One of the block's named barriers, for a warpgroup.
__device__ __forceinline__ void sync_group(u32 id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }
// What this thread wrote to shared memory is seen by wgmma.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <u32 N>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Describes rows of 128 bytes from a shared address on: 128-byte swizzle, 1024 bytes between groups of eight rows.
__device__ __forceinline__ u64 describe(u32 address) { return (u64)(address >> 4) | (u64)1 << 16 | (u64)64 << 32 | (u64)1 << 62; }

// Zero as a register: a constant would be moved into place too late for wgmma to run asynchronously.
__device__ __forceinline__ i32 zero() {
    i32 z;
    asm volatile("mov.b32 %0, 0;" : "=r"(z));
    return z;
}

// Operands of the asm below: names and registers of 64 or 128 accumulators.
#define N8(a, b, c, d, e, f, g, h) "%" #a ", %" #b ", %" #c ", %" #d ", %" #e ", %" #f ", %" #g ", %" #h
#define N64                                                                                                             \
    N8(0, 1, 2, 3, 4, 5, 6, 7) ", " N8(8, 9, 10, 11, 12, 13, 14, 15) ", " N8(16, 17, 18, 19, 20, 21, 22, 23) ", " N8(    \
        24, 25, 26, 27, 28, 29, 30, 31) ", " N8(32, 33, 34, 35, 36, 37, 38, 39) ", " N8(40, 41, 42, 43, 44, 45, 46, 47)  \
        ", " N8(48, 49, 50, 51, 52, 53, 54, 55) ", " N8(56, 57, 58, 59, 60, 61, 62, 63)
#define N128                                                                                                            \
    N64 ", " N8(64, 65, 66, 67, 68, 69, 70, 71) ", " N8(72, 73, 74, 75, 76, 77, 78, 79) ", " N8(                         \
        80, 81, 82, 83, 84, 85, 86, 87) ", " N8(88, 89, 90, 91, 92, 93, 94, 95) ", " N8(96, 97, 98, 99, 100, 101, 102,   \
                                                                                        103)                             \
        ", " N8(104, 105, 106, 107, 108, 109, 110, 111) ", " N8(112, 113, 114, 115, 116, 117, 118, 119) ", " N8(         \
            120, 121, 122, 123, 124, 125, 126, 127)
#define R4(d, i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define R16(d, i) R4(d, i), R4(d, i + 4), R4(d, i + 8), R4(d, i + 12)
#define R64(d) R16(d, 0), R16(d, 16), R16(d, 32), R16(d, 48)
