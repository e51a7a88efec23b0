//! The quantised probability of one scalar: window, normalised edges, cumulative function and its inverse
//! (section 3 of the format).

use crate::element::ElementFormat;
use crate::grid::{Cell, Grid};
use crate::lanes::Symbol;
use crate::limits::{
    FIXED_LIMIT, INV, MANT, MAX_WINDOW_CELLS, SCALES, UNITS_PER_SCALE, Z_LIMIT, scale_fraction, scale_octave,
};
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
    /// The cell; for the escape all zeros but the raw bits.
    pub cell: Cell,
    /// Start of the interval that holds the slot.
    pub start: u32,
    /// Width of that interval, 1..=65535.
    pub freq: u32,
}

/// `R`: the reach of the window of a scale index (0..=479) in units, at least 16.
#[inline(always)]
pub const fn reach(q: i32) -> i32 {
    let wide = (MANT[scale_fraction(q)] as u64) << (scale_octave(q) + 4) >> 15;
    if wide >= FIXED_LIMIT as u64 { FIXED_LIMIT - 1 } else { wide as i32 }
}

/// `z` of an edge: `(edge - mu)` in 1/1024 scales, clamped to 16 scales. Non-decreasing in `edge`.
///
/// `edge` and `mu` are below 2^30 in magnitude, so their difference fits 32 bits.
#[inline(always)]
pub const fn normalise(edge: i32, mu: i32, q: i32) -> i32 {
    // |edge - mu| < 2^31: within 2^41 before the shift and 2^57 after the product. Clamping first to 2^(octave + 5) would
    // change no result and keep all but the shift within 32 bits.
    let t = ((edge - mu) as i64 * UNITS_PER_SCALE as i64) >> scale_octave(q);
    let z = (t * INV[scale_fraction(q)] as i64) >> 15;
    let limit = Z_LIMIT as i64;
    (if z > limit {
        limit
    } else if z < -limit {
        -limit
    } else {
        z
    }) as i32
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
        if number > self.hi { self.upper_end() } else { self.start(number, &self.grid.cell(number)) }
    }

    /// `65536 - escape`.
    #[inline(always)]
    fn upper_end(&self) -> u32 {
        65536 - u32::from(self.shape.escape())
    }

    /// The cumulative at the lower edge of a rank that starts the cell `index` cells above the window's first.
    #[inline(always)]
    fn at(&self, rank: i32, index: i32) -> u32 {
        let edge = self.format.edge_within(rank, self.exponent);
        let c = self.shape.cumulative(normalise(edge, self.mu, self.q));
        // c <= 2^16 and spread < 2^16: within 32 bits.
        ((u64::from(c) * u64::from(self.spread)) >> 16) as u32 + index as u32
    }

    /// Start of a cell's interval.
    #[inline(always)]
    fn start(&self, number: i32, cell: &Cell) -> u32 {
        if number == self.lo { 0 } else { self.at(cell.first_rank, number - self.lo) }
    }

    /// End of a cell's interval.
    #[inline(always)]
    fn end(&self, number: i32, cell: &Cell) -> u32 {
        if number == self.hi {
            self.upper_end()
        } else {
            self.at(cell.first_rank + cell.ranks, number + 1 - self.lo)
        }
    }

    /// The coded symbol of a code (which must fit the format).
    #[inline(always)]
    pub fn symbol(&self, code: u16) -> Symbol {
        let rank = self.format.rank(code);
        let (number, cell) = self.grid.cell_of(rank);
        if number < self.lo || number > self.hi {
            let start = self.upper_end() as u16;
            return Symbol {
                start,
                freq: self.shape.escape(),
                raw: code,
                raw_bits: self.format.width() as u16,
            };
        }
        let start = self.start(number, &cell);
        let freq = self.end(number, &cell) - start;
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
    /// by the cumulative itself, so that a bad guess costs steps and nothing else.
    #[inline(always)]
    pub fn find(&self, slot: u32) -> Found {
        let escape = self.upper_end();
        if slot >= escape {
            let cell = Cell { first_rank: 0, ranks: 0, raw_bits: self.format.width(), zone: false };
            return Found { number: None, cell, start: escape, freq: 65536 - escape };
        }
        let (mut number, mut cell) = self.guess(slot);
        let mut start = self.start(number, &cell);
        let mut end = self.end(number, &cell);
        if slot < start {
            // The neighbour is by far the likeliest.
            (number, end) = (number - 1, start);
            cell = self.grid.cell(number);
            start = self.start(number, &cell);
        } else if slot >= end {
            (number, start) = (number + 1, end);
            cell = self.grid.cell(number);
            end = self.end(number, &cell);
        }
        if slot < start || slot >= end {
            return self.search(slot);
        }
        Found { number: Some(number), cell, start, freq: end - start }
    }

    /// Exact search of the whole window by halving: for the tails, where the cells' floors outweigh the shape and a guess
    /// is worth little.
    #[cold]
    fn search(&self, slot: u32) -> Found {
        let (mut lo, mut hi) = (self.lo, self.hi);
        while lo < hi {
            let middle = (lo + hi + 1) >> 1;
            if self.lower(middle) <= slot {
                lo = middle;
            } else {
                hi = middle - 1;
            }
        }
        let cell = self.grid.cell(lo);
        let start = self.start(lo, &cell);
        Found { number: Some(lo), cell, start, freq: self.end(lo, &cell) - start }
    }

    /// A cell of the window near the slot's.
    #[inline(always)]
    fn guess(&self, slot: u32) -> (i32, Cell) {
        let cells = (self.hi - self.lo + 1) as u32;
        // Undo `C * spread >> 16` and about half of the cells' floors. 65536 / spread is near 1 + (65536 - spread) / 65536.
        let slot = slot.saturating_sub(cells / 2);
        let c = slot + ((slot * (65536 - self.spread)) >> 16);
        let z = self.shape.guess(c);
        let value = i64::from(self.mu) + ((i64::from(z) * i64::from(self.reach)) >> 14);
        let value = value.clamp(1 - i64::from(FIXED_LIMIT), i64::from(FIXED_LIMIT) - 1) as i32;
        let (number, cell) = self.grid.cell_of(self.format.rank_of_fixed(value, self.exponent));
        // |z| is at most 2^14, so the value lies within the reach.
        debug_assert!((self.lo..=self.hi).contains(&number));
        (number, cell)
    }
}
