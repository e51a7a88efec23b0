//! What operations work on, as plain host data: integer matrices, quantised rows, weights.

use alloc::vec::Vec;
use core::ops::Range;

use speckv_codec_core::{Chunk, ChunkDecoder, ChunkEncoder};

use crate::error::Error;
use crate::fixed::Scale;

/// The encoders of a run's chunks, each with its rows of the run.
pub type ChunkEncoders = Vec<(Range<usize>, ChunkEncoder)>;
/// The decoders of a run's chunks, each with its rows of the run.
pub type ChunkDecoders<'s> = Vec<(Range<usize>, ChunkDecoder<'s>)>;

/// What the planes so far cost in all chunks.
pub fn cost(chunks: &ChunkEncoders) -> u64 {
    chunks.iter().map(|(_, encoder)| encoder.cost()).sum()
}

/// Finishes chunks in order.
pub fn finish_chunks(chunks: ChunkEncoders) -> Result<Vec<Chunk>, Error> {
    chunks.into_iter().map(|(_, encoder)| encoder.finish().map_err(Error::from)).collect()
}

/// Checks the ends of chunks in order.
pub fn finish_decoders(chunks: ChunkDecoders<'_>, values_checksums: &[u64]) -> Result<(), Error> {
    for ((_, decoder), expected) in chunks.into_iter().zip(values_checksums) {
        decoder.finish(*expected)?;
    }
    Ok(())
}

/// A row-major matrix of fixed-point values, `|v| <= LIMIT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ints {
    /// Number of rows (tokens).
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows * cols` values.
    pub data: Vec<i32>,
}

impl Ints {
    /// All zeros.
    pub fn zeros(rows: usize, cols: usize) -> Ints {
        Ints { rows, cols, data: alloc::vec![0; rows * cols] }
    }

    /// One row.
    pub fn row(&self, t: usize) -> &[i32] {
        &self.data[t * self.cols..(t + 1) * self.cols]
    }
}

/// Base-256 digits of an operand: one (8 bits, `|q| <= 127`) or two (16 bits, `|q| <= 32639 = 127 * 256 + 127`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digits {
    /// One int8 digit.
    One,
    /// Two int8 digits: `q = 256 * high + low`, `low` in -128..=127.
    Two,
}

impl Digits {
    /// Largest quantised magnitude.
    pub const fn levels(self) -> i32 {
        match self {
            Digits::One => 127,
            Digits::Two => 32639,
        }
    }

    /// Bits of magnitude: 7 or 15.
    pub const fn bits(self) -> u32 {
        match self {
            Digits::One => 7,
            Digits::Two => 15,
        }
    }

    /// 1 or 2, as profiles store it.
    pub const fn count(self) -> usize {
        match self {
            Digits::One => 1,
            Digits::Two => 2,
        }
    }

    /// The inverse of [`Digits::count`].
    pub const fn from_count(n: usize) -> Option<Digits> {
        match n {
            1 => Some(Digits::One),
            2 => Some(Digits::Two),
            _ => None,
        }
    }
}

/// The right shift that brings an exact sum of `k` products of `a` and `w` digits into an `i32`:
/// `k * 2^(bits a + bits w) >> shift < 2^31`.
pub const fn product_shift(k: usize, a: Digits, w: Digits) -> u32 {
    (k.next_power_of_two().ilog2() + a.bits() + w.bits()).saturating_sub(31)
}

/// Quantised rows: each row is `groups` groups of `group` values with one scale a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Number of rows (tokens).
    pub rows: usize,
    /// Columns of a row.
    pub cols: usize,
    /// Columns that share one scale; divides `cols`.
    pub group: usize,
    /// Digits of every value but the wide ones.
    pub digits: Digits,
    /// Leading columns of each group that have two digits in any case.
    pub wide: usize,
    /// Quantised values, `|q| <= digits.levels()`, wide ones up to those of two digits.
    pub values: Vec<i16>,
    /// One scale a (row, group): real value = q * scale.
    pub scales: Vec<Scale>,
}

impl Rows {
    /// The right shift that brings products with weights of `w` digits into an `i32`: a wide value counts as 256 others.
    pub const fn product_shift(&self, w: Digits) -> u32 {
        match self.digits {
            Digits::One => product_shift(self.group + 256 * self.wide, self.digits, w),
            Digits::Two => product_shift(self.group, self.digits, w),
        }
    }
}

/// Most inputs of a matrix: the exact sums of any backend fit its accumulators (numerics.md, section 4).
pub const MAX_INPUTS: usize = 1 << 16;

/// Weights `[out, inp]` with one scale per output, as a profile holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Outputs.
    pub out: usize,
    /// Inputs.
    pub inp: usize,
    /// Digits of every weight.
    pub digits: Digits,
    /// `out * inp` values, row-major, `|w| <= digits.levels()`.
    pub values: Vec<i16>,
    /// One a output; includes the fixed-point exponent of the result.
    pub scales: Vec<Scale>,
    /// Added to the result, if present (in the result's fixed point).
    pub bias: Option<Vec<i32>>,
}
