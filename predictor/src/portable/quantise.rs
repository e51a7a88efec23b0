//! Rows of fixed-point values to rows of int8 digits with one scale (numerics.md, section 3).

use crate::data::Digits;
use crate::fixed::{Scale, isqrt};

/// How rows become digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantise {
    /// Columns that share one scale.
    pub group: usize,
    /// log2 of the Hadamard block applied first (0: none); its blocks tile a group.
    pub hadamard: u32,
    /// Digits of the result.
    pub digits: Digits,
    /// Leading columns of a group that take two digits whatever `digits` says, and have no say in the step: the few directions that
    /// carry most of a residual stream.
    pub wide: usize,
    /// Fraction bits of the input.
    pub exponent: i32,
    /// RMS normalisation over the group, with this epsilon: only the scale feels it.
    pub norm: Option<Scale>,
    /// Multiplies every scale.
    pub gain: Scale,
}

impl Quantise {
    /// Plain quantisation of whole rows.
    pub fn rows(cols: usize, digits: Digits, exponent: i32) -> Quantise {
        Quantise { group: cols, hadamard: 0, digits, wide: 0, exponent, norm: None, gain: Scale::ONE }
    }
}

/// Unnormalised Walsh-Hadamard transform of each block of `2^log2` values, in place: additions only. `|x| < 2^(30 - log2)`.
pub fn hadamard(x: &mut [i32], log2: u32) {
    let block = 1usize << log2;
    for chunk in x.chunks_exact_mut(block) {
        let mut half = 1;
        while half < block {
            for pair in chunk.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (p, q) in a.iter_mut().zip(b) {
                    (*p, *q) = (*p + *q, *p - *q);
                }
            }
            half *= 2;
        }
    }
}

fn amax(x: &[i32]) -> u32 {
    x.iter().fold(0, |m, v| m.max(v.unsigned_abs()))
}

/// The magnitude that the step is cut from: the largest of the other columns, unless a wide one would overflow two digits. At least 1.
pub fn step_amax(rest: u32, wide: u32, digits: Digits) -> u32 {
    let (one, two) = (digits.levels() as u64, Digits::Two.levels() as u64);
    (rest as u64).max((wide as u64 * one).div_ceil(two)).max(1) as u32
}

/// The left shift that fills 30 bits with `top > 0`; a Hadamard transform may reach 2^30 itself.
pub fn shift_to_30(top: u32) -> i32 {
    (29 - top.ilog2() as i32).max(0)
}

/// Sum of squares of values shifted left by `n` to fill 30 bits, then rounded to 17 bits: at most 2^15 of 2^32.
fn sum_of_squares(x: &[i32], n: i32) -> u64 {
    x.iter().map(|v| (((v << n) + (1 << 13)) >> 14) as i64).map(|v| (v * v) as u64).sum()
}

/// `1 / rms` from a sum of squares as [`quantise_row`] forms it, of `len` values that count units of `2^-exponent`; zero if nothing is left of them
/// nor of `eps`.
///
/// Mean square in 32.16 bits: the sum, below 2^47, times 2^16.
pub fn inverse_rms(sum: u64, len: usize, n: i32, exponent: i32, eps: Scale) -> Scale {
    // Units of the values in `sum`: 2^(14 - n - exponent).
    let unit = 14 - n - exponent;
    let eps_shift = eps.e as i32 - 2 * unit + 16;
    let eps = match eps_shift {
        s if eps.m == 0 || s < -15 => 0,
        s if s < 0 => eps.m as u64 >> -s,
        s if s > 46 => 1 << 61,
        s => (eps.m as u64) << s,
    };
    let mean = (sum << 16) / len as u64 + eps.min(1 << 61);
    if mean == 0 {
        return Scale::ZERO;
    }
    let lift = (mean.leading_zeros() as i32 - 1) & !1;
    // sqrt(mean << lift) is at least 2^30: mantissa error below 2^-30.
    let root = isqrt(mean << lift);
    Scale::new((1u64 << 62) / root, -62 + 8 + lift / 2 - unit)
}

/// Quantises one row `x` (`|x| <= LIMIT`) into `out` (same length) and one scale a group.
///
/// `scratch` is overwritten; `out[i] = round(x[i] / scale)` with `scale = amax / levels`, never above `levels`.
pub fn quantise_row(x: &[i32], how: &Quantise, out: &mut [i16], scales: &mut [Scale], scratch: &mut [i32]) {
    let levels = how.digits.levels() as i64;
    // A reciprocal of at most 31 bits: levels << bits / amax with amax in 2^29..2^30.
    let bits = 61 - how.digits.bits() - 1;
    for (g, (x, out)) in x.chunks_exact(how.group).zip(out.chunks_exact_mut(how.group)).enumerate() {
        let (y, mut exponent) = (&mut scratch[..how.group], how.exponent);
        y.copy_from_slice(x);
        if how.hadamard > 0 {
            let top = amax(y);
            if top > 0 {
                let shift = (29 - how.hadamard as i32) - top.ilog2() as i32;
                exponent += shift;
                for v in y.iter_mut() {
                    *v = if shift >= 0 { *v << shift } else { (*v + (1 << (-shift - 1))) >> -shift };
                }
                hadamard(y, how.hadamard);
            }
        }
        let all = amax(y);
        let top = step_amax(amax(&y[how.wide..]), amax(&y[..how.wide]), how.digits);
        if all == 0 {
            out.fill(0);
            scales[g] = Scale::ZERO;
            continue;
        }
        let n = shift_to_30(top);
        let full = (top as i64) << n;
        let recip = (levels << bits) / full;
        for (q, v) in out[how.wide..].iter_mut().zip(&y[how.wide..]) {
            *q = ((((*v as i64) << n) * recip + (1 << (bits - 1))) >> bits) as i16;
        }
        // Wide values may be 257 times the others: nine bits less of the reciprocal keep the product below 2^61.
        for (q, v) in out[..how.wide].iter_mut().zip(&y[..how.wide]) {
            *q = ((((*v as i64) << n) * (recip >> 9) + (1 << (bits - 10))) >> (bits - 9)) as i16;
        }
        let mut scale = Scale::new(((full as u64) << 20) / levels as u64, -20 - n - exponent).times(how.gain);
        if let Some(eps) = how.norm {
            let n = shift_to_30(all);
            scale = scale.times(inverse_rms(sum_of_squares(y, n), how.group, n, exponent, eps));
        }
        scales[g] = scale;
    }
}

/// `1 / rms` of a row.
fn row_inverse_rms(x: &[i32], exponent: i32, eps: Scale) -> Scale {
    let top = amax(x);
    let n = if top == 0 { 0 } else { shift_to_30(top) };
    inverse_rms(sum_of_squares(x, n), x.len(), n, exponent, eps)
}

/// `rms` of a row (the inverse of what `norm` multiplies by), for the feedback into the hidden state.
pub fn rms(x: &[i32], exponent: i32, eps: Scale) -> Scale {
    row_inverse_rms(x, exponent, eps).recip()
}

/// RMS-normalises each group of `weight.len()` columns of `x` in place: `round(x / rms * weight)`, the weight including the
/// change of fixed point from `exponent` to that of the result (the QK-norm of Qwen3).
pub fn head_norm_row(x: &mut [i32], exponent: i32, eps: Scale, weight: &[(i16, i16)]) {
    for x in x.chunks_exact_mut(weight.len()) {
        let inverse = row_inverse_rms(x, exponent, eps);
        for (v, w) in x.iter_mut().zip(weight) {
            let sign = if w.0 < 0 { -1 } else { 1 };
            *v = sign * crate::fixed::scaled(*v, inverse, Scale { m: w.0.abs(), e: w.1 });
        }
    }
}
