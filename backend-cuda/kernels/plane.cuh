// The price of a scalar (docs/format.md, sections 1 to 3), one element format at a time.
//
// What does not depend on a scalar's mean lies in tables that the host makes from codec-core's own functions (src/tables.rs) and every block copies to
// shared memory. 8 bits: cells, their numbers and edges are looked up. 16 bits: they are computed; floats are used as shifters only, on values that they hold
// exactly or cut toward zero as the definition does. docs/cuda.md says why 32 bits suffice for edges within a window.
#pragma once
#include "common.cuh"

constexpr i32 FIXED_LIMIT = 1 << 30;
constexpr i32 ZONE_BINADES = 8;
constexpr u32 STATE_LOW = 1u << 16;

struct Format {
    i32 w, mb, bias;
};

// A plane over a run of tokens; codes are u16 in all formats.
struct Pricing {
    const i32 *mu;      // [rows, cols]
    const i32 *token;   // [rows]
    const i16 *channel; // [cols], in code units
    const void *shape;  // tables of the shape
    const void *grid;   // tables of format and exponent
    Format format;
    i32 exponent; // of code units
    u32 cols;
    u32 escape;     // its frequency
    i32 unit_recip; // floor(2^54 / m), 0 if the unit is a power of two
};
static_assert(sizeof(Pricing) == 72, "as src/kernels.rs");

template <i32 W_, i32 MB_, i32 BIAS_> struct Element {
    static constexpr i32 W = W_, MB = MB_, BIAS = BIAS_, MAGNITUDES = 1 << (W_ - 1);
    static constexpr bool SMALL = W_ == 8;
    // Values of eb that differ: from 1 - MB to the one whose zone holds everything.
    static constexpr u32 ROWS = SMALL ? (1 << (W_ - 1 - MB_)) + ZONE_BINADES + MB_ - 1 : 0;
};
using Bf16 = Element<16, 7, 127>;
using F16 = Element<16, 10, 15>;
using E4m3 = Element<8, 3, 7>;
using E5m2 = Element<8, 2, 15>;

// Shared memory, offsets in bytes.
constexpr u32 AT_CUMULATIVE = 0;              // [1024] (rise, offset): C(z) = (rise z + offset) >> 10 for z >> 6 = index, negative ones from the end
constexpr u32 AT_GUESS = 8192;                // [1024] 2^17 z of a slot
constexpr u32 AT_SCALE = 12288;               // [480] Entry
constexpr u32 AT_NEAR = AT_SCALE + 480 * 16;  // 8 bits: [ROWS][256 half codes] number of their cell, number above the nearest edge
template <class E> constexpr u32 AT_EDGE = AT_NEAR + E::ROWS * 512;    // [ROWS][256] lower edge of the cell of number index - 128
template <class E> constexpr u32 AT_CELL = AT_EDGE<E> + E::ROWS * 1024; // [ROWS][128] first magnitude | raw bits << 8
template <class E> constexpr u32 TABLE_BYTES = AT_CELL<E> + E::ROWS * 256;
static_assert(TABLE_BYTES<Bf16> == 19968 && TABLE_BYTES<E4m3> == 66560 && TABLE_BYTES<E5m2> == 93440, "as src/tables.rs");

// What a scale index stands for.
struct __attribute__((aligned(16))) Entry {
    i32 reach;
    u32 inv;  // octave | reciprocal mantissa << 8
    i32 a, b; // 8 bits: row << 9, row << 10; 16 bits: eb, z - ez
};

#ifndef HOST
extern __shared__ __attribute__((aligned(16))) u8 table[];

// By all threads of a block.
__device__ __forceinline__ void stage(const Pricing &p, u32 bytes) {
    for (u32 i = thread_x(); i < bytes / 16; i += threads_x())
        ((Quad *)table)[i] = i < AT_SCALE / 16 ? ((const Quad *)p.shape)[i] : ((const Quad *)p.grid)[i - AT_SCALE / 16];
    sync_block();
}
// clang's own conversion rounds.
__device__ __forceinline__ float float_rz(i32 v) {
    float r;
    asm("cvt.rz.f32.s32 %0, %1;" : "=f"(r) : "r"(v));
    return r;
}
__device__ __forceinline__ float times_rz(float a, float b) { return __nvvm_mul_rz_f(a, b); }
__device__ __forceinline__ float as_float(u32 v) { return __builtin_bit_cast(float, v); }
__device__ __forceinline__ u32 as_bits(float v) { return __builtin_bit_cast(u32, v); }
// Shifts whose result is 0 from 32 on.
__device__ __forceinline__ u32 shift_right(u32 v, u32 n) {
    u32 r;
    asm("shr.u32 %0, %1, %2;" : "=r"(r) : "r"(v), "r"(n));
    return r;
}
__device__ __forceinline__ u32 shift_left(u32 v, u32 n) {
    u32 r;
    asm("shl.b32 %0, %1, %2;" : "=r"(r) : "r"(v), "r"(n));
    return r;
}
// Position of the highest set bit, -1 if there is none.
__device__ __forceinline__ i32 top_bit(u32 v) {
    i32 r;
    asm("bfind.u32 %0, %1;" : "=r"(r) : "r"(v));
    return r;
}
// (hi : lo) >> (n & 31), the low word.
__device__ __forceinline__ u32 funnel_right(u32 lo, u32 hi, u32 n) {
    u32 r;
    asm("shf.r.wrap.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(lo), "r"(hi), "r"(n));
    return r;
}
__device__ __forceinline__ i32 product_high(i32 a, i32 b) { return __nvvm_mulhi_i(a, b); }
#endif

// What all scalars of a plane share.
struct Fixed {
    i32 exponent;
    float up, down; // 2^exponent, 2^-exponent
    i32 far;        // bf16: half codes below this are less than a unit, and scales beyond 2^-96 go another way
    u32 end;        // 65536 - escape
};
template <class E> __device__ __forceinline__ Fixed make_fixed(const Pricing &p) {
    Fixed f;
    f.exponent = p.exponent;
    bool far = E::BIAS == 127 && p.exponent < -96;
    f.far = far ? 96 << (E::MB + 1) : 0;
    f.up = as_float((u32)(127 + p.exponent + (far ? 96 : 0)) << 23);
    f.down = as_float((u32)(127 - p.exponent) << 23);
    f.end = 65536 - p.escape;
    return f;
}

// Twice the magnitude of a fixed-point number v >= 0, rounded down; not limited to those that exist.
template <class E> __device__ __forceinline__ i32 halves(const Fixed &f, i32 v) {
    float x = float_rz(v);
    // bf16 has the exponents of f32, and no value below 2^-120 comes here.
    if (E::BIAS == 127) return v == 0 ? 0 : (i32)(as_bits(x) >> (22 - E::MB)) - (f.exponent << (E::MB + 1));
    x = times_rz(x * as_float((u32)E::BIAS << 23), f.down);
    return (i32)(as_bits(x) >> (22 - E::MB));
}

// ScalarModel of codec-core.
struct Model {
    i32 mu, reach;
    u32 inv;
    i32 a, b;
    i32 base, line; // 16 bits: of cells' numbers
    i32 lo, hi;
    u32 spread;
};

template <class E> __device__ __forceinline__ i32 number_of_magnitude(const Model &m, i32 mag) {
    if (E::SMALL) return table[AT_NEAR + (u32)m.a + 4 * (u32)mag];
    i32 e = mag >> E::MB, e1 = max_i32(e, 1), j = e1 - m.a;
    i32 sig = mag - (e1 - 1) * (1 << E::MB);
    // Where a cell is one code the line is above, where it is more codes the line is below.
    i32 linear = m.base + (i32)shift_right((u32)sig, (u32)max_i32(E::MB - j, 0));
    i32 high = max_i32(mag + m.line, linear), low = max_i32(e + m.b, 0);
    return j > 0 ? high : low;
}
template <class E> __device__ __forceinline__ i32 number_of_fixed(const Fixed &f, const Model &m, i32 v) {
    i32 sign = v >> 31, h = halves<E>(f, v < 0 ? -v : v);
    if (E::SMALL) return (i32)table[AT_NEAR + (u32)m.a + 2 * (u32)min_i32(h, 255)] ^ sign;
    return number_of_magnitude<E>(m, min_i32((h + 1) >> 1, E::MAGNITUDES - 1)) ^ sign;
}
// 16 bits: the least magnitude of the a-th cell, a > 0 (or a = 0 without a zone).
template <class E> __device__ __forceinline__ i32 first_magnitude(const Model &m, i32 a) {
    i32 u = a - m.base, j = min_i32(max_i32(top_bit((u32)u), 1 - m.a), E::MB);
    bool linear = u >= 1;
    return (m.a - 1 + (linear ? j : u)) * (1 << E::MB) + (linear ? (i32)shift_left((u32)u, (u32)(E::MB - j)) : 0);
}
// The lower edge of a cell that is neither the window's first nor beyond its last.
template <class E> __device__ __forceinline__ i32 edge(const Fixed &f, const Model &m, i32 n) {
    if (E::SMALL) return *(const i32 *)(table + AT_EDGE<E> + (u32)(m.b + 4 * n + 512));
    i32 h = max_i32(2 * first_magnitude<E>(m, n < 0 ? -n : n) - 1 - f.far, 0);
    float x = as_float((u32)h << (22 - E::MB));
    if (E::BIAS != 127) x *= as_float((u32)(254 - E::BIAS) << 23);
    // h is the half code below the cell's first, so this is the middle between two values; rounded down.
    return (i32)(x * f.up) * max_i32(min_i32(n, 1), -1);
}
template <class E> __device__ __forceinline__ u32 start_of(const Fixed &f, const Model &m, i32 n) {
    i32 d = edge<E>(f, m, n) - m.mu;
    i32 t = (i32)funnel_right((u32)d << 10, (u32)(d >> 22), m.inv);
    i32 scaled = t * (i32)(m.inv >> 8);
    const u32 *line = (const u32 *)(table + AT_CUMULATIVE + ((u32)(scaled >> 18) & 0x1FF8));
    u32 c = (line[0] * (u32)(scaled >> 15) + line[1]) >> 10;
    // c <= 2^16 and spread < 2^16: within 32 bits.
    return ((c * m.spread) >> 16) + (u32)(n - m.lo);
}
// The cumulative at the lower edge of a cell, or at the window's end.
template <class E> __device__ __forceinline__ u32 lower(const Fixed &f, const Model &m, i32 n) {
    u32 c = start_of<E>(f, m, n);
    return n <= m.lo ? 0 : n > m.hi ? f.end : c;
}

__device__ __forceinline__ i32 to_code(const Pricing &p, i32 mu) {
    return p.unit_recip == 0 ? mu : (i32)(((i64)mu * (i64)p.unit_recip + (1 << 30)) >> 31);
}
__device__ __forceinline__ i32 scale_index(i32 channel, i32 token) { return clamp_i32(channel + token, 0, 479); }

template <class E> __device__ __forceinline__ Model make_model(const Fixed &f, i32 mu, i32 q) {
    const Entry s = *(const Entry *)(table + AT_SCALE + 16 * (u32)q);
    Model m;
    m.mu = mu, m.reach = s.reach, m.inv = s.inv, m.a = s.a, m.b = s.b;
    m.base = m.b + max_i32(m.a - 1, 0), m.line = m.base + (1 - E::MB - m.a) * (1 << E::MB);
    m.lo = number_of_fixed<E>(f, m, max_i32(mu - m.reach, 1 - FIXED_LIMIT));
    m.hi = number_of_fixed<E>(f, m, min_i32(mu + m.reach, FIXED_LIMIT - 1));
    m.spread = f.end - 1 - (u32)(m.hi - m.lo);
    return m;
}

// The cell of a magnitude's number: its first magnitude and its raw bits; W - 1 of them for the zone, from where the magnitude itself is raw.
struct Cell {
    i32 first;
    u32 bits;
};
template <class E> __device__ __forceinline__ i32 zone_binades(const Model &m) {
    i32 eb = E::SMALL ? (m.b >> 10) + 1 - E::MB : m.a;
    return max_i32(eb - ZONE_BINADES + 1, 0);
}
template <class E> __device__ __forceinline__ u32 raw_bits(const Model &m, i32 mag, i32 a) {
    if (a == 0 && zone_binades<E>(m) > 0) return E::W - 1;
    return (u32)clamp_i32(E::MB - max_i32(mag >> E::MB, 1) + m.a, 0, E::MB);
}
template <class E> __device__ __forceinline__ Cell cell_of_number(const Model &m, i32 a) {
    if (E::SMALL) {
        u32 both = *(const u16 *)(table + AT_CELL<E> + (u32)(m.a >> 1) + 2 * (u32)a);
        return Cell{(i32)(both & 255), both >> 8};
    }
    i32 first = a == 0 ? 0 : first_magnitude<E>(m, a);
    return Cell{first, raw_bits<E>(m, first, a)};
}

struct __attribute__((aligned(8))) Symbol {
    u16 start, freq, raw, raw_bits;
};
template <class E> __device__ __forceinline__ Symbol symbol_of(const Fixed &f, const Model &m, u32 code) {
    i32 sign = -(i32)(code >> (E::W - 1) & 1), mag = (i32)code & (E::MAGNITUDES - 1);
    i32 a = number_of_magnitude<E>(m, mag), n = a ^ sign;
    if (n < m.lo || n > m.hi) return Symbol{(u16)f.end, (u16)(65536 - f.end), (u16)code, (u16)E::W};
    u32 bits = E::SMALL ? cell_of_number<E>(m, a).bits : raw_bits<E>(m, mag, a), mask = (1u << bits) - 1;
    u32 start = lower<E>(f, m, n), freq = lower<E>(f, m, n + 1) - start;
    // Ranks count upward, magnitudes of negative ranks downward; a zone's raw bits are the magnitude.
    u32 raw = ((u32)mag ^ (bits == E::W - 1 ? 0 : (u32)sign)) & mask;
    return Symbol{(u16)start, (u16)freq, (u16)raw, (u16)bits};
}

// What a slot stands for.
struct Found {
    i32 n;
    u32 start, freq;
};
// The number whose lower edge is about nearest to a slot's value.
template <class E> __device__ __forceinline__ i32 nearest_edge(const Fixed &f, const Model &m, u32 slot) {
    // Half a slot a cell of the window lies below the value, about.
    u32 half = (u32)(m.hi - m.lo) >> 1, s = slot - (slot < half ? slot : half);
    i32 v = m.mu + 2 * product_high(*(const i32 *)(table + AT_GUESS + (s >> 6) * 4), m.reach);
    i32 sign = v >> 31, h = halves<E>(f, v < 0 ? -v : v), a;
    if (E::SMALL) {
        a = table[AT_NEAR + 1 + (u32)m.a + 2 * (u32)min_i32(h, 255)];
    } else {
        i32 k = clamp_i32(E::MB - max_i32(h >> (E::MB + 1), 1) + m.a, 0, E::MB);
        a = number_of_magnitude<E>(m, (h + 1 + (1 << k)) >> 1);
    }
    return clamp_i32((a ^ sign) - sign, m.lo + 1, m.hi);
}
// A guess from the shape's inverse, then exact verification: a bad guess costs steps and nothing else. slot < end.
template <class E> __device__ __forceinline__ Found find(const Fixed &f, const Model &m, u32 slot) {
    i32 n = nearest_edge<E>(f, m, slot);
    // A window of one cell has no edge within: n is beyond it then.
    u32 at = start_of<E>(f, m, n);
    at = n > m.hi ? f.end : at;
    bool up = slot >= at;
    i32 other = up ? n + 1 : n - 1;
    u32 there = lower<E>(f, m, other);
    // Numbers and cumulatives around the slot, as far as they are known.
    i32 low = up ? n : other, high = up ? other : n;
    u32 start = up ? at : there, end = up ? there : at;
    if (slot < start || slot >= end) {
        if (up) low = other, start = end, high = m.hi + 1, end = f.end;
        else high = other, end = start, low = m.lo, start = 0;
        for (i32 step = 1; high - low > 1; step *= 2) {
            i32 probe = up ? low + step : high - step;
            if (probe <= low || probe >= high) probe = (low + high) >> 1;
            u32 c = start_of<E>(f, m, probe);
            if (slot >= c) low = probe, start = c;
            else high = probe, end = c;
        }
    }
    return Found{low, start, end - start};
}
