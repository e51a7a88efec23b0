//! Trimmed ridge regression over sequences: what predicts a plane from the planes before it, and the residual stream from a layer's innovations.

use std::ops::Range;

use crate::Error;
use crate::linalg::{Moments, ridge};

/// Ridge, relative to the mean diagonal, for many tokens.
const RIDGE: f64 = 1e-3;
/// Tokens left out of a regression: the most extreme in its target, so that massive activations do not own the fit.
const TRIM: f64 = 0.005;

/// What a ridge is multiplied by for `tokens` of `features`: 1 for twenty tokens a feature or more; with fewer the cube of how many times too few
/// they are. What is fitted to few tokens predicts no others, and a closed loop carries its errors on from layer to layer.
pub fn scarcity(tokens: usize, features: usize) -> f64 {
    let missing = 20.0 * features as f64 / tokens.max(1) as f64;
    missing.max(1.0).powi(3)
}

/// Ridge regression of targets on features over all sequences, the most extreme targets left out.
pub struct Regression {
    x: Vec<Vec<f32>>,
    y: Vec<Vec<f32>>,
    p: usize,
    q: usize,
}

impl Regression {
    /// Of `q` targets on `p` features.
    pub fn new(p: usize, q: usize) -> Regression {
        Regression { x: Vec::new(), y: Vec::new(), p, q }
    }

    /// Adds a sequence's rows: features `[rows, p]`, targets `[rows, q]`.
    pub fn add(&mut self, x: Vec<f32>, y: Vec<f32>) {
        self.x.push(x);
        self.y.push(y);
    }

    /// Weights `[q, p]`.
    ///
    /// # Errors
    /// [`Error::Fit`] when rows are not finite.
    pub fn solve(&self) -> Result<Vec<f32>, Error> {
        let rows = self.y.iter().map(|y| y.len() / self.q.max(1)).sum();
        self.normal().solve(0..self.p, RIDGE * scarcity(rows, self.p))
    }

    /// The normal equations, for solving with parts of the features.
    pub fn normal(&self) -> Normal {
        let square = |row: &[f32]| row.iter().map(|v| (*v as f64).powi(2)).sum::<f64>();
        let mut energies: Vec<f64> = self.y.iter().flat_map(|y| y.chunks_exact(self.q).map(square)).collect();
        let keep = ((energies.len() as f64 * (1.0 - TRIM)) as usize).clamp(1, energies.len()) - 1;
        let limit = *energies.select_nth_unstable_by(keep, f64::total_cmp).1;
        let (mut xx, mut xy) = (Moments::new(self.p, self.p), Moments::new(self.p, self.q));
        for (x, y) in self.x.iter().zip(&self.y) {
            let (mut kept_x, mut kept_y) = (Vec::with_capacity(x.len()), Vec::with_capacity(y.len()));
            for (x, y) in x.chunks_exact(self.p.max(1)).zip(y.chunks_exact(self.q)) {
                if square(y) <= limit {
                    kept_x.extend_from_slice(x);
                    kept_y.extend_from_slice(y);
                }
            }
            xx.add(&kept_x, &kept_x);
            xy.add(&kept_x, &kept_y);
        }
        Normal { xx: xx.sum().to_vec(), xy: xy.sum().to_vec(), p: self.p, q: self.q }
    }
}

/// Second moments of features, and of features with targets.
pub struct Normal {
    xx: Vec<f64>,
    xy: Vec<f64>,
    p: usize,
    q: usize,
}

impl Normal {
    /// Second moments of some features, `[n, n]`.
    pub fn moments(&self, columns: Range<usize>) -> Vec<f64> {
        columns.clone().flat_map(|i| self.xx[i * self.p..][columns.clone()].iter().copied()).collect()
    }

    /// Weights `[q, n]` of the features `columns`; `lambda` relative to the mean diagonal, features of unequal size (keys are larger than
    /// values) weighing equally.
    ///
    /// # Errors
    /// [`Error::Fit`] when rows were not finite.
    pub fn solve(&self, columns: Range<usize>, lambda: f64) -> Result<Vec<f32>, Error> {
        let n = columns.len();
        let xx = self.moments(columns.clone());
        let unit: Vec<f64> = (0..n).map(|i| xx[i * n + i].max(1e-30).sqrt()).collect();
        let xx: Vec<f64> = xx.iter().enumerate().map(|(k, v)| v / unit[k / n] / unit[k % n]).collect();
        let xy = &self.xy[columns.start * self.q..columns.end * self.q];
        let xy: Vec<f64> = xy.iter().enumerate().map(|(k, v)| v / unit[k / self.q]).collect();
        let mut w = ridge(&xx, &xy, n, self.q, lambda).ok_or_else(|| {
            Error::Fit("a regression has no finite solution: are the model's activations finite?".into())
        })?;
        w.chunks_exact_mut(n).for_each(|row| row.iter_mut().zip(&unit).for_each(|(w, u)| *w /= *u as f32));
        Ok(w)
    }
}

#[cfg(test)]
mod tests {
    use super::scarcity;

    #[test]
    fn few_tokens_need_a_larger_ridge() {
        assert_eq!(scarcity(40_000, 2_000), 1.0);
        assert!((scarcity(2_000, 2_000) - 8_000.0).abs() < 1e-6);
        assert!(scarcity(0, 10).is_finite());
    }
}
