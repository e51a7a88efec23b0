//! Causal attention over quantised keys and values: exact, in any order (numerics.md, section 7).

use alloc::vec::Vec;

use crate::data::{Digits, Rows};
use crate::fixed::{Scale, shift_round};
use crate::portable::gemm::dot;
use crate::tables::Tables;

/// Keys of one block share an exponent. Blocks are cut by absolute position, so that no chunking moves them.
pub const BLOCK: usize = 64;
/// Blocks whose weight is below 2^-40 of the greatest are left out.
pub const FAR: i32 = 40;
/// Fraction bits that block sums gain before they are aligned.
const GUARD: u32 = 8;

/// Geometry and fixed points of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key (and value) heads; divides `heads`.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// A value's scale times `2^value_exponent` should lie just below one half (larger ones saturate).
    pub value_exponent: i32,
    /// Fraction bits of the result.
    pub out_exponent: i32,
}

/// A score in 1/65536 of an octave: `round(dot * q * k * 2^16)`. `|score| <= LIMIT`.
#[inline(always)]
pub fn score(dot: i32, query: Scale, key: Scale, shift: u32) -> i32 {
    crate::fixed::scaled(dot, query.shifted(16 + shift as i32), key)
}

/// The exponent that a block of scores is weighed against: the octave above its maximum.
#[inline(always)]
pub fn block_exponent(max: i32) -> i32 {
    (max + 0xFFFF) >> 16
}

/// A value's scale as a factor of attention weights: 15 bits, saturated just below one half.
#[inline(always)]
pub fn value_factor(scale: Scale, value_exponent: i32) -> i64 {
    shift_round(scale.m as i64, scale.e as i32 + value_exponent + 15).min(16319) as i64
}

/// `weight * factor` as two digits: at most 32638.
#[inline(always)]
pub fn weigh(weight: i32, factor: i64) -> i32 {
    ((weight as i64 * factor + (1 << 14)) >> 15) as i32
}

/// Adds block sums to a row's totals, aligned to the row's exponent. Exact order does not matter: each block is shifted by itself.
#[inline(always)]
pub fn align(sum: i64, octaves: i32) -> i64 {
    (sum << GUARD) >> octaves
}

/// `numerator / denominator` as fixed point. `1 <= denominator < 2^54`; `|numerator| <= 2^(digits) * denominator`.
#[inline]
pub fn divide(numerator: i64, denominator: i64, digits: Digits, how: &Attention) -> i32 {
    let top = denominator.ilog2() as i32 - 30;
    let place = |v: i64| if top >= 0 { v >> top } else { v << -top };
    let recip = (1i64 << 61) / place(denominator); // 2^30 < recip <= 2^31
    let fold = digits.bits() as i32 - 1;
    shift_round((place(numerator) >> fold) * recip, fold - 61 - how.value_exponent + how.out_exponent)
}

/// Attention of one query row at `position` over keys and values `0..=position`; `out` has `heads * head_dim` columns.
///
/// `query`, `keys`, `values` are grouped by head. The query's scale holds `log2(e) / sqrt(head_dim)` and the Hadamard normalisation.
#[allow(clippy::too_many_arguments)]
pub fn attention_row(
    query: &Rows,
    t: usize,
    keys: &Rows,
    values: &Rows,
    position: usize,
    how: &Attention,
    out: &mut [i32],
    tables: &Tables,
) {
    let (hd, nk) = (how.head_dim, how.kv_heads);
    let shift = query.product_shift(keys.digits);
    let mut scores: Vec<i32> = Vec::with_capacity(position + 1);
    for head in 0..how.heads {
        let kv = head * nk / how.heads;
        let q = &query.values[t * query.cols + head * hd..][..hd];
        let q_scale = query.scales[t * how.heads + head];
        scores.clear();
        scores.extend((0..=position).map(|p| {
            let k = &keys.values[p * keys.cols + kv * hd..][..hd];
            score(dot(q, k, shift), q_scale, keys.scales[p * nk + kv], shift)
        }));
        let top = block_exponent(scores.iter().copied().max().unwrap_or(0));
        let mut numerator = alloc::vec![0i64; hd];
        let mut denominator = 0;
        for (b, block) in scores.chunks(BLOCK).enumerate() {
            let exponent = block_exponent(block.iter().copied().max().unwrap_or(0));
            if top - exponent > FAR {
                continue;
            }
            let (mut sums, mut weights) = (alloc::vec![0i64; hd], 0i64);
            for (i, s) in block.iter().enumerate() {
                let p = b * BLOCK + i;
                let weight = tables.exp2_q16((exponent << 16).wrapping_sub(*s) as u32);
                weights += weight as i64;
                let w = weigh(weight, value_factor(values.scales[p * nk + kv], how.value_exponent)) as i64;
                let v = &values.values[p * values.cols + kv * hd..][..hd];
                for (sum, v) in sums.iter_mut().zip(v) {
                    *sum += w * *v as i64;
                }
            }
            denominator += align(weights, top - exponent);
            for (n, s) in numerator.iter_mut().zip(&sums) {
                *n += align(*s, top - exponent);
            }
        }
        for (o, n) in out[head * hd..(head + 1) * hd].iter_mut().zip(&numerator) {
            *o = divide(*n, denominator, values.digits, how);
        }
    }
}
