//! Integer matrix products: blocks of rows, threads.
//!
//! A task is a block of rows: it brings its rows to digits, multiplies them with panel after panel while they lie in the second-level cache, and
//! rounds each panel's products into place. So quantisation before a product, and all of an MLP, need no memory between their steps but a
//! thread's own.

use std::ops::Range;

use rayon::prelude::*;
use speckv_predictor::backend::{Mlp, Quantise, Store};
use speckv_predictor::data::{Digits, Ints, Rows};
use speckv_predictor::fixed::Scale;

use crate::aligned::Aligned;
use crate::kernel::{Kernel, Left};
use crate::local::{self, Local};
use crate::panels::{Plane, spread};
use crate::vector::{Special, Steps, Vector};
use crate::weights::{Matrix, PackedLine};

/// Columns of gate and up that are at hand at once.
const CHUNK: usize = 256;
/// Blocks of an MLP have at least the rows whose input of down is so large, even if fewer rows' digits fill
/// [`Kernel::BLOCK_BYTES`]: every block reads all weights.
const ACT_BYTES: usize = 768 << 10;

/// A left operand: rows as digits, or values that become such as the [`Quantise`] says, one scale a row.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Rows(&'a Rows),
    Values(&'a [i32], &'a Quantise),
}

impl Source<'_> {
    /// Columns, digits of all, and leading columns that have two.
    fn form(&self) -> (usize, Digits, usize) {
        match self {
            Source::Rows(a) => (a.cols, a.digits, a.wide),
            Source::Values(_, how) => (how.group, how.digits, how.wide),
        }
    }

    /// [`Rows::product_shift`].
    fn product_shift(&self, w: Digits) -> u32 {
        let (cols, digits, wide) = self.form();
        let empty = Rows { rows: 0, cols, group: cols, digits, wide, values: Vec::new(), scales: Vec::new() };
        empty.product_shift(w)
    }
}

/// Columns of each plane of digits that a block of rows has, for a kernel.
#[derive(Clone, Copy)]
struct Planes {
    inputs: [usize; 2],
    count: usize,
}

impl Planes {
    /// The second digit of rows with one is that of their wide columns. Zeros of the other columns among the last line's do no harm.
    fn new<K: Kernel>(source: Source<'_>, padded: usize) -> Planes {
        let (inputs, count) = match source.form() {
            (_, Digits::Two, _) => ([padded; 2], 2),
            (_, Digits::One, 0) => ([padded, 0], 1),
            (_, Digits::One, wide) => ([padded, wide.next_multiple_of(K::STEP)], 2),
        };
        Planes { inputs, count }
    }

    /// Bytes of a row.
    fn row_bytes<A>(&self) -> usize {
        self.inputs.iter().sum::<usize>() * size_of::<A>()
    }
}

/// Cuts rows into blocks of whole tiles, as large as caches allow and as many for each thread, and panels into runs if that is too few.
/// Returns the first row of each block, the number of rows, and the number of runs.
fn cut<K: Kernel>(rows: usize, most: usize, panels: usize) -> (Vec<usize>, usize) {
    let (units, threads) = (rows.div_ceil(K::MR), rayon::current_num_threads());
    let blocks = units.div_ceil((most / K::MR).max(1)).next_multiple_of(threads).min(units);
    let bounds = (0..=blocks).map(|b| (b * units / blocks * K::MR).min(rows)).collect();
    (bounds, (2 * threads).div_ceil(blocks).min(panels))
}

/// Rows of a block whose digits fit.
fn most_rows<K: Kernel>(row_bytes: usize) -> usize {
    (K::BLOCK_BYTES / row_bytes.max(1)).clamp(K::MR, K::BLOCK_ROWS)
}

/// Cuts `data` at the rows that [`cut`] gave.
fn blocks<'a>(data: &'a mut [i32], cols: usize, bounds: &[usize]) -> Vec<(usize, &'a mut [i32])> {
    let mut rest = data;
    let next = |b: &[usize]| {
        let (block, more) = std::mem::take(&mut rest).split_at_mut((b[1] - b[0]) * cols);
        rest = more;
        (b[0], block)
    };
    bounds.windows(2).map(next).collect()
}

/// `out[.., column..] (+)= a . w`.
pub(crate) fn run<K: Kernel<Line: PackedLine> + Vector + Special>(
    kernel: K,
    a: Source<'_>,
    rows: usize,
    w: &Matrix,
    factor: Option<&[Scale]>,
    store: Store,
    out: &mut Ints,
) {
    let (size, group) = match a {
        Source::Rows(a) => (a.values.len(), a.group),
        Source::Values(x, how) => (x.len(), how.group),
    };
    assert!(
        size == rows * w.inp && group == w.inp,
        "rows of one scale each, as long as the matrix has inputs"
    );
    assert!(rows <= out.rows && store.column + w.out <= out.cols, "the product does not fit its place");
    assert!(factor.is_none_or(|f| f.len() >= rows), "a factor for each row");
    if rows == 0 || w.out == 0 {
        return;
    }
    let (panels, all) = (K::Line::of(w), w.out.div_ceil(K::NR));
    let planes = Planes::new::<K>(a, panels.padded());
    let (bounds, runs) = cut::<K>(rows, most_rows::<K>(planes.row_bytes::<K::A>()), all);
    let run = all.div_ceil(runs);
    let (cols, columns) = (out.cols, store.column..store.column + w.out);
    let jobs = blocks(&mut out.data[..rows * cols], cols, &bounds);
    let task = |first: usize, panel: usize, mut out: Vec<&mut [i32]>| {
        local::with(|local| {
            let Local { left, words, scales, acc, spare, .. } = local;
            let left = K::A::planes(left);
            load_left(kernel, a, first..first + out.len(), planes, left, words, spare, scales);
            if let Some(factor) = factor {
                for (scale, factor) in scales.iter_mut().zip(&factor[first..]) {
                    *scale = scale.times(*factor);
                }
            }
            kernel.begin();
            let panels = panel..all.min(panel + run);
            multiply(
                kernel,
                left,
                planes,
                scales,
                a.product_shift(w.digits),
                w,
                panels,
                store.add,
                acc,
                &mut out,
            );
            kernel.end();
        });
    };
    if runs == 1 {
        jobs.into_par_iter().for_each(|(first, out)| {
            task(first, 0, out.chunks_exact_mut(cols).map(|row| &mut row[columns.clone()]).collect());
        });
        return;
    }
    let mut tasks = Vec::new();
    for (first, out) in jobs {
        let mut pieces: Vec<Vec<&mut [i32]>> = Vec::new();
        pieces.resize_with(all.div_ceil(run), Vec::new);
        for row in out.chunks_exact_mut(cols) {
            for (pieces, piece) in pieces.iter_mut().zip(row[columns.clone()].chunks_mut(run * K::NR)) {
                pieces.push(piece);
            }
        }
        tasks.extend(pieces.into_iter().enumerate().map(|(r, pieces)| (first, r * run, pieces)));
    }
    tasks.into_par_iter().for_each(|(first, panel, out)| task(first, panel, out));
}

/// `hidden += down . act`, `act` = `silu(gate) * up` as digits, `gate | up = gate_up . hidden as digits`: an MLP, all of it for each block of rows.
/// `None` if there are too few rows for all threads, or gate and up do not both begin with a panel.
pub(crate) fn feed_forward<K: Kernel<Line: PackedLine> + Vector + Special>(
    kernel: K,
    logistic: &Steps<2048>,
    hidden: &mut Ints,
    mlp: &Mlp<'_, Matrix>,
) -> Option<()> {
    let Mlp { ffn, normed, gate_up, silu, act: how, down } = mlp;
    let (ffn, silu, cols) = (*ffn, *silu, hidden.cols);
    assert!(gate_up.inp == cols && normed.group == cols && gate_up.out == 2 * ffn, "an MLP of these rows");
    assert!(down.inp == ffn && how.group == ffn && down.out == cols, "an MLP of these rows");
    let threads = rayon::current_num_threads();
    if !ffn.is_multiple_of(K::NR) || ffn == 0 || hidden.rows < threads * K::MR {
        return None;
    }
    let planes = Planes::new::<K>(Source::Values(&[], normed), K::Line::of(gate_up).padded());
    let act_planes = Planes::new::<K>(Source::Values(&[], how), K::Line::of(down).padded());
    let bytes = planes.row_bytes::<K::A>().max(act_planes.row_bytes::<K::A>());
    let most = (ACT_BYTES / (4 * ffn)).max(most_rows::<K>(bytes)).min(K::BLOCK_ROWS);
    let (bounds, _) = cut::<K>(hidden.rows, most, 1);
    blocks(&mut hidden.data, cols, &bounds).into_par_iter().for_each(|(_, hidden)| {
        local::with(|local| {
            let Local { left, words, scales, acc, spare, values, act } = local;
            let (left, rows) = (K::A::planes(left), hidden.len() / cols);
            let act = act.room(rows * ffn);
            let source = Source::Values(hidden, normed);
            load_left(kernel, source, 0..rows, planes, left, words, spare, scales);
            let shift = source.product_shift(gate_up.digits);
            kernel.begin();
            for chunk in (0..ffn).step_by(CHUNK) {
                let width = CHUNK.min(ffn - chunk);
                let values = values.room(rows * 2 * width);
                for half in 0..2 {
                    let panel = (half * ffn + chunk) / K::NR;
                    let panels = panel..panel + width / K::NR;
                    let pieces =
                        values.chunks_exact_mut(2 * width).map(|row| &mut row[half * width..][..width]);
                    let mut pieces: Vec<_> = pieces.collect();
                    multiply(kernel, left, planes, scales, shift, gate_up, panels, false, acc, &mut pieces);
                }
                for (values, act) in values.chunks_exact(2 * width).zip(act.chunks_exact_mut(ffn)) {
                    kernel.silu(values, silu, logistic, &mut act[chunk..chunk + width]);
                }
            }
            let source = Source::Values(act, how);
            load_left(kernel, source, 0..rows, act_planes, left, words, spare, scales);
            let shift = source.product_shift(down.digits);
            let mut pieces: Vec<_> = hidden.chunks_exact_mut(cols).collect();
            let panels = 0..cols.div_ceil(K::NR);
            multiply(kernel, left, act_planes, scales, shift, down, panels, true, acc, &mut pieces);
            kernel.end();
        });
    });
    Some(())
}

/// Brings some rows to digits, each plane in its own buffer, with a scale a row.
#[allow(clippy::too_many_arguments)]
fn load_left<K: Kernel + Special>(
    kernel: K,
    source: Source<'_>,
    rows: Range<usize>,
    planes: Planes,
    left: &mut [Aligned<K::A>; 2],
    words: &mut Aligned<i16>,
    spare: &mut Aligned<i32>,
    scales: &mut Vec<Scale>,
) {
    let (cols, digits, wide) = source.form();
    let low = if wide > 0 { Digits::Two } else { digits };
    let strides = planes.inputs.map(spread::<K::A>);
    let mut left = left.each_mut();
    let [first, second] = &mut left;
    let padded = rows.len().next_multiple_of(K::ROWS);
    let mut planes_of = [first.room(padded * strides[0]), second.room(padded * strides[1])];
    scales.clear();
    for (r, t) in rows.enumerate() {
        let values = match source {
            Source::Rows(a) => {
                scales.push(a.scales[t]);
                &a.values[t * cols..][..cols]
            }
            Source::Values(x, how) => {
                let words = words.room(cols);
                scales.push(kernel.quantise(&x[t * cols..][..cols], how, words, spare.room(2 * cols)));
                words
            }
        };
        for (d, plane) in planes_of[..planes.count].iter_mut().enumerate() {
            kernel.pack(values, low, d, &mut plane[r * strides[d]..][..strides[d]]);
        }
    }
}

/// Products of a block of rows with some panels: `out` has those columns of each row.
#[allow(clippy::too_many_arguments)]
fn multiply<K: Kernel<Line: PackedLine> + Vector + Special>(
    kernel: K,
    left: &[Aligned<K::A>; 2],
    planes: Planes,
    scales: &[Scale],
    shift: u32,
    w: &Matrix,
    panels: Range<usize>,
    add: bool,
    acc: &mut Aligned<i32>,
    out: &mut [&mut [i32]],
) {
    let acc = acc.room(3 * K::PART.min(out.len()).next_multiple_of(K::ROWS) * K::NR);
    let strides = planes.inputs.map(spread::<K::A>);
    for p in panels.clone() {
        let (columns, at) = (w.scales.from(p * K::NR), (p - panels.start) * K::NR);
        for (part, out) in out.chunks_mut(K::PART).enumerate() {
            let first = part * K::PART;
            let plane = |d: usize| Plane {
                digits: &left[d][first * strides[d]..],
                stride: strides[d],
                inputs: planes.inputs[d],
            };
            let both = [plane(0), plane(1)];
            // Rows are far apart, so nothing else has their columns ready when the products are.
            for out in out.iter() {
                kernel.prefetch(&out[at..out.len().min(at + K::NR)]);
            }
            K::Line::of(w).products(kernel, &both[..planes.count], out.len(), p, shift, acc);
            for ((acc, out), scale) in acc.chunks_exact(K::NR).zip(out).zip(&scales[first..]) {
                let end = out.len().min(at + K::NR);
                kernel.finish(acc, scale.shifted(shift as i32), columns, add, &mut out[at..end]);
            }
        }
    }
}
