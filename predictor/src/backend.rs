//! The compute seam: a short list of coarse integer operations that a backend may run anywhere, as long as the bits agree with
//! [`Portable`](crate::portable::Portable), which defines them.

use alloc::vec::Vec;
use core::ops::Range;

use speckv_codec_core::{Chunk, ChunkDecoder, ChunkEncoder, ElementFormat, Shape};

use crate::data::{self, Weights};
use crate::error::Error;
use crate::fixed::Scale;
pub use crate::portable::attention::Attention;
pub use crate::portable::coding::Unit;
pub use crate::portable::elementwise::Silu;
pub use crate::portable::gemm::Store;
pub use crate::portable::quantise::Quantise;

/// Positions and phases of a rotation.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// Columns of a head.
    pub head_dim: usize,
    /// Phase that a position adds to each of the `head_dim / 2` pairs.
    pub steps: &'a [u64],
    /// Position of the first row.
    pub start: u64,
    /// Rotate back.
    pub inverse: bool,
}

/// How the values of a plane are priced.
#[derive(Clone, Copy, Debug)]
pub struct Pricing<'a> {
    /// Element format of the cache.
    pub format: ElementFormat,
    /// What a code is worth.
    pub unit: Unit,
    /// Fraction bits of predictions.
    pub exponent: i32,
    /// Scale index of each channel, in predictions' units.
    pub channel: &'a [i16],
    /// Distribution of normalised residuals.
    pub shape: &'a Shape,
}

/// What a coded plane tells the predictor.
#[derive(Clone, Debug)]
pub struct Truth<I> {
    /// The true values, in predictions' fixed point.
    pub value: I,
    /// Expected true value (given its cell) minus prediction, in predictions' fixed point.
    pub innovation: I,
}

/// What a coded plane says about its prediction.
#[derive(Clone, Debug)]
pub struct Observed<I> {
    /// For the predictor.
    pub truth: Truth<I>,
    /// Log-energy of each token's innovations, one column, for the scales of later planes.
    pub energy: I,
}

/// Coarse integer operations over a backend's own buffers. Every result equals that of [`Portable`](crate::portable::Portable) bit for bit,
/// whatever the batch, tiling or thread count.
pub trait Backend {
    /// A matrix of fixed-point values.
    type Ints;
    /// Quantised rows.
    type Rows;
    /// Weights, packed as the backend likes.
    type Matrix;

    /// What answers, for reports: for example `portable`, `cpu/avx512vnni`.
    fn name(&self) -> &str;
    /// Packs weights once. At least [`MAX_INPUTS`](crate::data::MAX_INPUTS) inputs are taken; profiles have no more.
    fn load(&self, weights: Weights) -> Result<Self::Matrix, Error>;
    /// Brings values to the backend.
    fn upload(&self, x: data::Ints) -> Self::Ints;
    /// Brings values back.
    fn download(&self, x: &Self::Ints) -> data::Ints;
    /// Number of values.
    fn size(&self, x: &Self::Ints) -> usize;
    /// Rows of `x` as digits.
    fn quantise(&self, x: &Self::Ints, how: &Quantise) -> Self::Rows;
    /// Root mean square of each row of `x`.
    fn rms(&self, x: &Self::Ints, exponent: i32, eps: Scale) -> Vec<Scale>;
    /// `out[.., column..] (+)= a . w`, row scales multiplied by `factor` when given.
    fn gemm(
        &self,
        a: &Self::Rows,
        w: &Self::Matrix,
        factor: Option<&[Scale]>,
        store: Store,
        out: &mut Self::Ints,
    );
    /// RMS-normalises each head of the given columns in place and multiplies by `weight` (signed mantissa, exponent).
    fn head_norm(
        &self,
        x: &mut Self::Ints,
        columns: Range<usize>,
        exponent: i32,
        eps: Scale,
        weight: &[(i16, i16)],
    );
    /// The given columns of `x`, rotated.
    fn rope(&self, x: &Self::Ints, columns: Range<usize>, rotary: &Rotary) -> Self::Ints;
    /// The given columns of `x`.
    fn columns(&self, x: &Self::Ints, columns: Range<usize>) -> Self::Ints;
    /// `x[.., column..] += y`, saturated.
    fn add(&self, x: &mut Self::Ints, column: usize, y: &Self::Ints);
    /// `silu(gate) * up` of `[gate | up]` rows.
    fn silu(&self, gate_up: &Self::Ints, how: Silu) -> Self::Ints;
    /// Appends rows (keys or values of later tokens).
    fn append(&self, rows: &mut Self::Rows, more: Self::Rows);
    /// Causal attention of query rows, the first at position `start`, over all rows of keys and values up to each.
    fn attention(
        &self,
        query: &Self::Rows,
        keys: &Self::Rows,
        values: &Self::Rows,
        start: usize,
        how: &Attention,
    ) -> Self::Ints;
    /// log2 of the mean square of the given columns, one column, 12 fractional bits.
    fn power(&self, x: &Self::Ints, columns: Range<usize>, exponent: i32) -> Self::Ints;
    /// Scale offsets of tokens: sum of one-column features times weights (16 fractional bits) plus `bias` (28 fractional bits).
    fn token_scale(&self, rows: usize, features: &[(&Self::Ints, i32)], bias: i64) -> Self::Ints;
    /// Prices a plane over all its chunks (ranges of rows) and hands the symbols to the chunks' encoders.
    fn encode_plane(
        &self,
        pricing: &Pricing,
        mu: &Self::Ints,
        token: &Self::Ints,
        codes: &[u16],
        chunks: &[Range<usize>],
        encoders: &mut [ChunkEncoder],
    ) -> Result<(), Error>;
    /// Decodes a plane over all its chunks; returns the codes.
    fn decode_plane(
        &self,
        pricing: &Pricing,
        mu: &Self::Ints,
        token: &Self::Ints,
        chunks: &[Range<usize>],
        decoders: &mut [ChunkDecoder<'_>],
    ) -> Result<Vec<u16>, Error>;
    /// Runs the coders of finished chunks; results in order.
    fn finish_chunks(&self, encoders: Vec<ChunkEncoder>) -> Result<Vec<Chunk>, Error>;
    /// What the true codes of a plane say about its prediction.
    fn observe(
        &self,
        pricing: &Pricing,
        mu: &Self::Ints,
        token: &Self::Ints,
        codes: &[u16],
    ) -> Observed<Self::Ints>;
    /// The values of codes alone (of a prefix).
    fn values(
        &self,
        codes: &[u16],
        cols: usize,
        format: ElementFormat,
        unit: Unit,
        exponent: i32,
    ) -> Self::Ints;
}
