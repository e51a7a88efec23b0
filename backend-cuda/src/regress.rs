//! What planes of a layer add to the predictions of those after them: such products wait until a plane is predicted, and are added for its columns
//! alone while these are read. The layer's whole prediction would else be read and written once for every plane.

use std::ops::Range;

use speckv_predictor::backend::{Rotary, Store};
use speckv_predictor::data::Digits;

use crate::backend::{CudaBackend, params};
use crate::buffer::{Ints, Matrix, Rows, Scales};
use crate::kernels::{self, TERMS};

/// Rows of a block.
const TILE: usize = 32;

impl CudaBackend {
    /// Whether a product may wait: added as it is, from as many inputs as a plane has columns, and the kernel has room for one more.
    pub(crate) fn may_wait(
        &self,
        a: &Rows,
        w: &Matrix,
        factor: Option<&Scales>,
        store: Store,
        out: &Ints,
    ) -> bool {
        let plain = store.add && factor.is_none() && w.bias.is_none() && w.digits == Digits::One;
        let plane = matches!(a.cols, 64 | 128) && a.group == a.cols && a.wide == 0 && w.inp == a.cols;
        let fits = a.rows == out.rows && store.column + w.out <= out.cols && w.out.is_multiple_of(a.cols);
        plain && plane && fits && out.apart().1.len() < TERMS
    }

    /// Columns of a matrix with what waits for them, rotated if asked; nothing if nothing waits, or not for just these columns.
    pub(crate) fn regressed(&self, x: &Ints, columns: Range<usize>, rotary: Option<&Rotary>) -> Option<Ints> {
        let dim = columns.len();
        let kernel = match dim {
            64 => &kernels::REGRESS_64,
            128 => &kernels::REGRESS_128,
            _ => return None,
        };
        let (at, waiting) = x.apart();
        if waiting.is_empty()
            || rotary.is_some_and(|r| r.head_dim != dim)
            || !self.device.has_shared(kernel.shared)
        {
            return None;
        }
        let mut terms = [kernels::Term::default(); TERMS];
        let mut count = 0;
        for term in waiting.iter() {
            let from = term.store.column..term.store.column + term.matrix.out;
            if from.end <= columns.start || columns.end <= from.start {
                continue;
            }
            if term.rows.cols != dim || columns.start < from.start || from.end < columns.end {
                return None;
            }
            let skip = (columns.start - from.start) as u64;
            terms[count] = kernels::Term {
                a_lo: term.rows.lo.at,
                a_hi: term.rows.hi.as_ref().map_or(0, |hi| hi.at),
                a_scale: term.rows.scales.at,
                w: term.matrix.lo.at + 128 * skip,
                w_scale: term.matrix.scales.at + 4 * skip,
                shift: term.rows.shape().product_shift(Digits::One),
                padding: 0,
            };
            count += 1;
        }
        let out = self.ints(x.rows, dim);
        let steps = rotary.map(|r| self.small(r.steps));
        let p = kernels::Regress {
            x: at + 4 * columns.start as u64,
            out: out.at(),
            steps: steps.as_ref().map_or(0, |s| s.at),
            sine: self.tables().sine,
            start: rotary.map_or(0, |r| r.start),
            rows: x.rows as u32,
            ld: x.cols as u32,
            count: count as u32,
            inverse: rotary.is_some_and(|r| r.inverse).into(),
            terms,
        };
        let grid = (x.rows.div_ceil(TILE), 1, 1);
        // SAFETY: the kernel's one parameter; digits are padded to whole tiles of rows, columns lie within x.
        unsafe { self.device.launch(kernel, grid, 2 * dim as u32, kernel.shared, params!(p)) };
        Some(out)
    }
}
