//! Matrix products as launches of kernels: which kernel serves which shape.

use speckv_predictor::backend::Store;
use speckv_predictor::data::{self, Digits};

use crate::backend::params;
use crate::buffer::{Matrix, Rows, Scales, padded};
use crate::device::Device;
use crate::kernels::{self, Kernel};

/// Inputs from which Hopper's own products pay.
const HOPPER_INPUTS: usize = 512;
/// Tiles from which they do.
const HOPPER_TILES: usize = 64;

impl Rows {
    /// Shape alone, for [`data::Rows::product_shift`].
    pub(crate) fn shape(&self) -> data::Rows {
        data::Rows {
            rows: self.rows,
            cols: self.cols,
            group: self.group,
            digits: self.digits,
            wide: self.wide,
            values: Vec::new(),
            scales: Vec::new(),
        }
    }
}

/// The kernel for a product, rows and columns of its tiles, and the number of its blocks if they take tile after tile.
fn product(device: &Device, a: &Rows, w: &Matrix) -> (&'static Kernel, usize, usize, Option<usize>) {
    use kernels::*;
    let (two_a, two_w) = (a.digits == Digits::Two, w.digits == Digits::Two);
    let tiles = |m: usize, n: usize| a.rows.div_ceil(m) * w.out.div_ceil(n);
    if device.hopper && a.cols >= HOPPER_INPUTS {
        let (kernel, n) = match (two_a, two_w) {
            (false, false) => (&GEMM_11_SM90A, 256),
            (false, true) => (&GEMM_12_SM90A, 128),
            (true, false) => (&GEMM_21_SM90A, 128),
            (true, true) => (&GEMM_22_SM90A, 128),
        };
        if tiles(128, n) >= HOPPER_TILES {
            return (kernel, 128, n, Some(tiles(128, n).min(device.multiprocessors as usize)));
        }
    }
    let few = tiles(128, 128) < device.multiprocessors as usize;
    let (kernel, m, n) = match (two_a, two_w, few) {
        (false, false, true) => (&GEMM_SMALL_11, 64, 64),
        (false, true, true) => (&GEMM_SMALL_12, 64, 64),
        (true, false, true) => (&GEMM_SMALL_21, 64, 64),
        (false, false, false) => (&GEMM_11, 128, 128),
        (false, true, false) => (&GEMM_12, 128, 64),
        (true, false, false) => (&GEMM_21, 64, 128),
        (true, true, _) => (&GEMM_22, 64, 64),
    };
    (kernel, m, n, None)
}

/// `c[.., column..] (+)= a . w`; `c` at an address has so many rows and columns.
pub(crate) fn launch(
    a: &Rows,
    w: &Matrix,
    factor: Option<&Scales>,
    store: Store,
    c: u64,
    [rows, cols]: [usize; 2],
) {
    let p = kernels::Gemm {
        a_lo: a.lo.at,
        a_hi: a.hi.as_ref().map_or(0, |hi| hi.at),
        a_scale: a.scales.at,
        factor: factor.map_or(0, |f| f.buffer.at),
        w_lo: w.lo.at,
        w_hi: w.hi.as_ref().map_or(0, |hi| hi.at),
        w_scale: w.scales.at,
        bias: w.bias.as_ref().map_or(0, |b| b.at),
        c,
        rows: a.rows as u32,
        out: w.out as u32,
        lda: padded(w.inp) as u32,
        ldc: cols as u32,
        column: store.column as u32,
        shift: a.shape().product_shift(w.digits),
        add: store.add.into(),
        wide: if a.digits == Digits::One { a.wide as u32 } else { 0 },
    };
    assert_eq!(a.cols, w.inp, "columns of rows, inputs of weights");
    assert!(store.column + w.out <= cols && a.rows <= rows, "a product within its output");
    assert!(factor.is_none_or(|f| f.count >= a.rows), "a factor a row");
    let device = a.lo.device();
    let (kernel, m, n, blocks) = product(device, a, w);
    // The persistent kernels have one block a multiprocessor.
    let (grid, threads) = match blocks {
        Some(blocks) => ((blocks, 1, 1), 384),
        None => ((a.rows.div_ceil(m), w.out.div_ceil(n), 1), 128),
    };
    if a.rows > 0 && w.out > 0 {
        // SAFETY: the kernel's one parameter; digits are padded as it wants, the output has the columns that the caller names.
        unsafe { device.launch(kernel, grid, threads, kernel.shared, params!(p)) };
    }
}
