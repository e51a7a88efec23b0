//! Causal attention of one layer, block of queries by block of queries.

use candle_core::{Device, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::linear::with_f32;
use super::ops;
use crate::error::Result;
use crate::model::ModelConfig;

/// Rows of scores held at once; with 8,192 keys they take 24 MiB, twice (scores and weights).
const ROWS: usize = 768;

/// Queries `[tokens, heads, head_dim]`, keys and values `[kv_heads, tokens, head_dim]`, to
/// `[tokens, heads, head_dim]`.
///
/// As the fused kernels on GPUs do it: scores and their softmax in f32, the weights relative to the row's
/// maximum rounded to bf16 for the product with the values, the sum they are divided by not rounded.
pub(super) fn attend(
    config: &ModelConfig,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
) -> Result<Vec<f32>> {
    let (heads, dim) = (config.heads, config.head_dim);
    let group = heads / config.kv_heads;
    let tokens = queries.len() / (heads * dim);
    let block = (ROWS / group).max(16);
    let scale = 1.0 / (dim as f32).sqrt();
    let mut out = vec![0.0f32; queries.len()];

    for kv_head in 0..config.kv_heads {
        let plane = kv_head * tokens * dim..(kv_head + 1) * tokens * dim;
        let keys = Tensor::from_slice(&keys[plane.clone()], (tokens, dim), &Device::Cpu)?;
        let values = Tensor::from_slice(&values[plane], (tokens, dim), &Device::Cpu)?;
        for start in (0..tokens).step_by(block) {
            let end = (start + block).min(tokens);
            let rows = (end - start) * group;
            // All query heads that share this key head, [token, head of the group].
            let at = |token: usize| (token * heads + kv_head * group) * dim;
            let q: Vec<f32> =
                (start..end).flat_map(|t| &queries[at(t)..at(t) + group * dim]).copied().collect();
            let q = Tensor::from_vec(q, (rows, dim), &Device::Cpu)?;
            let scores = q.matmul(&keys.narrow(0, 0, end)?.t()?)?;

            let mut weights = vec![0.0f32; rows * end];
            let mut sums = vec![0.0f32; rows];
            with_f32(&scores, |scores| {
                let per_row = weights.par_chunks_mut(end).zip(scores.par_chunks(end)).zip(&mut sums);
                per_row.with_min_len(8).enumerate().for_each(|(row, ((weights, scores), sum))| {
                    let seen = start + row / group + 1;
                    *sum = softmax(&scores[..seen], scale, &mut weights[..seen]);
                });
            })?;
            drop(scores);
            let weights = Tensor::from_vec(weights, (rows, end), &Device::Cpu)?;
            let product = weights.matmul(&values.narrow(0, 0, end)?)?;
            with_f32(&product, |product| {
                for (row, sum) in sums.iter().enumerate() {
                    let to = at(start + row / group) + row % group * dim;
                    for (y, p) in out[to..to + dim].iter_mut().zip(&product[row * dim..]) {
                        *y = ops::bf16(p / sum);
                    }
                }
            })?;
        }
    }
    Ok(out)
}

/// The same for the queries of the last token alone, `[heads, head_dim]`, over keys and values `[tokens, kv_heads * head_dim]`.
pub(super) fn attend_last(
    config: &ModelConfig,
    queries: &[f32],
    keys: &[bf16],
    values: &[bf16],
    out: &mut [f32],
) {
    let (dim, width) = (config.head_dim, config.kv_heads * config.head_dim);
    let group = config.heads / config.kv_heads;
    let scale = 1.0 / (dim as f32).sqrt();
    let mut weights = vec![0.0f32; keys.len() / width];
    for (head, (q, out)) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let at = head / group * dim;
        let scores: Vec<f32> = keys.chunks_exact(width).map(|k| dot(q, &k[at..at + dim])).collect();
        let sum = softmax(&scores, scale, &mut weights);
        out.fill(0.0);
        for (w, v) in weights.iter().zip(values.chunks_exact(width)) {
            out.iter_mut().zip(&v[at..at + dim]).for_each(|(y, v)| *y += w * wide(*v));
        }
        out.iter_mut().for_each(|y| *y = ops::bf16(*y / sum));
    }
}

/// Without the look at NaN of [`bf16::to_f32`], so that loops over it are vectorised.
fn wide(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// Eight running sums, as in the softmax.
fn dot(a: &[f32], b: &[bf16]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (mut a, mut b) = (a.chunks_exact(8), b.chunks_exact(8));
    for (a, b) in (&mut a).zip(&mut b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * wide(*b));
    }
    let rest = a.remainder().iter().zip(b.remainder());
    lanes.iter().sum::<f32>() + rest.map(|(a, b)| a * wide(*b)).sum::<f32>()
}

/// Writes exp(scale * (score - maximum)), rounded to bf16, and gives the sum of what was not yet rounded.
fn softmax(scores: &[f32], scale: f32, weights: &mut [f32]) -> f32 {
    let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    for (w, &s) in weights.iter_mut().zip(scores) {
        *w = ops::exp((s - maximum) * scale);
    }
    // Eight running sums: vectorised, and in an order that nothing changes.
    let mut lanes = [0.0f32; 8];
    let mut chunks = weights.chunks_exact_mut(8);
    for chunk in &mut chunks {
        for (lane, w) in lanes.iter_mut().zip(chunk) {
            *lane += *w;
            *w = ops::bf16(*w);
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for w in chunks.into_remainder() {
        sum += *w;
        *w = ops::bf16(*w);
    }
    sum
}
