//! Weights (or keys, or values) in panels of [`Kernel::LINES`] x 16 outputs, a line being 16 outputs x a few consecutive inputs (one 512-bit
//! register), and exact products of rows with a panel.
//!
//! Every operand is one or two planes of int8 digits (`q = 256 high + low`, `low` in -128..=127, `high` in -127..=127), and kernels see digits
//! only. Products of equal weight share a 32-bit accumulator, which holds their exact sum up to [`MAX_INPUTS`] inputs; additions wrap, so
//! what partial sums are reached on the way (above all by offset digits) does not matter.

use std::ops::Range;

use rayon::prelude::*;
use speckv_predictor::data::{Digits, MAX_INPUTS};

use crate::kernel::{Kernel, Left, Line, digit};
use crate::vector::Vector;

// The fullest accumulator is that of weight 256, which takes two products of a low and a high digit: `2 * 128 * 127 * 2^16 < 2^31`.
const _: () = assert!(2 * 128 * 127 * (MAX_INPUTS as u64) < 1 << 31);

/// How a kernel wants lines to lie, and what is in the sums beside them: panels of one layout do not fit another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    lines: usize,
    step: usize,
    offset: i32,
}

impl Layout {
    const fn of<K: Kernel>() -> Layout {
        Layout { lines: K::LINES, step: K::STEP, offset: K::OFFSET }
    }
}

/// For each panel, for each digit, lines by input.
#[derive(Clone, Debug)]
pub(crate) struct Panels<L> {
    lines: Vec<L>,
    layout: Layout,
    /// Line rows of a panel and digit.
    groups: usize,
    digits: Digits,
    /// Minus the left operand's offset times the sum of each output's digits; `[panel][digit][NR]`.
    start: Vec<i32>,
}

/// Where the line of output `o` (within its panel) and input `i` lies.
#[inline(always)]
fn place<K: Kernel>(o: usize, i: usize) -> usize {
    let inputs = <K::Line as Line>::INPUTS;
    (i / K::STEP * K::LINES + o / 16) * (K::STEP / inputs) + i % K::STEP / inputs
}

impl<L: Line> Panels<L> {
    /// Zeros, then what `fill(panel, digit, lines, start)` makes of them.
    fn build<K: Kernel<Line = L>>(
        outputs: usize,
        inputs: usize,
        digits: Digits,
        fill: impl Fn(usize, usize, &mut [L], &mut [i32]) + Sync,
    ) -> Panels<L> {
        let groups = inputs.next_multiple_of(K::STEP) / L::INPUTS;
        let (panels, per) = (outputs.div_ceil(K::NR), groups * K::LINES);
        let mut lines = vec![L::ZERO; panels * digits.count() * per];
        let mut start = vec![0i32; panels * digits.count() * K::NR];
        if per > 0 {
            let jobs = lines.par_chunks_mut(per).zip(start.par_chunks_mut(K::NR)).enumerate();
            jobs.for_each(|(i, (lines, start))| fill(i / digits.count(), i % digits.count(), lines, start));
        }
        Panels { lines, layout: Layout::of::<K>(), groups, digits, start }
    }

    /// Packs `outputs` outputs, `row(o)` being the `inputs` values of one.
    pub(crate) fn of_outputs<'a, K: Kernel<Line = L>>(
        outputs: usize,
        inputs: usize,
        digits: Digits,
        row: impl Fn(usize) -> &'a [i16] + Sync,
    ) -> Panels<L> {
        Panels::build::<K>(outputs, inputs, digits, |panel, d, lines, start| {
            let mut all = vec![0; inputs.next_multiple_of(K::STEP)];
            for o in 0..K::NR.min(outputs - panel * K::NR) {
                let values = &row(panel * K::NR + o)[..inputs];
                all.iter_mut().zip(values).for_each(|(out, v)| *out = digit(*v, digits, d));
                if K::OFFSET != 0 {
                    // At most 2^16 digits of 7 bits.
                    let sum: i32 = all.iter().map(|q| i32::from(*q)).sum();
                    start[o] = sum.wrapping_mul(-K::OFFSET);
                }
                for (g, digits) in all.chunks_exact(L::INPUTS).enumerate() {
                    lines[place::<K>(o, g * L::INPUTS)].put(o % 16, digits);
                }
            }
        })
    }

    /// Packs `inputs` inputs of `outputs` outputs, `row(i)` being the values of input `i` of all outputs; the number of inputs is rounded up to a
    /// multiple of `whole` by zeros. For kernels without an offset.
    pub(crate) fn of_inputs<'a, K: Kernel<Line = L>>(
        outputs: usize,
        inputs: usize,
        whole: usize,
        digits: Digits,
        row: impl Fn(usize) -> &'a [i16] + Sync,
    ) -> Panels<L> {
        const { assert!(K::OFFSET == 0, "sums of outputs are not formed") };
        Panels::build::<K>(outputs, inputs.next_multiple_of(whole), digits, |panel, d, lines, _| {
            let first = panel * K::NR;
            for i in 0..inputs {
                let values = &row(i)[first..outputs.min(first + K::NR)];
                for (b, values) in values.chunks(16).enumerate() {
                    let line = &mut lines[place::<K>(16 * b, i)];
                    for (o, v) in values.iter().enumerate() {
                        line.set(o, i % L::INPUTS, digit(*v, digits, d));
                    }
                }
            }
        })
    }

    /// Inputs, padded to whole steps of the kernel.
    pub(crate) fn padded(&self) -> usize {
        self.groups * L::INPUTS
    }

    /// Digits of the weights.
    pub(crate) fn digits(&self) -> Digits {
        self.digits
    }

    /// The lines of some inputs (whole steps) of a panel.
    pub(crate) fn inputs(&self, panel: usize, d: usize, inputs: Range<usize>) -> &[L] {
        let at = |input: usize| input * self.layout.lines / L::INPUTS;
        &self.panel(panel, d)[at(inputs.start)..at(inputs.end)]
    }

    fn panel(&self, panel: usize, d: usize) -> &[L] {
        let per = self.groups * self.layout.lines;
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
        assert_eq!(self.layout, Layout::of::<K>(), "weights were packed for another path");
        let rows = rows.next_multiple_of(K::ROWS);
        let (size, orders) = (rows * K::NR, left.len() + self.digits.count() - 1);
        let acc = &mut acc[..orders * size];
        for (d, left) in left.iter().enumerate() {
            for w in 0..self.digits.count() {
                let acc = &mut acc[(d + w) * size..][..size];
                let lines = &self.panel(panel, w)[..left.inputs / L::INPUTS * K::LINES];
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
pub(crate) fn spread<A>(inputs: usize) -> usize {
    let line = 64 / size_of::<A>();
    if inputs < 4 * line { inputs } else { inputs.next_multiple_of(line) | line }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    use super::Layout;
    use super::{Panels, Plane};
    use crate::kernel::{Kernel, Line16};
    use crate::scalar::Scalar;
    use speckv_predictor::data::Digits;

    /// Lines and panels of the scalar path, in steps and with an offset of its own.
    #[derive(Clone, Copy)]
    struct Other<const STEP: usize, const OFFSET: i32>;

    impl<const STEP: usize, const OFFSET: i32> Kernel for Other<STEP, OFFSET> {
        type A = i16;
        type Line = Line16;
        const MR: usize = 2;
        const LINES: usize = 1;
        const OFFSET: i32 = OFFSET;
        const STEP: usize = STEP;

        fn tile(self, _: &[i16], _: usize, _: usize, _: &[Line16], _: &mut [i32]) {
            unreachable!("it only packs")
        }
    }

    /// `[1, 2, 3, 4]` times four outputs of ones by the scalar path, of weights as `K` packs them.
    fn product<K: Kernel<Line = Line16>>() -> i32 {
        let panels = Panels::of_outputs::<K>(4, 4, Digits::One, |_| &[1; 4]);
        let mut acc = [0; 3 * 16];
        let left = Plane { digits: &[1, 2, 3, 4][..], stride: 4, inputs: 4 };
        panels.products(Scalar, &[left], 1, 0, 0, &mut acc);
        acc[0]
    }

    #[test]
    fn panels_of_the_same_layout_fit() {
        assert_eq!(product::<Scalar>(), 10);
        assert_eq!(product::<Other<2, 0>>(), 10);
    }

    #[test]
    #[should_panic(expected = "weights were packed for another path")]
    fn panels_of_other_steps_do_not_fit() {
        product::<Other<4, 0>>();
    }

    #[test]
    #[should_panic(expected = "weights were packed for another path")]
    fn panels_of_another_offset_do_not_fit() {
        product::<Other<2, 128>>();
    }

    /// Both have panels of 64 outputs and lines of bytes.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn panels_of_amx_and_of_vnni_are_told_apart() {
        use crate::x86_64::{amx::Tiles, avx512vnni::Narrow};
        assert_eq!(Tiles::NR, Narrow::NR);
        assert_ne!(Layout::of::<Tiles>(), Layout::of::<Narrow>());
    }
}
