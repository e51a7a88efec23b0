//! The definition of every operation, in plain loops over rows. Other backends reuse the row functions or are proven equal to them.

pub mod attention;
pub mod coding;
pub mod elementwise;
pub mod gemm;
pub mod quantise;

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::ops::Range;

use speckv_codec_core::{Chunk, ElementFormat, PlaneModel};

use crate::backend::{Attention, Backend, Observed, Pricing, Quantise, Rotary, Silu, Store, Truth, Unit};
use crate::data::{self, ChunkDecoders, ChunkEncoders, Ints, Rows, Weights};
use crate::error::Error;
use crate::fixed::{Scale, saturate};
use crate::tables::Tables;
use coding::Shrink;

/// The portable backend: the definition.
#[derive(Clone, Debug)]
pub struct Portable {
    tables: Tables,
    shrink: Shrink,
}

impl Default for Portable {
    fn default() -> Self {
        Portable::new()
    }
}

impl Portable {
    /// Computes the tables.
    pub fn new() -> Portable {
        let tables = Tables::new();
        let shrink = Shrink::new(&tables);
        Portable { tables, shrink }
    }

    /// The tables that all row functions share.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The same, to be spoiled.
    #[cfg(all(test, feature = "shadow", feature = "conformance"))]
    pub(crate) fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// The innovation table.
    pub fn shrink(&self) -> &Shrink {
        &self.shrink
    }
}

/// Inputs of a [`PlaneModel`] for rows of a plane: predictions and indices in code units.
pub struct CodeUnits<'a> {
    exponent: i32,
    mu: Cow<'a, [i32]>,
    channel: Vec<i16>,
    token: Vec<i16>,
}

impl<'p> CodeUnits<'p> {
    /// Converts the rows `rows` of a plane's predictions to code units.
    pub fn new(
        pricing: &Pricing,
        mu: &'p Ints,
        token: &Ints,
        rows: Range<usize>,
        tables: &Tables,
    ) -> CodeUnits<'p> {
        Self::with(pricing, mu, token, rows, tables, |mu, unit| mu.iter().map(|m| unit.to_code(*m)).collect())
    }

    /// The same with the caller's [`Unit::to_code`] of all means, which is asked unless the unit is a power of two.
    pub fn with(
        pricing: &Pricing,
        mu: &'p Ints,
        token: &Ints,
        rows: Range<usize>,
        tables: &Tables,
        to_codes: impl FnOnce(&[i32], Unit) -> Vec<i32>,
    ) -> CodeUnits<'p> {
        let shift = pricing.unit.index_shift(tables);
        let mu = &mu.data[rows.start * mu.cols..rows.end * mu.cols];
        // Powers of two only move the exponent.
        let same = pricing.unit.m == Unit::ONE.m;
        CodeUnits {
            exponent: pricing.unit.code_exponent(pricing.exponent),
            mu: if same { Cow::Borrowed(mu) } else { Cow::Owned(to_codes(mu, pricing.unit)) },
            channel: pricing.channel.iter().map(|c| c + shift).collect(),
            token: token.data[rows].iter().map(|t| *t as i16).collect(),
        }
    }

    /// The model that prices these rows.
    pub fn model<'a>(&'a self, pricing: &Pricing<'a>) -> PlaneModel<'a> {
        PlaneModel {
            format: pricing.format,
            exponent: self.exponent,
            mu: &self.mu,
            channel_scale: &self.channel,
            token_scale: &self.token,
            shape: pricing.shape,
        }
    }
}

/// One row of [`Backend::observe`]: fills `value` and `innovation`, returns the energy. `mu`, `channel` in code units.
#[allow(clippy::too_many_arguments)]
pub fn observe_row(
    pricing: &Pricing,
    code_exponent: i32,
    mu: &[i32],
    channel: &[i16],
    token: i16,
    codes: &[u16],
    value: &mut [i32],
    innovation: &mut [i32],
    shrink: &Shrink,
    tables: &Tables,
) -> i32 {
    let (format, unit) = (pricing.format, pricing.unit);
    let mut sum = 0u64;
    for c in 0..codes.len() {
        value[c] = unit.value(codes[c], format, pricing.exponent);
        let rank = format.rank(codes[c]);
        let mu = mu[c];
        let (lo, hi) = (format.edge(rank, code_exponent) - mu, format.edge(rank + 1, code_exponent) - mu);
        let q = (channel[c] as i32 + token as i32).clamp(0, coding::MAX_SCALE_INDEX);
        let v = shrink.innovation(lo, hi, q, tables);
        let base = (channel[c] as i32).clamp(0, coding::MAX_SCALE_INDEX);
        let z = speckv_codec_core::model::normalise(v, 0, base) as i64;
        sum += (z * z) as u64;
        innovation[c] = unit.from_code(v);
    }
    coding::energy(sum, codes.len(), tables)
}

fn map_rows(x: &Ints, cols: usize, mut f: impl FnMut(usize, &[i32], &mut [i32])) -> Ints {
    let mut out = Ints::zeros(x.rows, cols);
    for t in 0..x.rows {
        f(t, x.row(t), &mut out.data[t * cols..(t + 1) * cols]);
    }
    out
}

impl Backend for Portable {
    type Ints = Ints;
    type Rows = Rows;
    type Matrix = Weights;
    type Scales = Vec<Scale>;
    type Codes = Vec<u16>;
    type Encoder = ChunkEncoders;
    type Decoder<'s> = ChunkDecoders<'s>;

    fn name(&self) -> &str {
        "portable"
    }

    fn load(&self, weights: Weights) -> Result<Weights, Error> {
        Ok(weights)
    }

    fn upload(&self, x: Ints) -> Ints {
        x
    }

    fn download(&self, x: &Ints) -> Ints {
        x.clone()
    }

    fn size(&self, x: &Ints) -> usize {
        x.data.len()
    }

    fn upload_codes(&self, codes: Vec<u16>) -> Vec<u16> {
        codes
    }

    fn download_codes(&self, codes: &Vec<u16>) -> Vec<u16> {
        codes.clone()
    }

    fn count(&self, codes: &Vec<u16>) -> usize {
        codes.len()
    }

    fn upload_scales(&self, scales: Vec<Scale>) -> Vec<Scale> {
        scales
    }

    fn download_scales(&self, scales: &Vec<Scale>) -> Vec<Scale> {
        scales.clone()
    }

    fn download_rows(&self, rows: &Rows) -> Option<Rows> {
        Some(rows.clone())
    }

    fn quantise(&self, x: &Ints, how: &Quantise) -> Rows {
        let groups = x.cols / how.group;
        let mut rows = Rows {
            rows: x.rows,
            cols: x.cols,
            group: how.group,
            digits: how.digits,
            wide: how.wide,
            values: alloc::vec![0; x.data.len()],
            scales: alloc::vec![Scale::ZERO; x.rows * groups],
        };
        let mut scratch = alloc::vec![0; how.group];
        for t in 0..x.rows {
            let (values, scales) =
                (&mut rows.values[t * x.cols..][..x.cols], &mut rows.scales[t * groups..][..groups]);
            quantise::quantise_row(x.row(t), how, values, scales, &mut scratch);
        }
        rows
    }

    fn rms(&self, x: &Ints, exponent: i32, eps: Scale) -> Vec<Scale> {
        (0..x.rows).map(|t| quantise::rms(x.row(t), exponent, eps)).collect()
    }

    fn gemm(&self, a: &Rows, w: &Weights, factor: Option<&Vec<Scale>>, store: Store, out: &mut Ints) {
        let (cols, factor) = (out.cols, factor.map(Vec::as_slice));
        for t in 0..a.rows {
            gemm::gemm_row(a, t, w, factor, store, &mut out.data[t * cols..(t + 1) * cols]);
        }
    }

    fn head_norm(
        &self,
        x: &mut Ints,
        columns: Range<usize>,
        exponent: i32,
        eps: Scale,
        weight: &[(i16, i16)],
    ) {
        for row in x.data.chunks_exact_mut(x.cols) {
            quantise::head_norm_row(&mut row[columns.clone()], exponent, eps, weight);
        }
    }

    fn rope(&self, x: &Ints, columns: Range<usize>, rotary: &Rotary) -> Ints {
        map_rows(x, columns.len(), |t, row, out| {
            out.copy_from_slice(&row[columns.clone()]);
            let position = rotary.start + t as u64;
            elementwise::rope_row(out, rotary.head_dim, rotary.steps, position, rotary.inverse, &self.tables);
        })
    }

    fn columns(&self, x: &Ints, columns: Range<usize>) -> Ints {
        map_rows(x, columns.len(), |_, row, out| out.copy_from_slice(&row[columns.clone()]))
    }

    fn add(&self, x: &mut Ints, column: usize, y: &Ints) {
        for (x, y) in x.data.chunks_exact_mut(x.cols).zip(y.data.chunks_exact(y.cols)) {
            for (x, y) in x[column..].iter_mut().zip(y) {
                *x = saturate(*x as i64 + *y as i64);
            }
        }
    }

    fn put(&self, x: &mut Ints, column: usize, y: &Ints) {
        for (x, y) in x.data.chunks_exact_mut(x.cols).zip(y.data.chunks_exact(y.cols)) {
            x[column..column + y.len()].copy_from_slice(y);
        }
    }

    fn silu(&self, gate_up: &Ints, how: Silu) -> Ints {
        map_rows(gate_up, gate_up.cols / 2, |_, row, out| elementwise::silu_row(row, how, out, &self.tables))
    }

    fn append(&self, rows: &mut Rows, more: Rows) {
        rows.rows += more.rows;
        rows.values.extend(more.values);
        rows.scales.extend(more.scales);
    }

    fn attention(&self, query: &Rows, keys: &Rows, values: &Rows, start: usize, how: &Attention) -> Ints {
        let mut out = Ints::zeros(query.rows, query.cols);
        for (t, row) in out.data.chunks_exact_mut(query.cols).enumerate() {
            attention::attention_row(query, t, keys, values, start + t, how, row, &self.tables);
        }
        out
    }

    fn power(&self, x: &Ints, columns: Range<usize>, exponent: i32) -> Ints {
        map_rows(x, 1, |_, row, out| {
            out[0] = coding::log_power(&row[columns.clone()], exponent, &self.tables)
        })
    }

    fn token_scale(&self, rows: usize, features: &[(&Ints, i32)], bias: i64) -> Ints {
        let mut out = Ints::zeros(rows, 1);
        for (t, out) in out.data.iter_mut().enumerate() {
            *out = coding::token_scale(features.iter().map(|(f, w)| (f.data[t], *w)), bias);
        }
        out
    }

    fn encoder(&self, chunks: ChunkEncoders) -> ChunkEncoders {
        chunks
    }

    fn cost(&self, encoder: &ChunkEncoders) -> Result<u64, Error> {
        Ok(data::cost(encoder))
    }

    fn encode_plane(
        &self,
        pricing: &Pricing,
        mu: &Ints,
        token: &Ints,
        codes: &Vec<u16>,
        to: &mut ChunkEncoders,
    ) -> Result<(), Error> {
        for (range, encoder) in to {
            let units = CodeUnits::new(pricing, mu, token, range.clone(), &self.tables);
            encoder.push_plane(&units.model(pricing), &codes[range.start * mu.cols..range.end * mu.cols])?;
        }
        Ok(())
    }

    fn decode_plane(
        &self,
        pricing: &Pricing,
        mu: &Ints,
        token: &Ints,
        from: &mut ChunkDecoders<'_>,
    ) -> Result<Vec<u16>, Error> {
        let mut codes = alloc::vec![0; mu.data.len()];
        for (range, decoder) in from {
            let units = CodeUnits::new(pricing, mu, token, range.clone(), &self.tables);
            decoder
                .next_plane(&units.model(pricing), &mut codes[range.start * mu.cols..range.end * mu.cols])?;
        }
        Ok(codes)
    }

    fn finish_chunks(&self, encoder: ChunkEncoders) -> Result<Vec<Chunk>, Error> {
        data::finish_chunks(encoder)
    }

    fn decoder<'s>(&self, chunks: ChunkDecoders<'s>) -> ChunkDecoders<'s> {
        chunks
    }

    fn finish_decoders(&self, decoder: ChunkDecoders<'_>, values_checksums: &[u64]) -> Result<(), Error> {
        data::finish_decoders(decoder, values_checksums)
    }

    fn observe(&self, pricing: &Pricing, mu: &Ints, token: &Ints, codes: &Vec<u16>) -> Observed<Ints> {
        let (rows, cols) = (mu.rows, mu.cols);
        let units = CodeUnits::new(pricing, mu, token, 0..rows, &self.tables);
        let mut truth = Truth { value: Ints::zeros(rows, cols), innovation: Ints::zeros(rows, cols) };
        let mut energy = Ints::zeros(rows, 1);
        for t in 0..rows {
            let at = t * cols..(t + 1) * cols;
            energy.data[t] = observe_row(
                pricing,
                units.exponent,
                &units.mu[at.clone()],
                &units.channel,
                units.token[t],
                &codes[at.clone()],
                &mut truth.value.data[at.clone()],
                &mut truth.innovation.data[at],
                &self.shrink,
                &self.tables,
            );
        }
        Observed { truth, energy }
    }

    fn values(
        &self,
        codes: &Vec<u16>,
        cols: usize,
        format: ElementFormat,
        unit: Unit,
        exponent: i32,
    ) -> Ints {
        let data = codes.iter().map(|c| unit.value(*c, format, exponent)).collect();
        Ints { rows: codes.len() / cols, cols, data }
    }
}
