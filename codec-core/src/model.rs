//! The quantised probability of one scalar: window, normalised edges, cumulative function and its inverse
//! (section 3 of the format).

use crate::element::ElementFormat;
use crate::grid::{Cell, Grid};
use crate::lanes::Symbol;
use crate::limits::{FIXED_LIMIT, INV, MANT, MAX_WINDOW_CELLS, SCALES, SCALES_PER_OCTAVE, Z_LIMIT};
use crate::shape::Shape;

/// The model of one scalar.
#[derive(Clone, Copy, Debug)]
pub struct ScalarModel<'a> {
    format: ElementFormat,
    exponent: i32,
    shape: &'a Shape,
    grid: Grid,
    mu: i32,
    q: i32,
    /// Reach of the window, `R`.
    reach: i32,
    /// Numbers of the first and last cell of the window.
    lo: i32,
    hi: i32,
    /// `A`: what is left for the shape after the escape and one per cell.
    spread: u32,
}

/// What a slot stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The cell's number; `None` for the escape.
    pub number: Option<i32>,
    /// Start of the interval that holds the slot.
    pub start: u32,
    /// Width of that interval, 1..=65535.
    pub freq: u32,
}

/// `R`: the reach of the window of a scale index (0..=479) in units, at least 16.
#[inline(always)]
pub const fn reach(q: i32) -> i32 {
    let wide = (MANT[(q % SCALES_PER_OCTAVE) as usize] as u64) << (q / SCALES_PER_OCTAVE + 4) >> 15;
    if wide >= FIXED_LIMIT as u64 { FIXED_LIMIT - 1 } else { wide as i32 }
}

/// `z` of an edge: `(edge - mu)` in 1/1024 scales, clamped to 16 scales. Non-decreasing in `edge`.
///
/// `edge` and `mu` are below 2^30 in magnitude, so their difference fits 32 bits.
#[inline(always)]
pub const fn normalise(edge: i32, mu: i32, q: i32) -> i32 {
    let octave = q / SCALES_PER_OCTAVE;
    let distance = (edge - mu) as i64;
    let limit = 1i64 << (octave + 5);
    let clamped = if distance > limit {
        limit
    } else if distance < -limit {
        -limit
    } else {
        distance
    };
    // |clamped| <= 2^(octave+5): within 2^45 before the shift, 2^15 after it.
    let t = ((clamped * 1024) >> octave) as i32;
    let z = (t * INV[(q % SCALES_PER_OCTAVE) as usize]) >> 15;
    if z > Z_LIMIT {
        Z_LIMIT
    } else if z < -Z_LIMIT {
        -Z_LIMIT
    } else {
        z
    }
}

impl<'a> ScalarModel<'a> {
    /// The model at a mean `mu` (`|mu| < 2^30` units of `2^-exponent`) and a scale index `q` (0..=479).
    #[inline(always)]
    pub fn new(format: ElementFormat, exponent: i32, shape: &'a Shape, mu: i32, q: i32) -> Self {
        debug_assert!((0..SCALES).contains(&q) && mu.abs() < FIXED_LIMIT);
        let grid = Grid::new(format, exponent, q);
        let reach = reach(q);
        let lowest = (mu - reach).max(1 - FIXED_LIMIT);
        let highest = (mu + reach).min(FIXED_LIMIT - 1);
        let lo = grid.number(format.rank_of_fixed(lowest, exponent));
        let hi = grid.number(format.rank_of_fixed(highest, exponent));
        debug_assert!(lo <= hi && hi - lo < MAX_WINDOW_CELLS);
        let spread = (65536 - i32::from(shape.escape()) - (hi - lo + 1)) as u32;
        Self { format, exponent, shape, grid, mu, q, reach, lo, hi, spread }
    }

    /// The cells' grid.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Numbers of the first and last cell of the window.
    pub fn window(&self) -> (i32, i32) {
        (self.lo, self.hi)
    }

    /// The cumulative at the lower edge of a cell of the window, or at the window's end for `number = hi + 1`.
    /// Strictly increasing; from 0 to `65536 - escape`.
    #[inline(always)]
    pub fn lower(&self, number: i32) -> u32 {
        debug_assert!((self.lo..=self.hi + 1).contains(&number));
        let index = (number - self.lo) as u32;
        if number == self.lo {
            return 0;
        }
        if number > self.hi {
            return self.spread + index;
        }
        let edge = self.grid.lower_edge(number, self.exponent);
        let c = self.shape.cumulative(normalise(edge, self.mu, self.q));
        // c <= 2^16 and spread < 2^16.
        (((u64::from(c) * u64::from(self.spread)) >> 16) as u32) + index
    }

    /// The coded symbol of a code (which must fit the format).
    #[inline(always)]
    pub fn symbol(&self, code: u16) -> Symbol {
        let rank = self.format.rank(code);
        let number = self.grid.number(rank);
        if number < self.lo || number > self.hi {
            let escape = self.shape.escape();
            let start = (65536 - u32::from(escape)) as u16;
            return Symbol { start, freq: escape, raw: code, raw_bits: self.format.width() as u16 };
        }
        let start = self.lower(number);
        let freq = self.lower(number + 1) - start;
        let cell = self.grid.cell(number);
        let raw = if !cell.zone {
            rank - cell.first_rank
        } else if rank >= 0 {
            rank
        } else {
            -1 - rank
        };
        Symbol { start: start as u16, freq: freq as u16, raw: raw as u16, raw_bits: cell.raw_bits as u16 }
    }

    /// The interval that holds a slot (0..=65535): a guess from the shape's inverse table, then exact verification
    /// by [`lower`](Self::lower), so that a bad guess costs steps and nothing else.
    #[inline(always)]
    pub fn find(&self, slot: u32) -> Found {
        let escape = u32::from(self.shape.escape());
        if slot >= 65536 - escape {
            return Found { number: None, start: 65536 - escape, freq: escape };
        }
        let mut number = self.guess(slot);
        let mut start = self.lower(number);
        let mut end;
        if start <= slot {
            end = self.lower(number + 1);
            if end <= slot {
                (number, start, end) = self.search(slot, number + 1, self.hi);
            }
        } else {
            // The cell below is by far the likeliest.
            end = start;
            number -= 1;
            start = self.lower(number);
            if start > slot {
                (number, start, end) = self.search(slot, self.lo, number - 1);
            }
        }
        Found { number: Some(number), start, freq: end - start }
    }

    /// Exact search among the cells `lo..=hi`, one of which holds the slot: doubling steps from the end where the
    /// guess was, then halving.
    fn search(&self, slot: u32, mut lo: i32, mut hi: i32) -> (i32, u32, u32) {
        while lo < hi {
            let middle = (lo + hi + 1) >> 1;
            if self.lower(middle) <= slot {
                lo = middle;
            } else {
                hi = middle - 1;
            }
        }
        (lo, self.lower(lo), self.lower(lo + 1))
    }

    /// A cell of the window near the slot's.
    #[inline(always)]
    fn guess(&self, slot: u32) -> i32 {
        let cells = (self.hi - self.lo + 1) as u32;
        // Undo `C * spread >> 16` and about half of the cells' floors. 65536 / spread is near 1 + (65536 - spread) / 65536.
        let slot = slot.saturating_sub(cells / 2);
        let c = (slot + ((slot * (65536 - self.spread)) >> 16)).min(65536);
        let z = self.shape.guess(c);
        let value = i64::from(self.mu) + ((i64::from(z) * i64::from(self.reach)) >> 14);
        let value = value.clamp(1 - i64::from(FIXED_LIMIT), i64::from(FIXED_LIMIT) - 1) as i32;
        self.grid.number(self.format.rank_near(value, self.exponent)).clamp(self.lo, self.hi)
    }

    /// Bits of a code.
    pub(crate) fn width(&self) -> u32 {
        self.format.width()
    }

    /// The cell of a number of the window.
    #[inline(always)]
    pub fn cell(&self, number: i32) -> Cell {
        self.grid.cell(number)
    }
}
