//! Exact integer matrix products with one rounding multiply at the end (numerics.md, section 4).

use crate::data::{Rows, Weights};
use crate::fixed::{Scale, saturate, scaled};

/// Where and how a product is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// First column of the output that the product fills.
    pub column: usize,
    /// Add to what is there instead of replacing it.
    pub add: bool,
}

impl Store {
    /// Replace from column 0 on.
    pub const SET: Store = Store { column: 0, add: false };
    /// Add from column 0 on.
    pub const ADD: Store = Store { column: 0, add: true };
}

/// The exact dot product, rounded to 31 bits when digits make it longer.
///
/// `|sum| <= k * levels(a) * levels(w) < 2^(31 + shift)`; halves round up.
#[inline]
pub fn dot(a: &[i16], w: &[i16], shift: u32) -> i32 {
    let sum: i64 = a.iter().zip(w).map(|(a, w)| *a as i32 as i64 * *w as i64).sum();
    round_sum(sum, shift)
}

/// The rounding of [`dot`], for backends that form the sum from digits.
#[inline(always)]
pub fn round_sum(sum: i64, shift: u32) -> i32 {
    if shift == 0 { sum as i32 } else { ((sum + (1 << (shift - 1))) >> shift) as i32 }
}

/// Rounds, scales, adds bias and stores one product `acc` for output `o` of row scale `row` (`factor`: an extra per-row scale).
#[inline(always)]
pub fn finish(acc: i32, row: Scale, w: &Weights, o: usize, shift: u32, add: bool, out: &mut i32) {
    let mut v = scaled(acc, row.shifted(shift as i32), w.scales[o]);
    if let Some(bias) = &w.bias {
        v = saturate(v as i64 + bias[o] as i64);
    }
    *out = if add { saturate(*out as i64 + v as i64) } else { v };
}

/// The row scale a product uses: the row's own, times `factor[t]` when given.
#[inline]
pub fn row_scale(a: &Rows, t: usize, factor: Option<&[Scale]>) -> Scale {
    factor.map_or(a.scales[t], |f| a.scales[t].times(f[t]))
}

/// One output row: `out[column..column + w.out]` (+)= row `t` of `a` times `w`.
pub fn gemm_row(a: &Rows, t: usize, w: &Weights, factor: Option<&[Scale]>, store: Store, out: &mut [i32]) {
    let shift = a.product_shift(w.digits);
    let (x, row) = (&a.values[t * a.cols..(t + 1) * a.cols], row_scale(a, t, factor));
    for (o, (w_row, out)) in w.values.chunks_exact(w.inp).zip(&mut out[store.column..]).enumerate() {
        finish(dot(x, w_row, shift), row, w, o, shift, store.add, out);
    }
}
