// Planes: prices, 32 lanes of rANS, and what a coded plane tells the predictor (docs/format.md, sections 1 to 4; docs/numerics.md, section 8).
// The definitions are codec-core's element.rs, grid.rs, model.rs, shape.rs and lanes.rs, and the predictor's portable/coding.rs; names are theirs.
#include "digits.cuh"

constexpr i32 FIXED_LIMIT = 1 << 30;
constexpr i32 ZONE_BINADES = 8;
constexpr i32 Z_LIMIT = 16384;
constexpr u32 STATE_LOW = 1u << 16;

// round(2^15 * 2^(i/16)), round(2^15 * 2^(-i/16)); a test of the crate compares them with codec-core's.
__constant__ i32 MANT[16] = {32768, 34219, 35734, 37316, 38968, 40693, 42495, 44376, 46341, 48393, 50535, 52773, 55109, 57549, 60097, 62757};
__constant__ i32 INV[16] = {32768, 31379, 30048, 28774, 27554, 26386, 25268, 24196, 23170, 22188, 21247, 20347, 19484, 18658, 17867, 17109};

// What the host derives of a plane's pricing, in device memory: channel scales follow.
struct Shape {
    u16 steps[64][2];   // below, rise
    u16 guesses[64][2]; // z, fall
    u32 escape;
};
static_assert(sizeof(Shape) == 516, "as src/kernels.rs");

struct Format {
    i32 w, mb, bias;
};
__device__ __forceinline__ i32 magnitudes(Format f) { return 1 << (f.w - 1); }

__device__ __forceinline__ i32 rank_of_code(Format f, u32 code) {
    i32 m = (i32)code & (magnitudes(f) - 1);
    return ((i32)code & magnitudes(f)) ? -1 - m : m;
}
__device__ __forceinline__ u32 code_of_rank(Format f, i32 rank) {
    return rank >= 0 ? (u32)rank : (u32)((-1 - rank) | magnitudes(f));
}
__device__ __forceinline__ i32 mid_within(Format f, i32 m, i32 exponent) {
    i32 e = m >> f.mb, frac = m & ((1 << f.mb) - 1);
    i32 sig = e == 0 ? frac : frac + (1 << f.mb);
    i32 quarters = 4 * sig - (frac == 0 && e >= 2 ? 1 : 2);
    if (quarters < 0) quarters = 0;
    i32 shift = (e > 1 ? e : 1) - f.bias - f.mb - 2 + exponent;
    shift = clamp_i32(shift, -31, 31);
    u64 wide = ((u64)(u32)quarters << 31) >> (31 - shift);
    return wide >= (u64)FIXED_LIMIT ? FIXED_LIMIT - 1 : (i32)wide;
}
__device__ __forceinline__ i32 edge_within(Format f, i32 rank, i32 exponent) {
    i32 sign = rank >> 31;
    i32 mid = mid_within(f, (rank ^ sign) - sign, exponent);
    return (mid ^ sign) - sign;
}
__device__ __forceinline__ i32 edge(Format f, i32 rank, i32 exponent) {
    i32 sign = rank >> 31, m = (rank ^ sign) - sign;
    i32 mid = m >= magnitudes(f) ? FIXED_LIMIT - 1 : mid_within(f, m, exponent);
    return (mid ^ sign) - sign;
}
__device__ __forceinline__ i32 magnitude_of(Format f, i32 value, i32 exponent) {
    if (value <= 0) return 0;
    i32 mb = f.mb + 1, max = (magnitudes(f) << 1) - 1, top = ilog2((u32)value), e = top - exponent + f.bias, halves;
    if (e >= 1) {
        halves = (e << mb) + (i32)(((u64)(u32)value << mb) >> top) - (1 << mb);
    } else {
        i32 shift = f.bias + mb - 1 - exponent;
        halves = shift >= 0 ? value << shift : value >> (shift < -31 ? 31 : -shift);
    }
    i32 m = (min_i32(halves, max) + 1) >> 1;
    return m >= magnitudes(f) ? magnitudes(f) - 1 : m;
}
__device__ __forceinline__ i32 rank_of_fixed(Format f, i32 value, i32 exponent) {
    return value >= 0 ? magnitude_of(f, value, exponent) : -1 - magnitude_of(f, -value, exponent);
}

struct Grid {
    i32 eb, ez, z, base;
};
__device__ __forceinline__ Grid make_grid(Format f, i32 exponent, i32 q) {
    Grid g;
    g.eb = max_i32((q >> 4) - 2 - exponent + f.bias, 1 - f.mb);
    g.ez = g.eb >= ZONE_BINADES ? g.eb - ZONE_BINADES + 1 : 0;
    g.z = g.ez > 0;
    g.base = max_i32(g.eb, 1) - 1 - g.ez + g.z;
    return g;
}
__device__ __forceinline__ i32 number_of_magnitude(Format f, Grid g, i32 m) {
    i32 e = m >> f.mb;
    if (e < g.ez) return 0;
    i32 j = max_i32(e, 1) - g.eb;
    if (j <= 0) return e - g.ez + g.z;
    i32 sig = m - (e << f.mb) + (e > 0 ? 1 << f.mb : 0);
    return j <= f.mb ? g.base + (sig >> (f.mb - j)) : g.base + sig + ((j - f.mb) << f.mb);
}
__device__ __forceinline__ i32 number_of_rank(Format f, Grid g, i32 rank) {
    i32 sign = rank >> 31;
    return number_of_magnitude(f, g, rank ^ sign) ^ sign;
}
__device__ __forceinline__ i32 first_magnitude(Format f, Grid g, i32 number) {
    if (number <= 0) return 0;
    i32 u = number - g.base, first;
    if (u < 1) {
        first = (g.eb - 1 + u) << f.mb;
    } else {
        i32 octave = ilog2((u32)u);
        i32 j = min_i32(max_i32(octave, 1 - g.eb), f.mb);
        first = ((g.eb + j - 1) << f.mb) + (u << (f.mb - j));
    }
    return min_i32(first, magnitudes(f));
}
struct Cell {
    i32 first_rank, ranks;
    u32 raw_bits;
    bool zone;
};
__device__ __forceinline__ Cell cell_of_magnitude(Format f, Grid g, i32 m, i32 sign) {
    i32 e = m >> f.mb;
    if (e < g.ez) {
        i32 ranks = min_i32(g.ez << f.mb, magnitudes(f));
        return Cell{-ranks & sign, ranks, (u32)f.w - 1, true};
    }
    i32 k = clamp_i32(f.mb - (max_i32(e, 1) - g.eb), 0, f.mb);
    i32 first = m >> k << k, ranks = 1 << k;
    return Cell{sign < 0 ? -first - ranks : first, ranks, (u32)k, false};
}
__device__ __forceinline__ Cell cell_of_number(Format f, Grid g, i32 number) {
    i32 sign = number >> 31;
    return cell_of_magnitude(f, g, first_magnitude(f, g, number ^ sign), sign);
}

__device__ __forceinline__ i32 normalise(i32 edge, i32 mu, i32 q) {
    i64 t = ((i64)(edge - mu) * 1024) >> (q >> 4);
    i64 z = (t * INV[q & 15]) >> 15;
    return z > Z_LIMIT ? Z_LIMIT : z < -Z_LIMIT ? -Z_LIMIT : (i32)z;
}
__device__ __forceinline__ u32 cumulative(const Shape *s, i32 z) {
    i32 a = z < 0 ? -z : z, half;
    if (a >= Z_LIMIT) {
        half = 32768;
    } else {
        i32 shift, first, start;
        if (a < 2048) shift = 6, first = 0, start = 0;
        else if (a < 4096) shift = 7, first = 32, start = 2048;
        else if (a < 8192) shift = 9, first = 48, start = 4096;
        else shift = 10, first = 56, start = 8192;
        u32 offset = (u32)(a - start);
        u32 at = ((u32)first + (offset >> shift)) & 63;
        u32 both = *(const u32 *)s->steps[at];
        half = (i32)(both & 0xFFFF) + (i32)(((both >> 16) * (offset & ((1u << shift) - 1))) >> shift);
    }
    return (u32)(32768 + (z >= 0 ? half : -half));
}
__device__ __forceinline__ i32 guess_z(const Shape *s, u32 c) {
    bool upper = c > 32768;
    u32 tail = upper ? (c > 65536 ? 0 : 65536 - c) : c;
    if (tail < 1) tail = 1;
    u32 sig = tail << __builtin_clz(tail);
    u32 at = ((u32)ilog2(tail) << 2 | (sig >> 29 & 3)) & 63;
    u32 both = *(const u32 *)s->guesses[at];
    i32 z = (i32)((both & 0xFFFF) - (((both >> 16) * (sig >> 21 & 255)) >> 8));
    return upper ? z : -z;
}

// ScalarModel of codec-core.
struct Model {
    Format f;
    const Shape *shape;
    Grid grid;
    i32 exponent, mu, q, reach, lo, hi;
    u32 spread, escape;
};
__device__ __forceinline__ Model make_model(Format f, i32 exponent, const Shape *shape, u32 escape, i32 mu, i32 q) {
    Model m;
    m.f = f, m.shape = shape, m.exponent = exponent, m.mu = mu, m.q = q, m.escape = escape;
    m.grid = make_grid(f, exponent, q);
    u64 wide = (u64)(u32)MANT[q & 15] << ((q >> 4) + 4) >> 15;
    m.reach = wide >= (u64)FIXED_LIMIT ? FIXED_LIMIT - 1 : (i32)wide;
    m.lo = number_of_rank(f, m.grid, rank_of_fixed(f, max_i32(mu - m.reach, 1 - FIXED_LIMIT), exponent));
    m.hi = number_of_rank(f, m.grid, rank_of_fixed(f, min_i32(mu + m.reach, FIXED_LIMIT - 1), exponent));
    m.spread = 65536 - escape - (u32)(m.hi - m.lo + 1);
    return m;
}
__device__ __forceinline__ u32 model_at(const Model &m, i32 rank, i32 index) {
    u32 c = cumulative(m.shape, normalise(edge_within(m.f, rank, m.exponent), m.mu, m.q));
    // c <= 2^16 and spread < 2^16: within 32 bits.
    return ((c * m.spread) >> 16) + (u32)index;
}
__device__ __forceinline__ u32 model_start(const Model &m, i32 number, const Cell &c) {
    return number == m.lo ? 0 : model_at(m, c.first_rank, number - m.lo);
}
__device__ __forceinline__ u32 model_end(const Model &m, i32 number, const Cell &c) {
    return number == m.hi ? 65536 - m.escape : model_at(m, c.first_rank + c.ranks, number + 1 - m.lo);
}

struct Symbol {
    u16 start, freq, raw, raw_bits;
};
__device__ Symbol symbol_of(const Model &m, u32 code) {
    i32 rank = rank_of_code(m.f, code), sign = rank >> 31, mag = rank ^ sign;
    i32 number = number_of_magnitude(m.f, m.grid, mag) ^ sign;
    if (number < m.lo || number > m.hi) return Symbol{(u16)(65536 - m.escape), (u16)m.escape, (u16)code, (u16)m.f.w};
    Cell c = cell_of_magnitude(m.f, m.grid, mag, sign);
    u32 start = model_start(m, number, c), freq = model_end(m, number, c) - start;
    i32 raw = !c.zone ? rank - c.first_rank : rank >= 0 ? rank : -1 - rank;
    return Symbol{(u16)start, (u16)freq, (u16)raw, (u16)c.raw_bits};
}

struct Found {
    Cell cell;
    i32 number;
    u32 start, freq;
    bool escape;
};
__device__ Found find(const Model &m, u32 slot) {
    Found r;
    u32 end_all = 65536 - m.escape;
    if (slot >= end_all) {
        r.cell = Cell{0, 0, (u32)m.f.w, false};
        r.number = 0, r.start = end_all, r.freq = m.escape, r.escape = true;
        return r;
    }
    r.escape = false;
    u32 cells = (u32)(m.hi - m.lo + 1);
    u32 s = slot > cells / 2 ? slot - cells / 2 : 0;
    u32 c = s + ((s * (65536 - m.spread)) >> 16);
    i64 value = (i64)m.mu + (((i64)guess_z(m.shape, c) * (i64)m.reach) >> 14);
    i32 v = value > FIXED_LIMIT - 1 ? FIXED_LIMIT - 1 : value < 1 - FIXED_LIMIT ? 1 - FIXED_LIMIT : (i32)value;
    i32 number = number_of_rank(m.f, m.grid, rank_of_fixed(m.f, v, m.exponent));
    number = clamp_i32(number, m.lo, m.hi);
    Cell cell = cell_of_number(m.f, m.grid, number);
    u32 start = model_start(m, number, cell), end = model_end(m, number, cell);
    if (slot < start) {
        number -= 1, end = start;
        cell = cell_of_number(m.f, m.grid, number);
        start = model_start(m, number, cell);
    } else if (slot >= end) {
        number += 1, start = end;
        cell = cell_of_number(m.f, m.grid, number);
        end = model_end(m, number, cell);
    }
    if (slot < start || slot >= end) {
        i32 lo = m.lo, hi = m.hi;
        while (lo < hi) {
            i32 middle = (lo + hi + 1) >> 1;
            Cell k = cell_of_number(m.f, m.grid, middle);
            if (model_start(m, middle, k) <= slot) lo = middle;
            else hi = middle - 1;
        }
        number = lo;
        cell = cell_of_number(m.f, m.grid, number);
        start = model_start(m, number, cell), end = model_end(m, number, cell);
    }
    r.cell = cell, r.number = number, r.start = start, r.freq = end - start;
    return r;
}

// A plane over a run of tokens; codes are u16 in all formats.
struct Pricing {
    const i32 *mu;      // [rows, cols]
    const i32 *token;   // [rows]
    const i16 *channel; // [cols], in code units
    const Shape *shape;
    i64 unit_recip; // floor(2^54 / m), 0 if the unit is a power of two
    Format format;
    i32 exponent; // of code units
    u32 cols;
};
__device__ __forceinline__ i32 to_code(const Pricing &p, i32 mu) {
    return p.unit_recip == 0 ? mu : (i32)(((i64)mu * p.unit_recip + (1 << 30)) >> 31);
}
__device__ __forceinline__ i32 scale_index(i32 channel, i32 token) { return clamp_i32(channel + token, 0, 479); }

// floor(256 * log2(1 + i / 256)), by the host.
__device__ __forceinline__ u32 symbol_cost(const Symbol &s, const u8 *log2) {
    u32 freq = s.freq, octave = (u32)ilog2(freq | 1);
    return ((16 - octave + s.raw_bits) << 8) - log2[((freq << 8) >> octave) & 255];
}

struct Price {
    Pricing p;
    const u16 *codes;
    Symbol *symbols;
    u64 *cost;        // [chunks]
    u32 *bad;         // [chunks]: the first scalar of each chunk whose code is too wide
    const u8 *log2;
    const u64 *rows;  // [chunks][2]: first row and number of rows
};
static_assert(sizeof(Price) == 112, "as src/kernels.rs");
// Grid (enough for the scalars of the longest chunk, chunks).
KERNEL price(Price k) {
    __shared__ u64 sums[8];
    u64 i = (u64)block_x() * threads_x() + thread_x();
    u64 cost = 0;
    u32 chunk = block_y();
    if (i < k.rows[2 * chunk + 1] * k.p.cols) {
        u64 at = k.rows[2 * chunk] * k.p.cols + i;
        u32 row = (u32)(at / k.p.cols), col = (u32)(at % k.p.cols), code = k.codes[at];
        if (k.p.format.w == 8 && code > 255) {
            atomic_min(k.bad + chunk, (u32)i);
            code &= 255;
        }
        Model m = make_model(k.p.format, k.p.exponent, k.p.shape, k.p.shape->escape, to_code(k.p, k.p.mu[at]),
                             scale_index(k.p.channel[col], (i16)k.p.token[row]));
        Symbol s = symbol_of(m, code);
        k.symbols[at] = s;
        cost = symbol_cost(s, k.log2);
    }
    cost = warp_sum(cost);
    if ((thread_x() & 31) == 0) sums[thread_x() >> 5] = cost;
    sync_block();
    if (thread_x() == 0) {
        u64 all = 0;
        for (u32 w = 0; w < threads_x() / 32; w++) all += sums[w];
        atomic_add(k.cost + chunk, all);
    }
}

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
struct PlaneSymbols {
    const Symbol *symbols;
    const u16 *codes;
    const u64 *cost; // [chunks]
};
static_assert(sizeof(PlaneSymbols) == 24, "as src/kernels.rs");
__device__ __forceinline__ void emit(bool out, u32 &x, u16 *words, u64 &at, u32 lane) {
    u32 mask = warp_ballot(out);
    if (mask == 0) return;
    if (out) {
        // Lanes go backwards: the highest comes last in memory.
        u32 above = (u32)__builtin_popcount(mask >> lane) - 1;
        u64 place = at - 1 - above;
        if (place < at) words[place] = (u16)x;
        x >>= 16;
    }
    u64 n = (u64)__builtin_popcount(mask);
    at = at >= n ? at - n : 0;
}
// Grid (chunks), one warp each.
KERNEL encode(EncodeChunk *chunks, const PlaneSymbols *planes, u32 count, u32 width) {
    u32 lane = thread_x(), c = block_x();
    EncodeChunk *k = chunks + c;
    u64 scalars = k->count, raw_cost = (scalars * width) << 8, rows = (scalars + 31) / 32;
    u64 at = 0;
    u32 x = 0, all_raw = 0;
    for (; all_raw < 2; all_raw++) {
        at = k->capacity;
        x = STATE_LOW;
        for (u32 p = count; p-- > 0;) {
            const PlaneSymbols plane = planes[p];
            bool raw = all_raw || plane.cost[c] >= raw_cost;
            const Symbol *symbols = plane.symbols + k->first;
            const u16 *codes = plane.codes + k->first;
            for (u64 row = rows; row-- > 0;) {
                u64 i = row * 32 + lane;
                bool here = i < scalars;
                if (raw) {
                    u32 code = here ? codes[i] : 0;
                    emit(here && x >> (32 - width) != 0, x, k->words, at, lane);
                    if (here) x = x << width | code;
                    continue;
                }
                Symbol s = Symbol{0, 1, 0, 0};
                if (here) s = symbols[i];
                bool some = s.raw_bits > 0;
                if (warp_ballot(some)) {
                    emit(some && x >> (32 - s.raw_bits) != 0, x, k->words, at, lane);
                    if (some) x = x << s.raw_bits | s.raw;
                }
                u32 freq = s.freq;
                emit(here && x >= freq << 16, x, k->words, at, lane);
                if (here) {
                    u32 q = x / freq;
                    x = (q << 16) + (x - q * freq) + s.start;
                }
            }
        }
        if (k->capacity - at <= k->bound) break;
    }
    k->states[lane] = x;
    if (lane == 0) {
        k->used = k->capacity - at;
        k->all_raw = all_raw;
        k->overflow = all_raw >= 2;
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

// The next words of a warp, 64 at a time in registers: a word is asked for only when its lane's state is known, too late to wait for memory.
struct Words {
    const u16 *words;
    u64 count, base; // base: of the window
    u32 now, next;   // this lane's words of the window and of the one after it
    u32 used;        // of the window
};
__device__ __forceinline__ u32 fetch(const Words &w, u64 at, u32 lane) { return at + lane < w.count ? w.words[at + lane] : 0; }
__device__ __forceinline__ Words open_words(const u16 *words, u64 count, u64 at, u32 lane) {
    Words w;
    w.words = words, w.count = count, w.base = at, w.used = 0;
    w.now = fetch(w, at, lane), w.next = fetch(w, at + 32, lane);
    return w;
}
__device__ __forceinline__ u32 take(Words &w, bool want, u32 x, u32 lane) {
    u32 mask = warp_ballot(want);
    if (mask == 0) return x;
    u32 place = w.used + (u32)__builtin_popcount(mask & ((1u << lane) - 1));
    u32 a = (u32)shuffle((i32)w.now, place & 31), b = (u32)shuffle((i32)w.next, place & 31);
    if (want) x = x << 16 | (place < 32 ? a : b);
    w.used += (u32)__builtin_popcount(mask);
    if (w.used >= 32) {
        w.used -= 32, w.base += 32;
        w.now = w.next;
        w.next = fetch(w, w.base + 32, lane);
    }
    return x;
}

struct Decode {
    Pricing p;
    u16 *codes;
    DecodeChunk *chunks;
    const u8 *modes; // of the plane: a byte a chunk, 1 raw
    u32 plane;
};
static_assert(sizeof(Decode) == 96, "as src/kernels.rs");
// Grid (chunks), one warp each.
KERNEL decode(Decode k) {
    __shared__ Shape shape;
    u32 lane = thread_x();
    DecodeChunk *c = k.chunks + block_x();
    const Format f = k.p.format;
    for (u32 i = lane; i < sizeof(Shape) / 4; i += 32) ((u32 *)&shape)[i] = ((const u32 *)k.p.shape)[i];
    sync_warp();
    u64 count = c->count * k.p.cols, first = c->first * k.p.cols;
    bool dead = c->failed != 0;
    if (dead) {
        for (u64 i = lane; i < count; i += 32) k.codes[first + i] = 0;
        return;
    }
    u32 x = c->states[lane];
    u64 start_at = c->at / 2;
    Words w = open_words(c->words, c->bytes / 2, start_at, lane);
    bool raw_plane = k.modes[block_x()] != 0;
    u64 rows = (count + 31) / 32;
    u32 col = (u32)((first + lane) % k.p.cols), row = (u32)((first + lane) / k.p.cols);
    for (u64 r = 0; r < rows; r++) {
        u64 i = r * 32 + lane;
        bool here = i < count;
        u32 code = 0;
        if (raw_plane) {
            if (here) code = x & ((1u << f.w) - 1), x >>= f.w;
            x = take(w, here && x < STATE_LOW, x, lane);
            if (here) k.codes[first + i] = (u16)code;
            continue;
        }
        Found found;
        found.cell.raw_bits = 0, found.escape = false, found.cell.zone = false;
        if (here) {
            Model m = make_model(f, k.p.exponent, &shape, shape.escape, to_code(k.p, k.p.mu[first + i]),
                                 scale_index(k.p.channel[col], (i16)k.p.token[row]));
            found = find(m, x & 0xFFFF);
            x = found.freq * (x >> 16) + (x & 0xFFFF) - found.start;
        }
        sync_warp();
        x = take(w, here && x < STATE_LOW, x, lane);
        u32 bits = found.cell.raw_bits;
        i32 raw = 0;
        if (warp_ballot(bits != 0)) {
            if (bits != 0) raw = (i32)(x & ((1u << bits) - 1)), x >>= bits;
            u64 before = w.base + w.used;
            bool want = bits != 0 && x < STATE_LOW;
            u32 wanted = warp_ballot(want);
            x = take(w, want, x, lane);
            bool wrong = here && !found.escape && raw >= found.cell.ranks;
            u32 bad = warp_ballot(wrong);
            if (bad) {
                // The first lane that is wrong; words of the lanes up to it were read.
                u32 who = (u32)__builtin_ctz(bad);
                if (lane == who) {
                    c->found = (u64)raw;
                    c->offset = 2 * (before + (u64)__builtin_popcount(wanted & (who == 31 ? ~0u : (2u << who) - 1)));
                    c->plane = k.plane;
                    c->failed = 1;
                }
                // What cannot be restored is zeros, not what the memory held.
                for (u64 j = r * 32 + lane; j < count; j += 32) k.codes[first + j] = 0;
                return;
            }
        }
        if (here) {
            if (found.escape) code = (u32)raw;
            else {
                i32 origin = found.cell.zone ? 0 : found.cell.first_rank;
                i32 flip = found.cell.zone ? found.number >> 31 : 0;
                code = code_of_rank(f, origin + (raw ^ flip));
            }
            k.codes[first + i] = (u16)code;
        }
        col += 32;
        while (col >= k.p.cols) col -= k.p.cols, row++;
    }
    c->states[lane] = x;
    if (lane == 0) {
        u64 at = 2 * (w.base + w.used);
        c->at = at;
        if (at > c->bytes) {
            c->failed = 2, c->plane = k.plane, c->offset = c->bytes, c->found = at - c->bytes;
        }
    }
}

// The value of a code with `exponent` fraction bits.
__device__ __forceinline__ i32 value_of(Format f, u32 code, u32 m, i32 e, i32 exponent) {
    i64 mag = (i64)(code & ((1u << (f.w - 1)) - 1));
    i32 field = (i32)(mag >> f.mb);
    i64 frac = mag & ((1 << f.mb) - 1), sig = field == 0 ? frac : frac | 1 << f.mb;
    i32 v = shift_round(sig * (i64)m, max_i32(field, 1) - f.bias - f.mb + e + exponent);
    return code >> (f.w - 1) ? -v : v;
}

// The innovation of a code, in code units.
__device__ __forceinline__ i32 innovation_of(Format f, i32 exponent, u32 code, i32 mu, i32 channel, i32 token, const i32 *log2, const i32 *shrink) {
    i32 rank = rank_of_code(f, code);
    i32 lo = edge(f, rank, exponent) - mu, hi = edge(f, rank + 1, exponent) - mu;
    i32 q = scale_index(channel, token);
    i64 near = 0 < lo ? lo : 0 > hi ? hi : 0;
    i64 centre = ((i64)lo + (i64)hi) >> 1, width = (i64)hi - (i64)lo;
    i32 t = clamp_i32((log2_q12(width < 1 ? 1 : (u64)width, log2) >> 8) - q, -128, 127);
    return saturate(((near << 15) + (centre - near) * (i64)shrink[t + 128]) >> 15);
}

struct Observe {
    Pricing p;
    const u16 *codes;
    i32 *value, *innovation, *energy;
    const i32 *log2, *shrink;
    u32 unit_m;
    i32 unit_e, exponent; // of values
    u32 rows;
};
static_assert(sizeof(Observe) == 128, "as src/kernels.rs");
// Grid covers rows, a warp each.
KERNEL observe(Observe k) {
    u32 lane = thread_x() & 31, row = (block_x() * threads_x() + thread_x()) >> 5;
    if (row >= k.rows) return;
    const Format f = k.p.format;
    u64 sum = 0, base = (u64)row * k.p.cols;
    i32 token = (i16)k.p.token[row];
    for (u32 c = lane; c < k.p.cols; c += 32) {
        u64 at = base + c;
        u32 code = k.codes[at];
        i32 mu = to_code(k.p, k.p.mu[at]), channel = k.p.channel[c];
        k.value[at] = value_of(f, code, k.unit_m, k.unit_e, k.exponent);
        i32 v = innovation_of(f, k.p.exponent, code, mu, channel, token, k.log2, k.shrink);
        i32 z = normalise(v, 0, scale_index(channel, 0));
        sum += (u64)((i64)z * (i64)z);
        k.innovation[at] = shift_round((i64)v * (i64)k.unit_m, -23);
    }
    sum = warp_sum(sum);
    if (lane == 0) k.energy[row] = log2_q12(sum / k.p.cols + 1024, k.log2) - (20 << 12);
}

// Grid covers count.
KERNEL values(const u16 *codes, Format f, u32 m, i32 e, i32 exponent, i32 *out, u64 count) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i < count) out[i] = value_of(f, codes[i], m, e, exponent);
}

// What `observe` gives, put into the columns of a layer's matrices, turned back, and as digits.
struct Learn {
    Observe o;        // value and innovation: at the plane's first column, rows of `ld` values; null if nothing is kept
    const u64 *steps; // null: innovations are not turned
    const i32 *sine;
    u64 start;
    Digits d; // lo null: no digits
    u32 ld, inverse;
};
static_assert(sizeof(Learn) == 208, "as src/kernels.rs");
template <int N>
__device__ __forceinline__ void learn(const Learn &k) {
    u32 lane = thread_x() & 31, row = (block_x() * threads_x() + thread_x()) >> 5;
    if (row >= k.o.rows) return;
    const Format f = k.o.p.format;
    u64 sum = 0, at = (u64)row * (32 * N) + lane, to = (u64)row * k.ld + lane;
    i32 token = (i16)k.o.p.token[row], v[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        u32 code = k.o.codes[at + 32 * j];
        i32 mu = to_code(k.o.p, k.o.p.mu[at + 32 * j]), channel = k.o.p.channel[lane + 32 * j];
        i32 x = innovation_of(f, k.o.p.exponent, code, mu, channel, token, k.o.log2, k.o.shrink);
        i32 z = normalise(x, 0, scale_index(channel, 0));
        sum += (u64)((i64)z * (i64)z);
        v[j] = shift_round((i64)x * (i64)k.o.unit_m, -23);
        if (k.o.value) k.o.value[to + 32 * j] = value_of(f, code, k.o.unit_m, k.o.unit_e, k.o.exponent);
    }
    sum = warp_sum(sum);
    if (lane == 0) k.o.energy[row] = log2_q12(sum / (32 * N) + 1024, k.o.log2) - (20 << 12);
    if (!k.o.value) return;
    if (k.steps) {
        u64 position = k.start + row;
#pragma unroll
        for (int j = 0; j < N / 2; j++) {
            u64 phase = k.steps[lane + 32 * j] * position;
            i64 s = sine(phase, k.sine), c = sine(phase + ((u64)1 << 62), k.sine);
            rotate(v[j], v[j + N / 2], k.inverse ? -s : s, c);
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) k.o.innovation[to + 32 * j] = v[j];
    if (k.d.lo) warp_digits<N>(v, k.d, 0, row, 0, lane);
}
// Grid covers rows, a warp each; planes of 64, 128 and 256 columns.
KERNEL learn_64(Learn k) { learn<2>(k); }
KERNEL learn_128(Learn k) { learn<4>(k); }
KERNEL learn_256(Learn k) { learn<8>(k); }
