//! What every plane of a cache costs, by the coder's own prices.

use std::ops::Range;

use speckv_capture::Cache;
use speckv_codec_core::{ChunkEncoder, Part};
use speckv_predictor::backend::{Backend, Pricing};
use speckv_predictor::codec::{CHUNK_TOKENS, LoadedMode, run_tokens};
use speckv_predictor::session::{Planes, Progress};

use crate::caches;
use crate::error::Result;

/// Costs of the planes of each `[layer][part]` in 1/256 bit, in chunks of the default length: what `compress` spends on them, but for the fixed
/// parts of stream and chunks and for the rounding of the coder's states.
pub fn prices<B: Backend>(
    b: &B,
    mode: &LoadedMode<'_, B>,
    cache: &Cache,
    progress: Progress<'_>,
) -> Result<Vec<[u64; 2]>> {
    let mut session = mode.session(b, cache.format, &caches::scale_bits(cache)?)?;
    let mut planes = Price { cache, tokens: 0..0, chunks: Vec::new(), costs: vec![[0; 2]; cache.layers] };
    let ids = cache.token_ids.as_deref().unwrap_or_default();
    let run = run_tokens(caches::geometry(cache), CHUNK_TOKENS as usize);
    for start in (0..cache.tokens).step_by(run) {
        planes.tokens = start..(start + run).min(cache.tokens);
        let (n, chunk) = (planes.tokens.len(), CHUNK_TOKENS as usize);
        planes.chunks = (0..n).step_by(chunk).map(|at| at..(at + chunk).min(n)).collect();
        session.run(n, ids.get(planes.tokens.clone()).unwrap_or_default(), &mut planes, progress)?;
    }
    Ok(planes.costs)
}

struct Price<'a> {
    cache: &'a Cache,
    /// Of the run.
    tokens: Range<usize>,
    chunks: Vec<Range<usize>>,
    costs: Vec<[u64; 2]>,
}

impl<B: Backend> Planes<B> for Price<'_> {
    fn plane(
        &mut self,
        b: &B,
        (layer, part, head): (usize, Part, usize),
        pricing: &Pricing,
        mu: &B::Ints,
        token: &B::Ints,
    ) -> std::result::Result<B::Codes, speckv_predictor::Error> {
        let codes = b.upload_codes(caches::codes(self.cache, layer, part, head, self.tokens.clone()));
        let one = |rows: &Range<usize>| (rows.clone(), ChunkEncoder::new(self.cache.format, 1, None));
        let mut encoder = b.encoder(self.chunks.iter().map(one).collect());
        b.encode_plane(pricing, mu, token, &codes, &mut encoder)?;
        self.costs[layer][part as usize] += b.cost(&encoder)?;
        Ok(codes)
    }
}
