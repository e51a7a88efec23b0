//! One predictor on one cache: compressed, restored, compared, priced.

use std::path::Path;
use std::time::Instant;

use speckv_capture::Cache;
use speckv_predictor::codec::{self, Known, LoadedMode, Options, RUN_TOKENS};

use super::{Steps, prices::prices};
use crate::backend::Active;
use crate::caches::{self, Restored};
use crate::error::{Code, Error, Result};
use crate::streams;

/// Passes over a cache.
pub const PASSES: u64 = 3;

/// What came of it.
pub struct Measured {
    /// Of the stream.
    pub bytes: u64,
    /// To compress and to decompress.
    pub seconds: [f64; 2],
    /// See [`prices`].
    pub costs: Vec<[u64; 2]>,
}

/// Measures `cache`, named `name` in errors, with the options that `speckv compress` has by default.
pub fn measure(
    b: &Active,
    mode: &LoadedMode<'_, Active>,
    cache: &Cache,
    name: &Path,
    steps: &mut Steps,
) -> Result<Measured> {
    let (tokens, layers) = (cache.tokens as u64, cache.layers as u64);
    // The codec tells where a run starts, not how long it is.
    let pass = |steps: &mut Steps, start: usize, layer: usize| {
        let done =
            start as u64 * layers + (tokens - start as u64).min(RUN_TOKENS as u64) * (layer as u64 + 1);
        steps.within(done.min(tokens * layers));
    };
    let since = Instant::now();
    let bytes = caches::with_view(cache, |view| {
        Ok(codec::compress(b, mode, view, Options::default(), &mut |start, layer| pass(steps, start, layer))?)
    })?;
    let compress = since.elapsed().as_secs_f64();
    steps.done(tokens * layers);

    let since = Instant::now();
    let stream = streams::parse(&bytes, name)?;
    let mut restored = Restored::new(cache.format, caches::geometry(cache));
    let ids = codec::decompress(
        b,
        mode,
        &stream,
        Known::default(),
        &mut |layer, part, _, start, codes| restored.put(layer, part, start, codes),
        &mut |start, layer| pass(steps, start, layer),
    )?;
    let restored = restored.finish(&stream.header().scales, ids);
    let decompress = since.elapsed().as_secs_f64();
    steps.done(tokens * layers);
    if let Some(what) = caches::difference(cache, &restored)? {
        let message =
            format!("what came back is not what went in ({what}); this is a defect, please report it");
        return Err(Error::new(Code::Internal, message).of(name));
    }

    let costs = prices(b, mode, cache, &mut |start, layer| pass(steps, start, layer))?;
    steps.done(tokens * layers);
    Ok(Measured { bytes: bytes.len() as u64, seconds: [compress, decompress], costs })
}
