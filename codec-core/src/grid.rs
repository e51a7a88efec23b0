//! Cells: runs of neighbouring codes that share one symbol (section 2 of the format).

use crate::ElementFormat;
use crate::limits::{SCALES, ZONE_BINADES, scale_octave};

/// The cells of one element format at one plane exponent and one scale index.
///
/// Cells have consecutive numbers: 0 starts at rank 0, -1 ends at rank -1, and negative cells mirror the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    format: ElementFormat,
    /// Exponent field whose binade is one cell wide (`eb`), at least `1 - MB`.
    eb: i32,
    /// Exponent fields below this form the zone (`ez`); 0 = no zone.
    ez: i32,
    /// 1 if there is a zone.
    z: i32,
    /// Number of the cell before the one that starts at `eb` (`base`).
    base: i32,
}

/// One cell: its codes are the ranks `first_rank .. first_rank + 2^raw_bits`, or a whole zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Lowest rank of the cell.
    pub first_rank: i32,
    /// Number of ranks in the cell.
    pub ranks: i32,
    /// Raw bits that follow the cell's symbol.
    pub raw_bits: u32,
    /// Whether the cell is a zone: its raw bits are a magnitude.
    pub zone: bool,
}

impl Grid {
    /// The grid of a scale index `q` (0..=479) at a plane exponent (-120..=120).
    #[inline(always)]
    pub const fn new(format: ElementFormat, exponent: i32, q: i32) -> Self {
        debug_assert!(0 <= q && q < SCALES);
        let finest = 1 - format.mantissa_bits() as i32;
        let eb = scale_octave(q) - 2 - exponent + format.bias();
        let eb = if eb < finest { finest } else { eb };
        let ez = if eb >= ZONE_BINADES { eb - ZONE_BINADES + 1 } else { 0 };
        let z = (ez > 0) as i32;
        let base = (if eb > 1 { eb } else { 1 }) - 1 - ez + z;
        Self { format, eb, ez, z, base }
    }

    /// Magnitudes below this form the zone; 0 = no zone.
    #[inline(always)]
    pub const fn zone_end(&self) -> i32 {
        self.ez << self.format.mantissa_bits()
    }

    /// `number(m)` of a magnitude: the number of the cell that holds rank `m`; at least 0, non-decreasing.
    #[inline(always)]
    pub const fn number_of_magnitude(&self, m: i32) -> i32 {
        let mb = self.format.mantissa_bits() as i32;
        let e = m >> mb;
        if e < self.ez {
            return 0;
        }
        let j = (if e > 1 { e } else { 1 }) - self.eb;
        if j <= 0 {
            e - self.ez + self.z
        } else {
            let significand = m - (e << mb) + if e > 0 { 1 << mb } else { 0 };
            if j <= mb {
                self.base + (significand >> (mb - j))
            } else {
                self.base + significand + ((j - mb) << mb)
            }
        }
    }

    /// Number of the cell that holds a rank.
    #[inline(always)]
    pub const fn number(&self, rank: i32) -> i32 {
        if rank >= 0 { self.number_of_magnitude(rank) } else { -1 - self.number_of_magnitude(-1 - rank) }
    }

    /// First magnitude of the cell with this number (at least 0). One past the last cell gives `magnitudes`.
    #[inline(always)]
    pub const fn first_magnitude(&self, number: i32) -> i32 {
        if number <= 0 {
            return 0;
        }
        let mb = self.format.mantissa_bits() as i32;
        let u = number - self.base;
        let first = if u < 1 {
            // A whole binade below the one that is a cell wide.
            (self.eb - 1 + u) << mb
        } else {
            let octave = u.ilog2() as i32;
            let j = if octave < 1 - self.eb { 1 - self.eb } else { octave };
            let j = if j > mb { mb } else { j };
            ((self.eb + j - 1) << mb) + (u << (mb - j))
        };
        if first > self.format.magnitudes() { self.format.magnitudes() } else { first }
    }

    /// Number and cell of a rank.
    #[inline(always)]
    pub const fn cell_of(&self, rank: i32) -> (i32, Cell) {
        // The sign as a mask: `m ^ -1` is `-1 - m`.
        let sign = rank >> 31;
        let m = rank ^ sign;
        (self.number_of_magnitude(m) ^ sign, self.cell_of_magnitude(m, sign))
    }

    /// The cell with this number, which must be the number of some rank.
    #[inline(always)]
    pub const fn cell(&self, number: i32) -> Cell {
        let sign = number >> 31;
        self.cell_of_magnitude(self.first_magnitude(number ^ sign), sign)
    }

    /// The cell of a magnitude, or its mirror where `sign` is -1.
    #[inline(always)]
    const fn cell_of_magnitude(&self, m: i32, sign: i32) -> Cell {
        let mb = self.format.mantissa_bits() as i32;
        let e = m >> mb;
        if e < self.ez {
            let end = self.zone_end();
            let ranks = if end > self.format.magnitudes() { self.format.magnitudes() } else { end };
            return Cell { first_rank: -ranks & sign, ranks, raw_bits: self.format.width() - 1, zone: true };
        }
        let k = mb - ((if e > 1 { e } else { 1 }) - self.eb);
        let k = if k < 0 {
            0
        } else if k > mb {
            mb
        } else {
            k
        };
        let (first, ranks) = (m >> k << k, 1 << k);
        // Ranks first..first+ranks, or their mirror images -first-ranks..-first.
        let first_rank = if sign < 0 { -first - ranks } else { first };
        Cell { first_rank, ranks, raw_bits: k as u32, zone: false }
    }
}
