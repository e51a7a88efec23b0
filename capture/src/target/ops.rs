//! The operations between the matrix products. All take and give f32 that hold bf16 values.

use rayon::prelude::*;

use crate::model::Rope;

/// Rounds to the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) & 0xFFFF_0000;
    // A select, not a branch, so that loops over this stay vectorised.
    f32::from_bits(if x.is_nan() { 0x7FC0_0000 } else { rounded })
}

/// e^x within a few f32 ulps for |x| < 87, clamped beyond. Written in plain arithmetic so that loops over it
/// are vectorised; the library's exp is a call per number, and attention needs one per score.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 x 2^23 rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two pieces; products of the first with integers below 2^8 are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor terms to r^7; |r| < 0.35, so the first one left out is below 6e-9.
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    // The clamp keeps |n| <= 126, so the exponent field stays within 1..=253.
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// RMS norm of every row of `weight.len()` numbers: f32 inside, rounded before and after the weight.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    let width = weight.len();
    let mut out = vec![0.0f32; x.len()];
    let rows = out.par_chunks_mut(width).zip(x.par_chunks(width));
    rows.with_min_len(64).for_each(|(out, row)| {
        let scale = 1.0 / (sum_of_squares(row) / width as f32 + eps as f32).sqrt();
        for ((y, &x), &w) in out.iter_mut().zip(row).zip(weight) {
            *y = bf16(bf16(x * scale) * w);
        }
    });
    out
}

/// Eight running sums, so that the loop is vectorised and its order fixed.
fn sum_of_squares(row: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let mut chunks = row.chunks_exact(8);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    lanes.iter().sum::<f32>() + chunks.remainder().iter().map(|x| x * x).sum::<f32>()
}

/// `a += b`, rounded.
pub(super) fn add(a: &mut [f32], b: &[f32]) {
    let pairs = a.par_chunks_mut(1 << 14).zip(b.par_chunks(1 << 14));
    pairs.for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, &b)| *a = bf16(*a + b)));
}

/// `gate = silu(gate) * up`, rounded after each of the two steps.
pub(super) fn silu_times(gate: &mut [f32], up: &[f32]) {
    let pairs = gate.par_chunks_mut(1 << 14).zip(up.par_chunks(1 << 14));
    pairs.for_each(|(gate, up)| {
        gate.iter_mut().zip(up).for_each(|(g, &u)| *g = bf16(bf16(*g / (1.0 + exp(-*g))) * u));
    });
}

/// `[tokens, heads, head_dim]` to `[heads, tokens, head_dim]`.
pub(super) fn heads_first(x: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let mut out = vec![0.0f32; x.len()];
    let tokens = x.len() / (heads * head_dim);
    out.par_chunks_mut(tokens * head_dim).enumerate().for_each(|(head, plane)| {
        for (token, row) in plane.chunks_mut(head_dim).enumerate() {
            row.copy_from_slice(&x[(token * heads + head) * head_dim..][..head_dim]);
        }
    });
    out
}

/// Cosines and sines of every position, rounded to bf16 as transformers does.
pub(super) struct RopeTable {
    /// Pairs per head.
    half: usize,
    /// `[tokens, half]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    pub(super) fn new(rope: &Rope, head_dim: usize, tokens: usize) -> Self {
        let inv_freq: Vec<f32> = rope.inv_freq(head_dim).into_iter().map(|f| f as f32).collect();
        let half = inv_freq.len();
        // The product is rounded to f32 before the cosine there, which far into a context moves the angle by
        // more than everything else here.
        let angles = (0..tokens).flat_map(|t| inv_freq.iter().map(move |f| f64::from(t as f32 * f)));
        let (cos, sin) = angles.map(|a| (bf16(a.cos() as f32), bf16(a.sin() as f32))).unzip();
        RopeTable { half, cos, sin }
    }

    /// Rotates `x`, `[tokens, heads, 2 * half]`, in place: number i of a head turns with number i + half.
    pub(super) fn apply(&self, x: &mut [f32], heads: usize) {
        let rows = x.par_chunks_mut(heads * 2 * self.half).with_min_len(16).enumerate();
        rows.for_each(|(token, row)| self.turn(token, row));
    }

    /// Rotates the heads of one token, `[heads, 2 * half]`, in place.
    pub(super) fn turn(&self, token: usize, row: &mut [f32]) {
        let half = self.half;
        let cos = &self.cos[token * half..][..half];
        let sin = &self.sin[token * half..][..half];
        for head in row.chunks_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b) = (low[i], high[i]);
                low[i] = bf16(bf16(a * cos[i]) - bf16(b * sin[i]));
                high[i] = bf16(bf16(b * cos[i]) + bf16(a * sin[i]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere_it_is_used() {
        for i in -87_000..=87_000 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) / want - 1.0).abs();
            // Four units of 2^-24: bf16 rounding, 2^-9, hides it.
            assert!(error < 2.4e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), exp(-87.0));
    }

    #[test]
    fn bf16_rounds_like_the_half_crate() {
        for i in 0..1u32 << 20 {
            // Odd stride: visits every exponent with varied low bits.
            let x = f32::from_bits(i.wrapping_mul(4_099));
            let want = half::bf16::from_f32(x).to_f32();
            assert!(bf16(x).to_bits() == want.to_bits() || (x.is_nan() && bf16(x).is_nan()), "{x:e}");
        }
    }
}
