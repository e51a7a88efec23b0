//! Row operations written once, in plain loops that compilers turn into vector code, and compiled once for every path.
//!
//! [`Vector`] has one method for each function of this file; a path's implementation is the same body inlined into a function
//! with that path's instructions enabled. Each computes exactly what the portable row function it names computes; they differ by
//! being free of branches and of 128-bit or division steps inside loops.

mod digits;
mod elementwise;

use speckv_predictor::backend::{Quantise, Rotary, Silu};
use speckv_predictor::fixed::{LIMIT, Scale, saturate, shift_round};
use speckv_predictor::portable::attention::{BLOCK, block_exponent};
use speckv_predictor::tables::Tables;

#[cfg(target_arch = "x86_64")]
pub(crate) use digits::{Pieces, hadamard, quantise_with};
pub(crate) use digits::{mean_square, quantise};
pub(crate) use elementwise::{Steps, add, rope, silu, squares};

/// Scales (and bias) of a run of outputs, as columns of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    /// Mantissas.
    pub m: &'a [i32],
    /// Exponents; of a zero mantissa, [`NEVER`].
    pub e: &'a [i32],
    /// Greatest of `e`.
    pub top: i32,
    /// Added to results.
    pub bias: Option<&'a [i32]>,
}

/// The exponent of a zero scale: its product is zero whatever the other exponent, so any right shift does.
pub(crate) const NEVER: i32 = -8192;

/// Calls the named macro with the signature of every operation, after the macro's own arguments.
macro_rules! operations {
    ($then:ident $(, $arg:tt)*) => {
        $then! {
            $($arg)*
            fn combine(low: &mut [i32], middle: &[i32], high: &[i32], shift: u32);
            fn accumulate(totals: &mut [i64], low: &[i32], high: &[i32], octaves: u32);
            fn divide(totals: &[i64], lift: i32, fold: i32, recip: i64, shift: i32, out: &mut [i32]);
            fn add(x: &mut [i32], y: &[i32]);
            fn squares(x: &[i32]) -> u64;
            fn mean_square(x: &[i32]) -> (i32, u64);
            fn rope(x: &[i32], rotary: &Rotary<'_>, position: u64, sine: &Steps<4096>, spare: &mut [i32], out: &mut [i32]);
            fn silu(gate_up: &[i32], how: Silu, logistic: &Steps<2048>, out: &mut [i32]);
        }
    };
}
pub(crate) use operations;

/// [`operations`] for which a path may have something better than what compilers make of loops.
macro_rules! special {
    ($then:ident $(, $arg:tt)*) => {
        $then! {
            $($arg)*
            fn weigh(
                products: &[i32],
                row: Scale,
                columns: Columns<'_>,
                factors: &[i32],
                exp2: &Exp2,
                out: &mut [i16; BLOCK],
            ) -> (i32, i64);
            fn quantise(x: &[i32], how: &Quantise, out: &mut [i16], scratch: &mut [i32]) -> Scale;
            fn finish(acc: &[i32], row: Scale, columns: Columns<'_>, add: bool, out: &mut [i32]);
        }
    };
}
pub(crate) use special;

macro_rules! declare {
    ({ $trait:ident } $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        /// Operations of this file on one path. A value is the proof that the path can run.
        #[allow(clippy::too_many_arguments)]
        pub(crate) trait $trait: Copy + Send + Sync {
            $(fn $name(self, $($arg: $ty),*) $(-> $ret)?;)*
        }

        #[allow(clippy::too_many_arguments)]
        impl $trait for crate::scalar::Scalar {
            $(fn $name(self, $($arg: $ty),*) $(-> $ret)? {
                $name($($arg),*)
            })*
        }
    };
}
operations!(declare, { Vector });
special!(declare, { Special });

/// `low = round_sum(low + 256 middle + 65536 high, shift)`: the digits of a product, put together. `middle` and `high` may be empty.
#[inline(always)]
pub(crate) fn combine(low: &mut [i32], middle: &[i32], high: &[i32], shift: u32) {
    let half = if shift == 0 { 0 } else { 1i64 << (shift - 1) };
    match (middle.is_empty(), high.is_empty()) {
        (true, _) if shift == 0 => {}
        (true, _) => low.iter_mut().for_each(|a| *a = ((*a as i64 + half) >> (shift & 63)) as i32),
        (false, true) => {
            for (a, b) in low.iter_mut().zip(middle) {
                *a = ((*a as i64 + ((*b as i64) << 8) + half) >> (shift & 63)) as i32;
            }
        }
        (false, false) => {
            for ((a, b), c) in low.iter_mut().zip(middle).zip(high) {
                *a = ((*a as i64 + ((*b as i64) << 8) + ((*c as i64) << 16) + half) >> (shift & 63)) as i32;
            }
        }
    }
}

/// [`gemm::finish`](speckv_predictor::portable::gemm::finish) of a row's products: `row` has the product's shift in it.
#[inline(always)]
pub(crate) fn finish(acc: &[i32], row: Scale, columns: Columns<'_>, add: bool, out: &mut [i32]) {
    let n = out.len();
    let (acc, m, e) = (&acc[..n], &columns.m[..n], &columns.e[..n]);
    let (row_m, row_e) = (row.m as i32, if row.m == 0 { NEVER } else { row.e as i32 });
    if row_e + columns.top >= 0 {
        for i in 0..n {
            let v = shift_round(acc[i] as i64 * (row_m * m[i]) as i64, (row_e + e[i]).max(-16384));
            let v = columns.bias.map_or(v, |b| saturate(v as i64 + b[i] as i64));
            out[i] = if add { saturate(out[i] as i64 + v as i64) } else { v };
        }
        return;
    }
    // A right shift of 1..=63 bits; |acc * mantissas| < 2^61, so 63 gives the zero that any longer shift gives. Sums of two values within
    // LIMIT fit 32 bits. The last bit of the shift comes after the value has been brought to 32 bits, where rounding is cheap and what was
    // cut off was beyond LIMIT anyway; masks tell the compiler that mantissas have 15 bits. Plain loops: a closure behind an iterator would
    // not be compiled with the path's instructions.
    macro_rules! each {
        (|$i:ident, $v:ident| $value:expr) => {
            for $i in 0..n {
                let v = acc[$i] as i64 * ((row_m & 0x7FFF) * (m[$i] & 0x7FFF)) as i64;
                let s = (-(row_e + e[$i])).min(63) as u32;
                let v = v.wrapping_shr(s.wrapping_sub(1)).clamp(i32::MIN as i64, i32::MAX as i64) as i32;
                let $v = v.clamp(-2 * LIMIT - 1, 2 * LIMIT).wrapping_add(1) >> 1;
                out[$i] = $value;
            }
        };
    }
    match (columns.bias, add) {
        (None, false) => each!(|i, v| v),
        (None, true) => each!(|i, v| bounded_sum(out[i], v)),
        (Some(bias), false) => {
            let bias = &bias[..n];
            each!(|i, v| bounded_sum(v, bias[i]));
        }
        (Some(bias), true) => {
            let bias = &bias[..n];
            each!(|i, v| bounded_sum(out[i], bounded_sum(v, bias[i])));
        }
    }
}

/// The saturated sum of two values within [`LIMIT`].
#[inline(always)]
fn bounded_sum(a: i32, b: i32) -> i32 {
    a.wrapping_add(b).clamp(-LIMIT, LIMIT)
}

/// [`Tables::exp2`] as loops like it, and in 16-bit pieces for paths that keep tables in registers.
///
/// In this order: vector loads count on the pieces' alignment.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Exp2 {
    /// Low and high halves of an entry, then of its distance to the next one. Only AVX-512 has registers for it.
    pub pieces: [[u16; 256]; 4],
    /// All entries.
    pub entries: [i32; 257],
}

impl Exp2 {
    /// From the definition's table.
    pub(crate) fn new(tables: &Tables) -> Exp2 {
        let entries: [i32; 257] = tables.exp2[..].try_into().expect("257 entries");
        let piece = |x: i32, i: usize| (x as u32 >> (16 * (i % 2))) as u16;
        let whole = |i: usize, at: usize| if i < 2 { entries[at] } else { entries[at] - entries[at + 1] };
        let pieces = std::array::from_fn(|i| std::array::from_fn(|at| piece(whole(i, at), i)));
        Exp2 { pieces, entries }
    }
}

/// Attention weights of the keys of a block: their scores by [`finish`] of products; `exp2` of scores below the octave above the greatest;
/// times the values' factors (two digits). Products stop at the query's own position; at least one, and weights behind them are zero.
/// Returns that octave, and the sum of the weights before factors.
#[inline(always)]
pub(crate) fn weigh(
    products: &[i32],
    row: Scale,
    columns: Columns<'_>,
    factors: &[i32],
    exp2: &Exp2,
    out: &mut [i16; BLOCK],
) -> (i32, i64) {
    let n = products.len();
    let mut scores = [0; BLOCK];
    let scores = &mut scores[..n];
    finish(products, row, columns, false, scores);
    let mut greatest = i32::MIN;
    for score in scores.iter() {
        greatest = greatest.max(*score);
    }
    let exponent = block_exponent(greatest);
    let (out, rest) = out.split_at_mut(n);
    rest.fill(0);
    let (factors, exp2) = (&factors[..n], &exp2.entries);
    let mut sum = 0i32;
    for i in 0..n {
        let x = (exponent << 16).wrapping_sub(scores[i]) as u32;
        let octave = x >> 16;
        let at = (x >> 8 & 255) as usize;
        let (a, b) = (exp2[at], exp2[at + 1]);
        // |b - a| < 2^22, a <= 2^30: 32 bits hold every step.
        let v = a.wrapping_add((b.wrapping_sub(a)).wrapping_mul((x & 255) as i32) >> 8) as u32;
        let o = octave.min(17);
        let v = v.wrapping_add(1u32.wrapping_shl(13 + o)).wrapping_shr(14 + o);
        let v = if octave < 18 { v as i32 } else { 0 };
        // At most 64 weights of 2^16.
        sum = sum.wrapping_add(v);
        // 2^16 * 16319 + 2^14 < 2^31.
        out[i] = (v.wrapping_mul(factors[i]).wrapping_add(1 << 14) >> 15) as i16;
    }
    (exponent, sum as i64)
}

/// [`attention::align`](speckv_predictor::portable::attention::align) of block sums `low + 256 high`, added to `totals`; `high` may be empty.
#[inline(always)]
pub(crate) fn accumulate(totals: &mut [i64], low: &[i32], high: &[i32], octaves: u32) {
    if high.is_empty() {
        for (t, l) in totals.iter_mut().zip(low) {
            *t = t.wrapping_add(((*l as i64) << 8) >> (octaves & 63));
        }
    } else {
        for ((t, l), h) in totals.iter_mut().zip(low).zip(high) {
            *t = t.wrapping_add(((*l as i64 + ((*h as i64) << 8)) << 8) >> (octaves & 63));
        }
    }
}

/// [`attention::divide`](speckv_predictor::portable::attention::divide) with the reciprocal at hand: totals are moved `lift` bits left (right if
/// negative), `fold` bits right, multiplied and moved `shift` bits.
#[inline(always)]
pub(crate) fn divide(totals: &[i64], lift: i32, fold: i32, recip: i64, shift: i32, out: &mut [i32]) {
    let (up, down) = (lift.max(0) as u32 & 63, (fold - lift.min(0)) as u32 & 63);
    for (o, t) in out.iter_mut().zip(totals) {
        *o = shift_round(((*t << up) >> down) * recip, shift);
    }
}
