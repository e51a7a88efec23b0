//! `Static`: per-channel means (keys before RoPE), no network, no token ids. The floor that every other predictor stands on.

use alloc::vec::Vec;

use speckv_codec_core::Part;

use crate::backend::{Backend, Rotary, Seen};
use crate::error::Error;
use crate::predict::Predict;

/// The static predictor.
pub struct Static {
    /// Means `[layer][part]`, `kv_heads * head_dim` each, in the layer's fixed point.
    means: Vec<[Vec<i32>; 2]>,
    head_dim: usize,
    steps: Vec<u64>,
    start: usize,
    tokens: usize,
}

impl Static {
    /// From means `[layer][part]`.
    pub fn new(means: Vec<[Vec<i32>; 2]>, head_dim: usize, steps: Vec<u64>) -> Static {
        Static { means, head_dim, steps, start: 0, tokens: 0 }
    }
}

impl<B: Backend> Predict<B> for Static {
    fn begin(&mut self, _: &B, start: usize, tokens: usize, _: &[u32]) -> Result<(), Error> {
        (self.start, self.tokens) = (start, tokens);
        Ok(())
    }

    fn begin_layer(&mut self, _: &B, _: usize) -> Result<(), Error> {
        Ok(())
    }

    fn predict(&mut self, b: &B, layer: usize, part: Part, head: usize) -> B::Ints {
        let mean = &self.means[layer][part as usize][head * self.head_dim..][..self.head_dim];
        let x = b.repeat(mean, self.tokens);
        match part {
            Part::Value => x,
            Part::Key => {
                let rotary = Rotary {
                    head_dim: self.head_dim,
                    steps: &self.steps,
                    start: self.start as u64,
                    inverse: false,
                };
                b.rope(&x, 0..self.head_dim, &rotary)
            }
        }
    }

    fn observe(&mut self, b: &B, _: usize, _: Part, _: usize, seen: &Seen<'_, B>) -> B::Ints {
        b.learn(seen, None).0
    }

    fn end_layer(&mut self, _: &B, _: usize) -> Result<(), Error> {
        Ok(())
    }

    fn powers(&self) -> Option<[&B::Ints; 2]> {
        None
    }
}
