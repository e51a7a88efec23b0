//! The JSON description inside a profile (metadata key `speckv`).

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use speckv_codec_core::{ElementFormat, Geometry};

use crate::data::MAX_INPUTS;
use crate::error::Error;

/// Version of the profile layout that this crate reads and writes.
pub const PROFILE_VERSION: u32 = 2;

/// Kinds of predictor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Per-channel statistics only.
    Static,
    /// Regressions from earlier layers.
    Chain,
    /// The draft network.
    Draft,
}

impl Kind {
    /// The byte that streams carry.
    pub const fn id(self) -> u8 {
        match self {
            Kind::Static => 0,
            Kind::Chain => 1,
            Kind::Draft => 2,
        }
    }

    /// As people type it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Static => "static",
            Kind::Chain => "chain",
            Kind::Draft => "draft",
        }
    }
}

/// Whether a mode was calibrated for 16-bit or for 8-bit caches: what the decoder knows of the truth differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 and f16 caches.
    Fine,
    /// e4m3 and e5m2 caches.
    Coarse,
}

impl Precision {
    /// The class of an element format.
    pub const fn of(format: ElementFormat) -> Precision {
        if format.width() == 8 { Precision::Coarse } else { Precision::Fine }
    }
}

/// A calibrated way to predict: what a stream names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// Which predictor.
    pub kind: Kind,
    /// Name of the precision, as the stream carries it (`w8a8+kv16`); empty for `static`, `ids` or `no-ids` for `chain`.
    pub precision: String,
    /// Which caches it was calibrated for.
    pub class: Precision,
    /// Index of the network it runs, for `draft`.
    pub net: Option<usize>,
    /// Digits of residuals entering regressions and gains.
    pub residual_digits: usize,
    /// Whether true values feed back: regressions between planes, gains, attention over the true cache. Without it a draft predicts from token
    /// ids alone (open loop).
    pub feedback: bool,
    /// The mode whose tensors stand for those that this one has none of its own.
    pub base: Option<usize>,
    /// Layers that a chain looks back.
    pub depth: usize,
    /// Whether token ids are needed.
    pub ids: bool,
}

/// The table that turns token ids into vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedding {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub width: usize,
    /// Fraction bits.
    pub exponent: i32,
    /// Whether the rows are those of the ids in `embed.ids`, any other id standing for zeros (tables learnt from caches); else row `i` is id `i`, and
    /// there are no others.
    pub listed: bool,
    /// Epsilon of the norm that a chain applies to a row: mantissa, exponent; none if it takes rows as they are.
    pub eps: Option<(i16, i16)>,
}

/// Digits of activations, matrix by matrix (those of weights follow from their tensors).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetDigits {
    /// Into the K and V projections.
    pub kv: usize,
    /// Into the query projection.
    pub q: usize,
    /// Into the output projection.
    pub o: usize,
    /// Into gate and up.
    pub gate_up: usize,
    /// Into down.
    pub down: usize,
    /// Queries, keys and values in attention.
    pub attention: usize,
}

impl NetDigits {
    /// The K and V projections in `kv` digits, the other matrices in `rest`.
    pub const fn new(kv: usize, rest: usize, attention: usize) -> NetDigits {
        NetDigits { kv, q: rest, o: rest, gate_up: rest, down: rest, attention }
    }
}

/// Digits of a network's weights and activations, under the name that streams carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedDigits {
    /// As in [`Mode::precision`].
    pub name: &'static str,
    /// Digits of weights (`attention` as below).
    pub weights: NetDigits,
    /// Digits of activations, and of queries, keys and values in attention.
    pub activations: NetDigits,
}

/// The precisions that profiles are built with; the first is the default.
pub const PRECISIONS: [NamedDigits; 4] = [
    NamedDigits { name: "w8a8+kv16", weights: NetDigits::new(2, 1, 1), activations: NetDigits::new(2, 1, 1) },
    NamedDigits { name: "w8a8", weights: NetDigits::new(1, 1, 1), activations: NetDigits::new(1, 1, 1) },
    NamedDigits {
        name: "w8a16+kv16",
        weights: NetDigits::new(2, 1, 1),
        activations: NetDigits::new(2, 2, 1),
    },
    NamedDigits { name: "w16a16", weights: NetDigits::new(2, 2, 2), activations: NetDigits::new(2, 2, 2) },
];

/// Fraction bits within one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerExponents {
    /// Keys before QK-norm (without QK-norm equal to the key exponent).
    pub raw_key: i32,
    /// Queries before QK-norm.
    pub raw_query: i32,
    /// Queries.
    pub query: i32,
    /// Attention output.
    pub attention: i32,
    /// See [`crate::backend::Attention::value_exponent`].
    pub value_scale: i32,
    /// Gate.
    pub gate: i32,
    /// Up.
    pub up: i32,
    /// `silu(gate) * up`.
    pub act: i32,
}

/// An integer draft network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// The network whose tensors stand for those that this one has none of its own.
    pub base: Option<usize>,
    /// Fraction bits of the residual stream.
    pub hidden_exponent: i32,
    /// Leading directions of the residual stream that have two digits in every product.
    pub wide: usize,
    /// Epsilon of RMSNorm: mantissa, exponent.
    pub eps: (i16, i16),
    /// Whether queries and keys are normalised per head (Qwen3).
    pub qk_norm: bool,
    /// log2 of the Hadamard block across heads in front of the output projection.
    pub hadamard_o: u32,
    /// log2 of the Hadamard block in front of down.
    pub hadamard_down: u32,
    /// Digits of activations.
    pub digits: NetDigits,
    /// Fraction bits, layer by layer.
    pub layers: Vec<LayerExponents>,
}

/// What a profile says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Version of the profile layout, [`PROFILE_VERSION`].
    pub version: u32,
    /// Name of the target, for messages.
    pub target: String,
    /// Layers of the target.
    pub layers: usize,
    /// K (and V) heads.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Fraction bits of keys and of values, layer by layer.
    pub exponents: Vec<[i32; 2]>,
    /// What token ids stand for, if any mode needs them.
    pub embedding: Option<Embedding>,
    /// Calibrated modes.
    pub modes: Vec<Mode>,
    /// Draft networks.
    pub nets: Vec<Net>,
    /// What it was fitted on and what it reached, for people.
    pub fitted: serde_json::Value,
}

impl Description {
    /// The geometry of caches it predicts.
    pub fn geometry(&self) -> Geometry {
        Geometry { layers: self.layers, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// The mode for a predictor, precision name and element format; the error lists what there is.
    pub fn mode(&self, kind: Kind, precision: &str, format: ElementFormat) -> Result<usize, Error> {
        let class = Precision::of(format);
        self.modes
            .iter()
            .position(|m| m.kind == kind && m.class == class && m.precision == precision)
            .ok_or_else(|| {
                let asked = [kind.name(), precision].join(" ");
                Error::Mismatch(alloc::format!(
                    "the profile has no predictor `{}` for {} caches; it has: {}",
                    asked.trim_end(),
                    format.name(),
                    self.listing()
                ))
            })
    }

    /// Its modes in words.
    pub fn listing(&self) -> String {
        let one = |m: &Mode| {
            let caches = if m.class == Precision::Fine { "16-bit" } else { "8-bit" };
            [m.kind.name(), &m.precision, &alloc::format!("({caches})")].join(" ").replace("  ", " ")
        };
        self.modes.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let fail = |what: &str| Err(Error::Profile(alloc::format!("{what} out of range")));
        if self.version != PROFILE_VERSION {
            return Err(Error::Profile(alloc::format!(
                "version {} (this reader knows {PROFILE_VERSION})",
                self.version
            )));
        }
        // Every backend takes as many inputs, so that all take the same profiles.
        let inputs = |what: core::fmt::Arguments<'_>, found: usize| match found {
            0..=MAX_INPUTS => Ok(()),
            _ => Err(Error::Profile(alloc::format!(
                "{what}: {found} inputs of a matrix (at most {MAX_INPUTS})"
            ))),
        };
        let power = |e: &i32| (-64..=64).contains(e);
        let epsilon = |(m, e): (i16, i16)| (m == 0 || m >= 1 << 14) && e.unsigned_abs() <= 512;
        if !(1..=4096).contains(&self.layers) || self.exponents.len() != self.layers {
            return fail("number of layers");
        }
        if !(1..=4096).contains(&self.kv_heads)
            || !(2..=4096).contains(&self.head_dim)
            || !self.head_dim.is_multiple_of(2)
            || self.kv_heads * self.head_dim > 1 << 18
        {
            return fail("geometry");
        }
        if !self.exponents.iter().flatten().all(power) || self.modes.len() > 64 || self.nets.len() > 16 {
            return fail("exponents, modes or networks");
        }
        if let Some(e) = &self.embedding {
            if !(1..=1 << 24).contains(&e.rows) || !(1..=1 << 15).contains(&e.width) || !power(&e.exponent) {
                return fail("embedding");
            }
            if e.eps.is_some_and(|e| !epsilon(e)) {
                return fail("epsilon of the embedding");
            }
        }
        for (n, net) in self.nets.iter().enumerate() {
            let e = |l: &LayerExponents| {
                [l.raw_key, l.raw_query, l.query, l.attention, l.value_scale, l.gate, l.up, l.act]
            };
            let sizes = [net.hidden, net.heads, net.ffn].iter().all(|n| (1..=1 << 20).contains(n));
            if !sizes
                || net.heads % self.kv_heads != 0
                || net.hidden > 1 << 15
                || net.wide > net.hidden.min(64)
                || net.layers.len() != self.layers
            {
                return fail("network geometry");
            }
            let heads = net.heads.saturating_mul(self.head_dim);
            inputs(format_args!("the heads of network {n}"), heads)?;
            inputs(format_args!("the MLP of network {n}"), net.ffn)?;
            if !net.layers.iter().flat_map(e).all(|v| power(&v))
                || !power(&net.hidden_exponent)
                || !epsilon(net.eps)
            {
                return fail("network exponents");
            }
            let tokens = self.embedding.as_ref().map(|e| (e.width, e.exponent, e.listed));
            if tokens != Some((net.hidden, net.hidden_exponent, false)) || net.base.is_some_and(|b| b >= n) {
                return fail("embedding or base of a network");
            }
            if net.hadamard_o > heads.trailing_zeros()
                || net.hadamard_down > net.ffn.trailing_zeros()
                || net.hadamard_o.max(net.hadamard_down) > 20
            {
                return fail("Hadamard sizes");
            }
            let d = net.digits;
            if [d.kv, d.q, d.o, d.gate_up, d.down, d.attention].iter().any(|d| !(1..=2).contains(d)) {
                return fail("digits");
            }
        }
        for (m, mode) in self.modes.iter().enumerate() {
            let fits = match mode.kind {
                Kind::Static => mode.net.is_none() && !mode.feedback && !mode.ids,
                Kind::Chain => mode.net.is_none() && mode.feedback && (!mode.ids || self.embedding.is_some()),
                Kind::Draft => mode.net.is_some_and(|n| n < self.nets.len()) && mode.ids,
            };
            let base = mode.base.is_none_or(|b| b < m);
            if !fits || !base || !(1..=2).contains(&mode.residual_digits) || mode.depth > 64 {
                return fail("mode");
            }
            if mode.feedback {
                inputs(format_args!("keys or values of a layer in mode {m}"), self.kv_heads * self.head_dim)?;
            }
        }
        Ok(())
    }
}
