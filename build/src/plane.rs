//! How the residuals of a plane are priced: channel scales and the token-scale regression by maximum likelihood over the cells that were seen.
//!
//! A coded value says only in which cell the real value lay, which for fp8 caches is much wider than the prediction's error. So
//! scales are fitted to cell probabilities under a heavy-tailed law (Student's t with four degrees of freedom, whose cumulative function
//! is algebraic), not to residuals.

use rayon::prelude::*;
use speckv_predictor::backend::Pricing;
use speckv_predictor::predict::TOKEN_FEATURES;

/// Tokens of a plane that a fit looks at, spread evenly.
const SAMPLE: usize = 3072;
const STEPS: usize = 10;
/// Natural logarithm of 1/16 octave.
const INDEX: f64 = std::f64::consts::LN_2 / 16.0;

/// A plane over many sequences: where each value lay relative to its prediction, in units of the predictions' fixed point.
#[derive(Default)]
pub struct PlaneSample {
    /// Lower and upper cell edge minus mean, `[tokens, head_dim]`.
    pub cells: Vec<(f32, f32)>,
    /// Features of each token (12 fractional bits undone).
    pub features: Vec<[f64; TOKEN_FEATURES]>,
}

impl PlaneSample {
    /// Which of `total` tokens are looked at.
    pub fn stride(total: usize) -> usize {
        total.div_ceil(SAMPLE).max(1)
    }

    /// Adds a token: its predictions, codes and features.
    pub fn push(&mut self, pricing: &Pricing, mu: &[i32], codes: &[u16], features: [f64; TOKEN_FEATURES]) {
        let (format, unit) = (pricing.format, pricing.unit);
        let exponent = unit.code_exponent(pricing.exponent);
        let back = unit.m as f64 / (1u32 << 23) as f64;
        for (mu, code) in mu.iter().zip(codes) {
            let (rank, mu) = (format.rank(*code), unit.to_code(*mu));
            let edge = |r| ((format.edge(r, exponent) as i64 - mu as i64) as f64 * back) as f32;
            self.cells.push((edge(rank), edge(rank + 1)));
        }
        self.features.push(features);
    }
}

/// Cumulative function of Student's t, four degrees of freedom, and `x` times its density.
fn t4(x: f64) -> (f64, f64) {
    let s = 1.0 / (1.0 + x * x / 4.0).sqrt();
    let z = x * s;
    (0.5 + 0.375 * z * (1.0 - z * z / 12.0), 0.375 * z * s.powi(4))
}

/// Derivative of a cell's negative log-likelihood by ln(scale).
fn cell_slope((lo, hi): (f32, f32), inverse_scale: f64) -> f64 {
    let (a, b) = (lo as f64 * inverse_scale, hi as f64 * inverse_scale);
    // Far out on one side the difference of cumulatives cancels: mirror to the lower tail.
    let (a, b) = if a > 0.0 { (-b, -a) } else { (a, b) };
    let ((fa, da), (fb, db)) = (t4(a), t4(b));
    let p = fb - fa;
    if p < 1e-12 || b < -1e3 {
        // A tail of index 4: d ln p / d ln s = 4.
        return -4.0;
    }
    (db - da) / p
}

/// What a plane's fit yields.
pub struct PlaneFit {
    /// Scale index of each channel.
    pub channel: Vec<i16>,
    /// Token-scale weights and bias, 16 fractional bits.
    pub token: [i32; TOKEN_FEATURES + 1],
}

impl PlaneFit {
    /// Scale index of a token's features, as the integer regression will round it, to within one.
    pub fn token_index(&self, features: &[f64; TOKEN_FEATURES]) -> f64 {
        let sum: f64 = features.iter().zip(&self.token).map(|(f, w)| f * *w as f64).sum();
        ((sum + self.token[TOKEN_FEATURES] as f64) / 65536.0).clamp(-400.0, 400.0)
    }
}

/// Fits a plane: alternating scoring steps for the channels' scales and the token regression.
pub fn fit(sample: &PlaneSample, head_dim: usize) -> PlaneFit {
    let tokens = sample.features.len();
    let n = TOKEN_FEATURES;
    let mut mean = [0.0; TOKEN_FEATURES];
    for f in &sample.features {
        (0..n).for_each(|i| mean[i] += f[i] / tokens.max(1) as f64);
    }
    let features: Vec<[f64; TOKEN_FEATURES]> =
        sample.features.iter().map(|f| std::array::from_fn(|i| f[i] - mean[i])).collect();
    // Start: mean distance to the cell's nearest point, plus a part of its width.
    let mut scale: Vec<f64> = (0..head_dim)
        .map(|c| {
            let sum: f64 = (0..tokens)
                .map(|t| sample.cells[t * head_dim + c])
                .map(|(lo, hi)| {
                    0.0f32.clamp(lo.min(hi), hi.max(lo)).abs() as f64 + 0.1 * ((hi - lo) as f64).min(1e9)
                })
                .sum();
            (sum / tokens.max(1) as f64).max(1.0).ln()
        })
        .collect();
    let mut theta = [0.0; TOKEN_FEATURES];
    for step in 0..STEPS {
        let zero = || {
            (
                vec![0.0; head_dim],
                vec![0.0; head_dim],
                [0.0; TOKEN_FEATURES],
                [[0.0; TOKEN_FEATURES]; TOKEN_FEATURES],
            )
        };
        let inverse: Vec<f64> = scale.iter().map(|s| (-s).exp()).collect();
        // Fixed parts, summed in order: the same sums whatever the number of threads.
        let parts: Vec<_> = (0..tokens)
            .collect::<Vec<_>>()
            .par_chunks(256)
            .map(|ts| {
                let (mut g, mut h, mut tg, mut th) = zero();
                for &t in ts {
                    let offset: f64 = features[t].iter().zip(&theta).map(|(f, w)| f * w).sum();
                    let of_token = (-offset.clamp(-8.0, 8.0)).exp();
                    let (mut sum_g, mut sum_h) = (0.0, 0.0);
                    for c in 0..head_dim {
                        let d = cell_slope(sample.cells[t * head_dim + c], inverse[c] * of_token);
                        g[c] += d;
                        h[c] += d * d;
                        sum_g += d;
                        sum_h += d * d;
                    }
                    for i in 0..n {
                        tg[i] += sum_g * features[t][i];
                        (0..n).for_each(|j| th[i][j] += sum_h * features[t][i] * features[t][j]);
                    }
                }
                (g, h, tg, th)
            })
            .collect();
        let (mut g, mut h, mut tg, mut th) = zero();
        for (pg, ph, ptg, pth) in parts {
            for c in 0..head_dim {
                g[c] += pg[c];
                h[c] += ph[c];
            }
            for i in 0..n {
                tg[i] += ptg[i];
                (0..n).for_each(|j| th[i][j] += pth[i][j]);
            }
        }
        for c in 0..head_dim {
            scale[c] -= (g[c] / (h[c] + 1.0)).clamp(-1.0, 1.0);
        }
        if step >= 2 {
            let load: f64 = (0..n).map(|i| th[i][i]).sum::<f64>() / n as f64 * 1e-3 + 30.0;
            let flat: Vec<f64> =
                (0..n * n).map(|k| th[k / n][k % n] + if k / n == k % n { load } else { 0.0 }).collect();
            let rhs: Vec<f64> = (0..n).map(|i| -tg[i] - 30.0 * theta[i]).collect();
            if let Some(delta) = crate::linalg::ridge(&flat, &rhs, n, 1, 0.0) {
                (0..n).for_each(|i| theta[i] += (delta[i] as f64).clamp(-0.5, 0.5));
            }
        }
    }
    let index = |ln: f64| ln / INDEX;
    let mut token = [0i32; TOKEN_FEATURES + 1];
    for i in 0..n {
        token[i] = (index(theta[i]) * 65536.0).round().clamp(-1e9, 1e9) as i32;
    }
    let bias: f64 = -(0..n).map(|i| index(theta[i]) * mean[i]).sum::<f64>();
    token[n] = (bias * 65536.0).round().clamp(-1e9, 1e9) as i32;
    PlaneFit { channel: scale.iter().map(|s| index(*s).round().clamp(0.0, 479.0) as i16).collect(), token }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::Rng;

    /// Values of known scales, seen through cells wider and narrower than the scale.
    #[test]
    fn recovers_scales_through_cells() {
        let (hd, tokens) = (8, 3000);
        for width in [0.1f64, 3.0] {
            let mut rng = Rng(11);
            let mut sample = PlaneSample::default();
            for _ in 0..tokens {
                let f = (rng.bits() >> 40) as f64 / (1u64 << 24) as f64 * 4.0 - 2.0;
                let mut features = [0.0; TOKEN_FEATURES];
                features[0] = f;
                for c in 0..hd {
                    let s = 1000.0 * (1.0 + c as f64) * (0.5 * f).exp2();
                    // Student t4: gaussian over sqrt(chi^2/4).
                    let gauss = |r: &mut Rng| {
                        let u = |r: &mut Rng| ((r.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
                        (-2.0 * u(r).ln()).sqrt() * (std::f64::consts::TAU * u(r)).cos()
                    };
                    let chi: f64 = (0..4).map(|_| gauss(&mut rng).powi(2)).sum::<f64>() / 4.0;
                    let x = s * gauss(&mut rng) / chi.sqrt();
                    let w = width * 1000.0 * (1.0 + c as f64);
                    let lo = (x / w).floor() * w;
                    sample.cells.push((lo as f32, (lo + w) as f32));
                }
                sample.features.push(features);
            }
            let fit = fit(&sample, hd);
            for c in 0..hd {
                let got = fit.channel[c] as f64 + fit.token_index(&[0.0; TOKEN_FEATURES]);
                let want = 16.0 * (1000.0 * (1.0 + c as f64)).log2();
                assert!((got - want).abs() < 2.0, "width {width} channel {c}: {got} {want}");
            }
            // Half an octave of scale a unit of the feature: 8 indices.
            let slope = fit.token[0] as f64 / 65536.0;
            assert!((slope - 8.0).abs() < 0.7, "width {width}: {slope}");
        }
    }
}
