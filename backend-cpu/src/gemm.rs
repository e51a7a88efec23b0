//! Integer matrix products: packing, tiles, threads.
//!
//! Every operand is one or two planes of int8 digits (`q = 256 high + low`, `low` in -128..=127, `high` in -127..=127), and kernels see digits
//! only. Products of equal weight share a 32-bit accumulator, which holds their exact sum up to [`MAX_INPUTS`] inputs; additions wrap, so
//! what partial sums are reached on the way (above all by offset digits) does not matter.
//!
//! Weights lie in panels of [`Kernel::LINES`] x 16 outputs, a line being 16 outputs x a few consecutive inputs (one 512-bit register).

use std::ops::Range;

use rayon::prelude::*;
use speckv_predictor::backend::Store;
use speckv_predictor::data::{Digits, Ints, MAX_INPUTS, Rows, Weights};
use speckv_predictor::error::Error;
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::gemm::row_scale;

use crate::aligned::Aligned;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::kernel::Line8;
use crate::kernel::{Kernel, Left, Line, Line16, digit};
use crate::vector::{Columns, NEVER, Vector};

// The fullest accumulator is that of weight 256, which takes two products of a low and a high digit: `2 * 128 * 127 * 2^16 < 2^31`.
const _: () = assert!(2 * 128 * 127 * (MAX_INPUTS as u64) < 1 << 31);
/// Rows whose digits are at hand at once: bounds the memory of long prompts.
const SLAB: usize = 4096;

/// Weights in panels: for each panel, for each digit, lines by input.
#[derive(Clone, Debug)]
pub(crate) struct Panels<L> {
    lines: Vec<L>,
    /// Lines of a panel's row: panels of one path do not fit another.
    width: usize,
    /// Line rows of a panel and digit.
    groups: usize,
    digits: Digits,
    /// Minus the left operand's offset times the sum of each output's digits; `[panel][digit][NR]`.
    start: Vec<i32>,
}

impl<L: Line> Panels<L> {
    /// Packs `outputs x inputs` values, value `(o, i)` being `at(o, i)`, read with neighbouring outputs in turn if `by_input`, else
    /// neighbouring inputs.
    pub(crate) fn new<K: Kernel<Line = L>>(
        outputs: usize,
        inputs: usize,
        digits: Digits,
        by_input: bool,
        at: impl Fn(usize, usize) -> i16 + Sync,
    ) -> Panels<L> {
        let groups = inputs.next_multiple_of(K::STEP) / L::INPUTS;
        let panels = outputs.div_ceil(K::NR);
        let per = groups * K::LINES;
        let mut lines = vec![L::ZERO; panels * digits.count() * per];
        let mut start = vec![0i32; panels * digits.count() * K::NR];
        let depth = K::STEP / L::INPUTS;
        let fill = |index: usize, lines: &mut [L], start: &mut [i32]| {
            let (panel, d) = (index / digits.count(), index % digits.count());
            let real = K::NR.min(outputs - panel * K::NR);
            let mut put = |o: usize, i: usize| {
                let q = digit(at(panel * K::NR + o, i), digits, d);
                start[o] = start[o].wrapping_add(q as i32 * -K::OFFSET);
                let (step, row) = (i / K::STEP, i % K::STEP / L::INPUTS);
                lines[(step * K::LINES + o / 16) * depth + row].set(o % 16, i % L::INPUTS, q);
            };
            if by_input {
                (0..inputs).for_each(|i| (0..real).for_each(|o| put(o, i)));
            } else {
                (0..real).for_each(|o| (0..inputs).for_each(|i| put(o, i)));
            }
        };
        if per > 0 {
            let jobs = lines.par_chunks_mut(per).zip(start.par_chunks_mut(K::NR)).enumerate();
            jobs.for_each(|(index, (lines, start))| fill(index, lines, start));
        }
        Panels { lines, width: K::LINES, groups, digits, start }
    }

    /// Inputs, padded to whole steps of the kernel.
    pub(crate) fn padded(&self) -> usize {
        self.groups * L::INPUTS
    }

    /// Digits of the weights.
    pub(crate) fn digits(&self) -> Digits {
        self.digits
    }

    /// The lines of some inputs (whole lines) of a panel.
    pub(crate) fn inputs(&self, panel: usize, d: usize, inputs: Range<usize>) -> &[L] {
        &self.panel(panel, d)[inputs.start * self.width / L::INPUTS..inputs.end * self.width / L::INPUTS]
    }

    fn panel(&self, panel: usize, d: usize) -> &[L] {
        let per = self.groups * self.width;
        &self.lines[(panel * self.digits.count() + d) * per..][..per]
    }

    /// Exact products of rows with one panel, rounded to 32 bits by `shift`; they are left in the first `rows * NR` of `acc`.
    ///
    /// `rows` is padded to a multiple of [`Kernel::ROWS`], of which `left` has all and `acc` room for three times NR each.
    pub(crate) fn products<K: Kernel<Line = L> + Vector>(
        &self,
        kernel: K,
        left: &[Plane<'_, K::A>],
        rows: usize,
        panel: usize,
        shift: u32,
        acc: &mut [i32],
    ) {
        assert_eq!(self.width, K::LINES, "weights were packed for another path");
        let rows = rows.next_multiple_of(K::ROWS);
        let (size, orders) = (rows * K::NR, left.len() + self.digits.count() - 1);
        let acc = &mut acc[..orders * size];
        for (d, left) in left.iter().enumerate() {
            for w in 0..self.digits.count() {
                let acc = &mut acc[(d + w) * size..][..size];
                let lines = &self.panel(panel, w)[..left.inputs / L::INPUTS * self.width];
                let whole = left.inputs == self.padded();
                let start = &self.start[(panel * self.digits.count() + w) * K::NR..][..K::NR];
                let first = d == 0 || w + 1 == self.digits.count();
                if first && K::OFFSET != 0 && whole {
                    acc.chunks_exact_mut(K::NR).for_each(|row| row.copy_from_slice(start));
                } else if first {
                    acc.fill(0);
                }
                if K::OFFSET != 0 && whole {
                    if !first {
                        add_to_rows(acc, start);
                    }
                } else if K::OFFSET != 0 {
                    let mut start = vec![0; K::NR];
                    kernel.tile(&vec![K::A::from_digit(0); left.inputs], left.inputs, 1, lines, &mut start);
                    start.iter_mut().for_each(|s| *s = s.wrapping_neg());
                    add_to_rows(acc, &start);
                }
                kernel.tiles(left.digits, left.stride, rows, lines, acc);
            }
        }
        let (low, rest) = acc.split_at_mut(size);
        let (middle, high) = rest.split_at(size.min(rest.len()));
        kernel.combine(low, middle, high, shift);
    }
}

/// Adds the same values to each row.
fn add_to_rows(acc: &mut [i32], start: &[i32]) {
    for row in acc.chunks_exact_mut(start.len()) {
        row.iter_mut().zip(start).for_each(|(a, s)| *a = a.wrapping_add(*s));
    }
}

/// One digit of rows: of all columns, or of the leading ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plane<'a, A> {
    /// Rows of `stride` digits.
    pub digits: &'a [A],
    /// Elements from one row to the next.
    pub stride: usize,
    /// Columns, padded to whole steps of the kernel.
    pub inputs: usize,
}

/// Elements from one packed row of `inputs` columns to the next. Those of long rows are an odd number of cache lines: at a power of two,
/// the rows of a tile would share a few sets of the cache.
fn spread<A>(inputs: usize) -> usize {
    let line = 64 / size_of::<A>();
    if inputs < 4 * line { inputs } else { inputs.next_multiple_of(line) | line }
}

/// Scales of columns as numbers, padded to whole panels.
#[derive(Clone, Debug)]
pub(crate) struct Scales {
    m: Vec<i32>,
    e: Vec<i32>,
    bias: Option<Vec<i32>>,
    top: i32,
}

impl Scales {
    /// From scales and a bias, padded to a multiple of `to`.
    pub(crate) fn new(
        scales: impl ExactSizeIterator<Item = Scale>,
        bias: Option<&[i32]>,
        to: usize,
    ) -> Scales {
        let size = scales.len().next_multiple_of(to);
        let (mut m, mut e) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for s in scales {
            m.push(s.m as i32);
            e.push(if s.m == 0 { NEVER } else { s.e as i32 });
        }
        m.resize(size, 0);
        e.resize(size, NEVER);
        let top = e.iter().copied().max().unwrap_or(NEVER);
        let bias = bias.map(|b| b.iter().copied().chain(std::iter::repeat(0)).take(size).collect());
        Scales { m, e, bias, top }
    }

    /// From column `at` on.
    pub(crate) fn from(&self, at: usize) -> Columns<'_> {
        Columns {
            m: &self.m[at..],
            e: &self.e[at..],
            top: self.top,
            bias: self.bias.as_ref().map(|b| &b[at..]),
        }
    }
}

/// Weights as one path likes them.
#[derive(Clone, Debug)]
pub struct Matrix {
    panels: Packed,
    scales: Scales,
    out: usize,
    inp: usize,
    digits: Digits,
}

/// Panels of either kind of line.
#[derive(Clone, Debug)]
pub(crate) enum Packed {
    /// int8 digits.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Bytes(Panels<Line8>),
    /// Digits in 16 bits.
    Pairs(Panels<Line16>),
}

/// Which of a matrix's packings a line type is in.
pub(crate) trait PackedLine: Line {
    /// Wraps panels.
    fn pack(panels: Panels<Self>) -> Packed;
    /// The panels, which must have been packed by the same path.
    fn of(matrix: &Matrix) -> &Panels<Self>;
}

macro_rules! packed_line {
    ($line:ty, $variant:ident) => {
        impl PackedLine for $line {
            fn pack(panels: Panels<$line>) -> Packed {
                Packed::$variant(panels)
            }

            fn of(matrix: &Matrix) -> &Panels<$line> {
                match &matrix.panels {
                    Packed::$variant(p) => p,
                    #[allow(unreachable_patterns)]
                    _ => panic!("weights were packed for another path"),
                }
            }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
packed_line!(Line8, Bytes);
packed_line!(Line16, Pairs);

/// Packs weights for a kernel.
pub(crate) fn load<K: Kernel<Line: PackedLine>>(_: K, w: Weights) -> Result<Matrix, Error> {
    if w.inp > MAX_INPUTS {
        return Err(Error::Backend(format!("a matrix of {} inputs (at most {MAX_INPUTS})", w.inp)));
    }
    if w.values.len() != w.out * w.inp
        || w.scales.len() != w.out
        || w.bias.as_ref().is_some_and(|b| b.len() != w.out)
    {
        return Err(Error::Backend(format!(
            "a matrix of {} x {} with {} weights, {} scales and {} biases",
            w.out,
            w.inp,
            w.values.len(),
            w.scales.len(),
            w.bias.as_ref().map_or(0, Vec::len)
        )));
    }
    let levels = w.digits.levels();
    if let Some(v) = w.values.par_iter().find_any(|v| (**v as i32).abs() > levels) {
        return Err(Error::Backend(format!("a weight of {v} where {levels} is the largest")));
    }
    let panels = Panels::new::<K>(w.out, w.inp, w.digits, false, |o, i| w.values[o * w.inp + i]);
    Ok(Matrix {
        panels: K::Line::pack(panels),
        scales: Scales::new(w.scales.iter().copied(), w.bias.as_deref(), K::NR),
        out: w.out,
        inp: w.inp,
        digits: w.digits,
    })
}

/// `out[.., column..] (+)= a . w`.
pub(crate) fn run<K: Kernel<Line: PackedLine> + Vector>(
    kernel: K,
    a: &Rows,
    w: &Matrix,
    factor: Option<&[Scale]>,
    store: Store,
    out: &mut Ints,
) {
    assert_eq!((a.cols, a.group), (w.inp, w.inp), "rows of one scale each, as long as the matrix has inputs");
    assert!(a.rows <= out.rows && store.column + w.out <= out.cols, "the product does not fit its place");
    if a.rows == 0 || w.out == 0 {
        return;
    }
    let cols = out.cols;
    for (slab, out) in out.data[..a.rows * cols].chunks_mut(SLAB * cols).enumerate() {
        run_slab(kernel, a, slab * SLAB, w, factor, store, cols, out);
    }
}

#[allow(clippy::too_many_arguments)]
fn run_slab<K: Kernel<Line: PackedLine> + Vector>(
    kernel: K,
    a: &Rows,
    first: usize,
    w: &Matrix,
    factor: Option<&[Scale]>,
    store: Store,
    cols: usize,
    out: &mut [i32],
) {
    let panels = K::Line::of(w);
    let shift = a.product_shift(w.digits);
    let (rows, padded) = (out.len() / cols, panels.padded());
    // The second digit of rows with one is that of their wide columns. Zeros of the other columns among the last line's do no harm.
    let low = if a.wide > 0 { Digits::Two } else { a.digits };
    let inputs = match (a.digits, a.wide) {
        (Digits::Two, _) => vec![padded; 2],
        (Digits::One, 0) => vec![padded],
        (Digits::One, wide) => vec![padded, wide.next_multiple_of(K::STEP)],
    };
    let packed: Vec<Aligned<K::A>> = inputs
        .iter()
        .enumerate()
        .map(|(d, inputs)| {
            let stride = spread::<K::A>(*inputs);
            let mut plane = Aligned::new(K::A::from_digit(0), rows.next_multiple_of(K::ROWS) * stride);
            let real = plane[..rows * stride].par_chunks_exact_mut(stride).with_min_len(16);
            real.enumerate().for_each(|(t, row)| {
                kernel.pack(&a.values[(first + t) * a.cols..][..a.cols], low, d, row);
            });
            plane
        })
        .collect();

    // Blocks of rows x runs of panels: enough of them for the threads, as large as caches allow.
    let most = (K::BLOCK_BYTES / inputs.iter().sum::<usize>()).clamp(K::MR, K::BLOCK_ROWS) / K::MR * K::MR;
    let blocks = rows.div_ceil(most);
    let block = rows.div_ceil(blocks).next_multiple_of(K::MR);
    let all = w.out.div_ceil(K::NR);
    let runs = (4 * rayon::current_num_threads()).div_ceil(rows.div_ceil(block)).clamp(1, all);
    let run = all.div_ceil(runs);

    let mut tasks = Vec::new();
    for (b, rows) in out.chunks_mut(block * cols).enumerate() {
        let mut pieces: Vec<Vec<&mut [i32]>> = Vec::new();
        pieces.resize_with(all.div_ceil(run), Vec::new);
        for row in rows.chunks_mut(cols) {
            let row = &mut row[store.column..store.column + w.out];
            for (pieces, piece) in pieces.iter_mut().zip(row.chunks_mut(run * K::NR)) {
                pieces.push(piece);
            }
        }
        tasks.extend(pieces.into_iter().enumerate().map(|(r, pieces)| (b * block, r * run, pieces)));
    }
    tasks.into_par_iter().for_each(|(t, panel, mut out)| {
        let mut acc = Aligned::new(0, 3 * K::PART.min(out.len()).next_multiple_of(K::ROWS) * K::NR);
        let left = |r: usize| {
            let planes = packed.iter().zip(&inputs).map(|(plane, inputs)| {
                let stride = spread::<K::A>(*inputs);
                Plane { digits: &plane[(t + r) * stride..], stride, inputs: *inputs }
            });
            planes.collect::<Vec<_>>()
        };
        let parts: Vec<_> = (0..out.len()).step_by(K::PART).map(left).collect();
        let scale = |r| row_scale(a, first + t + r, factor).shifted(shift as i32);
        let scales: Vec<Scale> = (0..out.len()).map(scale).collect();
        kernel.begin();
        for p in 0..out[0].len().div_ceil(K::NR) {
            let columns = w.scales.from((panel + p) * K::NR);
            for ((left, out), scales) in parts.iter().zip(out.chunks_mut(K::PART)).zip(scales.chunks(K::PART))
            {
                panels.products(kernel, left, out.len(), panel + p, shift, &mut acc);
                for ((acc, out), row) in acc.chunks_exact(K::NR).zip(out).zip(scales) {
                    let end = out.len().min((p + 1) * K::NR);
                    kernel.finish(acc, *row, columns, store.add, &mut out[p * K::NR..end]);
                }
            }
        }
        kernel.end();
    });
}
