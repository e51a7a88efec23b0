//! What a prediction costs, counted beforehand: multiply-adds of int8 digits.
//!
//! One product of two one-digit operands counts one, an operand of two digits counts twice: 16 x 16 bits are four. Additions, Hadamard
//! butterflies, norms, tables and the coder are not counted ([`draft_row_values`] has a measure of them). Sums saturate: no geometry overflows.

use core::ops::Add;

use speckv_codec_core::Geometry;

use crate::profile::NetDigits;

/// Multiply-adds of a predictor over the whole of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// For each token, whatever its position.
    pub per_token: u64,
    /// For each pair of a token and a token it attends to (itself included), over all layers and heads.
    pub per_pair: u64,
}

impl Work {
    /// Of the tokens `first .. first + tokens`, each attending to all tokens up to itself.
    pub fn total(&self, first: u64, tokens: u64) -> u128 {
        let (from, n) = (u128::from(first), u128::from(tokens));
        u128::from(self.per_token).saturating_mul(n).saturating_add(self.attention(from, n))
    }

    /// Multiply-adds of attention among [`Work::total`].
    fn attention(&self, first: u128, tokens: u128) -> u128 {
        // Below 2^128: `tokens` and `first` are below 2^64.
        let own = tokens * (tokens + 1) / 2;
        u128::from(self.per_pair).saturating_mul(own.saturating_add(first * tokens))
    }

    /// The two kinds of work apart: matrix products, attention. They run at different speeds.
    pub fn split(&self, first: u64, tokens: u64) -> [u128; 2] {
        [Work { per_pair: 0, ..*self }, Work { per_token: 0, ..*self }].map(|w| w.total(first, tokens))
    }

    /// Of `layers` layers like this one.
    pub fn times(&self, layers: usize) -> Work {
        let n = layers as u64;
        Work { per_token: self.per_token.saturating_mul(n), per_pair: self.per_pair.saturating_mul(n) }
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            per_token: self.per_token.saturating_add(other.per_token),
            per_pair: self.per_pair.saturating_add(other.per_pair),
        }
    }
}

/// Sizes of a target that its cache does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Width of the MLP.
    pub ffn: usize,
}

/// Multiply-adds of a product `[out, inp]` for one token.
pub fn gemm(out: usize, inp: usize, weight_digits: usize, activation_digits: usize) -> u64 {
    product(&[out, inp, weight_digits, activation_digits])
}

/// Multiply-adds of attention for one pair of tokens in one layer: scores of `digits x digits`, sums of values whose weights always have two.
pub fn attention_pair(heads: usize, head_dim: usize, digits: usize) -> u64 {
    product(&[heads, head_dim, digits, digits + 2])
}

/// Outputs of the K and V projections.
fn kv_width(g: Geometry) -> usize {
    g.kv_heads.saturating_mul(g.head_dim).saturating_mul(2)
}

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |all: u64, &f| all.saturating_mul(f as u64))
}

/// The loop's own work in one layer (numerics.md, section 9): regressions from each plane to all later ones, gains into the residual stream,
/// in weights of one digit.
fn feedback(g: Geometry, gains_to: usize, residual_digits: usize) -> u64 {
    let planes = g.kv_heads.saturating_mul(2);
    let pairs = product(&[planes, planes.saturating_sub(1)]) / 2;
    let regress = pairs.saturating_mul(gemm(g.head_dim, g.head_dim, 1, residual_digits));
    regress.saturating_add(gemm(gains_to, kv_width(g), 1, residual_digits))
}

/// The regressions between the planes of every layer alone, as a chain has them.
pub fn chain_loop(g: Geometry, residual_digits: usize) -> Work {
    Work { per_token: feedback(g, 0, residual_digits), per_pair: 0 }.times(g.layers)
}

/// A chain that looks `depth` layers back: rows of earlier layers in one digit; `token`: width of an embedded token, in two digits, which the first
/// layer weighs with two digits and the others with one.
pub fn chain(g: Geometry, depth: usize, token: Option<usize>, residual_digits: usize) -> Work {
    let width = kv_width(g);
    let past: u64 = (0..g.layers).map(|l| depth.min(l) as u64).fold(0, u64::saturating_add);
    let embed = token.map_or(0, |t| gemm(width, t, 1, 2).saturating_mul(g.layers as u64 + 1));
    let per_token = past.saturating_mul(gemm(width, width, 1, 1)).saturating_add(embed);
    chain_loop(g, residual_digits) + Work { per_token, per_pair: 0 }
}

/// A draft: the keys and values of every layer, the rest of every layer but the last, and with `closed` the loop. `wide` leading directions of
/// the residual stream have two digits even where others have one.
pub fn draft(
    g: Geometry,
    dims: Dims,
    weights: NetDigits,
    activations: NetDigits,
    wide: usize,
    residual_digits: usize,
    closed: bool,
) -> Work {
    let Dims { hidden, heads, ffn } = dims;
    let width = heads.saturating_mul(g.head_dim);
    let normed = |out: usize, w: usize, a: usize| {
        let wide = wide.min(hidden);
        gemm(out, hidden - wide, w, a).saturating_add(gemm(out, wide, w, 2))
    };
    let token = |per_token| Work { per_token, per_pair: 0 };
    let kv = normed(kv_width(g), weights.kv, activations.kv);
    let rest = token(normed(width, weights.q, activations.q))
        + token(gemm(hidden, width, weights.o, activations.o))
        + token(normed(ffn.saturating_mul(2), weights.gate_up, activations.gate_up))
        + token(gemm(hidden, ffn, weights.down, activations.down))
        + Work { per_token: 0, per_pair: attention_pair(heads, g.head_dim, activations.attention) };
    let inner = g.layers.saturating_sub(1);
    let open = token(kv).times(g.layers) + rest.times(inner);
    if !closed {
        return open;
    }
    let [each, last] = [hidden, 0].map(|to| token(feedback(g, to, residual_digits)));
    open + each.times(inner) + last.times(g.layers - inner)
}

/// Values that go through operations over rows (norms, digits, RoPE, SiLU, sums) for each token of a closed-loop draft, each value once for each
/// operation: what multiply-adds do not show. numerics.md, section 9.
pub fn draft_row_values(g: Geometry, dims: Dims) -> u64 {
    let Dims { hidden, heads, ffn } = dims;
    let (kv, width) = (product(&[g.kv_heads, g.head_dim]), product(&[heads, g.head_dim]));
    let sum = |terms: &[(u64, u64)]| {
        terms.iter().fold(0u64, |all, &(times, n)| all.saturating_add(n.saturating_mul(times)))
    };
    // Its RMS and digits; of keys and values: power, prediction, innovation, its digits, two sums.
    let each = sum(&[(2, hidden as u64), (11, kv)]);
    // Digits of the residual stream twice, of innovations for gains, of keys and values, of queries and what is attended; RoPE; the MLP's values.
    let inner = sum(&[(2, hidden as u64), (3, width), (2, ffn as u64), (4, kv)]);
    sum(&[(g.layers as u64, each), (g.layers.saturating_sub(1) as u64, inner)])
}

/// The same of a chain: predictions, innovations, their digits, sums, and differences from the means for the layers that follow.
pub fn chain_row_values(g: Geometry) -> u64 {
    product(&[18, g.kv_heads, g.head_dim, g.layers])
}

/// The target's own prefill in its own arithmetic: every layer whole, one multiply-add a weight; the output matrix left out.
pub fn target(g: Geometry, dims: Dims) -> Work {
    let Dims { hidden, heads, ffn } = dims;
    let width = heads.saturating_mul(g.head_dim);
    let layer = [gemm(kv_width(g), hidden, 1, 1), gemm(width.saturating_mul(2), hidden, 1, 1)];
    let mlp = gemm(ffn.saturating_mul(3), hidden, 1, 1);
    let pairs = product(&[2, heads, g.head_dim]);
    [layer[0], layer[1], mlp]
        .into_iter()
        .fold(Work { per_token: 0, per_pair: pairs }, |all, per_token| all + Work { per_token, per_pair: 0 })
        .times(g.layers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::PRECISIONS;

    const G: Geometry = Geometry { layers: 3, kv_heads: 2, head_dim: 4 };
    const D: Dims = Dims { hidden: 10, heads: 4, ffn: 20 };

    #[test]
    fn one_digit_by_hand() {
        // K and V: 16 x 10 in each of 3 layers. Two inner layers of q 16 x 10, o 10 x 16, gate and up 40 x 10, down 10 x 20.
        let one = NetDigits::new(1, 1, 1);
        let open = draft(G, D, one, one, 0, 2, false);
        assert_eq!(open.per_token, 3 * 160 + 2 * (160 + 160 + 400 + 200));
        // 2 layers of 4 heads of 4 columns: one product for the score, two for the sum.
        assert_eq!(open.per_pair, 2 * 4 * 4 * 3);
        // Four planes: 3 + 2 + 1 later ones of 4 x 4, innovations of two digits; gains 10 x 16 in two layers.
        let closed = draft(G, D, one, one, 0, 2, true);
        assert_eq!(closed.per_token - open.per_token, 3 * (6 * 16 * 2) + 2 * (10 * 16 * 2));
        assert_eq!(closed.per_pair, open.per_pair);
        assert_eq!(draft_row_values(G, D), 3 * (2 * 10 + 11 * 8) + 2 * (2 * 10 + 3 * 16 + 2 * 20 + 4 * 8));
    }

    #[test]
    fn chains_by_hand() {
        // Three layers that see 0, 1 and 2 layers back; 6 pairs of planes of 4 x 4 in each, innovations of two digits.
        let plain = chain(G, 2, None, 2);
        assert_eq!(plain, Work { per_token: 3 * 16 * 16 + 3 * 6 * 16 * 2, per_pair: 0 });
        assert_eq!(chain_row_values(G), 18 * 8 * 3);
        // 16 x 10 from the token: four products in the first layer, two in the others.
        assert_eq!(chain(G, 2, Some(10), 2).per_token - plain.per_token, 160 * (4 + 2 + 2));
    }

    #[test]
    fn digits_and_wide_directions_by_hand() {
        let [default, .., all] = PRECISIONS;
        // K and V take four products; of q, gate and up, 3 of 10 columns count twice.
        let w = draft(G, D, default.weights, default.activations, 3, 1, false);
        assert_eq!(w.per_token, 3 * 160 * 4 + 2 * (16 * 13 + 160 + 40 * 13 + 200));
        let w = draft(G, D, all.weights, all.activations, 3, 1, false);
        assert_eq!(w.per_token, 4 * (3 * 160 + 2 * 920));
        assert_eq!(w.per_pair, 2 * 16 * (4 + 4));
    }

    #[test]
    fn the_target_by_hand() {
        let t = target(G, D);
        assert_eq!(t, Work { per_token: 3 * (160 + 320 + 600), per_pair: 3 * 2 * 16 });
        // SmolLM2-135M: 106.2 million weights in its layers, without norms.
        let smol = target(
            Geometry { layers: 30, kv_heads: 3, head_dim: 64 },
            Dims { hidden: 576, heads: 9, ffn: 1536 },
        );
        assert_eq!(smol.per_token, 106_168_320);
        assert_eq!(smol.per_pair, 30 * 2 * 576);
    }

    #[test]
    fn totals_count_pairs_causally() {
        let w = Work { per_token: 7, per_pair: 3 };
        assert_eq!(w.total(0, 4), 7 * 4 + 3 * (1 + 2 + 3 + 4));
        assert_eq!(w.total(10, 2), 7 * 2 + 3 * (11 + 12));
        assert_eq!(w.total(0, 6), w.total(0, 4) + w.total(4, 2));
        assert_eq!(w.split(10, 2), [14, 69]);
        assert_eq!((w + w).total(5, 5), 2 * w.total(5, 5));
        assert_eq!(w.total(9, 0), 0);
    }

    #[test]
    fn nothing_overflows() {
        let most = usize::MAX;
        let g = Geometry { layers: most, kv_heads: most, head_dim: most };
        let two = NetDigits::new(2, 2, 2);
        let w = draft(g, Dims { hidden: most, heads: most, ffn: most }, two, two, most, 2, true);
        assert_eq!(w, Work { per_token: u64::MAX, per_pair: u64::MAX });
        assert_eq!(w.total(u64::MAX, u64::MAX), u128::MAX);
        let none = draft(Geometry { layers: 0, ..G }, D, two, two, 0, 2, true);
        assert_eq!(none, Work::default());
        assert_eq!(draft_row_values(g, Dims { hidden: most, heads: most, ffn: most }), u64::MAX);
    }
}
