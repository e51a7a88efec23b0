//! Made-up profiles and caches, small ones unless told otherwise, for tests and benchmarks of backends and programs: every tensor random, nothing learnt. What is predicted is nonsense, so
//! what is coded exercises every path of coder and loop, and must come back all the same.

use alloc::vec::Vec;

use speckv_codec_core::{ElementFormat, Geometry, Shape};

use crate::coding::CodingTables;
use crate::data::{Digits, Weights};
use crate::error::Error;
use crate::fixed::Scale;
use crate::profile::{
    Description, Embedding, Kind, LayerExponents, Mode, NamedDigits, Net, PRECISIONS, PROFILE_VERSION,
    Precision, ProfileWriter,
};
pub use crate::random::Random;

/// Values of a tensor that are drawn before they repeat: odd, so that rows differ.
const DRAWN: usize = (1 << 22) - 3;

/// What the name of an open-loop precision ends with.
const OPEN: &str = "-open";

/// The modes of a made-up profile, for each class of caches: every kind of predictor, every precision, closed and open. Networks after the first
/// fall back on it where their digits are the same, chains for 8-bit caches on those for 16-bit ones.
pub const MODES: [(Kind, &str); 8] = [
    (Kind::Static, ""),
    (Kind::Chain, "no-ids"),
    (Kind::Chain, "ids"),
    (Kind::Draft, PRECISIONS[0].name),
    (Kind::Draft, PRECISIONS[1].name),
    (Kind::Draft, PRECISIONS[2].name),
    (Kind::Draft, PRECISIONS[3].name),
    (Kind::Draft, "w8a8+kv16-open"),
];

/// What a made-up profile looks like.
#[derive(Clone, Copy, Debug)]
pub struct Make {
    /// Layers, heads, columns.
    pub geometry: Geometry,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// QK-norm (and no QKV bias), or QKV bias (and no QK-norm).
    pub qk_norm: bool,
    /// Leading columns of two digits.
    pub wide: usize,
    /// Predictors and precisions, for each class of caches: [`MODES`] or some of them in that order.
    pub modes: &'static [(Kind, &'static str)],
    /// Scale index of residuals (16 an octave) of static, chain and draft: about what every channel gets.
    pub scales: [i16; 3],
    /// Most that a weight or bias of a token's scale may be, 16 fractional bits.
    pub token_weight: i64,
    /// Seed of every tensor.
    pub seed: u64,
}

impl Default for Make {
    fn default() -> Self {
        Make {
            geometry: Geometry { layers: 3, kv_heads: 2, head_dim: 16 },
            hidden: 40,
            heads: 4,
            ffn: 48,
            vocab: 50,
            qk_norm: true,
            wide: 5,
            modes: &MODES,
            scales: [16 * 20 + 8; 3],
            token_weight: 1 << 16,
            seed: 1,
        }
    }
}

/// The values of a tensor. Those of huge ones repeat after [`DRAWN`]: drawing billions one by one would take minutes.
fn draw(r: &mut Random, count: usize, levels: i64) -> Vec<i16> {
    let drawn: Vec<i16> = (0..count.min(DRAWN)).map(|_| r.around(levels) as i16).collect();
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        all.extend_from_slice(&drawn[..drawn.len().min(count - all.len())]);
    }
    all
}

impl Make {
    fn weights(
        &self,
        r: &mut Random,
        out: usize,
        inp: usize,
        digits: Digits,
        exponent: i32,
        bias: bool,
    ) -> Weights {
        let levels = digits.levels() as i64;
        // Output rows of about unit gain: sum of inp squares of a third of the levels.
        let scale = |r: &mut Random| {
            Scale::new(
                ((1 << 14) + r.around(1 << 13)) as u64,
                exponent - 14 - digits.bits() as i32 - inp.ilog2() as i32 / 2,
            )
        };
        Weights {
            out,
            inp,
            digits,
            values: draw(r, out * inp, levels),
            scales: (0..out).map(|_| scale(r)).collect(),
            bias: bias.then(|| (0..out).map(|_| r.around(1 << exponent.clamp(1, 28)) as i32).collect()),
        }
    }

    /// The profile's bytes: its modes for both classes of caches.
    pub fn profile(&self) -> Result<Vec<u8>, Error> {
        let (g, mut r, mut out) = (self.geometry, Random(self.seed), ProfileWriter::default());
        let (width, e) = (g.kv_heads * g.head_dim, 20);
        let layer = LayerExponents {
            raw_key: e,
            raw_query: e,
            query: e,
            attention: e - 4,
            value_scale: 3,
            gate: e,
            up: e,
            act: e,
        };
        let mode = |i: usize, class: Precision| {
            let (kind, precision) = self.modes[i];
            let open = precision.strip_suffix(OPEN);
            Mode {
                kind,
                precision: precision.into(),
                class,
                net: PRECISIONS.iter().position(|p| p.name == open.unwrap_or(precision)),
                residual_digits: 2,
                feedback: kind != Kind::Static && open.is_none(),
                base: (kind == Kind::Chain && class == Precision::Coarse).then_some(i),
                depth: if kind == Kind::Chain { 2 } else { 0 },
                ids: kind == Kind::Draft || precision == "ids",
            }
        };
        let modes = [Precision::Fine, Precision::Coarse]
            .into_iter()
            .flat_map(|class| (0..self.modes.len()).map(move |i| mode(i, class)))
            .collect::<Vec<_>>();
        // A network falls back on the first, so none before the last one used is left out.
        let named = &PRECISIONS[..modes.iter().filter_map(|m| m.net).max().map_or(0, |last| last + 1)];
        let net = |named: &NamedDigits| Net {
            hidden: self.hidden,
            heads: self.heads,
            ffn: self.ffn,
            base: (named.name != PRECISIONS[0].name).then_some(0),
            hidden_exponent: e,
            wide: self.wide,
            eps: (20000, -31),
            qk_norm: self.qk_norm,
            hadamard_o: 0,
            hadamard_down: self.ffn.trailing_zeros(),
            digits: named.activations,
            // The scale of a value row gets finer with its digits.
            layers: alloc::vec![
                LayerExponents { value_scale: 8 * named.activations.attention as i32 - 5, ..layer };
                g.layers
            ],
        };
        let about = Description {
            version: PROFILE_VERSION,
            target: "made up".into(),
            layers: g.layers,
            kv_heads: g.kv_heads,
            head_dim: g.head_dim,
            exponents: alloc::vec![[e, e]; g.layers],
            embedding: Some(Embedding {
                rows: self.vocab,
                width: self.hidden,
                exponent: e,
                listed: false,
                eps: Some((20000, -31)),
            }),
            modes: modes.clone(),
            nets: named.iter().map(net).collect(),
            fitted: serde_json::Value::Null,
        };
        out.u64s(
            "rope.steps",
            &[g.head_dim / 2],
            &(0..g.head_dim / 2).map(|_| r.bits() >> 3).collect::<Vec<_>>(),
        );
        let embed = self.weights(&mut r, self.vocab, self.hidden, Digits::Two, e, false);
        out.weights("embed", &embed);
        for l in 0..g.layers {
            let (inner, wide, biased) = (l + 1 < g.layers, self.heads * g.head_dim, !self.qk_norm);
            let norm: Vec<(i16, i16)> =
                (0..g.head_dim).map(|_| ((1 << 14) - r.around(2).unsigned_abs() as i16, -14)).collect();
            for (n, named) in named.iter().enumerate() {
                let (own, first) = (named.weights, PRECISIONS[0].weights);
                let mut put = |what: &str, rows: usize, inp, [own, first]: [usize; 2], exponent, bias| {
                    if n == 0 || own != first {
                        let digits = if own == 1 { Digits::One } else { Digits::Two };
                        let w = self.weights(&mut r, rows, inp, digits, exponent, bias);
                        out.weights(&alloc::format!("net.{n}.layers.{l}.{what}"), &w);
                    }
                };
                put("kv", 2 * width, self.hidden, [own.kv, first.kv], e, biased);
                if inner {
                    put("q", wide, self.hidden, [own.q, first.q], e, biased);
                    put("o", self.hidden, wide, [own.o, first.o], e - 3, false);
                    put("gate_up", 2 * self.ffn, self.hidden, [own.gate_up, first.gate_up], e, false);
                    put("down", self.hidden, self.ffn, [own.down, first.down], e - 3, false);
                }
            }
            for what in ["key_norm", "query_norm"].iter().take(1 + usize::from(inner)) {
                if self.qk_norm {
                    out.signed_scales(&alloc::format!("net.0.layers.{l}.{what}"), &norm);
                }
            }
        }
        for (m, mode) in modes.iter().enumerate() {
            let mut tables = CodingTables::new(g, Shape::gaussian());
            tables.channel.iter_mut().for_each(|c| *c = self.scales[mode.kind as usize] + r.around(8) as i16);
            tables.token.iter_mut().for_each(|t| *t = r.around(self.token_weight) as i32);
            tables.save(&mut out, m);
            let planes = if mode.feedback { 2 * g.kv_heads } else { 1 };
            for what in ["mean", "bias"] {
                let table: Vec<i32> = (0..g.layers * 2 * width).map(|_| r.around(1 << e) as i32).collect();
                if mode.kind == Kind::Chain || mode.kind == Kind::Static && what == "mean" {
                    out.i32s(&alloc::format!("mode.{m}.{what}"), &[g.layers, 2, width], &table);
                }
            }
            for l in 0..g.layers {
                let mut put = |what: &str, rows, cols, digits, exponent| {
                    let w = self.weights(&mut r, rows, cols, digits, exponent, false);
                    out.weights(&alloc::format!("mode.{m}.layers.{l}.{what}"), &w);
                };
                for j in 0..planes - 1 {
                    put(
                        &alloc::format!("regress.{j}"),
                        (planes - 1 - j) * g.head_dim,
                        g.head_dim,
                        Digits::One,
                        -2,
                    );
                }
                if mode.kind == Kind::Draft && mode.feedback && l + 1 < g.layers {
                    put("gain.key", self.hidden, width, Digits::One, e - 5);
                    put("gain.value", self.hidden, width, Digits::One, e - 5);
                }
                if mode.base.is_some() {
                    continue;
                }
                if mode.kind == Kind::Chain && mode.ids {
                    put("embed", 2 * width, self.hidden, if l == 0 { Digits::Two } else { Digits::One }, e);
                }
                for i in 1..=mode.depth.min(l) {
                    put(&alloc::format!("past.{i}.key"), 2 * width, width, Digits::One, e - 2);
                    put(&alloc::format!("past.{i}.value"), 2 * width, width, Digits::One, e - 2);
                }
            }
        }
        out.finish(&about)
    }

    /// Random codes of a plane: numbers of the size that channel scales expect, and now and then any bit pattern at all. (Seldom: a token whose
    /// innovations are absurd has absurd predictions from there on, and planes full of them are stored raw, whatever was predicted.)
    pub fn codes(&self, r: &mut Random, format: ElementFormat, tokens: usize) -> Vec<u16> {
        let all = (1u32 << format.width()) - 1;
        let one = (format.bias() as u16) << format.mantissa_bits();
        (0..tokens * self.geometry.head_dim)
            .map(|_| match r.bits() % 1024 {
                0 => r.bits() as u16 & all as u16,
                _ => {
                    let sign = (r.bits() as u16 & 1) << (format.width() - 1);
                    sign | (one as i64 + r.around(3 << (format.mantissa_bits() - 1))).max(0) as u16
                }
            })
            .collect()
    }
}
