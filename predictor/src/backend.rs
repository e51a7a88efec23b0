//! The compute seam: a short list of coarse integer operations that a backend may run anywhere, as long as the bits agree with
//! [`Portable`](crate::portable::Portable), which defines them.

use alloc::vec::Vec;
use core::ops::Range;

use speckv_codec_core::{Chunk, ElementFormat, Part, Shape};

use crate::data::{self, ChunkDecoders, ChunkEncoders, Weights};
use crate::error::Error;
use crate::fixed::Scale;
pub use crate::portable::attention::Attention;
pub use crate::portable::coding::Unit;
pub use crate::portable::elementwise::Silu;
pub use crate::portable::gemm::Store;
pub use crate::portable::quantise::Quantise;

/// Where a session is: told to backends that report it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// First token of the run.
    pub token: usize,
    /// The layer.
    pub layer: usize,
    /// Part and head of the plane that is predicted, coded or observed; none before and after a layer's planes.
    pub plane: Option<(Part, usize)>,
}

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

/// A coded plane, and what it was coded with.
pub struct Seen<'a, B: Backend + ?Sized> {
    /// How it was priced.
    pub pricing: &'a Pricing<'a>,
    /// Its prediction.
    pub mu: &'a B::Ints,
    /// Scale offset of each token.
    pub token: &'a B::Ints,
    /// Its codes.
    pub codes: &'a B::Codes,
}

/// What a layer keeps of a plane that it learns.
pub struct Keep<'a, I> {
    /// Innovations of all heads of the part, `[tokens, kv_heads * head_dim]`: the plane's columns are set.
    pub innovation: &'a mut I,
    /// True values of all heads of the part: likewise.
    pub value: &'a mut I,
    /// First column of the plane in both.
    pub column: usize,
    /// Turns innovations back (those of keys, which are kept as before RoPE).
    pub back: Option<Rotary<'a>>,
    /// The plane's innovations as digits too, one scale a row.
    pub digits: Option<Quantise>,
}

/// The norm of each head of queries or keys.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm<'a> {
    /// Fraction bits before it.
    pub exponent: i32,
    /// Epsilon.
    pub eps: Scale,
    /// Weights of a head's columns: signed mantissa, exponent.
    pub weight: &'a [(i16, i16)],
}

/// An MLP with SiLU.
#[derive(Clone, Copy, Debug)]
pub struct Mlp<'a, M> {
    /// Outputs of gate, and of up.
    pub ffn: usize,
    /// How what it is applied to becomes digits.
    pub normed: Quantise,
    /// Gate and up, `[2 * ffn, hidden]`.
    pub gate_up: &'a M,
    /// Fixed points around SiLU.
    pub silu: Silu,
    /// How the input of down becomes digits.
    pub act: Quantise,
    /// Down, `[hidden, ffn]`.
    pub down: &'a M,
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
/// whatever the batch, tiling or thread count. Operations with a body are others in a row; a backend does them at once where that saves
/// passes over memory or launches.
///
/// A device works behind the caller's back: what fails there (no memory, a fault, a damaged payload) may be told later, by the next of
/// [`encode_plane`](Backend::encode_plane), [`decode_plane`](Backend::decode_plane), [`finish_chunks`](Backend::finish_chunks),
/// [`finish_decoders`](Backend::finish_decoders) or [`status`](Backend::status); until then results are of the right size and mean nothing.
pub trait Backend {
    /// A matrix of fixed-point values.
    type Ints;
    /// Quantised rows.
    type Rows;
    /// Weights, packed as the backend likes.
    type Matrix;
    /// One scale a row.
    type Scales;
    /// The codes of a plane.
    type Codes;
    /// The encoders of a run's chunks.
    type Encoder;
    /// The decoders of a run's chunks.
    type Decoder<'s>;

    /// What answers, for reports: for example `portable`, `cpu/avx512vnni`.
    fn name(&self) -> &str;
    /// Tells where the session is, for reports.
    fn enter(&self, _place: Place) {}
    /// Packs weights once. At least [`MAX_INPUTS`](crate::data::MAX_INPUTS) inputs are taken; profiles have no more.
    fn load(&self, weights: Weights) -> Result<Self::Matrix, Error>;
    /// Brings values to the backend.
    fn upload(&self, x: data::Ints) -> Self::Ints;
    /// All zeros.
    fn zeros(&self, rows: usize, cols: usize) -> Self::Ints {
        self.upload(data::Ints::zeros(rows, cols))
    }
    /// A matrix whose every value is set before it is read.
    fn room(&self, rows: usize, cols: usize) -> Self::Ints {
        self.zeros(rows, cols)
    }
    /// Takes a matrix that is needed no more: the next [`Backend::room`] may be its.
    fn reuse(&self, _x: Self::Ints) {}
    /// Likewise of rows.
    fn reuse_rows(&self, _rows: Self::Rows) {}
    /// One row, `rows` times.
    fn repeat(&self, row: &[i32], rows: usize) -> Self::Ints {
        self.upload(data::Ints { rows, cols: row.len(), data: row.repeat(rows) })
    }
    /// Whether [`Backend::lookup`] answers. Else tokens are embedded by the host, which need not hold the table in memory.
    fn looks_up(&self) -> bool {
        false
    }
    /// The weights of these outputs times their scales, a row each; zeros for -1.
    fn lookup(&self, _table: &Self::Matrix, _outputs: &[i32]) -> Option<Self::Ints> {
        None
    }
    /// Brings values back.
    fn download(&self, x: &Self::Ints) -> data::Ints;
    /// Number of values.
    fn size(&self, x: &Self::Ints) -> usize;
    /// Brings codes to the backend.
    fn upload_codes(&self, codes: Vec<u16>) -> Self::Codes;
    /// Brings codes back.
    fn download_codes(&self, codes: &Self::Codes) -> Vec<u16>;
    /// Number of codes.
    fn count(&self, codes: &Self::Codes) -> usize;
    /// Brings row scales to the backend.
    fn upload_scales(&self, scales: Vec<Scale>) -> Self::Scales;
    /// Brings row scales back.
    fn download_scales(&self, scales: &Self::Scales) -> Vec<Scale>;
    /// Brings quantised rows back, if the backend can: for comparisons.
    fn download_rows(&self, _rows: &Self::Rows) -> Option<data::Rows> {
        None
    }
    /// Rows of `x` as digits.
    fn quantise(&self, x: &Self::Ints, how: &Quantise) -> Self::Rows;
    /// Root mean square of each row of `x`.
    fn rms(&self, x: &Self::Ints, exponent: i32, eps: Scale) -> Self::Scales;
    /// `out[.., column..] (+)= a . w`, row scales multiplied by `factor` when given.
    fn gemm(
        &self,
        a: &Self::Rows,
        w: &Self::Matrix,
        factor: Option<&Self::Scales>,
        store: Store,
        out: &mut Self::Ints,
    );
    /// `out[.., column..] (+)= x as digits . w`.
    fn product(
        &self,
        x: &Self::Ints,
        how: &Quantise,
        w: &Self::Matrix,
        factor: Option<&Self::Scales>,
        store: Store,
        out: &mut Self::Ints,
    ) {
        let rows = self.quantise(x, how);
        self.gemm(&rows, w, factor, store, out);
        self.reuse_rows(rows);
    }
    /// An MLP: adds [`Mlp::down`] of the activated [`Mlp::gate_up`] of `x` to `x`.
    fn feed_forward(&self, x: &mut Self::Ints, mlp: &Mlp<'_, Self::Matrix>, rows: usize) {
        feed_forward_in_steps(self, x, mlp, rows);
    }
    /// RMS-normalises each head of the given columns in place and multiplies by `weight` (signed mantissa, exponent).
    fn head_norm(
        &self,
        x: &mut Self::Ints,
        columns: Range<usize>,
        exponent: i32,
        eps: Scale,
        weight: &[(i16, i16)],
    );
    /// The given columns of `x` as digits: each head normalised, rotated, quantised as one group. `x` is spoiled.
    fn heads(
        &self,
        x: &mut Self::Ints,
        columns: Range<usize>,
        norm: Option<&HeadNorm>,
        rotary: &Rotary,
        how: &Quantise,
    ) -> Self::Rows {
        if let Some(norm) = norm {
            self.head_norm(x, columns.clone(), norm.exponent, norm.eps, norm.weight);
        }
        self.quantise(&self.rope(x, columns, rotary), how)
    }
    /// The given columns of `x`, rotated.
    fn rope(&self, x: &Self::Ints, columns: Range<usize>, rotary: &Rotary) -> Self::Ints;
    /// The given columns of `x`.
    fn columns(&self, x: &Self::Ints, columns: Range<usize>) -> Self::Ints;
    /// `x[.., column..] += y`, saturated.
    fn add(&self, x: &mut Self::Ints, column: usize, y: &Self::Ints);
    /// `x[.., column..] = y`.
    fn put(&self, x: &mut Self::Ints, column: usize, y: &Self::Ints);
    /// `silu(gate) * up` of `[gate | up]` rows.
    fn silu(&self, gate_up: &Self::Ints, how: Silu) -> Self::Ints;
    /// [`Backend::silu`] as digits.
    fn activate(&self, gate_up: &Self::Ints, silu: Silu, how: &Quantise) -> Self::Rows {
        self.quantise(&self.silu(gate_up, silu), how)
    }
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
    /// Brings the encoders of a run's chunks to the backend, before any plane of them.
    fn encoder(&self, chunks: ChunkEncoders) -> Self::Encoder;
    /// Prices a plane over all its chunks and hands the symbols to the chunks' encoders.
    ///
    /// # Errors
    /// Those of [`ChunkEncoder::push_plane`](speckv_codec_core::ChunkEncoder::push_plane), of the first chunk that has one.
    fn encode_plane(
        &self,
        pricing: &Pricing,
        mu: &Self::Ints,
        token: &Self::Ints,
        codes: &Self::Codes,
        to: &mut Self::Encoder,
    ) -> Result<(), Error>;
    /// What the planes so far cost in all chunks, in 1/256 bit ([`ChunkEncoder::cost`](speckv_codec_core::ChunkEncoder::cost)).
    fn cost(&self, encoder: &Self::Encoder) -> Result<u64, Error>;
    /// Runs the coders of finished chunks; results in order.
    ///
    /// # Errors
    /// Those of [`ChunkEncoder::finish`](speckv_codec_core::ChunkEncoder::finish), of the first chunk that has one.
    fn finish_chunks(&self, encoder: Self::Encoder) -> Result<Vec<Chunk>, Error>;
    /// Brings the decoders of a run's chunks to the backend, before any plane of them.
    fn decoder<'s>(&self, chunks: ChunkDecoders<'s>) -> Self::Decoder<'s>;
    /// Decodes a plane over all its chunks; returns the codes.
    ///
    /// # Errors
    /// Those of [`ChunkDecoder::next_plane`](speckv_codec_core::ChunkDecoder::next_plane), of the first chunk that has one.
    fn decode_plane(
        &self,
        pricing: &Pricing,
        mu: &Self::Ints,
        token: &Self::Ints,
        from: &mut Self::Decoder<'_>,
    ) -> Result<Self::Codes, Error>;
    /// Checks that all chunks ended as they must and gave values with these checksums.
    ///
    /// # Errors
    /// Those of [`ChunkDecoder::finish`](speckv_codec_core::ChunkDecoder::finish), of the first chunk that has one.
    fn finish_decoders(&self, decoder: Self::Decoder<'_>, values_checksums: &[u64]) -> Result<(), Error>;
    /// What the true codes of a plane say about its prediction.
    fn observe(
        &self,
        pricing: &Pricing,
        mu: &Self::Ints,
        token: &Self::Ints,
        codes: &Self::Codes,
    ) -> Observed<Self::Ints>;
    /// What a coded plane tells: the energy of its innovations, and what is kept of it, with digits if they are asked for.
    fn learn(
        &self,
        seen: &Seen<'_, Self>,
        keep: Option<Keep<'_, Self::Ints>>,
    ) -> (Self::Ints, Option<Self::Rows>) {
        learn_in_steps(self, seen, keep)
    }
    /// The values of codes alone (of a prefix).
    fn values(
        &self,
        codes: &Self::Codes,
        cols: usize,
        format: ElementFormat,
        unit: Unit,
        exponent: i32,
    ) -> Self::Ints;
    /// Whether all work so far went well, as far as the backend knows.
    fn status(&self) -> Result<(), Error> {
        Ok(())
    }
    /// The same once all work so far is done, for whoever takes times: a device works on while its host goes on.
    fn wait(&self) -> Result<(), Error> {
        self.status()
    }
}

/// [`Backend::feed_forward`] by other operations in a row, for backends that do not serve every size at once.
pub fn feed_forward_in_steps<B: Backend + ?Sized>(
    b: &B,
    x: &mut B::Ints,
    mlp: &Mlp<'_, B::Matrix>,
    rows: usize,
) {
    let mut both = b.room(rows, 2 * mlp.ffn);
    b.product(x, &mlp.normed, mlp.gate_up, None, Store::SET, &mut both);
    let act = b.activate(&both, mlp.silu, &mlp.act);
    b.reuse(both);
    b.gemm(&act, mlp.down, None, Store::ADD, x);
    b.reuse_rows(act);
}

/// [`Backend::learn`] by other operations in a row, for backends that do not serve every size at once.
pub fn learn_in_steps<B: Backend + ?Sized>(
    b: &B,
    seen: &Seen<'_, B>,
    keep: Option<Keep<'_, B::Ints>>,
) -> (B::Ints, Option<B::Rows>) {
    let Observed { truth, energy } = b.observe(seen.pricing, seen.mu, seen.token, seen.codes);
    let rows = keep.and_then(|keep| {
        let innovation = match &keep.back {
            Some(back) => b.rope(&truth.innovation, 0..back.head_dim, back),
            None => truth.innovation,
        };
        b.put(keep.innovation, keep.column, &innovation);
        b.put(keep.value, keep.column, &truth.value);
        keep.digits.map(|how| b.quantise(&innovation, &how))
    });
    (energy, rows)
}

/// A backend that works in host memory: what it takes and gives is plain data.
pub trait Host:
    for<'s> Backend<
        Ints = data::Ints,
        Rows = data::Rows,
        Scales = Vec<Scale>,
        Codes = Vec<u16>,
        Encoder = ChunkEncoders,
        Decoder<'s> = ChunkDecoders<'s>,
    >
{
}

impl<B> Host for B where
    B: for<'s> Backend<
            Ints = data::Ints,
            Rows = data::Rows,
            Scales = Vec<Scale>,
            Codes = Vec<u16>,
            Encoder = ChunkEncoders,
            Decoder<'s> = ChunkDecoders<'s>,
        >
{
}
