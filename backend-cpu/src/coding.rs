//! Planes to symbols and back: the chunks of a plane in parallel, each through the path's coder.

use std::ops::Range;

use rayon::prelude::*;
use speckv_predictor::backend::Pricing;
use speckv_predictor::core::Chunk;
use speckv_predictor::data::{ChunkDecoders, ChunkEncoders, Ints};
use speckv_predictor::error::Error;
use speckv_predictor::portable::CodeUnits;
use speckv_predictor::tables::Tables;

use crate::coder::{self, Coder};

/// [`CodeUnits::new`].
fn units<'a>(
    coder: impl Coder,
    pricing: &Pricing,
    mu: &'a Ints,
    token: &Ints,
    rows: Range<usize>,
    tables: &Tables,
) -> CodeUnits<'a> {
    CodeUnits::with(pricing, mu, token, rows, tables, |mu, unit| {
        let mut codes = vec![0; mu.len()];
        coder.to_codes(mu, unit, &mut codes);
        codes
    })
}

/// Hands the symbols of a plane to the encoders of its chunks. If several chunks fail, the first one's error is returned.
#[allow(clippy::too_many_arguments)]
pub(crate) fn encode(
    coder: impl Coder,
    tables: &Tables,
    pricing: &Pricing,
    mu: &Ints,
    token: &Ints,
    codes: &[u16],
    to: &mut ChunkEncoders,
) -> Result<(), Error> {
    let results: Vec<Result<(), Error>> = to
        .par_iter_mut()
        .map(|(rows, encoder)| {
            let units = units(coder, pricing, mu, token, rows.clone(), tables);
            let codes = &codes[rows.start * mu.cols..rows.end * mu.cols];
            let (symbols, cost) = coder::price(coder, &units.model(pricing), codes)?;
            encoder.push_symbols(symbols, cost, codes)?;
            Ok(())
        })
        .collect();
    results.into_iter().collect()
}

/// Decodes a plane. If several chunks fail, the first one's error is returned.
pub(crate) fn decode(
    coder: impl Coder,
    tables: &Tables,
    pricing: &Pricing,
    mu: &Ints,
    token: &Ints,
    from: &mut ChunkDecoders<'_>,
) -> Result<Vec<u16>, Error> {
    let results: Vec<Result<Vec<u16>, Error>> = from
        .par_iter_mut()
        .map(|(rows, decoder)| {
            let units = units(coder, pricing, mu, token, rows.clone(), tables);
            let mut codes = vec![0; rows.len() * mu.cols];
            let model = units.model(pricing);
            decoder.next_plane_with(&mut codes, |lanes, out| coder::decode(coder, &model, lanes, out))?;
            Ok(codes)
        })
        .collect();
    let mut codes = vec![0; mu.data.len()];
    for ((rows, _), result) in from.iter().zip(results) {
        codes[rows.start * mu.cols..rows.end * mu.cols].copy_from_slice(&result?);
    }
    Ok(codes)
}

/// Runs the coders of finished chunks. If several fail, the first one's error is returned.
pub(crate) fn finish(coder: impl Coder, encoders: ChunkEncoders) -> Result<Vec<Chunk>, Error> {
    let results: Vec<Result<Chunk, Error>> = encoders
        .into_par_iter()
        .map(|(_, e)| e.finish_with(|lanes, symbols| coder.push(lanes, symbols)).map_err(Error::from))
        .collect();
    results.into_iter().collect()
}
