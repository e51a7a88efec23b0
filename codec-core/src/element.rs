//! The element formats of a cache and the order of their codes (section 1 of the format).

use crate::limits::FIXED_LIMIT;

/// The number format of one cache scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementFormat {
    /// bfloat16: 8 exponent bits, 7 mantissa bits.
    Bf16,
    /// IEEE binary16: 5 exponent bits, 10 mantissa bits.
    F16,
    /// OCP FP8 E4M3 (finite, NaN at 0x7F and 0xFF, no infinities).
    E4m3,
    /// OCP FP8 E5M2 (IEEE-like, with infinities and NaNs).
    E5m2,
}

impl ElementFormat {
    /// Every format, in the order of the ids.
    pub const ALL: [Self; 4] = [Self::Bf16, Self::F16, Self::E4m3, Self::E5m2];

    /// The format's id in a stream, 0..=3.
    pub const fn id(self) -> u8 {
        match self {
            Self::Bf16 => 0,
            Self::F16 => 1,
            Self::E4m3 => 2,
            Self::E5m2 => 3,
        }
    }

    /// The format of an id.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::Bf16),
            1 => Some(Self::F16),
            2 => Some(Self::E4m3),
            3 => Some(Self::E5m2),
            _ => None,
        }
    }

    /// The format's name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
        }
    }

    /// Bits of a code: 8 or 16.
    #[inline(always)]
    pub const fn width(self) -> u32 {
        match self {
            Self::Bf16 | Self::F16 => 16,
            Self::E4m3 | Self::E5m2 => 8,
        }
    }

    /// Bytes of a code: 1 or 2.
    #[inline(always)]
    pub const fn bytes(self) -> usize {
        self.width() as usize / 8
    }

    /// Mantissa bits (`MB`), without the implicit one.
    #[inline(always)]
    pub const fn mantissa_bits(self) -> u32 {
        match self {
            Self::Bf16 => 7,
            Self::F16 => 10,
            Self::E4m3 => 3,
            Self::E5m2 => 2,
        }
    }

    /// Exponent bias (`B`).
    #[inline(always)]
    pub const fn bias(self) -> i32 {
        match self {
            Self::Bf16 => 127,
            Self::F16 | Self::E5m2 => 15,
            Self::E4m3 => 7,
        }
    }

    /// Number of magnitudes, `2^(width-1)`; also the number of negative ranks.
    #[inline(always)]
    pub const fn magnitudes(self) -> i32 {
        1 << (self.width() - 1)
    }

    /// Rank of a code, `-magnitudes..magnitudes`: ranks order codes by value. Bits above the width are ignored.
    #[inline(always)]
    pub const fn rank(self, code: u16) -> i32 {
        let magnitude = code as i32 & (self.magnitudes() - 1);
        if code as i32 & self.magnitudes() == 0 { magnitude } else { -1 - magnitude }
    }

    /// Code of a rank in `-magnitudes..magnitudes`.
    #[inline(always)]
    pub const fn code(self, rank: i32) -> u16 {
        if rank >= 0 { rank as u16 } else { ((-1 - rank) | self.magnitudes()) as u16 }
    }

    /// `mid(magnitude)`: the lower limit of the reals that round to it, in units of `2^-exponent`, `0..2^30`.
    ///
    /// `magnitude` is `0..=magnitudes`, `exponent` `-120..=120`. Non-decreasing in `magnitude`.
    #[inline(always)]
    pub const fn mid(self, magnitude: i32, exponent: i32) -> i32 {
        if magnitude >= self.magnitudes() { FIXED_LIMIT - 1 } else { self.mid_within(magnitude, exponent) }
    }

    /// `mid` of a magnitude below `magnitudes` (for that one itself: below 2^30, not exact).
    #[inline(always)]
    const fn mid_within(self, magnitude: i32, exponent: i32) -> i32 {
        let mb = self.mantissa_bits();
        let e = magnitude >> mb;
        let f = magnitude & ((1 << mb) - 1);
        let significand = if e == 0 { f } else { f + (1 << mb) };
        // Below the first code of a binade codes are twice as dense, except below the first normal.
        let quarters = 4 * significand - if f == 0 && e >= 2 { 1 } else { 2 };
        let quarters = if quarters < 0 { 0 } else { quarters as u64 };
        let shift = (if e > 1 { e } else { 1 }) - self.bias() - mb as i32 - 2 + exponent;
        // 2 <= quarters < 2^13 (0 for magnitude 0): shifts beyond 31 either way give what 31 gives, 0 or the limit, and the
        // product stays below 2^44.
        let shift = if shift > 31 {
            31
        } else if shift < -31 {
            -31
        } else {
            shift
        };
        let wide = (quarters << 31) >> (31 - shift);
        if wide >= FIXED_LIMIT as u64 { FIXED_LIMIT - 1 } else { wide as i32 }
    }

    /// Lower edge of a rank in units of `2^-exponent`: the lower limit of the reals that round to it.
    ///
    /// `rank` is `-magnitudes..=magnitudes`, where the last means the upper edge of the largest rank.
    pub const fn edge(self, rank: i32, exponent: i32) -> i32 {
        if rank >= 0 { self.mid(rank, exponent) } else { -self.mid(-rank, exponent) }
    }

    /// [`edge`](Self::edge) of a rank that is no end of all ranks, `-magnitudes < rank < magnitudes`.
    #[inline(always)]
    pub(crate) const fn edge_within(self, rank: i32, exponent: i32) -> i32 {
        let sign = rank >> 31;
        let mid = self.mid_within((rank ^ sign) - sign, exponent);
        (mid ^ sign) - sign
    }

    /// `mag(value)`: the magnitude whose value is nearest to `value` units, the upper one of two, for `0 <= value < 2^30`.
    #[inline(always)]
    pub const fn magnitude_of(self, value: i32, exponent: i32) -> i32 {
        if value <= 0 {
            return 0;
        }
        // Steps of half a mantissa bit, rounded down, then to whole ones.
        let mb = self.mantissa_bits() + 1;
        let max = (self.magnitudes() << 1) - 1;
        let top = value.ilog2() as i32;
        let e = top - exponent + self.bias();
        let halves = if e >= 1 {
            // e <= 29 + 120 + 127 and mb <= 11: within 20 bits.
            (e << mb) + (((value as i64) << mb >> top) as i32) - (1 << mb)
        } else {
            // e < 1 bounds a left shift so that the result stays below 2^mb.
            let shift = self.bias() + mb as i32 - 1 - exponent;
            if shift >= 0 { value << shift } else { value >> if shift < -31 { 31 } else { -shift } }
        };
        let magnitude = ((if halves > max { max } else { halves }) + 1) >> 1;
        if magnitude >= self.magnitudes() { self.magnitudes() - 1 } else { magnitude }
    }

    /// Rank of a fixed-point number, `|value| < 2^30`.
    #[inline(always)]
    pub const fn rank_of_fixed(self, value: i32, exponent: i32) -> i32 {
        if value >= 0 { self.magnitude_of(value, exponent) } else { -1 - self.magnitude_of(-value, exponent) }
    }
}
