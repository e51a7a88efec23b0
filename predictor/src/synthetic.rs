//! Small made-up profiles and caches, for tests of backends and programs: every tensor random, nothing learnt. What is predicted is nonsense, so
//! what is coded exercises every path of coder and loop, and must come back all the same.

use alloc::string::String;
use alloc::vec::Vec;

use speckv_codec_core::{ElementFormat, Geometry, Shape};

use crate::coding::CodingTables;
use crate::data::{Digits, Weights};
use crate::error::Error;
use crate::fixed::Scale;
use crate::profile::{Description, Kind, LayerExponents, Mode, Net, NetDigits, Precision, ProfileWriter};
pub use crate::random::Random;

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

    /// The profile's bytes: static and draft (`test`) modes for both classes of caches.
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
        let mode = |kind, class, net| Mode {
            kind,
            precision: if net == Some(0) { "test".into() } else { String::new() },
            class,
            net,
            residual_digits: 2,
        };
        let mut modes = Vec::new();
        for class in [Precision::Fine, Precision::Coarse] {
            modes.push(mode(Kind::Static, class, None));
            modes.push(mode(Kind::Draft, class, Some(0)));
        }
        let about = Description {
            version: 1,
            target: "made up".into(),
            layers: g.layers,
            kv_heads: g.kv_heads,
            head_dim: g.head_dim,
            exponents: alloc::vec![[e, e]; g.layers],
            modes,
            nets: alloc::vec![Net {
                hidden: self.hidden,
                heads: self.heads,
                ffn: self.ffn,
                vocab: self.vocab,
                hidden_exponent: e,
                wide: self.wide,
                eps: (20000, -31),
                qk_norm: self.qk_norm,
                hadamard_o: 0,
                hadamard_down: self.ffn.trailing_zeros(),
                digits: NetDigits { kv: 2, q: d, o: d, gate_up: d, down: d, attention: d },
                layers: alloc::vec![layer; g.layers],
            }],
            fitted: serde_json::Value::Null,
        };
        out.u64s(
            "rope.steps",
            &[g.head_dim / 2],
            &(0..g.head_dim / 2).map(|_| r.bits() >> 3).collect::<Vec<_>>(),
        );
        let embed = self.weights(&mut r, self.vocab, self.hidden, Digits::Two, e, false);
        out.weights("net.0.embed", &embed);
        for l in 0..g.layers {
            let name = |what: &str| alloc::format!("net.0.layers.{l}.{what}");
            let biased = !self.qk_norm;
            out.weights(&name("kv"), &self.weights(&mut r, 2 * width, self.hidden, Digits::Two, e, biased));
            let norm: Vec<(i16, i16)> =
                (0..g.head_dim).map(|_| ((1 << 14) - r.around(2).unsigned_abs() as i16, -14)).collect();
            if self.qk_norm {
                out.signed_scales(&name("key_norm"), &norm);
            }
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
        for m in 0..4 {
            let mut tables = CodingTables::new(g, Shape::gaussian());
            tables.channel.iter_mut().for_each(|c| *c = 16 * 18 + r.around(24) as i16);
            tables.token.iter_mut().for_each(|t| *t = r.around(1 << 17) as i32);
            tables.save(&mut out, m);
            if m % 2 == 0 {
                let mean: Vec<i32> = (0..g.layers * 2 * width).map(|_| r.around(1 << e) as i32).collect();
                out.i32s(&alloc::format!("mode.{m}.mean"), &[g.layers, 2, width], &mean);
                continue;
            }
            for l in 0..g.layers {
                let name = |what: &str| alloc::format!("mode.{m}.layers.{l}.{what}");
                for j in 0..2 * g.kv_heads - 1 {
                    let w = self.weights(
                        &mut r,
                        (2 * g.kv_heads - 1 - j) * g.head_dim,
                        g.head_dim,
                        Digits::One,
                        -2,
                        false,
                    );
                    out.weights(&name(&alloc::format!("regress.{j}")), &w);
                }
                for part in ["gain.key", "gain.value"] {
                    let rows = if l + 1 < g.layers { self.hidden } else { 0 };
                    out.weights(&name(part), &self.weights(&mut r, rows, width, Digits::One, e - 5, false));
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
