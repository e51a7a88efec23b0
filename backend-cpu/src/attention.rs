//! Exact causal attention: per (head, block of query rows), scores against panels of keys, weights per block of 64 keys, sums against panels
//! of values. Equal to [`attention_row`](speckv_predictor::portable::attention::attention_row): its sums are exact and a block's shift is its own.

use rayon::prelude::*;
use speckv_predictor::backend::Attention;
use speckv_predictor::data::{Digits, Ints, Rows};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::attention::{BLOCK, FAR, align, block_exponent, value_factor};
use speckv_predictor::tables::Tables;

use crate::gemm::{Panels, Plane, Scales};
use crate::kernel::{Kernel, Left, Line16};
use crate::vector::Vector;

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
    tables: &Tables,
) -> Ints
where
    N: Kernel + Vector,
    W: Kernel<A = i16, Line = Line16> + Vector,
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
    let exp2: &[i32; 257] = tables.exp2[..].try_into().expect("257 entries");
    tasks.into_par_iter().for_each(|(t, head, mut out)| {
        let kv = &heads[head * nk / how.heads];
        let totals = block(scores, sums, query, t, head, out.len(), kv, start + t, how, exp2);
        let wide = hd.next_multiple_of(W::NR);
        for ((out, totals), denominator) in out.iter_mut().zip(totals.0.chunks_exact(wide)).zip(totals.1) {
            let top = denominator.ilog2() as i32 - 30;
            let place = if top >= 0 { denominator >> top } else { denominator << -top };
            let fold = values.digits.bits() as i32 - 1;
            let shift = fold - 61 - how.value_exponent + how.out_exponent;
            sums.divide(&totals[..hd], -top, fold, (1i64 << 61) / place, shift, out);
        }
    });
    out
}

/// Numerators (rows x padded dimensions) and denominators of a block of queries of one head, the first at `position`.
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
    exp2: &[i32; 257],
) -> (Vec<i64>, Vec<i64>)
where
    N: Kernel + Vector,
    W: Kernel<A = i16, Line = Line16> + Vector,
{
    let hd = how.head_dim;
    let digits = digits(query);
    let (end, stride) = (position + rows, kv.keys.padded());
    let (blocks, width) = (end.div_ceil(BLOCK), end.next_multiple_of(BLOCK));
    let shift = query.product_shift(kv.key_digits);
    let plane = rows * stride;
    let mut acc = vec![0i32; 3 * rows * N::NR.max(W::NR)];

    // Scores of all keys, row by row.
    let mut packed = vec![N::A::from_digit(0); digits.count() * plane];
    for (i, out) in packed.chunks_exact_mut(stride).enumerate() {
        let (d, r) = (i / rows, i % rows);
        scores.pack(&query.values[(first + r) * query.cols + head * hd..][..hd], digits, d, out);
    }
    let scales: Vec<Scale> =
        (0..rows).map(|r| query.scales[(first + r) * how.heads + head].shifted(16 + shift as i32)).collect();
    let left: Vec<_> =
        packed.chunks_exact(plane).map(|digits| Plane { digits, stride, inputs: stride }).collect();
    let mut all = vec![0i32; rows * width];
    for p in 0..end.div_ceil(N::NR) {
        kv.keys.products(scores, &left, rows, p, shift, &mut acc);
        let columns = kv.key_scales.from(p * N::NR);
        for (r, (acc, scale)) in acc.chunks_exact(N::NR).zip(&scales).enumerate() {
            scores.finish(acc, *scale, columns, false, &mut all[r * width + p * N::NR..][..N::NR]);
        }
    }

    // The octave above each block's maximum and above each row's.
    let mut exponents = vec![0i32; rows * blocks];
    let mut tops = vec![i32::MIN; rows];
    for r in 0..rows {
        let row = &all[r * width..][..position + r + 1];
        for (e, scores) in exponents[r * blocks..].iter_mut().zip(row.chunks(BLOCK)) {
            *e = block_exponent(sums.greatest(scores));
            tops[r] = tops[r].max(*e);
        }
    }

    let wide = hd.next_multiple_of(W::NR);
    let (mut totals, mut denominators) = (vec![0i64; rows * wide], vec![0i64; rows]);
    let mut weights = vec![0i16; rows * BLOCK];
    let mut octaves = vec![None; rows];
    for b in 0..blocks {
        for r in 0..rows {
            let seen = (position + r + 1).saturating_sub(b * BLOCK).min(BLOCK);
            let exponent = exponents[r * blocks + b];
            let weights = &mut weights[r * BLOCK..][..BLOCK];
            octaves[r] = (seen > 0 && tops[r] - exponent <= FAR).then(|| (tops[r] - exponent) as u32);
            let seen = if octaves[r].is_some() { seen } else { 0 };
            weights[seen..].fill(0);
            if let Some(octaves) = octaves[r] {
                let row = &all[r * width + b * BLOCK..][..seen];
                let sum = sums.weigh(row, exponent, &kv.factors[b * BLOCK..], exp2, weights);
                denominators[r] += align(sum, octaves as i32);
            }
        }
        if octaves.iter().all(Option::is_none) {
            continue;
        }
        for p in 0..wide / W::NR {
            let size = rows * W::NR;
            let digits = kv.values.digits().count();
            let acc = &mut acc[..digits * size];
            acc.fill(0);
            for (d, acc) in acc.chunks_exact_mut(size).enumerate() {
                sums.tiles(&weights, BLOCK, rows, kv.values.inputs(p, d, b * BLOCK..(b + 1) * BLOCK), acc);
            }
            let (low, high) = acc.split_at(size);
            for (r, octaves) in octaves.iter().enumerate() {
                if let Some(octaves) = octaves {
                    let at = r * W::NR..(r + 1) * W::NR;
                    let high = if high.is_empty() { high } else { &high[at.clone()] };
                    sums.accumulate(&mut totals[r * wide + p * W::NR..][..W::NR], &low[at], high, *octaves);
                }
            }
        }
    }
    (totals, denominators)
}
