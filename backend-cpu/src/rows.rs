//! Everything that works on rows by themselves: the portable row functions, or their vector forms, with rows split over threads.

use std::ops::Range;

use rayon::prelude::*;
use speckv_predictor::backend::{Backend, Observed, Pricing, Quantise, Rotary, Silu, Truth, Unit};
use speckv_predictor::core::ElementFormat;
use speckv_predictor::data::{Ints, Rows};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::{Portable, coding, quantise};

use crate::coder::observe::{Observer, Plane};
use crate::coder::{self, Coder};
use crate::vector::{Special, Steps, Vector};

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
pub(crate) fn quantise<V: Special>(v: V, x: &Ints, how: &Quantise) -> Rows {
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
                    *scale = v.quantise(x, how, values, scratch);
                }
            },
        );
    }
    rows
}

/// Root mean square of each row.
pub(crate) fn rms<V: Vector>(v: V, x: &Ints, exponent: i32, eps: Scale) -> Vec<Scale> {
    let rows = (0..x.rows).into_par_iter().with_min_len(task_rows(x.cols));
    rows.map(|t| {
        let (n, sum) = v.mean_square(x.row(t));
        quantise::inverse_rms(sum, x.cols, n, exponent, eps).recip()
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
pub(crate) fn rope<V: Vector>(
    v: V,
    sine: &Steps<4096>,
    x: &Ints,
    columns: Range<usize>,
    rotary: &Rotary,
) -> Ints {
    let width = columns.len();
    let mut out = Ints::zeros(x.rows, width);
    if width > 0 {
        let rows = out.data.par_chunks_exact_mut(width).with_min_len(task_rows(width)).enumerate();
        rows.for_each_init(
            || vec![0; rotary.head_dim],
            |spare, (t, out)| {
                v.rope(&x.row(t)[columns.clone()], rotary, rotary.start + t as u64, sine, spare, out);
            },
        );
    }
    out
}

/// Some columns.
pub(crate) fn columns(x: &Ints, columns: Range<usize>) -> Ints {
    build(x.rows, columns.len(), columns.len(), |t, out| out.copy_from_slice(&x.row(t)[columns.clone()]))
}

/// `x[.., column..] += y`, saturated.
pub(crate) fn add<V: Vector>(v: V, x: &mut Ints, column: usize, y: &Ints) {
    let rows = y.data.len() / y.cols.max(1);
    each(x, |t, row| {
        if t < rows {
            v.add(&mut row[column..], y.row(t));
        }
    });
}

/// `x[.., column..] = y`.
pub(crate) fn put(x: &mut Ints, column: usize, y: &Ints) {
    let rows = y.data.len() / y.cols.max(1);
    each(x, |t, row| {
        if t < rows {
            row[column..column + y.cols].copy_from_slice(y.row(t));
        }
    });
}

/// `silu(gate) * up`.
pub(crate) fn silu<V: Vector>(v: V, logistic: &Steps<2048>, gate_up: &Ints, how: Silu) -> Ints {
    let cols = gate_up.cols / 2;
    build(gate_up.rows, cols, 4 * cols, |t, out| v.silu(gate_up.row(t), how, logistic, out))
}

/// Log-power of some columns of each row: [`coding::log_power`].
pub(crate) fn power<V: Vector>(v: V, p: &Portable, x: &Ints, columns: Range<usize>, exponent: i32) -> Ints {
    build(x.rows, 1, columns.len(), |t, out| {
        let mean = v.squares(&x.row(t)[columns.clone()]) / columns.len() as u64;
        out[0] = p.tables().log2_q12(mean + 1) - ((2 * (exponent - 8)) << 12);
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
        return p.observe(pricing, mu, token, &codes.to_vec());
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
