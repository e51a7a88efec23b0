// A chunk on its way from prices to a payload.
#pragma once
#include "common.cuh"

// One chunk to be encoded.
struct EncodeChunk {
    u64 first;       // its first scalar within each plane of the run
    u64 count;       // its scalars of each plane
    u16 *words;      // room for `capacity` words, filled from the end
    u64 capacity;
    u64 bound;       // more words than this: every plane raw
    u64 used;        // out: words
    u32 states[32];  // out
    u32 all_raw;     // out
    u32 overflow;    // out: even raw planes did not fit (cannot happen)
};
static_assert(sizeof(EncodeChunk) == 184, "as src/kernels.rs");
