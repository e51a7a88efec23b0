//! Exact causal attention: per (head, block of query rows), scores against panels of keys, weights per block of 64 keys, sums against panels
//! of values. Equal to [`attention_row`](speckv_predictor::portable::attention::attention_row): its sums are exact and a block's shift is its own.

use rayon::prelude::*;
use speckv_predictor::backend::Attention;
use speckv_predictor::data::{Digits, Ints, Rows};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::attention::{BLOCK, FAR, align, value_factor};

use crate::aligned::Aligned;
use crate::kernel::{Kernel, Left};
use crate::panels::{Panels, Plane};
use crate::pool::Pool;
use crate::vector::{Exp2, Special, Vector};
use crate::weights::Scales;

/// Most query rows of a task ([`Kernel::QUERIES`]).
const QUERIES: usize = 32;

/// Digits that hold every value of some rows, wide ones too.
fn digits(rows: &Rows) -> Digits {
    if rows.wide > 0 { Digits::Two } else { rows.digits }
}

/// Keys and values of one head, packed.
struct Head<N: Kernel, S: Kernel> {
    key_digits: Digits,
    keys: Panels<N::Line>,
    key_scales: Scales,
    /// Dimensions x tokens, tokens padded to whole blocks.
    values: Panels<S::Line>,
    factors: Vec<i32>,
}

/// Whether kernels of bytes can sum values: weights then have two digits, and sums of more than two weights are not kept apart.
#[cfg(target_arch = "x86_64")]
pub(crate) fn bytes_will_do(values: &Rows) -> bool {
    digits(values) == Digits::One
}

/// Attention of all rows of `query`, the first at position `start`: scores by one kernel, sums of values by another, which takes weights as one
/// digit of 16 bits or (see [`bytes_will_do`]) as two.
///
/// Sums of a block fit 32 bits: at most 64 weights of 32638 times digits of at most 128, below 2^28.
#[allow(clippy::too_many_arguments)]
pub(crate) fn run<N, S>(
    scores: N,
    sums: S,
    pool: &Pool,
    query: &Rows,
    keys: &Rows,
    values: &Rows,
    start: usize,
    how: &Attention,
    exp2: &Exp2,
) -> Ints
where
    N: Kernel + Vector,
    S: Kernel + Vector + Special,
{
    let mut out = pool.matrix(query.rows, query.cols);
    if query.rows == 0 || query.cols == 0 {
        return out;
    }
    let (hd, nk, end) = (how.head_dim, how.kv_heads, start + query.rows);
    assert!(end <= keys.rows && end <= values.rows, "queries at positions without keys or values");
    assert!(query.cols == how.heads * hd && keys.cols == nk * hd && values.cols == nk * hd);
    let padded = end.next_multiple_of(BLOCK);
    let head = |kv: usize| Head::<N, S> {
        key_digits: keys.digits,
        keys: Panels::of_outputs::<N>(end, hd, digits(keys), |p| {
            &keys.values[p * keys.cols + kv * hd..][..hd]
        }),
        key_scales: Scales::new((0..end).map(|p| keys.scales[p * nk + kv]), None, BLOCK),
        // Zeros behind the last token.
        values: Panels::of_inputs::<S>(hd, end, BLOCK, digits(values), |p| {
            &values.values[p * values.cols + kv * hd..][..hd]
        }),
        factors: (0..padded)
            .map(|p| {
                if p < end { value_factor(values.scales[p * nk + kv], how.value_exponent) as i32 } else { 0 }
            })
            .collect(),
    };
    let heads: Vec<_> = (0..nk).into_par_iter().map(head).collect();

    let mut tasks = Vec::new();
    for (b, rows) in out.data.chunks_mut(N::QUERIES * query.cols).enumerate() {
        let mut pieces: Vec<Vec<&mut [i32]>> = Vec::new();
        pieces.resize_with(how.heads, Vec::new);
        for row in rows.chunks_exact_mut(query.cols) {
            for (pieces, piece) in pieces.iter_mut().zip(row.chunks_exact_mut(hd)) {
                pieces.push(piece);
            }
        }
        tasks.extend(pieces.into_iter().enumerate().map(|(head, pieces)| (b * N::QUERIES, head, pieces)));
    }
    let (inputs, wide) = (heads[0].keys.padded() * digits(query).count(), hd.next_multiple_of(S::NR));
    let scratch = || Scratch {
        acc: Aligned::new(0, 3 * N::QUERIES * N::NR.max(S::NR)),
        left: Aligned::new(N::A::from_digit(0), N::QUERIES * inputs),
        products: Aligned::new(0, N::QUERIES * BLOCK),
        weights: Aligned::new(0, N::QUERIES * padded),
        halves: Aligned::new(S::A::from_digit(0), 2 * N::QUERIES * BLOCK),
        block_sums: vec![(0, 0); N::QUERIES * end.div_ceil(BLOCK)],
        numerators: Aligned::new(0, N::QUERIES * wide),
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

/// What a thread computes in, task after task; of fewer than [`Kernel::QUERIES`] rows, the first ones.
struct Scratch<A, B> {
    /// Sums of products as kernels leave them.
    acc: Aligned<i32>,
    /// Queries' digits, one plane after another.
    left: Aligned<A>,
    /// Queries x keys of a block, for kernels of smaller panels.
    products: Aligned<i32>,
    /// Blocks x queries x keys of the block.
    weights: Aligned<i16>,
    /// Digits of a block's weights, low ones first, for kernels of bytes.
    halves: Aligned<B>,
    /// Blocks x queries: the octave that the block is weighed against, the sum of its weights.
    block_sums: Vec<(i32, i64)>,
    /// Queries x padded dimensions.
    numerators: Aligned<i64>,
}

/// Denominators of a block of queries of one head, the first at `position`; their numerators are left in `scratch`.
#[allow(clippy::too_many_arguments)]
fn block<N, S>(
    scores: N,
    sums: S,
    query: &Rows,
    first: usize,
    head: usize,
    rows: usize,
    kv: &Head<N, S>,
    position: usize,
    how: &Attention,
    exp2: &Exp2,
    scratch: &mut Scratch<N::A, S::A>,
) -> [i64; QUERIES]
where
    N: Kernel + Vector,
    S: Kernel + Vector + Special,
{
    const { assert!(BLOCK.is_multiple_of(N::NR), "panels do not straddle blocks") };
    const { assert!(N::QUERIES <= QUERIES && N::QUERIES.is_multiple_of(N::ROWS), "room for padded rows") };
    const { assert!(N::QUERIES.is_multiple_of(S::ROWS) && BLOCK.is_multiple_of(S::STEP), "blocks of whole steps") };
    let Scratch { acc, left, products, weights, halves, block_sums, numerators } = scratch;
    let hd = how.head_dim;
    let digits = digits(query);
    let (end, stride) = (position + rows, kv.keys.padded());
    let shift = query.product_shift(kv.key_digits);
    let plane = rows.next_multiple_of(N::ROWS) * stride;
    let left = &mut left[..digits.count() * plane];
    for (d, plane) in left.chunks_exact_mut(plane).enumerate() {
        for (r, out) in plane.chunks_exact_mut(stride).take(rows).enumerate() {
            scores.pack(&query.values[(first + r) * query.cols + head * hd..][..hd], digits, d, out);
        }
    }
    let planes = left.chunks_exact(plane).map(|digits| Plane { digits, stride, inputs: stride });
    let planes: Vec<_> = planes.collect();
    let mut scales = [Scale::ZERO; QUERIES];
    for (r, scale) in scales[..rows].iter_mut().enumerate() {
        *scale = query.scales[(first + r) * how.heads + head].shifted(16 + shift as i32);
    }
    scores.begin();

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
                let out = &mut weights.as_chunks_mut::<BLOCK>().0[b * N::QUERIES + r];
                let (octave, sum) =
                    sums.weigh(&products[r * BLOCK..][..seen], scales[r], columns, factors, exp2, out);
                block_sums[b * N::QUERIES + r] = (octave, sum);
                tops[r] = tops[r].max(octave);
            }
        }
    }

    scores.end();

    let wide = hd.next_multiple_of(S::NR);
    let mut denominators = [0; QUERIES];
    numerators[..rows * wide].fill(0);
    sums.begin();
    for b in 0..end.div_ceil(BLOCK) {
        // Octaves below the row's greatest. Weights of rows left out are anything, and so are their sums.
        let mut octaves = [None; QUERIES];
        for r in 0..rows {
            let (octave, sum) = block_sums[b * N::QUERIES + r];
            if position + r >= b * BLOCK && tops[r] - octave <= FAR {
                octaves[r] = Some((tops[r] - octave) as u32);
                denominators[r] += align(sum, tops[r] - octave);
            }
        }
        if octaves.iter().all(Option::is_none) {
            continue;
        }
        let weights = &weights[b * N::QUERIES * BLOCK..][..N::QUERIES * BLOCK];
        let left = match S::A::of_words(weights) {
            Some(words) => words,
            None => {
                for (d, half) in halves.chunks_exact_mut(N::QUERIES * BLOCK).enumerate() {
                    let rows = weights.chunks_exact(BLOCK).zip(half.chunks_exact_mut(BLOCK)).take(rows);
                    rows.for_each(|(words, out)| sums.pack(words, Digits::Two, d, out));
                }
                &halves[..]
            }
        };
        let padded = rows.next_multiple_of(S::ROWS);
        let (size, value_digits) = (padded * S::NR, kv.values.digits().count());
        let kinds = left.len() / (N::QUERIES * BLOCK);
        assert!(kinds * value_digits <= 2, "sums of two weights at most");
        for p in 0..wide / S::NR {
            let acc = &mut acc[..kinds * value_digits * size];
            acc.fill(0);
            for (i, acc) in acc.chunks_exact_mut(size).enumerate() {
                let lines = kv.values.inputs(p, i % value_digits, b * BLOCK..(b + 1) * BLOCK);
                sums.tiles(&left[i / value_digits * N::QUERIES * BLOCK..], BLOCK, padded, lines, acc);
            }
            let (low, high) = acc.split_at(size);
            for (r, octaves) in octaves[..rows].iter().enumerate() {
                if let Some(octaves) = octaves {
                    let at = r * S::NR..(r + 1) * S::NR;
                    let high = if high.is_empty() { high } else { &high[at.clone()] };
                    sums.accumulate(
                        &mut numerators[r * wide + p * S::NR..][..S::NR],
                        &low[at],
                        high,
                        *octaves,
                    );
                }
            }
        }
    }
    sums.end();
    denominators
}
