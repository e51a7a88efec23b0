//! Rows to digits.

use speckv_predictor::backend::Quantise;
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::quantise::{self, inverse_rms, shift_to_30};

/// The shift that fills 30 bits, and the sum of squares behind a row's norm.
#[inline(always)]
pub(crate) fn mean_square(x: &[i32]) -> (i32, u64) {
    let top = amax(x);
    let n = if top == 0 { 0 } else { shift_to_30(top) };
    (n, sum_of_squares(x, n))
}

/// The inner loops of [`quantise`] that a path may have its own of.
pub(crate) trait Pieces: Copy {
    /// [`hadamard`].
    fn hadamard(self, x: &mut [i32], spare: &mut [i32], log2: u32);
    /// [`digits`].
    fn digits(self, x: &[i32], n: i32, recip: i32, bits: u32, out: &mut [i16]);
}

/// The loops of this file.
#[derive(Clone, Copy, Debug)]
struct Loops;

impl Pieces for Loops {
    #[inline(always)]
    fn hadamard(self, x: &mut [i32], spare: &mut [i32], log2: u32) {
        hadamard(x, spare, log2);
    }

    #[inline(always)]
    fn digits(self, x: &[i32], n: i32, recip: i32, bits: u32, out: &mut [i16]) {
        digits(x, n, recip, bits, out);
    }
}

/// One group of [`quantise::quantise_row`](speckv_predictor::portable::quantise::quantise_row); `scratch` has room for it twice.
#[inline(always)]
pub(crate) fn quantise(x: &[i32], how: &Quantise, out: &mut [i16], scratch: &mut [i32]) -> Scale {
    quantise_with(Loops, x, how, out, scratch)
}

/// [`quantise`] with a path's own inner loops.
#[inline(always)]
pub(crate) fn quantise_with(
    pieces: impl Pieces,
    x: &[i32],
    how: &Quantise,
    out: &mut [i16],
    scratch: &mut [i32],
) -> Scale {
    let (mut y, mut exponent) = (x, how.exponent);
    if how.hadamard > 0 {
        let top = amax(x);
        if top > 0 {
            let shift = (29 - how.hadamard as i32) - top.ilog2() as i32;
            exponent += shift;
            let (z, spare) = scratch.split_at_mut(x.len());
            if shift >= 0 {
                for i in 0..x.len() {
                    z[i] = x[i].wrapping_shl(shift as u32);
                }
            } else {
                let half = 1i32.wrapping_shl((-shift - 1) as u32);
                for i in 0..x.len() {
                    z[i] = x[i].wrapping_add(half).wrapping_shr(-shift as u32);
                }
            }
            pieces.hadamard(z, spare, how.hadamard);
            y = z;
        }
    }
    let (wide, rest) = y.split_at(how.wide);
    let (wide_top, rest_top) = (amax(wide), amax(rest));
    let all = wide_top.max(rest_top);
    if all == 0 {
        out.fill(0);
        return Scale::ZERO;
    }
    let levels = how.digits.levels() as i64;
    // levels * 2^bits / full < 2^31, as full >= 2^29.
    let bits = 61 - how.digits.bits() - 1;
    let top = quantise::step_amax(rest_top, wide_top, how.digits);
    let n = shift_to_30(top);
    let full = (top as i64) << n;
    let recip = (levels << bits) / full;
    let (wide_out, rest_out) = out.split_at_mut(how.wide);
    pieces.digits(rest, n, recip as i32, bits, rest_out);
    // Wide values may be 257 times the others: more than 32 bits.
    for (q, v) in wide_out.iter_mut().zip(wide) {
        *q = ((((*v as i64) << n) * (recip >> 9) + (1 << (bits - 10))) >> (bits - 9)) as i16;
    }
    let mut scale = Scale::new(((full as u64) << 20) / levels as u64, -20 - n - exponent).times(how.gain);
    if let Some(eps) = how.norm {
        let n = shift_to_30(all);
        scale = scale.times(inverse_rms(sum_of_squares(y, n), y.len(), n, exponent, eps));
    }
    scale
}

/// The greatest magnitude.
#[inline(always)]
fn amax(x: &[i32]) -> u32 {
    let mut top = 0;
    for v in x {
        top = top.max(v.unsigned_abs());
    }
    top
}

/// [`quantise::hadamard`](speckv_predictor::portable::quantise::hadamard). Sums and differences are exact, so the order of its steps is free:
/// each adds and subtracts neighbours and puts sums in the first half, differences in the second, which turns the index bits by one; after
/// all steps they are back in place. So every step reads and writes whole registers, however close its partners are.
///
/// `spare` has room for a block.
#[inline(always)]
pub(crate) fn hadamard(x: &mut [i32], spare: &mut [i32], log2: u32) {
    let block = 1usize << log2;
    let spare = &mut spare[..block];
    for chunk in x.chunks_exact_mut(block) {
        let mut step = 0;
        while step + 2 <= log2 {
            neighbours(chunk, spare);
            neighbours(spare, chunk);
            step += 2;
        }
        if step < log2 {
            neighbours(chunk, spare);
            chunk.copy_from_slice(spare);
        }
    }
}

#[inline(always)]
fn neighbours(from: &[i32], to: &mut [i32]) {
    let half = to.len() / 2;
    let pairs = &from.as_chunks::<2>().0[..half];
    let (sums, differences) = to.split_at_mut(half);
    let differences = &mut differences[..half];
    for i in 0..half {
        let [a, b] = pairs[i];
        sums[i] = a.wrapping_add(b);
        differences[i] = a.wrapping_sub(b);
    }
}

/// Sum of the squares of `x * 2^n`, each rounded to 16 bits: what the norm of a row is made of.
#[inline(always)]
fn sum_of_squares(x: &[i32], n: i32) -> u64 {
    let mut sum = 0i64;
    for v in x {
        let v = (v.wrapping_shl(n as u32).wrapping_add(1 << 13) >> 14) as i64;
        sum = sum.wrapping_add(v.wrapping_mul(v));
    }
    sum as u64
}

/// `out = round(x * 2^n * recip * 2^-bits)`; `|x * 2^n| <= 2^30`, `recip < 2^31`.
#[inline(always)]
fn digits(x: &[i32], n: i32, recip: i32, bits: u32, out: &mut [i16]) {
    let half = 1i64 << (bits - 1);
    let (len, n, recip) = (x.len(), n as u32, recip as i64);
    let out = &mut out[..len];
    for i in 0..len {
        let v = x[i].wrapping_shl(n) as i64;
        out[i] = (v.wrapping_mul(recip).wrapping_add(half) >> (bits & 63)) as i16;
    }
}
