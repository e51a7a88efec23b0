// Planes: prices and 32 lanes of rANS (docs/format.md, sections 3 and 4). The definitions are codec-core's model.rs and lanes.rs; names are theirs.
#include "encode_chunk.cuh"
#include "plane.cuh"

// floor(256 * log2(1 + i / 256)), by the host.
__device__ __forceinline__ u32 symbol_cost(const Symbol &s, const u8 *log2) {
    u32 freq = s.freq, octave = (u32)top_bit(freq);
    return ((16 - octave + s.raw_bits) << 8) - log2[((freq << 8) >> octave) & 255];
}

struct Price {
    Pricing p;
    const u16 *codes;
    Symbol *symbols;
    u64 *cost;       // [chunks]
    u32 *bad;        // [chunks]: the first scalar of each chunk whose code is too wide
    const u8 *log2;
    const u64 *rows; // [chunks][2]: first row and number of rows
    u32 chunks;
    u32 pieces; // of every chunk
    u32 piece;  // scalars of one
};
static_assert(sizeof(Price) == 136, "as src/kernels.rs");
// Any grid: blocks take piece after piece.
template <class E> __device__ __forceinline__ void price(const Price &k) {
    stage(k.p, TABLE_BYTES<E>);
    const Fixed f = make_fixed<E>(k.p);
    u32 items = k.chunks * k.pieces;
    for (u32 item = block_x(); item < items; item += blocks_x()) {
        u32 chunk = item / k.pieces, from = (item - chunk * k.pieces) * k.piece;
        u64 first = k.rows[2 * chunk] * k.p.cols;
        u32 count = (u32)k.rows[2 * chunk + 1] * k.p.cols, to = count - from < k.piece ? count : from + k.piece;
        if (from >= count) continue;
        u32 cost = 0;
        for (u32 i = from + thread_x(); i < to; i += threads_x()) {
            u32 row = i / k.p.cols, col = i - row * k.p.cols, code = k.codes[first + i];
            if (E::SMALL && code > 255) {
                atomic_min(k.bad + chunk, i);
                code &= 255;
            }
            i32 q = scale_index(k.p.channel[col], (i16)k.p.token[k.rows[2 * chunk] + row]);
            Model m = make_model<E>(f, to_code(k.p, k.p.mu[first + i]), q);
            Symbol s = symbol_of<E>(f, m, code);
            k.symbols[first + i] = s;
            // At most 2^13 a scalar, and a thread has fewer than 2^19 of them.
            cost += symbol_cost(s, k.log2);
        }
        u64 all = warp_sum(cost);
        if ((thread_x() & 31) == 0) atomic_add(k.cost + chunk, all);
    }
}

struct PlaneSymbols {
    const Symbol *symbols;
    const u16 *codes;
    const u64 *cost; // [chunks]
};
static_assert(sizeof(PlaneSymbols) == 24, "as src/kernels.rs");

// Words of a warp, from the end of their room; `at` is the place of the one written last.
struct Out {
    u16 *words;
    u64 at;
};
__device__ __forceinline__ void emit(bool out, u32 &x, Out &to, u32 lane) {
    u32 mask = warp_ballot(out);
    if (mask == 0) return;
    if (out) {
        // Lanes go backwards: the highest comes last in memory.
        u64 place = to.at - (u32)__builtin_popcount(mask >> lane);
        if (place < to.at) to.words[place] = (u16)x;
        x >>= 16;
    }
    u64 n = (u64)__builtin_popcount(mask);
    to.at = to.at >= n ? to.at - n : 0;
}
// x / freq for x < freq << 16: floats err by less than one, downward.
__device__ __forceinline__ u32 quotient(u32 x, u32 freq) {
    float approximate = (float)x * __nvvm_rcp_approx_ftz_f((float)freq) * 0.9999995f;
    u32 q = (u32)approximate;
    return x - q * freq >= freq ? q + 1 : q;
}
__device__ __forceinline__ void encode_raw(u32 &x, const u16 *codes, u32 count, u32 width, Out &to, u32 lane) {
    for (u32 row = (count + 31) & ~31u; row > 0; row -= 32) {
        u32 i = row - 32 + lane;
        bool here = i < count;
        u32 code = here ? codes[i] : 0;
        emit(here && x >> (32 - width) != 0, x, to, lane);
        if (here) x = x << width | code;
    }
}
__device__ __forceinline__ void encode_coded(u32 &x, const Symbol *symbols, u32 count, Out &to, u32 lane) {
    const Symbol none = Symbol{0, 1, 0, 0};
    u32 row = (count + 31) & ~31u;
    // The next two rows are on their way.
    Symbol next = row - 32 + lane < count ? symbols[row - 32 + lane] : none;
    Symbol after = row > 32 ? symbols[row - 64 + lane] : none;
    for (; row > 0; row -= 32) {
        bool here = row - 32 + lane < count;
        Symbol s = next;
        next = after;
        if (row > 64) after = symbols[row - 96 + lane];
        u32 freq = s.freq, bits = s.raw_bits;
        if (warp_ballot(bits > 0)) {
            emit(bits > 0 && x >> (32 - bits) != 0, x, to, lane);
            x = x << bits | s.raw;
        }
        // A lane without a scalar has frequency 1: x stays as it is below.
        emit(here && x >= freq << 16, x, to, lane);
        u32 q = quotient(x, freq);
        if (here) x = (q << 16) + (x - q * freq) + s.start;
    }
}
struct Encode {
    EncodeChunk *chunks; // out
    const u64 *rows;     // [chunks][2]: first row and number of rows
    const u64 *bounds;   // [chunks + 1]: words that the chunks before may take; one that takes more has every plane raw
    u16 *room;           // for twice those words
    const PlaneSymbols *planes;
    u32 cols, count, width, all;
};
static_assert(sizeof(Encode) == 56, "as src/kernels.rs");
// A warp for each chunk. It fills its room from the end.
KERNEL encode(Encode k) {
    u32 lane = thread_x() & 31, c = (block_x() * threads_x() + thread_x()) >> 5;
    if (c >= k.all) return;
    u64 first = k.rows[2 * c] * k.cols, scalars = k.rows[2 * c + 1] * k.cols, raw_cost = (scalars * k.width) << 8;
    u64 bound = k.bounds[c + 1] - k.bounds[c], used = 0;
    u16 *room = k.room + 2 * k.bounds[c];
    u32 x = 0, all_raw = 0;
    for (; all_raw < 2; all_raw++) {
        Out to = Out{room, 2 * bound};
        x = STATE_LOW;
        for (u32 p = k.count; p-- > 0;) {
            const PlaneSymbols plane = k.planes[p];
            if (all_raw || plane.cost[c] >= raw_cost) encode_raw(x, plane.codes + first, (u32)scalars, k.width, to, lane);
            else encode_coded(x, plane.symbols + first, (u32)scalars, to, lane);
        }
        used = 2 * bound - to.at;
        if (used <= bound) break;
    }
    EncodeChunk *out = k.chunks + c;
    out->states[lane] = x;
    if (lane == 0) {
        out->count = scalars;
        out->words = room + 2 * bound - used;
        out->used = used;
        out->all_raw = all_raw;
        out->overflow = all_raw >= 2;
    }
}

// One chunk being decoded: lanes, and its first error.
struct DecodeChunk {
    const u16 *words;
    u64 first, count; // its first row, its rows
    u64 bytes;        // of words
    u64 at;           // offset of the next word in bytes
    u32 states[32];
    u32 failed;       // 0, 1: a zone magnitude out of range, 2: words past the end
    u32 plane;        // where
    u64 found, offset;
};
static_assert(sizeof(DecodeChunk) == 192, "as src/kernels.rs");

// The next words of a warp, 64 at a time in a register, 32 more on their way: a lane knows too late that it wants one to wait for memory.
struct Words {
    const u16 *words; // from the first of this plane on
    u32 count;        // of them
    u32 window;       // this lane's words 32 apart
    u32 ahead;
    u32 next; // place of this lane's word after `ahead`
    u32 used; // of the window
};
__device__ __forceinline__ u32 fetch(const Words &w, u32 at) { return at < w.count ? w.words[at] : 0; }
__device__ __forceinline__ Words open_words(const u16 *words, u64 left, u32 lane) {
    // A plane has fewer than 2^28 scalars, two words each at most.
    Words w = Words{words, left < 1u << 30 ? (u32)left : 1u << 30, 0, 0, lane + 96, 0};
    w.window = fetch(w, lane) | fetch(w, lane + 32) << 16;
    w.ahead = fetch(w, lane + 64);
    return w;
}
__device__ __forceinline__ u32 words_read(const Words &w, u32 lane) { return w.next - lane - 96 + w.used; }
__device__ __forceinline__ void take(Words &w, bool want, u32 &x, u32 below) {
    u32 mask = warp_ballot(want);
    if (mask == 0) return;
    u32 place = w.used + (u32)__builtin_popcount(mask & below);
    u32 both = (u32)shuffle((i32)w.window, place);
    u32 word = place & 32 ? both >> 16 : both & 0xFFFF;
    if (want) x = x << 16 | word;
    w.used += (u32)__builtin_popcount(mask);
    if (w.used >= 32) {
        w.used -= 32;
        w.window = w.window >> 16 | w.ahead << 16;
        w.ahead = fetch(w, w.next);
        w.next += 32;
    }
}

struct Decode {
    Pricing p;
    u16 *codes;
    DecodeChunk *chunks;
    const u8 *modes; // of the plane: a byte a chunk, 1 raw
    u32 plane;
    u32 count; // of chunks
    u32 warps; // of a block that decode
};
static_assert(sizeof(Decode) == 112, "as src/kernels.rs");

__device__ __forceinline__ void decode_raw(u32 width, u16 *codes, u32 count, u32 &x, Words &w, u32 lane, u32 below) {
    for (u32 i = lane; i - lane < count; i += 32) {
        bool here = i < count;
        if (here) codes[i] = (u16)(x & ((1u << width) - 1)), x >>= width;
        take(w, here && x < STATE_LOW, x, below);
    }
}
// Whether all went well: if not, the chunk says what did not.
template <class E>
__device__ __forceinline__ bool decode_coded(const Decode &k, DecodeChunk *c, u64 first, u32 count, u32 &x, Words &w, u32 lane, u32 below) {
    const Fixed f = make_fixed<E>(k.p);
    const i32 *mu = k.p.mu + first, *token = k.p.token + c->first;
    u16 *codes = k.codes + first;
    const u32 cols = k.p.cols, rows_on = 32 / cols, cols_on = 32 - rows_on * cols;
    u32 row = lane / cols, col = lane - row * cols;
    // What the next row of scalars needs is on its way.
    i32 next_mu = 0, next_channel = 0, next_token = 0;
    auto load = [&](u32 i) {
        if (i >= count) return;
        next_mu = mu[i], next_channel = k.p.channel[col], next_token = (i16)token[row];
        row += rows_on, col += cols_on;
        if (col >= cols) col -= cols, row++;
    };
    load(lane);
    for (u32 i = lane; i - lane < count; i += 32) {
        bool here = i < count;
        Model m = make_model<E>(f, to_code(k.p, next_mu), scale_index(next_channel, next_token));
        load(i + 32);
        u32 slot = x & 0xFFFF, bits = 0;
        i32 n = 0;
        if (slot >= f.end) {
            if (here) x = (65536 - f.end) * (x >> 16) + slot - f.end, bits = E::W;
        } else {
            Found found = find<E>(f, m, slot);
            n = found.n;
            if (here) x = found.freq * (x >> 16) + slot - found.start;
        }
        sync_warp();
        Cell cell = cell_of_number<E>(m, n ^ (n >> 31));
        if (here && bits == 0) bits = cell.bits;
        take(w, here && x < STATE_LOW, x, below);
        u32 raw = 0;
        if (warp_ballot(bits != 0)) {
            u32 before = words_read(w, lane);
            raw = x & ((1u << bits) - 1), x >>= bits;
            bool want = bits != 0 && x < STATE_LOW, zone = bits == E::W - 1;
            if (warp_ballot(zone)) {
                u32 wanted = warp_ballot(want);
                bool wrong = zone && (i32)raw >= min_i32(zone_binades<E>(m) << E::MB, E::MAGNITUDES);
                u32 bad = warp_ballot(wrong);
                if (bad) {
                    // The first lane that is wrong; words of the lanes up to it were read.
                    u32 who = (u32)__builtin_ctz(bad);
                    if (lane == who) {
                        c->found = raw;
                        c->offset = c->at + 2 * (u64)(before + (u32)__builtin_popcount(wanted & (below | 1u << lane)));
                        c->plane = k.plane;
                        c->failed = 1;
                    }
                    // What cannot be restored is zeros, not what the memory held.
                    for (u32 j = i; j < count; j += 32) codes[j] = 0;
                    return false;
                }
            }
            take(w, want, x, below);
        }
        u32 sign = (u32)(n >> 31), mask = (1u << cell.bits) - 1;
        u32 code = (u32)cell.first + (raw ^ (sign & mask)) | (sign & E::MAGNITUDES);
        if (bits >= E::W - 1) code = bits == E::W ? raw : raw | (sign & E::MAGNITUDES);
        if (here) codes[i] = (u16)code;
    }
    return true;
}
// Grid (chunks / warps): as many warps of a block as it decodes chunks, the others help to fill the tables.
template <class E> __device__ __forceinline__ void decode(const Decode &k) {
    stage(k.p, TABLE_BYTES<E>);
    u32 lane = thread_x() & 31, warp = thread_x() >> 5, at = block_x() * k.warps + warp, below = (1u << lane) - 1;
    if (warp >= k.warps || at >= k.count) return;
    DecodeChunk *c = k.chunks + at;
    u64 first = c->first * k.p.cols;
    u32 count = (u32)c->count * k.p.cols;
    if (c->failed != 0) {
        for (u32 i = lane; i < count; i += 32) k.codes[first + i] = 0;
        return;
    }
    u32 x = c->states[lane];
    Words w = open_words(c->words + c->at / 2, c->at < c->bytes ? (c->bytes - c->at) / 2 : 0, lane);
    if (k.modes[at] != 0) decode_raw(E::W, k.codes + first, count, x, w, lane, below);
    else if (!decode_coded<E>(k, c, first, count, x, w, lane, below)) return;
    c->states[lane] = x;
    if (lane == 0) {
        u64 end = c->at + 2 * (u64)words_read(w, lane);
        c->at = end;
        if (end > c->bytes) c->failed = 2, c->plane = k.plane, c->offset = c->bytes, c->found = end - c->bytes;
    }
}

#define OF_FORMAT(E, name)                                                        \
    KERNEL __launch_bounds__(512) price_##name(Price k) { price<E>(k); }          \
    KERNEL __launch_bounds__(384, 3) decode_##name(Decode k) { decode<E>(k); }
OF_FORMAT(Bf16, bf16)
OF_FORMAT(F16, f16)
OF_FORMAT(E4m3, e4m3)
OF_FORMAT(E5m2, e5m2)
