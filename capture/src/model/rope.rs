//! Rotary position embedding: the angle each pair of a head turns by, per token.

use crate::error::{Error, Result};

/// Base frequency and scaling of the rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Pair `i` of a head of `d` scalars turns by `theta^(-2i/d)` radians per token before scaling.
    pub theta: f64,
    /// How a longer context was fitted in.
    pub scaling: RopeScaling,
}

/// Changes to the frequencies of a model extended to longer contexts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor of every frequency.
        factor: f64,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, those between blended.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context length before the extension, in tokens.
        original_max_position: f64,
    },
    /// One divisor per pair, as GGUF files carry Llama 3 scaling (`rope_freqs.weight`).
    Divisors(Vec<f64>),
}

impl Rope {
    /// Radians per token of each of the `head_dim / 2` pairs, scaling applied.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f64> {
        let base = (0..head_dim / 2).map(|i| self.theta.powf(-((2 * i) as f64) / head_dim as f64));
        match &self.scaling {
            RopeScaling::None => base.collect(),
            RopeScaling::Linear { factor } => base.map(|f| f / factor).collect(),
            RopeScaling::Divisors(divisors) => base.zip(divisors).map(|(f, d)| f / d).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => base
                .map(|f| {
                    let wavelength = std::f64::consts::TAU / f;
                    if wavelength < original_max_position / high_freq_factor {
                        f
                    } else if wavelength > original_max_position / low_freq_factor {
                        f / factor
                    } else {
                        let smooth = (original_max_position / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect(),
        }
    }

    /// Refuses parameters that would give a frequency of zero, infinity or NaN.
    pub(crate) fn check(&self, head_dim: usize) -> Result<()> {
        let wrong = |what: &str, value: f64, supported: &str| {
            Err(Error::unsupported(format!("{what} {value}"), supported.to_owned()))
        };
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return wrong("rope_theta", self.theta, "a finite value above 1");
        }
        let positive = |x: &f64| x.is_finite() && *x > 0.0;
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                if !positive(factor) {
                    return wrong("linear rope scaling by", *factor, "a finite factor above 0");
                }
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                for value in [factor, low_freq_factor, high_freq_factor, original_max_position] {
                    if !positive(value) {
                        return wrong("llama3 rope scaling with", *value, "finite values above 0");
                    }
                }
                if high_freq_factor <= low_freq_factor {
                    return wrong(
                        "llama3 rope scaling with high_freq_factor",
                        *high_freq_factor,
                        "values above low_freq_factor",
                    );
                }
            }
            RopeScaling::Divisors(divisors) => {
                if divisors.len() != head_dim / 2 {
                    return Err(Error::unsupported(
                        format!("{} rope divisors", divisors.len()),
                        format!("head_dim / 2 = {}", head_dim / 2),
                    ));
                }
                if let Some(bad) = divisors.iter().find(|d| !positive(d)) {
                    return wrong("rope divisor", *bad, "finite values above 0");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_matches_the_published_formula() {
        // Values of transformers' `ROPE_INIT_FUNCTIONS["llama3"]` for Llama 3.2 1B, rounded to f32 there.
        let rope = Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position: 8192.0,
            },
        };
        let got = rope.inv_freq(64);
        assert_eq!(got.len(), 32);
        for (i, want) in LLAMA32 {
            assert!((got[i] / want - 1.0).abs() < 1e-6, "pair {i}: expected {want}, found {}", got[i]);
        }
    }

    // (pair, radians per token): kept, blended and divided ones.
    const LLAMA32: [(usize, f64); 5] = [
        (0, 1.0),
        (14, 0.003_211_446_106_433_868_4),
        (16, 0.000_429_556_705_057_621),
        (17, 9.708_286_233_944_818e-5),
        (31, 9.418_306_490_260_875e-8),
    ];

    #[test]
    fn divisors_and_linear_divide() {
        let plain = Rope { theta: 10_000.0, scaling: RopeScaling::None }.inv_freq(8);
        let linear = Rope { theta: 10_000.0, scaling: RopeScaling::Linear { factor: 4.0 } }.inv_freq(8);
        let divisors =
            Rope { theta: 10_000.0, scaling: RopeScaling::Divisors(vec![1.0, 2.0, 4.0, 8.0]) }.inv_freq(8);
        for i in 0..4 {
            assert_eq!(linear[i], plain[i] / 4.0);
            assert_eq!(divisors[i], plain[i] / f64::from(1u32 << i));
        }
    }
}
