//! The state of a draft over one run of tokens, and the steps that advance it: what `Draft` does, and what the builder does while it fits.

use alloc::vec::Vec;

use speckv_codec_core::Part;

use super::net::{NetLayer, Rest};
use crate::backend::{Attention, Backend, HeadNorm, Mlp, Quantise, Silu, Store};
use crate::data::Digits;
use crate::fixed::Scale;
use crate::layer::Layer;
use crate::portable::coding::hadamard_gain;
use crate::profile::{Description, LayerExponents, Mode, Net};

/// log2(e), as a scale.
const LOG2_E: Scale = Scale { m: 23637, e: -14 };

/// A run's hidden state, the layer being coded, and the keys and values of all layers so far.
pub struct State<'a, B: Backend> {
    about: &'a Description,
    net: &'a Net,
    residual: Digits,
    closed: bool,
    /// The layer being coded.
    pub layer: Layer<'a, B>,
    hidden: Option<B::Ints>,
    rms: Option<B::Scales>,
    powers: Option<[B::Ints; 2]>,
    past: Vec<Option<[B::Rows; 2]>>,
}

fn digits(n: usize) -> Digits {
    Digits::from_count(n).unwrap_or(Digits::One) // checked when the description was
}

impl<'a, B: Backend> State<'a, B> {
    /// Empty, for a draft mode of a profile.
    pub fn new(about: &'a Description, mode: &Mode, steps: &'a [u64]) -> Self {
        let residual = digits(mode.residual_digits);
        State {
            about,
            net: &about.nets[mode.net.unwrap_or(0)],
            residual,
            closed: mode.feedback,
            layer: Layer::new(about, steps, residual, mode.feedback),
            hidden: None,
            rms: None,
            powers: None,
            past: (0..about.layers).map(|_| None).collect(),
        }
    }

    /// Whether the true cache feeds back.
    pub fn closed(&self) -> bool {
        self.closed
    }

    fn eps(&self) -> Scale {
        Scale { m: self.net.eps.0, e: self.net.eps.1 }
    }

    fn exponents(&self, layer: usize) -> &'a LayerExponents {
        &self.net.layers[layer]
    }

    /// Starts a run at position `start` from the embedded tokens.
    pub fn begin(&mut self, start: usize, hidden: B::Ints, tokens: usize) {
        self.layer.begin(start, tokens);
        self.hidden = Some(hidden);
    }

    /// The residual stream.
    pub fn hidden(&self) -> &B::Ints {
        self.hidden.as_ref().expect("a run has begun")
    }

    /// RMS of the residual stream at the layer's start, token by token.
    pub fn rms(&self) -> &B::Scales {
        self.rms.as_ref().expect("a layer has begun")
    }

    /// Log-powers of predicted keys and values.
    pub fn powers(&self) -> Option<[&B::Ints; 2]> {
        self.powers.as_ref().map(|[k, v]| [k, v])
    }

    /// The layer and its log-powers, borrowed apart.
    pub fn parts(&mut self) -> (&mut Layer<'a, B>, Option<[&B::Ints; 2]>) {
        (&mut self.layer, self.powers.as_ref().map(|[k, v]| [k, v]))
    }

    /// How the residual stream becomes digits in front of a matrix.
    fn normed(&self, d: usize) -> Quantise {
        Quantise {
            norm: Some(self.eps()),
            wide: self.net.wide,
            ..Quantise::rows(self.net.hidden, digits(d), self.net.hidden_exponent)
        }
    }

    /// Predicts a layer's keys (before RoPE) and values from the residual stream.
    pub fn begin_layer(&mut self, b: &B, layer: usize, weights: &NetLayer<B>) {
        let w = self.layer.width();
        let mut kv = b.room(self.layer.tokens(), 2 * w);
        b.product(self.hidden(), &self.normed(self.net.digits.kv), &weights.kv, None, Store::SET, &mut kv);
        if let Some(norm) = &weights.key_norm {
            b.head_norm(&mut kv, 0..w, self.exponents(layer).raw_key, self.eps(), norm);
        }
        let [fk, fv] = self.about.exponents[layer];
        self.powers = Some([b.power(&kv, 0..w, fk), b.power(&kv, w..2 * w, fv)]);
        self.rms = Some(b.rms(self.hidden(), self.net.hidden_exponent, self.eps()));
        self.layer.begin_layer(b, kv);
    }

    /// Corrects the residual stream by all innovations of a part.
    pub fn correct(&mut self, b: &B, layer: usize, part: Part, gain: &B::Matrix) {
        let how =
            Quantise::rows(self.layer.width(), self.residual, self.about.exponents[layer][part as usize]);
        let hidden = self.hidden.as_mut().expect("a run has begun");
        b.product(self.layer.innovation(part), &how, gain, self.rms.as_ref(), Store::ADD, hidden);
    }

    fn attention_digits(&self, exponent: i32, gain: Scale) -> Quantise {
        let hd = self.about.head_dim;
        Quantise {
            group: hd,
            hadamard: hd.trailing_zeros(),
            digits: digits(self.net.digits.attention),
            wide: 0,
            exponent,
            norm: None,
            gain,
        }
    }

    fn remember(&mut self, b: &B, layer: usize, key: &B::Ints, value: &B::Ints) {
        let [fk, fv] = self.about.exponents[layer];
        let key = b.quantise(key, &self.attention_digits(fk, Scale::ONE));
        let value = b.quantise(value, &self.attention_digits(fv, Scale::ONE));
        match &mut self.past[layer] {
            Some([k, v]) => {
                b.append(k, key);
                b.append(v, value);
            }
            empty => *empty = Some([key, value]),
        }
    }

    /// Learns true keys and values of tokens before the run.
    pub fn past(&mut self, b: &B, layer: usize, key: B::Ints, value: B::Ints) {
        self.remember(b, layer, &key, &value);
    }

    /// Attention over the true keys and values (of this layer: they are kept for later runs): the input of the output projection.
    pub fn attend(&mut self, b: &B, layer: usize, q: &B::Matrix, norm: Option<&[(i16, i16)]>) -> B::Ints {
        let (net, hd, e) = (self.net, self.about.head_dim, *self.exponents(layer));
        let wide = net.heads * hd;
        // In an open loop the draft attends to what it predicted, as it would have run on its own.
        let [key, value] = match (self.closed, self.layer.width()) {
            (true, _) => self.layer.take_values(),
            (false, w) => {
                let both = self.layer.prediction();
                [b.rope(both, 0..w, &self.layer.rotary(false)), b.columns(both, w..2 * w)]
            }
        };
        let mut query = b.room(self.layer.tokens(), wide);
        b.product(self.hidden(), &self.normed(net.digits.q), q, None, Store::SET, &mut query);
        // Scores in octaves: log2(e) / sqrt(head_dim), and 1 / block for the unnormalised Hadamard of query and key.
        let gain = LOG2_E.times(inverse_sqrt(hd)).times(hadamard_gain(2 * hd.trailing_zeros()));
        let norm = norm.map(|weight| HeadNorm { exponent: e.raw_query, eps: self.eps(), weight });
        let how = self.attention_digits(e.query, gain);
        let rows = b.heads(&mut query, 0..wide, norm.as_ref(), &self.layer.rotary(false), &how);
        self.remember(b, layer, &key, &value);
        [query, key, value].into_iter().for_each(|x| b.reuse(x));
        let how = Attention {
            heads: net.heads,
            kv_heads: self.about.kv_heads,
            head_dim: hd,
            value_exponent: e.value_scale,
            out_exponent: e.attention,
        };
        let [keys, values] = self.past[layer].as_ref().expect("remembered above");
        let mixed = b.attention(&rows, keys, values, self.layer.start(), &how);
        b.reuse_rows(rows);
        mixed
    }

    /// Adds the output projection of what [`State::attend`] gave.
    pub fn output(&mut self, b: &B, layer: usize, mixed: &B::Ints, o: &B::Matrix) {
        let net = self.net;
        let plain = Quantise::rows(
            net.heads * self.about.head_dim,
            digits(net.digits.o),
            self.exponents(layer).attention,
        );
        let how = Quantise { hadamard: net.hadamard_o, ..plain };
        b.product(mixed, &how, o, None, Store::ADD, self.hidden.as_mut().expect("a run has begun"));
    }

    /// Gate and up of the MLP, in one matrix.
    pub fn gate_up(&self, b: &B, gate_up: &B::Matrix) -> B::Ints {
        let mut both = b.room(self.layer.tokens(), 2 * self.net.ffn);
        let how = self.normed(self.net.digits.gate_up);
        b.product(self.hidden(), &how, gate_up, None, Store::SET, &mut both);
        both
    }

    /// Fixed points around SiLU.
    pub fn silu(&self, layer: usize) -> Silu {
        let e = self.exponents(layer);
        Silu { gate: e.gate, up: e.up, out: e.act }
    }

    /// How the input of down, `silu(gate) * up`, becomes digits.
    pub fn down_digits(&self, layer: usize) -> Quantise {
        let plain = Quantise::rows(self.net.ffn, digits(self.net.digits.down), self.exponents(layer).act);
        Quantise { hadamard: self.net.hadamard_down, ..plain }
    }

    /// Adds down of its input: the residual stream of the next layer.
    pub fn down(&mut self, b: &B, rows: &B::Rows, down: &B::Matrix) {
        b.gemm(rows, down, None, Store::ADD, self.hidden.as_mut().expect("a run has begun"));
    }

    /// Attention, then the MLP.
    pub fn rest(&mut self, b: &B, layer: usize, w: &Rest<B>) {
        let mixed = self.attend(b, layer, &w.q, w.query_norm.as_deref());
        self.output(b, layer, &mixed, &w.o);
        b.reuse(mixed);
        let mlp = Mlp {
            ffn: self.net.ffn,
            normed: self.normed(self.net.digits.gate_up),
            gate_up: &*w.gate_up,
            silu: self.silu(layer),
            act: self.down_digits(layer),
            down: &*w.down,
        };
        let rows = self.layer.tokens();
        b.feed_forward(self.hidden.as_mut().expect("a run has begun"), &mlp, rows);
    }

    /// Drops a layer's keys and values: no later run will follow.
    pub fn forget(&mut self, layer: usize) {
        self.past[layer] = None;
    }
}

/// `1 / sqrt(n)` as a scale.
fn inverse_sqrt(n: usize) -> Scale {
    Scale::new(crate::fixed::isqrt((1u64 << 60) / n as u64), -30)
}
