//! The prediction seam: predict a plane, observe its truth.

use alloc::vec::Vec;

use speckv_codec_core::Part;

use crate::backend::{Backend, Seen, Unit};
use crate::error::Error;

/// What a predictor must know of the tokens before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: a run may start anywhere.
    Nothing,
    /// Their true keys and values.
    Truth,
    /// Its own predictions of them: it runs from token 0 on.
    Predictions,
}

/// Predicts planes in coding order (layer, part, head) over a run of tokens, learning each plane's truth before the next.
///
/// The session calls, for a run: `begin`, then for each layer `begin_layer`, for each part and head `predict` and `observe`, then `end_layer`.
pub trait Predict<B: Backend> {
    /// Starts a run of tokens at position `start`. `ids` has one id a token, or is empty when the predictor needs none.
    fn begin(&mut self, b: &B, start: usize, tokens: usize, ids: &[u32]) -> Result<(), Error>;
    /// Starts a layer.
    fn begin_layer(&mut self, b: &B, layer: usize) -> Result<(), Error>;
    /// The mean of a plane (keys after RoPE), in the layer's fixed point.
    fn predict(&mut self, b: &B, layer: usize, part: Part, head: usize) -> B::Ints;
    /// Learns what a plane was; returns the log-energy of its innovations, token by token.
    fn observe(&mut self, b: &B, layer: usize, part: Part, head: usize, seen: &Seen<'_, B>) -> B::Ints;
    /// Ends a layer: all its planes are known.
    fn end_layer(&mut self, b: &B, layer: usize) -> Result<(), Error>;
    /// What it must know of the tokens before a run.
    fn before(&self) -> Before {
        Before::Nothing
    }
    /// Learns a layer's true values (all heads, `[tokens, kv_heads * head_dim]`) of tokens before a run: called for [`Before::Truth`] alone.
    fn past(&mut self, _b: &B, _layer: usize, _key: B::Ints, _value: B::Ints) {}
    /// log2 of the mean square of the layer's predicted keys and values, one column each, if they say anything about the scale of errors.
    fn powers(&self) -> Option<[&B::Ints; 2]>;
    /// Whether anything may follow from the true values of earlier layers; else the scales of a layer's errors too are told by that layer alone.
    fn learns(&self) -> bool {
        true
    }
}

/// Number of weights in a plane's token-scale regression, bias excluded.
pub const TOKEN_FEATURES: usize = 8;

/// Log-energies of planes already coded, from which the scale of the next plane's residuals is predicted, token by token.
///
/// Features: each head of the previous layer's keys (0) and values (1), of the layer before (2, 3), power of the layer's predicted keys (4)
/// and values (5), each earlier head of the same part (6), each key head of the layer when coding values (7).
pub struct Energies<B: Backend> {
    older: [Vec<B::Ints>; 2],
    last: [Vec<B::Ints>; 2],
    now: [Vec<B::Ints>; 2],
}

impl<B: Backend> Default for Energies<B> {
    fn default() -> Self {
        let empty = || [Vec::new(), Vec::new()];
        Energies { older: empty(), last: empty(), now: empty() }
    }
}

impl<B: Backend> Energies<B> {
    /// The features of the next plane of `part`, with the index of the weight each takes.
    pub fn features<'a>(&'a self, part: Part, powers: Option<[&'a B::Ints; 2]>) -> Vec<(&'a B::Ints, usize)> {
        let mut out = Vec::new();
        let layers = [&self.last, &self.older];
        for (i, layer) in layers.iter().enumerate() {
            for (p, heads) in layer.iter().enumerate() {
                out.extend(heads.iter().map(|h| (h, 2 * i + p)));
            }
        }
        if let Some([k, v]) = powers {
            out.extend([(k, 4), (v, 5)]);
        }
        out.extend(self.now[part as usize].iter().map(|h| (h, 6)));
        if part == Part::Value {
            out.extend(self.now[0].iter().map(|h| (h, 7)));
        }
        out
    }

    /// Adds a plane's energies.
    pub fn push(&mut self, part: Part, energy: B::Ints) {
        self.now[part as usize].push(energy);
    }

    /// Ends a layer.
    pub fn end_layer(&mut self) {
        self.older = core::mem::take(&mut self.last);
        self.last = core::mem::take(&mut self.now);
    }

    /// Forgets all layers.
    pub fn clear(&mut self) {
        *self = Energies::default();
    }

    /// Scale offsets from features and weights (`TOKEN_FEATURES` weights and a bias in 1/16 octaves, 16 fractional bits).
    pub fn scale(
        &self,
        b: &B,
        rows: usize,
        part: Part,
        powers: Option<[&B::Ints; 2]>,
        weights: &[i32],
    ) -> B::Ints {
        let features: Vec<(&B::Ints, i32)> = self
            .features(part, powers)
            .into_iter()
            .map(|(f, i)| (f, weights[i]))
            .filter(|f| f.1 != 0)
            .collect();
        b.token_scale(rows, &features, (weights[TOKEN_FEATURES] as i64) << 12)
    }
}

/// Units of every plane of a cache: one, or from its fp8 scales.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units {
    units: Vec<Unit>,
    heads: usize,
    kv_heads: usize,
}

impl Units {
    /// Codes are the values.
    pub fn one() -> Units {
        Units { units: Vec::new(), heads: 1, kv_heads: 1 }
    }

    /// From f32 bits in order layer, part, head with `heads` (1 or `kv_heads`) a part.
    pub fn from_scales(bits: &[u32], heads: usize, kv_heads: usize) -> Result<Units, Error> {
        let units: Option<Vec<Unit>> = bits.iter().map(|b| Unit::from_f32_bits(*b)).collect();
        match units {
            Some(units) if heads == 1 || heads == kv_heads => Ok(Units { units, heads, kv_heads }),
            _ => Err(Error::Input("a cache scale is not a positive, finite, normal f32".into())),
        }
    }

    /// The unit of a plane.
    pub fn get(&self, layer: usize, part: Part, head: usize) -> Unit {
        let h = if self.heads == self.kv_heads { head } else { 0 };
        self.units.get((2 * layer + part as usize) * self.heads + h).copied().unwrap_or(Unit::ONE)
    }
}
