// A chunk on its way from prices to a payload.
#pragma once
#include "common.cuh"

// What the lanes of a chunk left.
struct EncodeChunk {
    u64 count;        // its scalars of each plane
    const u16 *words; // in decoding order
    u64 used;         // of them
    u32 states[32];
    u32 all_raw;      // every plane raw
    u32 overflow;     // even raw planes did not fit (cannot happen)
};
static_assert(sizeof(EncodeChunk) == 160, "as src/kernels.rs");
