//! Calibration sequences: token ids, the target's cache, and the hidden state entering each layer.

use speckv_capture::{Cache, CacheMode, ElementFormat, ModelSource, RunOptions, Target, cache};
use speckv_codec_core::Part;

use crate::linalg::Rng;
use crate::openings::OPENINGS;
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

/// Texts that the target writes itself, as long as the longest one given. They begin in turn with any one token, all alike, from which a model
/// mostly writes prose, and with one of [`OPENINGS`], from which it writes code and data: together of every kind that it knows, whatever kind the
/// given texts are of. Without a tokenizer all begin with any token.
pub fn own_texts(
    target: &Target,
    source: &ModelSource,
    given: &[Vec<u32>],
    options: &Options,
    progress: Progress<'_>,
) -> Result<Vec<Vec<u32>>, Error> {
    if options.own_texts == 0 {
        return Ok(Vec::new());
    }
    let tokens = given.iter().map(Vec::len).max().unwrap_or(0);
    let starts = starts(source, target.config().vocab, options)?;
    let own = target.generate(&starts, tokens, options.seed, &mut |done| {
        progress("write texts", done as u64, tokens as u64);
        Ok(())
    })?;
    Ok(own)
}

/// What own texts begin with.
fn starts(source: &ModelSource, vocab: usize, options: &Options) -> Result<Vec<Vec<u32>>, Error> {
    let mut rng = Rng(options.seed);
    let mut openings = OPENINGS.iter().cycle();
    let start = |i: usize| {
        let any = vec![(rng.bits() % vocab as u64) as u32];
        if i.is_multiple_of(2) || source.tokenizer().is_err() {
            return Ok(any);
        }
        let ids = source.encode(openings.next().expect("a cycle"))?;
        Ok(if ids.is_empty() { any } else { ids })
    };
    (0..options.own_texts).map(start).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_texts_begin_in_turn_with_any_token_and_with_the_first_lines_of_files() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-qwen3");
        let source = ModelSource::open(folder.as_ref()).unwrap();
        let vocab = source.config().vocab;
        let options = Options { own_texts: 27, ..Options::default() };
        let starts = starts(&source, vocab, &options).unwrap();
        assert_eq!(starts.len(), 27);
        for (i, ids) in starts.iter().enumerate() {
            if i % 2 == 0 {
                assert_eq!(ids.len(), 1, "start {i}");
            } else {
                let text = source.tokenizer().unwrap().decode(ids, false).unwrap();
                assert_eq!(text, OPENINGS[i / 2 % OPENINGS.len()], "start {i}");
            }
            assert!(ids.iter().all(|id| (*id as usize) < vocab), "start {i}");
        }
        let any: std::collections::HashSet<_> = starts.iter().step_by(2).collect();
        assert!(any.len() > 10, "{any:?}");
    }
}
