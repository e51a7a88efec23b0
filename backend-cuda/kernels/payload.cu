// Payloads of encoded chunks (docs/format.md, section 6), put together where their words are: modes of planes, token ids, states, words.
#include "encode_chunk.cuh"
#include "xxh3.cuh"

// Where a payload begins, in bytes from the first one and a multiple of 16, and how long it is.
struct Piece {
    u64 at, bytes;
};
static_assert(sizeof(Piece) == 16, "as src/kernels.rs");
struct Payloads {
    const EncodeChunk *chunks;
    const u64 *cost;   // [planes][chunks]
    const u8 *ids;     // token ids of all chunks, as payloads have them
    const u64 *ids_at; // [chunks + 1]: where those of each begin
    Piece *pieces;     // [chunks + 1]: the last is where they all end, and whether a chunk did not fit its room
    u8 *out;
    u64 *sums;         // [chunks]
    u32 planes, width, count;
};
static_assert(sizeof(Payloads) == 72, "as src/kernels.rs");

__device__ __forceinline__ u32 modes_of(const Payloads &k) { return (k.planes + 7) / 8; }

// One block: threads have neighbouring chunks, and add them up.
KERNEL __launch_bounds__(1024) places(Payloads k) {
    __shared__ u64 sums[1024];
    __shared__ u32 overflow;
    u32 t = thread_x(), n = threads_x(), each = (k.count + n - 1) / n;
    u32 from = t * each < k.count ? t * each : k.count, to = k.count - from < each ? k.count : from + each;
    if (t == 0) overflow = 0;
    sync_block();
    u64 own = 0;
    for (u32 c = from; c < to; c++) {
        u64 bytes = modes_of(k) + (k.ids_at[c + 1] - k.ids_at[c]) + 128 + 2 * k.chunks[c].used;
        k.pieces[c].bytes = bytes;
        own += (bytes + 15) & ~(u64)15;
        if (k.chunks[c].overflow) overflow = 1;
    }
    sums[t] = own;
    sync_block();
    for (u32 d = 1; d < n; d *= 2) {
        u64 before = t >= d ? sums[t - d] : 0;
        sync_block();
        sums[t] += before;
        sync_block();
    }
    u64 at = sums[t] - own;
    for (u32 c = from; c < to; c++) {
        k.pieces[c].at = at;
        at += (k.pieces[c].bytes + 15) & ~(u64)15;
    }
    if (t == n - 1) k.pieces[k.count] = Piece{at, overflow};
}

// Grid (chunks, slices of the words).
KERNEL payloads(Payloads k, u32 slices) {
    u32 c = block_x(), t = thread_x(), n = threads_x();
    const EncodeChunk *chunk = k.chunks + c;
    u8 *out = k.out + k.pieces[c].at;
    u64 ids = k.ids_at[c + 1] - k.ids_at[c], head = modes_of(k) + ids + 128, used = chunk->used;
    if (block_y() == 0) {
        u64 raw_cost = (chunk->count * k.width) << 8;
        for (u32 i = t; i < modes_of(k); i += n) {
            u32 byte = 0;
            for (u32 p = 8 * i; p < 8 * i + 8 && p < k.planes; p++) {
                bool raw = chunk->all_raw != 0 || k.cost[(u64)p * k.count + c] >= raw_cost;
                byte |= (u32)raw << (p & 7);
            }
            out[i] = (u8)byte;
        }
        for (u64 i = t; i < ids; i += n) out[modes_of(k) + i] = k.ids[k.ids_at[c] + i];
        for (u32 i = t; i < 128; i += n) out[head - 128 + i] = (u8)(chunk->states[i / 4] >> (8 * (i & 3)));
    }
    if (used == 0) return;
    const u16 *words = chunk->words;
    u64 first = (u64)block_y() * n + t, step = (u64)slices * n;
    if ((head & 1) == 0) {
        u16 *to = (u16 *)(out + head);
        for (u64 i = first; i < used; i += step) to[i] = words[i];
    } else {
        // Words lie across those of the payload.
        u16 *to = (u16 *)(out + head + 1);
        for (u64 i = first; i < used - 1; i += step) to[i] = (u16)(words[i] >> 8 | words[i + 1] << 8);
        if (first == 0) {
            out[head] = (u8)words[0];
            out[head + 2 * used - 1] = (u8)(words[used - 1] >> 8);
        }
    }
}

// A warp for each payload.
KERNEL hash_payloads(Payloads k) {
    u32 lane = thread_x() & 31, c = (block_x() * threads_x() + thread_x()) >> 5;
    if (c >= k.count) return;
    u64 h = hash_of(Bytes{(const u16 *)(k.out + k.pieces[c].at), (u32)k.pieces[c].bytes, false}, lane);
    if (lane == 0) k.sums[c] = h;
}
