//! Real matrices to integer weights: one scale per output, errors compensated along the inputs (GPTQ).

use rayon::prelude::*;
use speckv_predictor::data::{Digits, Weights};
use speckv_predictor::fixed::{LIMIT, Scale};

use crate::linalg::inverse_factor;

/// A real as a scale; zero for zero and below.
pub fn scale_of(x: f64) -> Scale {
    if x <= 0.0 || !x.is_finite() {
        return Scale::ZERO;
    }
    let e = x.log2().floor() as i32;
    // 53 bits of mantissa, exactly.
    Scale::new((x * (52.0 - e as f64).exp2()) as u64, e - 52)
}

/// The real that a scale stands for.
pub fn real(s: Scale) -> f64 {
    s.m as f64 * (s.e as f64).exp2()
}

/// A signed real as mantissa and exponent.
pub fn signed(x: f64) -> (i16, i16) {
    let s = scale_of(x.abs());
    (if x < 0.0 { -s.m } else { s.m }, s.e)
}

/// A real in fixed point, saturated.
pub fn fixed(x: f64, exponent: i32) -> i32 {
    (x * (exponent as f64).exp2()).round().clamp(-(LIMIT as f64), LIMIT as f64) as i32
}

/// Damping of GPTQ, relative to the mean diagonal of the inputs' second moments.
const DAMPING: f64 = 0.05;

/// The input side of error-compensated rounding: upper Cholesky factor of the inverse second moments.
pub struct Compensation(Vec<f64>);

impl Compensation {
    /// From second moments `x^T x` `[n, n]`; `None` when they are degenerate.
    pub fn new(moments: &[f64], n: usize) -> Option<Compensation> {
        let load = DAMPING * (0..n).map(|i| moments[i * n + i]).sum::<f64>() / n as f64;
        if load <= 0.0 || !load.is_finite() {
            return None;
        }
        let mut a = moments.to_vec();
        (0..n).for_each(|i| a[i * n + i] += load);
        inverse_factor(&a, n).map(Compensation)
    }
}

/// Quantises `w[out, inp]`. `exponents[o]`: fraction bits of output `o`. With `compensation` each rounding error is spread over the
/// inputs not yet rounded so that the output changes least (Frantar et al., "GPTQ", 2022).
pub fn weights(
    w: &[f32],
    inp: usize,
    digits: Digits,
    exponents: impl Fn(usize) -> i32 + Sync,
    compensation: Option<&Compensation>,
) -> Weights {
    let out = w.len().checked_div(inp).unwrap_or(0);
    let levels = digits.levels() as f64;
    let rows: Vec<(Vec<i16>, Scale)> = w
        .par_chunks_exact(inp.max(1))
        .enumerate()
        .map(|(o, row)| {
            let amax = row.iter().fold(0.0f32, |m, v| m.max(v.abs())) as f64;
            let step = real(scale_of(amax / levels));
            if step == 0.0 {
                return (vec![0; inp], Scale::ZERO);
            }
            let round = |v: f64| (v / step).round().clamp(-levels, levels);
            let q = match compensation {
                None => row.iter().map(|v| round(*v as f64) as i16).collect(),
                Some(Compensation(u)) => {
                    let mut left: Vec<f64> = row.iter().map(|v| *v as f64).collect();
                    let mut q = vec![0i16; inp];
                    for i in 0..inp {
                        let r = round(left[i]);
                        q[i] = r as i16;
                        let error = (left[i] - r * step) / u[i * inp + i];
                        for (l, u) in left[i + 1..].iter_mut().zip(&u[i * inp + i + 1..(i + 1) * inp]) {
                            *l -= error * u;
                        }
                    }
                    q
                }
            };
            (q, scale_of(amax / levels).shifted(exponents(o)))
        })
        .collect();
    let (values, scales): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    Weights { out, inp, digits, values: values.concat(), scales, bias: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{Moments, Rng};

    #[test]
    fn scales_round_trip() {
        for x in [1.0, 0.3, 1e-9, 12345.678, 2.0f64.powi(-40)] {
            assert!((real(scale_of(x)) / x - 1.0).abs() < 1.0 / 32768.0, "{x}");
        }
        assert_eq!(scale_of(0.0), Scale::ZERO);
        assert_eq!(signed(-0.5), (-(1 << 14), -15));
    }

    #[test]
    fn compensation_lowers_the_output_error() {
        let (n, rows) = (32, 400);
        let mut rng = Rng(5);
        let mut uniform = || (rng.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
        // Correlated inputs: eight hidden causes.
        let mix: Vec<f32> = (0..8 * n).map(|_| uniform()).collect();
        let x: Vec<f32> = (0..rows)
            .flat_map(|_| {
                let cause: Vec<f32> = (0..8).map(|_| uniform()).collect();
                (0..n).map(|i| (0..8).map(|k| cause[k] * mix[k * n + i]).sum::<f32>()).collect::<Vec<_>>()
            })
            .collect();
        let w: Vec<f32> = (0..4 * n).map(|_| uniform()).collect();
        let mut m = Moments::new(n, n);
        m.add(&x, &x);
        let c = Compensation::new(m.sum(), n).unwrap();
        let error = |q: &Weights| -> f64 {
            (0..4)
                .map(|o| {
                    x.chunks_exact(n)
                        .map(|x| {
                            let d: f64 = (0..n)
                                .map(|i| {
                                    (q.values[o * n + i] as f64 * real(q.scales[o]) - w[o * n + i] as f64)
                                        * x[i] as f64
                                })
                                .sum();
                            d * d
                        })
                        .sum::<f64>()
                })
                .sum()
        };
        let plain = error(&weights(&w, n, Digits::One, |_| 0, None));
        let better = error(&weights(&w, n, Digits::One, |_| 0, Some(&c)));
        assert!(better < 0.3 * plain, "{better} {plain}");
    }
}
