//! Exact causal attention: per (head, block of query rows), scores against panels of keys, weights per block of 64 keys, sums against panels
//! of values. Equal to [`attention_row`](speckv_predictor::portable::attention::attention_row): its sums are exact and a block's shift is its own.

use rayon::prelude::*;
use speckv_predictor::backend::Attention;
use speckv_predictor::data::{Digits, Ints, Rows};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::attention::{BLOCK, FAR, align, value_factor};

use crate::aligned::Aligned;
use crate::gemm::{Panels, Plane, Scales};
use crate::kernel::{Kernel, Left, Line16};
use crate::vector::{Exp2, Special, Vector};

/// Query rows of a task: they share each panel of keys and values.
const QUERIES: usize = 12;

/// Digits that hold every value of some rows, wide ones too.
fn digits(rows: &Rows) -> Digits {
    if rows.wide > 0 { Digits::Two } else { rows.digits }
}

/// Keys and values of one head, packed.
struct Head<L> {
    key_digits: Digits,
    keys: Panels<L>,
    key_scales: Scales,
    /// Dimensions x tokens, tokens padded to whole blocks.
    values: Panels<Line16>,
    factors: Vec<i32>,
}

/// Attention of all rows of `query`, the first at position `start`.
///
/// Sums of a block fit 32 bits: at most 64 weights of 32638 times digits of at most 128, below 2^28.
#[allow(clippy::too_many_arguments)]
pub(crate) fn run<N, W>(
    scores: N,
    sums: W,
    query: &Rows,
    keys: &Rows,
    values: &Rows,
    start: usize,
    how: &Attention,
    exp2: &Exp2,
) -> Ints
where
    N: Kernel + Vector,
    W: Kernel<A = i16, Line = Line16> + Vector + Special,
{
    let mut out = Ints::zeros(query.rows, query.cols);
    if query.rows == 0 || query.cols == 0 {
        return out;
    }
    let (hd, nk, end) = (how.head_dim, how.kv_heads, start + query.rows);
    assert!(end <= keys.rows && end <= values.rows, "queries at positions without keys or values");
    assert!(query.cols == how.heads * hd && keys.cols == nk * hd && values.cols == nk * hd);
    let heads: Vec<Head<N::Line>> = (0..nk)
        .into_par_iter()
        .map(|kv| Head {
            key_digits: keys.digits,
            keys: Panels::new::<N>(end, hd, digits(keys), false, |p, i| {
                keys.values[p * keys.cols + kv * hd + i]
            }),
            key_scales: Scales::new((0..end).map(|p| keys.scales[p * nk + kv]), None, BLOCK),
            values: Panels::new::<W>(hd, end.next_multiple_of(BLOCK), digits(values), true, |i, p| {
                if p < end { values.values[p * values.cols + kv * hd + i] } else { 0 }
            }),
            factors: (0..end.next_multiple_of(BLOCK))
                .map(|p| {
                    if p < end {
                        value_factor(values.scales[p * nk + kv], how.value_exponent) as i32
                    } else {
                        0
                    }
                })
                .collect(),
        })
        .collect();

    let mut tasks = Vec::new();
    for (b, rows) in out.data.chunks_mut(QUERIES * query.cols).enumerate() {
        let mut pieces: Vec<Vec<&mut [i32]>> = Vec::new();
        pieces.resize_with(how.heads, Vec::new);
        for row in rows.chunks_exact_mut(query.cols) {
            for (pieces, piece) in pieces.iter_mut().zip(row.chunks_exact_mut(hd)) {
                pieces.push(piece);
            }
        }
        tasks.extend(pieces.into_iter().enumerate().map(|(head, pieces)| (b * QUERIES, head, pieces)));
    }
    let (inputs, wide) = (heads[0].keys.padded() * digits(query).count(), hd.next_multiple_of(W::NR));
    let scratch = || Scratch {
        acc: Aligned::new(0, 3 * QUERIES * N::NR.max(W::NR)),
        left: Aligned::new(N::A::from_digit(0), QUERIES * inputs),
        products: Aligned::new(0, QUERIES * BLOCK),
        weights: Aligned::new(0, QUERIES * end.next_multiple_of(BLOCK)),
        block_sums: vec![(0, 0); QUERIES * end.div_ceil(BLOCK)],
        numerators: Aligned::new(0, QUERIES * wide),
    };
    tasks.into_par_iter().for_each_init(scratch, |scratch, (t, head, mut out)| {
        let kv = &heads[head * nk / how.heads];
        let denominators = block(scores, sums, query, t, head, out.len(), kv, start + t, how, exp2, scratch);
        for ((out, totals), denominator) in
            out.iter_mut().zip(scratch.numerators.chunks_exact(wide)).zip(denominators)
        {
            let top = denominator.ilog2() as i32 - 30;
            let place = if top >= 0 { denominator >> top } else { denominator << -top };
            let fold = values.digits.bits() as i32 - 1;
            let shift = fold - 61 - how.value_exponent + how.out_exponent;
            sums.divide(&totals[..hd], -top, fold, (1i64 << 61) / place, shift, out);
        }
    });
    out
}

/// What a thread computes in, task after task; of fewer than [`QUERIES`] rows, the first ones.
struct Scratch<A> {
    /// Sums of products as kernels leave them.
    acc: Aligned<i32>,
    /// Queries' digits, one plane after another.
    left: Aligned<A>,
    /// Queries x keys of a block, for kernels of smaller panels.
    products: Aligned<i32>,
    /// Blocks x queries x keys of the block.
    weights: Aligned<i16>,
    /// Blocks x queries: the octave that the block is weighed against, the sum of its weights.
    block_sums: Vec<(i32, i64)>,
    /// Queries x padded dimensions.
    numerators: Aligned<i64>,
}

/// Denominators of a block of queries of one head, the first at `position`; their numerators are left in `scratch`.
#[allow(clippy::too_many_arguments)]
fn block<N, W>(
    scores: N,
    sums: W,
    query: &Rows,
    first: usize,
    head: usize,
    rows: usize,
    kv: &Head<N::Line>,
    position: usize,
    how: &Attention,
    exp2: &Exp2,
    scratch: &mut Scratch<N::A>,
) -> [i64; QUERIES]
where
    N: Kernel + Vector,
    W: Kernel<A = i16, Line = Line16> + Vector + Special,
{
    const { assert!(BLOCK.is_multiple_of(N::NR), "panels do not straddle blocks") };
    let Scratch { acc, left, products, weights, block_sums, numerators } = scratch;
    let hd = how.head_dim;
    let digits = digits(query);
    let (end, stride) = (position + rows, kv.keys.padded());
    let shift = query.product_shift(kv.key_digits);
    let plane = rows * stride;
    let left = &mut left[..digits.count() * plane];
    for (i, out) in left.chunks_exact_mut(stride).enumerate() {
        let (d, r) = (i / rows, i % rows);
        scores.pack(&query.values[(first + r) * query.cols + head * hd..][..hd], digits, d, out);
    }
    let planes = left.chunks_exact(plane).map(|digits| Plane { digits, stride, inputs: stride });
    let planes: Vec<_> = planes.collect();
    let mut scales = [Scale::ZERO; QUERIES];
    for (r, scale) in scales[..rows].iter_mut().enumerate() {
        *scale = query.scales[(first + r) * how.heads + head].shifted(16 + shift as i32);
    }

    // Weights of all keys, each block's in its own octave.
    let mut tops = [i32::MIN; QUERIES];
    for b in 0..end.div_ceil(BLOCK) {
        let keys = b * BLOCK..end.min((b + 1) * BLOCK);
        for p in 0..keys.len().div_ceil(N::NR) {
            kv.keys.products(scores, &planes, rows, keys.start / N::NR + p, shift, acc);
            if N::NR < BLOCK {
                for (acc, row) in acc.chunks_exact(N::NR).zip(products.chunks_exact_mut(BLOCK)).take(rows) {
                    row[p * N::NR..][..N::NR].copy_from_slice(acc);
                }
            }
        }
        let products: &[i32] = if N::NR < BLOCK { products } else { acc };
        let (columns, factors) = (kv.key_scales.from(keys.start), &kv.factors[keys.start..]);
        for r in 0..rows {
            let seen = (position + r + 1).saturating_sub(keys.start).min(BLOCK);
            if seen > 0 {
                let out = &mut weights.as_chunks_mut::<BLOCK>().0[b * QUERIES + r];
                let (octave, sum) =
                    sums.weigh(&products[r * BLOCK..][..seen], scales[r], columns, factors, exp2, out);
                block_sums[b * QUERIES + r] = (octave, sum);
                tops[r] = tops[r].max(octave);
            }
        }
    }

    let wide = hd.next_multiple_of(W::NR);
    let mut denominators = [0; QUERIES];
    numerators[..rows * wide].fill(0);
    for b in 0..end.div_ceil(BLOCK) {
        // Octaves below the row's greatest. Weights of rows left out are anything, and so are their sums.
        let mut octaves = [None; QUERIES];
        for r in 0..rows {
            let (octave, sum) = block_sums[b * QUERIES + r];
            if position + r >= b * BLOCK && tops[r] - octave <= FAR {
                octaves[r] = Some((tops[r] - octave) as u32);
                denominators[r] += align(sum, tops[r] - octave);
            }
        }
        if octaves.iter().all(Option::is_none) {
            continue;
        }
        let weights = &weights[b * QUERIES * BLOCK..];
        for p in 0..wide / W::NR {
            let size = rows * W::NR;
            let digits = kv.values.digits().count();
            let acc = &mut acc[..digits * size];
            acc.fill(0);
            for (d, acc) in acc.chunks_exact_mut(size).enumerate() {
                sums.tiles(weights, BLOCK, rows, kv.values.inputs(p, d, b * BLOCK..(b + 1) * BLOCK), acc);
            }
            let (low, high) = acc.split_at(size);
            for (r, octaves) in octaves[..rows].iter().enumerate() {
                if let Some(octaves) = octaves {
                    let at = r * W::NR..(r + 1) * W::NR;
                    let high = if high.is_empty() { high } else { &high[at.clone()] };
                    sums.accumulate(
                        &mut numerators[r * wide + p * W::NR..][..W::NR],
                        &low[at],
                        high,
                        *octaves,
                    );
                }
            }
        }
    }
    denominators
}
