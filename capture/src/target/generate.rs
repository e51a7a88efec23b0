//! Texts that a model writes itself: sampling token by token, many sequences in step, each over its own growing cache.

use half::bf16;
use rayon::prelude::*;

use super::arithmetic::Arithmetic;
use super::ops::{self, RopeTable};
use super::{Target, attention};
use crate::error::{Error, Result};

impl Target {
    /// Sequences of `tokens` tokens that the model writes itself at temperature 1, one for each of `starts`, whose tokens it begins with (what is
    /// beyond `tokens` is cut off). No token ends a sequence. `visit` is told how many tokens each has; an error from it ends the run.
    ///
    /// All sequences grow in step, so that the weights are read once for all of them, and keep their keys and values, so that the work is linear in
    /// tokens but for attention. A seed draws the same tokens again wherever sums come out the same: on one machine.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no start, or one of them is empty or has ids that the model does not, or if logits are not finite.
    pub fn generate(
        &self,
        starts: &[Vec<u32>],
        tokens: usize,
        seed: u64,
        visit: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Vec<u32>>> {
        if starts.is_empty() {
            return Err(Error::Argument("there is no sequence to begin".to_owned()));
        }
        starts.iter().try_for_each(|ids| self.check_ids(ids))?;
        let mut decoder = Decoder::new(self, starts.len(), tokens);
        let mut out: Vec<Vec<u32>> = starts.iter().map(|s| s[..1.min(tokens)].to_vec()).collect();
        for at in 1..tokens {
            let last: Vec<u32> = out.iter().map(|ids| ids[at - 1]).collect();
            let logits = decoder.step(&last)?;
            for (s, logits) in logits.chunks_exact(self.config.vocab).enumerate() {
                let drawn = draw(logits, random(seed, s as u64, at as u64));
                let drawn =
                    drawn.ok_or_else(|| Error::Argument("the model's logits are not finite".to_owned()))?;
                out[s].push(starts[s].get(at).copied().unwrap_or(drawn));
            }
            visit(at + 1)?;
        }
        Ok(out)
    }
}

/// Sequences of equal length being decoded, with the keys and values of all tokens so far.
struct Decoder<'a> {
    target: &'a Target,
    rope: RopeTable,
    /// `[layer][sequence]`: keys and values, `[tokens, kv_heads * head_dim]`.
    past: Vec<Vec<[Vec<bf16>; 2]>>,
    tokens: usize,
}

impl<'a> Decoder<'a> {
    /// For at most `tokens` steps.
    fn new(target: &'a Target, sequences: usize, tokens: usize) -> Self {
        let c = &target.config;
        let past = (0..c.layers).map(|_| (0..sequences).map(|_| Default::default()).collect()).collect();
        Decoder { target, rope: RopeTable::new(&c.rope, c.head_dim, tokens), past, tokens: 0 }
    }

    /// One token more for each sequence; the logits after it, `[sequences, vocab]`. The arithmetic is that of [`Target::run`].
    fn step(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let (c, weights) = (&self.target.config, &self.target.weights);
        let width = c.heads * c.head_dim;
        let turn = |x: &mut [f32], heads: usize| {
            x.chunks_mut(heads * c.head_dim).for_each(|row| self.rope.turn(self.tokens, row));
        };
        let mut hidden = weights.embedding.rows(ids);
        for (w, past) in weights.layers.iter().zip(&mut self.past) {
            let normed = ops::rms_norm(&hidden, &w.input_norm, c.rms_eps);
            let mut keys = w.k.apply(&normed, Arithmetic::Bf16)?;
            let values = w.v.apply(&normed, Arithmetic::Bf16)?;
            let mut queries = w.q.apply(&normed, Arithmetic::Bf16)?;
            if let Some(norm) = &w.k_norm {
                keys = ops::rms_norm(&keys, norm, c.rms_eps);
            }
            if let Some(norm) = &w.q_norm {
                queries = ops::rms_norm(&queries, norm, c.rms_eps);
            }
            turn(&mut keys, c.kv_heads);
            turn(&mut queries, c.heads);
            let mut attended = vec![0.0f32; queries.len()];
            let rows = attended.par_chunks_mut(width).zip(queries.par_chunks(width)).zip(past).enumerate();
            rows.for_each(|(s, ((out, queries), past))| {
                let n = c.kv_heads * c.head_dim;
                for (past, new) in past.iter_mut().zip([&keys, &values]) {
                    past.extend(new[s * n..(s + 1) * n].iter().map(|x| bf16::from_f32(*x)));
                }
                attention::attend_last(c, queries, &past[0], &past[1], out);
            });
            ops::add(&mut hidden, &w.o.apply(&attended, Arithmetic::Bf16)?);
            let normed = ops::rms_norm(&hidden, &w.post_norm, c.rms_eps);
            let mut inner = w.gate.apply(&normed, Arithmetic::Bf16)?;
            ops::silu_times(&mut inner, &w.up.apply(&normed, Arithmetic::Bf16)?);
            ops::add(&mut hidden, &w.down.apply(&inner, Arithmetic::Bf16)?);
        }
        self.tokens += 1;
        let normed = ops::rms_norm(&hidden, &weights.final_norm, c.rms_eps);
        weights.output().apply(&normed, Arithmetic::Bf16)
    }
}

/// An id with probability proportional to e^logit, known to 2^-32 of the likeliest one's, so that the draw itself is of integers. `None` if no
/// logit is a number.
fn draw(logits: &[f32], random: u64) -> Option<u32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts = |logit: f32| (ops::exp(logit - most) * 4_294_967_296.0) as u64;
    let total: u64 = logits.iter().map(|l| parts(*l)).sum();
    let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    let chosen = logits.iter().position(|l| {
        let parts = parts(*l);
        let here = left < parts;
        left = left.saturating_sub(parts);
        here
    })?;
    Some(chosen as u32)
}

/// The random bits of a position of a sequence (SplitMix64): each has its own, so that no sequence depends on how many there are.
fn random(seed: u64, sequence: u64, position: u64) -> u64 {
    let mut z = seed;
    for word in [sequence, position] {
        z = (z ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
    }
    z
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelSource, RunOptions};

    fn target() -> Target {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-qwen3");
        Target::load(&ModelSource::open(folder.as_ref()).unwrap()).unwrap()
    }

    #[test]
    fn decoding_token_by_token_is_a_prefill() {
        let target = target();
        let vocab = target.config.vocab;
        let texts: [Vec<u32>; 2] =
            [3, 5].map(|step| (0..40u32).map(|i| (i * i * 97 + i * step) % 4096).collect());
        let mut decoder = Decoder::new(&target, 2, 40);
        let options = RunOptions { logits: true, ..RunOptions::default() };
        for at in 0..40 {
            let both = decoder.step(&[texts[0][at], texts[1][at]]).unwrap();
            for (text, found) in texts.iter().zip(both.chunks_exact(vocab)) {
                let want = target.run(&text[..=at], &options).unwrap().logits.unwrap();
                let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
                let off = square(&mut want.iter().zip(found).map(|(a, b)| a - b));
                // Sums in another order: the tolerance of `tests/tiny_qwen3.rs`.
                let allowed = (target.config.layers + 1) as f32 / 256.0;
                let all = square(&mut want.iter().copied());
                assert!((off / all).sqrt() < allowed, "token {at}: {}", (off / all).sqrt());
            }
        }
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let logits = [0.0, f32::NEG_INFINITY, 2f32.ln(), 5f32.ln(), -200.0];
        let mut seen = [0u32; 5];
        (0..8000).for_each(|i| seen[draw(&logits, random(7, 1, i)).unwrap() as usize] += 1);
        for (seen, want) in seen.into_iter().zip([1000, 0, 2000, 5000, 0]) {
            // Four standard deviations of the middle one.
            assert!(seen.abs_diff(want) <= if want == 0 { 0 } else { 160 }, "{seen} of {want}");
        }
        assert_eq!((draw(&logits, 0), draw(&logits, u64::MAX)), (Some(0), Some(3)));
        assert_eq!(draw(&[f32::NAN; 3], 1), None);
    }
}
