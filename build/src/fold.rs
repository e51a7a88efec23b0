//! From a model's tensors to the matrices of the draft: norms folded in, the residual stream rotated, Hadamard transforms undone; and the
//! fixed-point exponents, from bounds that no input can exceed.

use speckv_capture::model::Rope;
use speckv_capture::{Cache, ModelConfig, ModelSource};
use speckv_predictor::profile::{Description, LayerExponents, Net, PRECISIONS, PROFILE_VERSION};

use crate::corpus::Sequence;
use crate::linalg::{Moments, principal, product};
use crate::quantise::signed;
use crate::{Error, Options};

/// Directions of the residual stream that get a second digit.
pub const WIDE: usize = 32;

/// Rows divided by their root mean square.
pub fn normalised(mut x: Vec<f32>, cols: usize) -> Vec<f32> {
    for row in x.chunks_exact_mut(cols) {
        let square = row.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / cols as f64;
        let share = (1.0 / square.max(1e-30).sqrt()) as f32;
        row.iter_mut().for_each(|v| *v *= share);
    }
    x
}

/// Largest power of two dividing `n`, as an exponent.
fn twos(n: usize) -> u32 {
    n.trailing_zeros()
}

/// Fraction bits for values up to `bound`: 29 integer bits in all, one below the fixed-point limit.
pub fn exponent_for(bound: f64) -> i32 {
    (29 - bound.max(1e-9).log2().ceil() as i32).clamp(-60, 60)
}

/// Phase per position of each rotary pair: 2^64 is one turn.
pub fn rope_steps(rope: &Rope, head_dim: usize) -> Vec<u64> {
    let turn = 18_446_744_073_709_551_616.0 / std::f64::consts::TAU;
    rope.inv_freq(head_dim).iter().map(|f| (f * turn).round() as u64).collect()
}

/// A description with the exponents of keys and values from what the caches hold, eight times over.
pub fn describe_caches(caches: &[&Cache], options: &Options) -> Description {
    let c = caches[0];
    let most = |layer: usize, part: usize| {
        let peak = |c: &Cache| {
            c.values(layer, part).iter().filter(|v| v.is_finite()).fold(0.0f32, |m, v| m.max(v.abs()))
        };
        caches.iter().map(|c| peak(c)).fold(0.0, f32::max) as f64
    };
    Description {
        version: PROFILE_VERSION,
        target: options.name.clone(),
        layers: c.layers,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        exponents: (0..c.layers).map(|l| [0, 1].map(|p| exponent_for(8.0 * most(l, p)))).collect(),
        embedding: None,
        modes: Vec::new(),
        nets: Vec::new(),
        fitted: serde_json::Value::Null,
    }
}

/// The description of a model's profile before anything is fitted.
pub fn describe(
    config: &ModelConfig,
    sequences: &[Sequence],
    options: &Options,
) -> Result<Description, Error> {
    let caches: Vec<&Cache> = sequences.iter().map(|s| &s.cache).collect();
    let about = describe_caches(&caches, options);
    let found = (about.layers, about.kv_heads, about.head_dim);
    if found != (config.layers, config.kv_heads, config.head_dim) {
        return Err(Error::Input(format!("the captured caches have geometry {found:?}, not the model's")));
    }
    Ok(about)
}

/// The model's matrices, one layer at a time, in the draft's bases.
pub struct Fold<'a> {
    source: &'a ModelSource,
    config: &'a ModelConfig,
    /// Orthogonal basis change of the residual stream, `[hidden, hidden]`: rotated = h R. Its first columns are principal directions.
    rotation: Vec<f32>,
    /// How many.
    wide: usize,
}

/// A matrix `[out, inp]` and its bias.
pub struct Matrix {
    /// Row-major.
    pub w: Vec<f32>,
    /// One an output.
    pub bias: Option<Vec<f32>>,
    /// Inputs.
    pub inp: usize,
}

impl Matrix {
    /// The largest magnitude that any normalised input can give, output by output: `|w . x| <= |w| sqrt(inp)` when the mean square of x is one.
    pub fn bounds(&self) -> Vec<f64> {
        let norm =
            |row: &[f32]| (row.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() * self.inp as f64).sqrt();
        let bias = |o: usize| self.bias.as_ref().map_or(0.0, |b| b[o].abs() as f64);
        self.w.chunks_exact(self.inp).enumerate().map(|(o, row)| norm(row) + bias(o)).collect()
    }

    /// Fraction bits that hold all outputs.
    pub fn exponent(&self) -> i32 {
        exponent_for(self.bounds().into_iter().fold(0.0, f64::max))
    }
}

impl<'a> Fold<'a> {
    /// Rotates the residual stream to the principal directions of what layers read (normalised hidden states), the others mixed at random
    /// so that outliers spread.
    pub fn new(source: &'a ModelSource, sequences: &[Sequence], seed: u64) -> Result<Fold<'a>, Error> {
        let config = source.config();
        let (d, wide) = (config.hidden, WIDE.min(config.hidden / 8));
        let mut moments = Moments::new(d, d);
        for s in sequences {
            for layer in 0..config.layers {
                let x = normalised(s.hidden(layer), d);
                moments.add(&x, &x);
            }
        }
        let rotation = principal(moments.sum(), d, wide, seed).ok_or_else(|| {
            Error::Fit("the hidden states have no principal directions: are they finite?".into())
        })?;
        Ok(Fold { source, config, rotation, wide })
    }

    fn tensor(&self, name: &str) -> Result<Vec<f32>, Error> {
        let read = |e: &dyn std::fmt::Display| Error::Input(format!("tensor {name}: {e}"));
        let tensor = self.source.tensor(name)?.flatten_all().map_err(|e| read(&e))?;
        let mut w = tensor.to_vec1::<f32>().map_err(|e| read(&e))?;
        // The target computes with bf16 weights, whatever the file holds.
        w.iter_mut().for_each(|v| *v = round_bf16(*v));
        Ok(w)
    }

    fn layer(&self, l: usize, what: &str) -> Result<Vec<f32>, Error> {
        self.tensor(&format!("model.layers.{l}.{what}"))
    }

    /// Rows of hidden states, rotated.
    pub fn rotate(&self, h: &[f32]) -> Vec<f32> {
        let d = self.config.hidden;
        product(h, &self.rotation, h.len() / d, d, d)
    }

    /// The embedding, rotated, `[vocab, hidden]`.
    pub fn embedding(&self) -> Result<Vec<f32>, Error> {
        Ok(self.rotate(&self.tensor("model.embed_tokens.weight")?))
    }

    /// `w diag(norm) R` for matrices stacked along their outputs, which read the normalised residual stream.
    fn reading(&self, l: usize, norm: &str, names: &[&str], biased: bool) -> Result<Matrix, Error> {
        let (d, norm) = (self.config.hidden, self.layer(l, norm)?);
        let mut w = Vec::new();
        let mut bias = Vec::new();
        for name in names {
            let mut part = self.layer(l, &format!("{name}.weight"))?;
            part.chunks_exact_mut(d).for_each(|row| row.iter_mut().zip(&norm).for_each(|(v, n)| *v *= n));
            w.extend(part);
            if biased {
                bias.extend(self.layer(l, &format!("{name}.bias"))?);
            }
        }
        Ok(Matrix { w: self.rotate(&w), bias: biased.then_some(bias), inp: d })
    }

    /// K and V projections.
    pub fn kv(&self, l: usize) -> Result<Matrix, Error> {
        self.reading(
            l,
            "input_layernorm.weight",
            &["self_attn.k_proj", "self_attn.v_proj"],
            self.config.qkv_bias,
        )
    }

    /// Query projection.
    pub fn q(&self, l: usize) -> Result<Matrix, Error> {
        self.reading(l, "input_layernorm.weight", &["self_attn.q_proj"], self.config.qkv_bias)
    }

    /// Gate and up.
    pub fn gate_up(&self, l: usize) -> Result<Matrix, Error> {
        self.reading(l, "post_attention_layernorm.weight", &["mlp.gate_proj", "mlp.up_proj"], false)
    }

    /// Weights of a per-head norm, as signed scales that also change fixed point by `shift` bits.
    pub fn head_norm(&self, l: usize, name: &str, shift: i32) -> Result<Vec<(i16, i16)>, Error> {
        let w = self.layer(l, &format!("self_attn.{name}.weight"))?;
        Ok(w.iter().map(|v| signed(*v as f64 * (shift as f64).exp2())).collect())
    }

    /// The largest weight of a per-head norm: bounds what leaves it by that times sqrt(head_dim).
    pub fn head_norm_exponent(&self, l: usize, name: &str) -> Result<i32, Error> {
        let w = self.layer(l, &format!("self_attn.{name}.weight"))?;
        let most = w.iter().fold(0.0f32, |m, v| m.max(v.abs())) as f64;
        Ok(exponent_for(most * (self.config.head_dim as f64).sqrt()))
    }

    /// A matrix that writes to the residual stream, its inputs in Hadamard blocks of `2^log2`: `R^T w H / 2^log2`.
    fn writing(&self, l: usize, name: &str, inp: usize, log2: u32) -> Result<Matrix, Error> {
        let (d, w) = (self.config.hidden, self.layer(l, &format!("{name}.weight"))?);
        let transposed: Vec<f32> = (0..d * d).map(|i| self.rotation[i % d * d + i / d]).collect();
        let mut w = product(&transposed, &w, d, d, inp);
        w.chunks_exact_mut(inp).for_each(|row| hadamard_real(row, log2));
        let share = (-(log2 as f32)).exp2();
        w.iter_mut().for_each(|v| *v *= share);
        Ok(Matrix { w, bias: None, inp })
    }

    /// Output projection: its inputs are heads whose values were Hadamard-transformed when they were quantised.
    pub fn o(&self, l: usize) -> Result<Matrix, Error> {
        self.writing(l, "self_attn.o_proj", self.config.q_width(), twos(self.config.head_dim))
    }

    /// Down.
    pub fn down(&self, l: usize, log2: u32) -> Result<Matrix, Error> {
        self.writing(l, "mlp.down_proj", self.config.ffn, log2)
    }

    /// Fraction bits of the rotated residual stream: eight times the largest magnitude that the target's states took fits.
    pub fn stream_exponent(&self, sequences: &[Sequence]) -> i32 {
        let mut peak = 0.0f32;
        for s in sequences {
            for layer in 0..self.config.layers {
                peak = self.rotate(&s.hidden(layer)).iter().fold(peak, |m, v| m.max(v.abs()));
            }
        }
        exponent_for(8.0 * peak as f64)
    }

    /// A network without layers yet, its residual stream with `hidden_exponent` fraction bits.
    pub fn net(&self, hidden_exponent: i32) -> Net {
        let c = self.config;
        Net {
            hidden: c.hidden,
            heads: c.heads,
            ffn: c.ffn,
            base: None,
            hidden_exponent,
            wide: self.wide,
            eps: signed(c.rms_eps),
            qk_norm: c.qk_norm,
            hadamard_o: 0,
            hadamard_down: twos(c.ffn).min(9),
            digits: PRECISIONS[0].activations,
            layers: Vec::new(),
        }
    }

    /// Fixed points of a layer from bounds of its matrices; `value_peak` is the largest scale of a quantised value row.
    pub fn exponents(&self, l: usize, about: &Description, value_peak: f64) -> Result<LayerExponents, Error> {
        let [key, value] = about.exponents[l];
        let (raw_key, raw_query, query) = if self.config.qk_norm {
            let kv = self.kv(l)?;
            let keys = Matrix { w: kv.w[..kv.w.len() / 2].to_vec(), bias: None, inp: kv.inp };
            (keys.exponent(), self.q(l)?.exponent(), self.head_norm_exponent(l, "q_norm")?)
        } else {
            let query = self.q(l)?.exponent();
            (key, query, query)
        };
        let gate_up = self.gate_up(l)?.bounds();
        let (gate, up) = gate_up.split_at(self.config.ffn);
        let act = gate.iter().zip(up).map(|(g, u)| g * u).fold(0.0, f64::max);
        let most = |x: &[f64]| x.iter().copied().fold(0.0, f64::max);
        Ok(LayerExponents {
            raw_key,
            raw_query,
            query,
            // A Hadamard block of values sums up to head_dim of them.
            attention: value - twos(self.config.head_dim) as i32,
            value_scale: -2 - value_peak.max(1e-9).log2().ceil() as i32,
            gate: exponent_for(most(gate)),
            up: exponent_for(most(up)),
            act: exponent_for(act),
        })
    }
}

/// To the nearest bf16, ties to even.
fn round_bf16(v: f32) -> f32 {
    let bits = v.to_bits();
    f32::from_bits(bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
}

/// The Hadamard transform of the predictor, on reals.
pub fn hadamard_real(x: &mut [f32], log2: u32) {
    for block in x.chunks_exact_mut(1 << log2) {
        let mut half = 1;
        while half < block.len() {
            for pair in block.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                a.iter_mut().zip(b).for_each(|(p, q)| (*p, *q) = (*p + *q, *p - *q));
            }
            half *= 2;
        }
    }
}

/// The largest scale that quantised value rows of a layer take (they are Hadamard-transformed per head).
pub fn value_peak(sequences: &[Sequence], layer: usize, head_dim: usize) -> f64 {
    let block = twos(head_dim);
    let mut most = 0.0f32;
    for s in sequences {
        let mut v = s.cache.values(layer, 1);
        hadamard_real(&mut v, block);
        most = v.iter().fold(most, |m, v| m.max(v.abs()));
    }
    most as f64 / 127.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use speckv_predictor::portable::quantise::hadamard;

    #[test]
    fn real_and_integer_hadamard_agree() {
        let ints: Vec<i32> = (0..48).map(|i| (i * 37 % 101) - 50).collect();
        let (mut a, mut b) = (ints.clone(), ints.iter().map(|v| *v as f32).collect::<Vec<_>>());
        hadamard(&mut a, 4);
        hadamard_real(&mut b, 4);
        assert!(a.iter().zip(&b).all(|(a, b)| *a as f32 == *b));
    }

    #[test]
    fn exponents_hold_their_bound() {
        for bound in [1e-6, 0.3, 1.0, 1.5, 1000.0] {
            let e = exponent_for(bound);
            let top = bound * (e as f64).exp2();
            assert!(top <= 2f64.powi(29) && top > 2f64.powi(28) - 1.0, "{bound}");
        }
    }
}
