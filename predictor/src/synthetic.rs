//! Small made-up profiles and caches, for tests of backends and programs: every tensor random, nothing learnt. What is predicted is nonsense, so
//! what is coded exercises every path of coder and loop, and must come back all the same.

use alloc::vec::Vec;

use speckv_codec_core::{ElementFormat, Geometry, Shape};

use crate::coding::CodingTables;
use crate::data::{Digits, Weights};
use crate::error::Error;
use crate::fixed::Scale;
use crate::profile::{
    Description, Embedding, Kind, LayerExponents, Mode, Net, NetDigits, Precision, ProfileWriter,
};
pub use crate::random::Random;

/// The modes of a made-up profile: every kind of predictor, closed and open, on a network of its own tensors and on one that falls back on it.
pub const MODES: [(Kind, &str); 6] = [
    (Kind::Static, ""),
    (Kind::Chain, "no-ids"),
    (Kind::Chain, "ids"),
    (Kind::Draft, "test"),
    (Kind::Draft, "open"),
    (Kind::Draft, "other"),
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
    /// Digits of weights and activations outside the K and V projections, and of attention.
    pub digits: Digits,
    /// Leading columns of two digits.
    pub wide: usize,
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
            digits: Digits::One,
            wide: 5,
            seed: 1,
        }
    }
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
            values: (0..out * inp).map(|_| r.around(levels) as i16).collect(),
            scales: (0..out).map(|_| scale(r)).collect(),
            bias: bias.then(|| (0..out).map(|_| r.around(1 << exponent.clamp(1, 28)) as i32).collect()),
        }
    }

    /// The profile's bytes: [`MODES`] for both classes of caches.
    pub fn profile(&self) -> Result<Vec<u8>, Error> {
        let (g, mut r, mut out) = (self.geometry, Random(self.seed), ProfileWriter::default());
        let (width, e) = (g.kv_heads * g.head_dim, 20);
        let d = self.digits.count();
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
        let mode = |kind, precision: &str, class| Mode {
            kind,
            precision: precision.into(),
            class,
            net: (kind == Kind::Draft).then_some(usize::from(precision == "other")),
            residual_digits: 2,
            feedback: kind != Kind::Static && precision != "open",
            base: None,
            depth: if kind == Kind::Chain { 2 } else { 0 },
            ids: kind == Kind::Draft || precision == "ids",
        };
        let modes = [Precision::Fine, Precision::Coarse]
            .into_iter()
            .flat_map(|class| MODES.map(|(kind, precision)| mode(kind, precision, class)))
            .collect::<Vec<_>>();
        let net = Net {
            hidden: self.hidden,
            heads: self.heads,
            ffn: self.ffn,
            base: None,
            hidden_exponent: e,
            wide: self.wide,
            eps: (20000, -31),
            qk_norm: self.qk_norm,
            hadamard_o: 0,
            hadamard_down: self.ffn.trailing_zeros(),
            digits: NetDigits { kv: 2, q: d, o: d, gate_up: d, down: d, attention: d },
            layers: alloc::vec![layer; g.layers],
        };
        let other = Net { base: Some(0), digits: NetDigits::new(1, 3 - d, 3 - d), ..net.clone() };
        let about = Description {
            version: 1,
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
            nets: alloc::vec![net, other],
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
            let name = |what: &str| alloc::format!("net.0.layers.{l}.{what}");
            let biased = !self.qk_norm;
            out.weights(&name("kv"), &self.weights(&mut r, 2 * width, self.hidden, Digits::Two, e, biased));
            let norm: Vec<(i16, i16)> =
                (0..g.head_dim).map(|_| ((1 << 14) - r.around(2).unsigned_abs() as i16, -14)).collect();
            if self.qk_norm {
                out.signed_scales(&name("key_norm"), &norm);
            }
            // The other network has its own K and V projections in one digit, the rest from the first.
            let kv = self.weights(&mut r, 2 * width, self.hidden, Digits::One, e, biased);
            out.weights(&alloc::format!("net.1.layers.{l}.kv"), &kv);
            if l + 1 < g.layers {
                let wide = self.heads * g.head_dim;
                out.weights(&name("q"), &self.weights(&mut r, wide, self.hidden, self.digits, e, biased));
                out.weights(&name("o"), &self.weights(&mut r, self.hidden, wide, self.digits, e - 3, false));
                out.weights(
                    &name("gate_up"),
                    &self.weights(&mut r, 2 * self.ffn, self.hidden, self.digits, e, false),
                );
                out.weights(
                    &name("down"),
                    &self.weights(&mut r, self.hidden, self.ffn, self.digits, e - 3, false),
                );
                if self.qk_norm {
                    out.signed_scales(&name("query_norm"), &norm);
                }
            }
        }
        for (m, mode) in modes.iter().enumerate() {
            let mut tables = CodingTables::new(g, Shape::gaussian());
            tables.channel.iter_mut().for_each(|c| *c = 16 * 18 + r.around(24) as i16);
            tables.token.iter_mut().for_each(|t| *t = r.around(1 << 17) as i32);
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

    /// Random codes of a plane: numbers of moderate size, and now and then any bit pattern at all.
    pub fn codes(&self, r: &mut Random, format: ElementFormat, tokens: usize) -> Vec<u16> {
        let all = (1u32 << format.width()) - 1;
        let one = (format.bias() as u16) << format.mantissa_bits();
        (0..tokens * self.geometry.head_dim)
            .map(|_| match r.bits() % 64 {
                0 => r.bits() as u16 & all as u16,
                _ => {
                    let sign = (r.bits() as u16 & 1) << (format.width() - 1);
                    sign | (one as i64 + r.around(3 << format.mantissa_bits())).max(0) as u16
                }
            })
            .collect()
    }
}
