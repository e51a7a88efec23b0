//! Distribution of normalised residuals, fitted to cells: expectation maximisation over the knots' intervals.

use rayon::prelude::*;
use speckv_codec_core::{Shape, shape::knot_position};
use speckv_predictor::predict::TOKEN_FEATURES;

use crate::plane::{PlaneFit, PlaneSample};

const BINS: usize = 64;
const ROUNDS: usize = 12;
/// Weight of the prior, in observations.
const PRIOR: f64 = 200.0;

/// Collects cells in units of their scales.
#[derive(Default)]
pub struct ShapeFit {
    /// (lower, upper), 1024 is one scale.
    cells: Vec<(f32, f32)>,
}

impl ShapeFit {
    /// Adds a plane's cells under its fitted scales (every `stride`-th token).
    pub fn add(&mut self, sample: &PlaneSample, fit: &PlaneFit, stride: usize) {
        let hd = fit.channel.len();
        for (t, features) in sample.features.iter().enumerate().step_by(stride) {
            let token = fit.token_index(features as &[f64; TOKEN_FEATURES]).round();
            for c in 0..hd {
                let q = (fit.channel[c] as f64 + token).clamp(0.0, 479.0);
                let inverse = 1024.0 / (q / 16.0).exp2();
                let (lo, hi) = sample.cells[t * hd + c];
                self.cells.push(((lo as f64 * inverse) as f32, (hi as f64 * inverse) as f32));
            }
        }
    }

    /// The shape that makes the cells most likely.
    pub fn fit(&self) -> Shape {
        let knots: Vec<f64> = (0..=BINS).map(|k| knot_position(k) as f64).collect();
        let limit = knots[BINS];
        let prior: Vec<f64> = {
            // A heavy-tailed guess: |z| of Student's t with four degrees of freedom.
            let cdf = |x: f64| {
                let u = 1.0 + x * x / 4.0;
                0.75 * (x / u.sqrt()) * (1.0 - x * x / (12.0 * u))
            };
            (0..BINS).map(|k| cdf(knots[k + 1] / 1024.0) - cdf(knots[k] / 1024.0)).collect()
        };
        let total: f64 = prior.iter().sum();
        let mut mass: Vec<f64> = prior.iter().map(|p| p / total).collect();
        let bin_of = |z: f64| knots.partition_point(|k| *k <= z).clamp(1, BINS) - 1;
        // The bins that each cell covers and what share of them, both sides of zero folded; the same in every round.
        let spread = |&(lo, hi): &(f32, f32)| {
            let mut bins: Vec<(usize, f64)> = Vec::new();
            for (a, b) in [(lo as f64, hi as f64), (-hi as f64, -lo as f64)] {
                let (a, b) = (a.max(0.0), b.min(limit));
                if a < b {
                    bins.extend((bin_of(a)..=bin_of(b.min(limit - 1e-3))).map(|k| {
                        let cover = (b.min(knots[k + 1]) - a.max(knots[k])) / (knots[k + 1] - knots[k]);
                        (k, cover.max(0.0))
                    }));
                }
            }
            bins
        };
        let spreads: Vec<Vec<Vec<(usize, f64)>>> =
            self.cells.par_chunks(8192).map(|cells| cells.iter().map(spread).collect()).collect();
        let outside =
            self.cells.iter().filter(|(lo, hi)| *lo as f64 >= limit || *hi as f64 <= -limit).count();
        for _ in 0..ROUNDS {
            let one = |cells: &Vec<Vec<(usize, f64)>>| {
                let mut sum = vec![0.0; BINS];
                for bins in cells {
                    let all: f64 = bins.iter().map(|(k, cover)| mass[*k] * cover).sum();
                    if all > 0.0 {
                        bins.iter().for_each(|(k, cover)| sum[*k] += mass[*k] * cover / all);
                    }
                }
                sum
            };
            let parts: Vec<Vec<f64>> = spreads.par_iter().map(one).collect();
            let mut next: Vec<f64> = prior.iter().map(|p| p / total * PRIOR).collect();
            for part in parts {
                next.iter_mut().zip(part).for_each(|(n, p)| *n += p);
            }
            let sum: f64 = next.iter().sum();
            mass = next.iter().map(|m| m / sum).collect();
        }
        let mut knot = [0u16; BINS + 1];
        let mut sum = 0.0;
        for k in 0..BINS {
            sum += mass[k];
            knot[k + 1] = (sum * 32768.0).round().clamp(knot[k] as f64, 32768.0) as u16;
        }
        knot[BINS] = 32768;
        let escape =
            (65536.0 * (outside as f64 + 0.5) / (self.cells.len() as f64 + 1.0)).round().clamp(1.0, 8192.0);
        Shape::new(knot, escape as u16).unwrap_or_else(|_| Shape::gaussian())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_distribution_is_found_through_wide_and_narrow_cells() {
        for width in [10.0f32, 500.0] {
            let mut fit = ShapeFit::default();
            for i in 0..40_000 {
                let z = ((i * 7919) % 40_000) as f32 / 40_000.0 * 2048.0 - 1024.0;
                let lo = (z / width).floor() * width;
                fit.cells.push((lo, lo + width));
            }
            let knots = *fit.fit().knots();
            // Half of |z| <= 1024 lies below 512: knot 8 of 32 per two scales.
            assert!((knots[8] as f64 / 32768.0 - 0.5).abs() < 0.02, "{width}: {}", knots[8]);
            assert!(knots[16] as f64 / 32768.0 > 0.97, "{width}: {}", knots[16]);
            assert_eq!(fit.fit().escape(), 1);
        }
    }
}
