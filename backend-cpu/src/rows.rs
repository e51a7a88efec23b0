//! Everything that works on rows by themselves: the portable row functions, or their vector forms, with rows split over threads.

use std::ops::Range;

use rayon::prelude::*;
use speckv_predictor::backend::{Backend, Observed, Pricing, Quantise, Rotary, Silu, Truth, Unit};
use speckv_predictor::core::ElementFormat;
use speckv_predictor::data::{Ints, Rows};
use speckv_predictor::fixed::{LIMIT, Scale};
use speckv_predictor::portable::quantise::{inverse_rms, shift_to_30};
use speckv_predictor::portable::{Portable, coding, elementwise, quantise};

use crate::coder::observe::{Observer, Plane};
use crate::coder::{self, Coder};
use crate::vector::Vector;

/// Values that are worth a task.
const TASK: usize = 4096;

/// Rows that are worth a task.
fn task_rows(cols: usize) -> usize {
    (TASK / cols.max(1)).max(1)
}

/// A matrix of `cols` columns, row `t` filled by `f(t, row)`.
pub(crate) fn build(rows: usize, cols: usize, work: usize, f: impl Fn(usize, &mut [i32]) + Sync) -> Ints {
    let mut out = Ints::zeros(rows, cols);
    if cols > 0 {
        let rows = out.data.par_chunks_exact_mut(cols).with_min_len(task_rows(work)).enumerate();
        rows.for_each(|(t, row)| f(t, row));
    }
    out
}

fn each(x: &mut Ints, f: impl Fn(usize, &mut [i32]) + Sync) {
    if x.cols > 0 {
        let rows = x.data.par_chunks_exact_mut(x.cols).with_min_len(task_rows(x.cols)).enumerate();
        rows.for_each(|(t, row)| f(t, row));
    }
}

/// Rows as digits.
pub(crate) fn quantise<V: Vector>(v: V, x: &Ints, how: &Quantise) -> Rows {
    let groups = x.cols / how.group;
    let mut rows = Rows {
        rows: x.rows,
        cols: x.cols,
        group: how.group,
        digits: how.digits,
        wide: how.wide,
        values: vec![0; x.data.len()],
        scales: vec![Scale::ZERO; x.rows * groups],
    };
    if groups > 0 {
        let values = rows.values.par_chunks_exact_mut(x.cols);
        let jobs = values.zip(rows.scales.par_chunks_exact_mut(groups)).zip(x.data.par_chunks_exact(x.cols));
        jobs.with_min_len(task_rows(x.cols)).for_each_init(
            || vec![0; 2 * how.group],
            |scratch, ((values, scales), x)| {
                let groups = x.chunks_exact(how.group).zip(values.chunks_exact_mut(how.group)).zip(scales);
                for ((x, values), scale) in groups {
                    *scale = quantise_group(v, x, how, values, scratch);
                }
            },
        );
    }
    rows
}

/// One group of [`quantise::quantise_row`].
fn quantise_group<V: Vector>(v: V, x: &[i32], how: &Quantise, out: &mut [i16], scratch: &mut [i32]) -> Scale {
    let (mut y, mut exponent) = (x, how.exponent);
    if how.hadamard > 0 {
        let top = v.amax(x);
        if top > 0 {
            let shift = (29 - how.hadamard as i32) - top.ilog2() as i32;
            exponent += shift;
            let (z, spare) = scratch.split_at_mut(x.len());
            z.copy_from_slice(x);
            if shift >= 0 {
                v.shift_left(z, shift as u32);
            } else {
                v.shift_right(z, -shift as u32);
            }
            v.hadamard(z, spare, how.hadamard);
            y = z;
        }
    }
    let (wide, rest) = y.split_at(how.wide);
    let (wide_top, rest_top) = (v.amax(wide), v.amax(rest));
    let all = wide_top.max(rest_top);
    if all == 0 {
        out.fill(0);
        return Scale::ZERO;
    }
    let levels = how.digits.levels() as i64;
    // levels * 2^bits / full < 2^31, as full >= 2^29.
    let bits = 61 - how.digits.bits() - 1;
    let top = quantise::step_amax(rest_top, wide_top, how.digits);
    let n = shift_to_30(top);
    let full = (top as i64) << n;
    let recip = (levels << bits) / full;
    let (wide_out, rest_out) = out.split_at_mut(how.wide);
    v.digits(rest, n, recip as i32, bits, rest_out);
    for (q, v) in wide_out.iter_mut().zip(wide) {
        *q = ((((*v as i64) << n) * (recip >> 9) + (1 << (bits - 10))) >> (bits - 9)) as i16;
    }
    let mut scale = Scale::new(((full as u64) << 20) / levels as u64, -20 - n - exponent).times(how.gain);
    if let Some(eps) = how.norm {
        let n = shift_to_30(all);
        scale = scale.times(inverse_rms(v.sum_of_squares(y, n), y.len(), n, exponent, eps));
    }
    scale
}

/// Root mean square of each row.
pub(crate) fn rms<V: Vector>(v: V, x: &Ints, exponent: i32, eps: Scale) -> Vec<Scale> {
    let rows = (0..x.rows).into_par_iter().with_min_len(task_rows(x.cols));
    rows.map(|t| {
        let row = x.row(t);
        let top = v.amax(row);
        let n = if top == 0 { 0 } else { shift_to_30(top) };
        inverse_rms(v.sum_of_squares(row, n), row.len(), n, exponent, eps).recip()
    })
    .collect()
}

/// RMS-normalises heads in place.
pub(crate) fn head_norm(
    x: &mut Ints,
    columns: Range<usize>,
    exponent: i32,
    eps: Scale,
    weight: &[(i16, i16)],
) {
    each(x, |_, row| quantise::head_norm_row(&mut row[columns.clone()], exponent, eps, weight));
}

/// Rotates heads.
pub(crate) fn rope(p: &Portable, x: &Ints, columns: Range<usize>, rotary: &Rotary) -> Ints {
    build(x.rows, columns.len(), columns.len(), |t, out| {
        out.copy_from_slice(&x.row(t)[columns.clone()]);
        let position = rotary.start + t as u64;
        elementwise::rope_row(out, rotary.head_dim, rotary.steps, position, rotary.inverse, p.tables());
    })
}

/// Some columns.
pub(crate) fn columns(x: &Ints, columns: Range<usize>) -> Ints {
    build(x.rows, columns.len(), columns.len(), |t, out| out.copy_from_slice(&x.row(t)[columns.clone()]))
}

/// `x[.., column..] += y`, saturated.
pub(crate) fn add(x: &mut Ints, column: usize, y: &Ints) {
    let rows = y.data.len() / y.cols.max(1);
    each(x, |t, row| {
        if t < rows {
            // Values within LIMIT: the sum of two fits 32 bits.
            let pairs = row[column..].iter_mut().zip(y.row(t));
            pairs.for_each(|(x, y)| *x = x.wrapping_add(*y).clamp(-LIMIT, LIMIT));
        }
    });
}

/// `silu(gate) * up`.
pub(crate) fn silu<V: Vector>(v: V, p: &Portable, gate_up: &Ints, how: Silu) -> Ints {
    let cols = gate_up.cols / 2;
    let logistic: &[i32; 2049] = p.tables().logistic[..].try_into().expect("2049 entries");
    build(gate_up.rows, cols, 4 * cols, |t, out| v.silu(gate_up.row(t), how, logistic, out))
}

/// Log-power of some columns of each row.
pub(crate) fn power(p: &Portable, x: &Ints, columns: Range<usize>, exponent: i32) -> Ints {
    build(x.rows, 1, columns.len(), |t, out| {
        out[0] = coding::log_power(&x.row(t)[columns.clone()], exponent, p.tables());
    })
}

/// Scale offsets of tokens.
pub(crate) fn token_scale(rows: usize, features: &[(&Ints, i32)], bias: i64) -> Ints {
    build(rows, 1, 4 * features.len(), |t, out| {
        out[0] = coding::token_scale(features.iter().map(|(f, w)| (f.data[t], *w)), bias);
    })
}

/// What true codes say about a prediction.
pub(crate) fn observe(
    coder: impl Coder,
    observer: &Observer,
    p: &Portable,
    pricing: &Pricing,
    mu: &Ints,
    token: &Ints,
    codes: &[u16],
) -> Observed<Ints> {
    let (rows, cols) = (mu.rows, mu.cols);
    let (unit, exponent) = (pricing.unit, pricing.exponent);
    let shift = unit.index_shift(p.tables());
    let channel: Vec<i16> = pricing.channel.iter().map(|c| c + shift).collect();
    let plane = Plane {
        observer,
        format: pricing.format,
        unit,
        exponent,
        code_exponent: unit.code_exponent(exponent),
        channel: &channel,
    };
    if !plane.fits() {
        return p.observe(pricing, mu, token, codes);
    }
    let mut truth = Truth { value: Ints::zeros(rows, cols), innovation: Ints::zeros(rows, cols) };
    let mut energy = Ints::zeros(rows, 1);
    if cols == 0 {
        return Observed { truth, energy };
    }
    let run = task_rows(cols);
    let (value, innovation) = (&mut truth.value.data, &mut truth.innovation.data);
    let jobs = value.par_chunks_mut(run * cols).zip(innovation.par_chunks_mut(run * cols));
    jobs.zip(energy.data.par_chunks_mut(run)).enumerate().for_each(|(i, ((value, innovation), energy))| {
        let rows = i * run..i * run + energy.len();
        let scalars = rows.start * cols..rows.end * cols;
        let mut squares = vec![0; energy.len()];
        coder.observe(
            &plane,
            coder::observe::Rows {
                mu: &mu.data[scalars.clone()],
                token: &token.data[rows],
                codes: &codes[scalars],
                value,
                innovation,
                squares: &mut squares,
            },
        );
        for (energy, squares) in energy.iter_mut().zip(squares) {
            *energy = coding::energy(squares, cols, p.tables());
        }
    });
    Observed { truth, energy }
}

/// The values of codes.
pub(crate) fn values(codes: &[u16], cols: usize, format: ElementFormat, unit: Unit, exponent: i32) -> Ints {
    let data = codes.par_iter().with_min_len(TASK).map(|c| unit.value(*c, format, exponent)).collect();
    Ints { rows: codes.len() / cols, cols, data }
}
