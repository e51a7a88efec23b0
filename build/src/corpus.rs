//! Calibration sequences: token ids, the target's cache, and the hidden state entering each layer.

use speckv_capture::{Cache, CacheMode, ElementFormat, ModelSource, RunOptions, Target, cache};
use speckv_codec_core::Part;

use crate::linalg::Rng;
use crate::{Error, Options, Progress};

/// One sequence as the target saw it.
#[derive(Clone)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Its cache.
    pub cache: Cache,
    /// Hidden state entering each layer, `[tokens, hidden]`, as bf16 bits (the target computes it in bf16).
    pub hidden: Vec<Vec<u16>>,
}

impl Sequence {
    /// Codes of a plane, `[tokens, head_dim]`.
    pub fn codes(&self, layer: usize, part: Part, head: usize) -> Vec<u16> {
        let c = &self.cache;
        let n = c.tokens * c.head_dim;
        let bytes = &c.planes[layer][part as usize];
        match c.format.width() {
            8 => bytes[head * n..(head + 1) * n].iter().map(|b| *b as u16).collect(),
            _ => bytes[2 * head * n..2 * (head + 1) * n]
                .chunks_exact(2)
                .map(|b| u16::from_le_bytes([b[0], b[1]]))
                .collect(),
        }
    }

    /// The same, its hidden states dropped: for measuring only.
    pub fn without_hidden(self) -> Sequence {
        Sequence { hidden: Vec::new(), ..self }
    }

    /// The hidden state entering a layer.
    pub fn hidden(&self, layer: usize) -> Vec<f32> {
        self.hidden[layer].iter().map(|h| f32::from_bits((*h as u32) << 16)).collect()
    }
}

/// Scales of a cache as f32 bits, order layer, part, head.
pub fn scale_bits(cache: &Cache) -> Vec<u32> {
    cache.scales.iter().flatten().flatten().flatten().map(|s| s.to_bits()).collect()
}

/// Runs the target over every sequence in bf16.
pub fn capture(
    target: &Target,
    ids: &[Vec<u32>],
    mode: &CacheMode,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Sequence>, Error> {
    let mut out = Vec::new();
    for (i, ids) in ids.iter().enumerate() {
        let options = RunOptions { cache: mode.clone(), ..RunOptions::default() };
        let mut hidden = Vec::new();
        let run = target.run_with(ids, &options, &mut |state| {
            hidden.push(state.hidden.iter().map(|h| (h.to_bits() >> 16) as u16).collect());
            Ok(())
        })?;
        out.push(Sequence { ids: ids.clone(), cache: run.cache, hidden });
        progress(i as u64 + 1);
    }
    Ok(out)
}

/// Texts that the target writes itself, as long as the longest one given. Each begins with any one token, all alike: what a model writes from there
/// is of every kind that it knows, whatever kind the given texts are of.
pub fn own_texts(
    target: &Target,
    given: &[Vec<u32>],
    options: &Options,
    progress: Progress<'_>,
) -> Result<Vec<Vec<u32>>, Error> {
    if options.own_texts == 0 {
        return Ok(Vec::new());
    }
    let tokens = given.iter().map(Vec::len).max().unwrap_or(0);
    let mut rng = Rng(options.seed);
    let vocab = target.config().vocab as u64;
    let starts: Vec<Vec<u32>> = (0..options.own_texts).map(|_| vec![(rng.bits() % vocab) as u32]).collect();
    let own = target.generate(&starts, tokens, options.seed, &mut |done| {
        progress("write texts", done as u64, tokens as u64);
        Ok(())
    })?;
    Ok(own)
}

/// One e4m3 scale a (layer, part) from bf16 caches.
pub fn e4m3_mode(sequences: &[Sequence]) -> Result<CacheMode, Error> {
    let caches: Vec<&Cache> = sequences.iter().map(|s| &s.cache).collect();
    let scales = cache::fp8_scales(ElementFormat::E4m3, &caches, cache::ScalePer::Part)?;
    Ok(CacheMode::Fp8 { format: ElementFormat::E4m3, scales })
}

/// Loads the target.
pub fn target(source: &ModelSource) -> Result<Target, Error> {
    Ok(Target::load(source)?)
}
