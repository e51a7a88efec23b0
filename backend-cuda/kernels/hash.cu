// Checksums of planes: XXH3-64 of their codes' bytes.
#include "xxh3.cuh"

struct Hash {
    const u16 *codes[64];
    u32 cols[64];
    const u64 *rows; // [chunks][2]: first row and number of rows
    u64 *out;        // [planes][chunks]
    u32 planes, chunks, width;
};
static_assert(sizeof(Hash) == 800, "as src/kernels.rs");
// A warp for each chunk of each plane.
KERNEL hash(Hash k) {
    u32 lane = thread_x() & 31, at = (block_x() * threads_x() + thread_x()) >> 5;
    if (at >= k.planes * k.chunks) return;
    u32 plane = at / k.chunks, chunk = at - plane * k.chunks, cols = k.cols[plane];
    Bytes b;
    b.codes = k.codes[plane] + k.rows[2 * chunk] * cols;
    b.length = (u32)k.rows[2 * chunk + 1] * cols * (k.width / 8);
    b.narrow = k.width == 8;
    u64 h = hash_of(b, lane);
    if (lane == 0) k.out[at] = h;
}
