//! Everything that works on rows by themselves: the portable row functions, or their vector forms, with rows split over threads.

use std::ops::Range;

use rayon::prelude::*;
use speckv_predictor::backend::{
    Backend, HeadNorm, Keep, Observed, Pricing, Quantise, Rotary, Seen, Silu, Truth, Unit,
};
use speckv_predictor::core::ElementFormat;
use speckv_predictor::data::{Ints, Rows};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::{Portable, coding, quantise};

use crate::CpuBackend;
use crate::coder::observe::{Observer, Plane};
use crate::coder::{self, Coder};
use crate::local::{self, Local};
use crate::pool::Pool;
use crate::vector::{Special, Steps, Vector};

/// Values that are worth a task.
const TASK: usize = 4096;

/// Rows that are worth a task.
fn task_rows(cols: usize) -> usize {
    (TASK / cols.max(1)).max(1)
}

/// A matrix of `cols` columns, row `t` filled by `f(t, row)`.
pub(crate) fn build(
    pool: &Pool,
    rows: usize,
    cols: usize,
    work: usize,
    f: impl Fn(usize, &mut [i32]) + Sync,
) -> Ints {
    let mut out = pool.matrix(rows, cols);
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

/// Digits and scales that are to be set.
fn digits(pool: &Pool, rows: usize, cols: usize, how: &Quantise) -> Rows {
    assert!(cols.is_multiple_of(how.group), "columns of whole groups");
    Rows {
        rows,
        cols,
        group: how.group,
        digits: how.digits,
        wide: how.wide,
        values: pool.words(rows * cols),
        scales: vec![Scale::ZERO; rows * (cols / how.group)],
    }
}

/// What is beyond the last whole head would be left as it was in the pool.
fn check_heads(width: usize, rotary: &Rotary) {
    let even = rotary.head_dim.is_multiple_of(2);
    assert!(even && width.is_multiple_of(rotary.head_dim), "columns of whole heads, which are pairs");
}

/// Queries to digits: heads normalised in place, rotated, quantised, row by row.
#[allow(clippy::too_many_arguments)]
pub(crate) fn heads<V: Special + Vector>(
    v: V,
    pool: &Pool,
    sine: &Steps<4096>,
    x: &mut Ints,
    columns: Range<usize>,
    norm: Option<&HeadNorm>,
    rotary: &Rotary,
    how: &Quantise,
) -> Rows {
    let (width, groups) = (columns.len(), columns.len() / how.group);
    check_heads(width, rotary);
    let mut rows = digits(pool, x.rows, width, how);
    if groups == 0 {
        return rows;
    }
    let values = rows.values.par_chunks_exact_mut(width).zip(rows.scales.par_chunks_exact_mut(groups));
    let jobs = values.zip(x.data.par_chunks_exact_mut(x.cols)).with_min_len(task_rows(width)).enumerate();
    jobs.for_each_init(
        || (vec![0; width], vec![0; rotary.head_dim.max(2 * how.group)]),
        |(turned, scratch), (t, ((values, scales), x))| {
            let x = &mut x[columns.clone()];
            if let Some(norm) = norm {
                quantise::head_norm_row(x, norm.exponent, norm.eps, norm.weight);
            }
            v.rope(x, rotary, rotary.start + t as u64, sine, &mut scratch[..rotary.head_dim], turned);
            let groups = turned.chunks_exact(how.group).zip(values.chunks_exact_mut(how.group)).zip(scales);
            for ((x, values), scale) in groups {
                *scale = v.quantise(x, how, values, &mut scratch[..2 * how.group]);
            }
        },
    );
    rows
}

/// Rows as digits.
pub(crate) fn quantise<V: Special>(v: V, pool: &Pool, x: &Ints, how: &Quantise) -> Rows {
    let groups = x.cols / how.group;
    let mut rows = digits(pool, x.rows, x.cols, how);
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
    pool: &Pool,
    sine: &Steps<4096>,
    x: &Ints,
    columns: Range<usize>,
    rotary: &Rotary,
) -> Ints {
    let width = columns.len();
    check_heads(width, rotary);
    let mut out = pool.matrix(x.rows, width);
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
pub(crate) fn columns(pool: &Pool, x: &Ints, columns: Range<usize>) -> Ints {
    build(pool, x.rows, columns.len(), columns.len(), |t, out| {
        out.copy_from_slice(&x.row(t)[columns.clone()])
    })
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
pub(crate) fn silu<V: Vector>(v: V, pool: &Pool, logistic: &Steps<2048>, gate_up: &Ints, how: Silu) -> Ints {
    let cols = gate_up.cols / 2;
    build(pool, gate_up.rows, cols, 4 * cols, |t, out| v.silu(gate_up.row(t), how, logistic, out))
}

/// Log-power of some columns of each row: [`coding::log_power`].
pub(crate) fn power<V: Vector>(
    v: V,
    p: &Portable,
    pool: &Pool,
    x: &Ints,
    columns: Range<usize>,
    exponent: i32,
) -> Ints {
    build(pool, x.rows, 1, columns.len(), |t, out| {
        let mean = v.squares(&x.row(t)[columns.clone()]) / columns.len() as u64;
        out[0] = p.tables().log2_q12(mean + 1) - ((2 * (exponent - 8)) << 12);
    })
}

/// Scale offsets of tokens.
pub(crate) fn token_scale(pool: &Pool, rows: usize, features: &[(&Ints, i32)], bias: i64) -> Ints {
    build(pool, rows, 1, 4 * features.len(), |t, out| {
        out[0] = coding::token_scale(features.iter().map(|(f, w)| (f.data[t], *w)), bias);
    })
}

/// Everything that tells what codes say about predictions.
#[derive(Clone, Copy)]
pub(crate) struct Teacher<'a, C> {
    pub coder: C,
    pub observer: &'a Observer,
    pub portable: &'a Portable,
    pub pool: &'a Pool,
}

impl<C: Coder> Teacher<'_, C> {
    /// What true codes say about a prediction.
    pub(crate) fn observe(self, pricing: &Pricing, mu: &Ints, token: &Ints, codes: &[u16]) -> Observed<Ints> {
        let (rows, cols) = (mu.rows, mu.cols);
        let channel = self.channel(pricing);
        let plane = self.plane(pricing, &channel);
        if !plane.fits() {
            return self.portable.observe(pricing, mu, token, &codes.to_vec());
        }
        let mut truth =
            Truth { value: self.pool.matrix(rows, cols), innovation: self.pool.matrix(rows, cols) };
        let mut energy = Ints::zeros(rows, 1);
        if cols == 0 {
            return Observed { truth, energy };
        }
        let run = task_rows(cols);
        let (value, innovation) = (&mut truth.value.data, &mut truth.innovation.data);
        let jobs = value.par_chunks_mut(run * cols).zip(innovation.par_chunks_mut(run * cols));
        jobs.zip(energy.data.par_chunks_mut(run)).enumerate().for_each(
            |(i, ((value, innovation), energy))| {
                self.rows(&plane, i * run, mu, token, codes, value, innovation, energy);
            },
        );
        Observed { truth, energy }
    }

    /// [`observe`](Self::observe), and all that is kept of it, row by row. `None` if the definition must do it.
    pub(crate) fn learn<V: Vector + Special>(
        self,
        v: V,
        sine: &Steps<4096>,
        seen: &Seen<'_, CpuBackend>,
        keep: &mut Keep<'_, Ints>,
    ) -> Option<(Ints, Option<Rows>)> {
        let (mu, pricing) = (seen.mu, seen.pricing);
        let (rows, cols, column) = (mu.rows, mu.cols, keep.column);
        let channel = self.channel(pricing);
        let plane = self.plane(pricing, &channel);
        let whole = |how: &Quantise| how.group == cols;
        let one_head = keep.back.is_none_or(|back| back.head_dim == cols);
        if !plane.fits() || cols == 0 || !one_head || !keep.digits.as_ref().is_none_or(whole) {
            return None;
        }
        let kept = keep.innovation.rows.min(keep.value.rows);
        assert!(rows <= kept, "the plane has more rows than its place");
        let mut energy = Ints::zeros(rows, 1);
        let mut digits = keep.digits.as_ref().map(|how| digits(self.pool, rows, cols, how));
        let run = task_rows(cols);
        let width = keep.innovation.cols;
        assert!(width == keep.value.cols && column + cols <= width, "the plane does not fit its place");
        let parts = energy.data.chunks_mut(run);
        let parts = parts.zip(keep.innovation.data.chunks_mut(run * width));
        let parts = parts.zip(keep.value.data.chunks_mut(run * width));
        let mut of_digits =
            digits.as_mut().map(|d| d.values.chunks_mut(run * cols).zip(d.scales.chunks_mut(run)));
        let jobs: Vec<_> = parts.map(|part| (part, of_digits.as_mut().and_then(Iterator::next))).collect();
        let (back, how) = (keep.back, keep.digits);
        jobs.into_par_iter().enumerate().for_each(|(i, (((energy, innovations), kept), mut digits))| {
            local::with(|local| {
                let Local { values, act, spare, .. } = local;
                let size = energy.len() * cols;
                let (value, innovation) = (values.room(size), act.room(size));
                self.rows(&plane, i * run, mu, seen.token, seen.codes, value, innovation, energy);
                let spare = spare.room(2 * cols);
                let places = innovations.chunks_exact_mut(width).zip(kept.chunks_exact_mut(width));
                for (t, (innovations, kept)) in places.take(energy.len()).enumerate() {
                    let row = t * cols..(t + 1) * cols;
                    kept[column..column + cols].copy_from_slice(&value[row.clone()]);
                    let innovations = &mut innovations[column..column + cols];
                    match &back {
                        Some(back) => {
                            let position = back.start + (i * run + t) as u64;
                            v.rope(
                                &innovation[row.clone()],
                                back,
                                position,
                                sine,
                                &mut spare[..cols],
                                innovations,
                            );
                        }
                        None => innovations.copy_from_slice(&innovation[row.clone()]),
                    }
                    if let (Some((values, scales)), Some(how)) = (&mut digits, &how) {
                        scales[t] = v.quantise(innovations, how, &mut values[row], spare);
                    }
                }
            });
        });
        Some((energy, digits))
    }

    fn channel(self, pricing: &Pricing) -> Vec<i16> {
        let shift = pricing.unit.index_shift(self.portable.tables());
        pricing.channel.iter().map(|c| c + shift).collect()
    }

    fn plane<'p>(self, pricing: &Pricing, channel: &'p [i16]) -> Plane<'p>
    where
        Self: 'p,
    {
        Plane {
            observer: self.observer,
            format: pricing.format,
            unit: pricing.unit,
            exponent: pricing.exponent,
            code_exponent: pricing.unit.code_exponent(pricing.exponent),
            channel,
        }
    }

    /// Some rows from `first` on.
    #[allow(clippy::too_many_arguments)]
    fn rows(
        self,
        plane: &Plane<'_>,
        first: usize,
        mu: &Ints,
        token: &Ints,
        codes: &[u16],
        value: &mut [i32],
        innovation: &mut [i32],
        energy: &mut [i32],
    ) {
        let (cols, rows) = (mu.cols, first..first + energy.len());
        assert_eq!(plane.channel.len(), cols, "a scale for each column");
        let scalars = rows.start * cols..rows.end * cols;
        let mut squares = vec![0; energy.len()];
        let (mu, token, codes) = (&mu.data[scalars.clone()], &token.data[rows], &codes[scalars]);
        let rows = coder::observe::Rows { mu, token, codes, value, innovation, squares: &mut squares };
        self.coder.observe(plane, rows);
        for (energy, squares) in energy.iter_mut().zip(squares) {
            *energy = coding::energy(squares, cols, self.portable.tables());
        }
    }
}

/// The values of codes.
pub(crate) fn values(codes: &[u16], cols: usize, format: ElementFormat, unit: Unit, exponent: i32) -> Ints {
    let data = codes.par_iter().with_min_len(TASK).map(|c| unit.value(*c, format, exponent)).collect();
    Ints { rows: codes.len() / cols, cols, data }
}
