//! NEON: `sdot` multiplies signed bytes, four a lane, without saturation.

use core::arch::aarch64::*;
use core::arch::asm;

use speckv_predictor::backend::{Quantise, Rotary, Silu, Unit};
use speckv_predictor::core::{LaneEncoder, Lanes, PlaneModel, Symbol};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::attention::BLOCK;

use crate::aarch64::int128::I128;
use crate::aarch64::vectorised;
use crate::coder::observe::{Plane, Rows};
use crate::coder::pair::Pair;
use crate::coder::{self, Coder, encode, observe};
use crate::kernel::{Kernel, Line8, Line16};
use crate::path::arm::HasNeon;
use crate::vector::{Columns, Exp2, Steps, operations, special};

/// int8 digits by `sdot`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Narrow(pub HasNeon);

/// 16-bit left operands by `smlal`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide(pub HasNeon);

operations!(vectorised, { Vector, Narrow });
operations!(vectorised, { Vector, Wide });
special!(vectorised, { Special, Narrow });
special!(vectorised, { Special, Wide });

/// What the coder computes with. Decoding takes few more instructions so than with one register, and a fifth more with four: 32 registers
/// hold no more.
type Ints = Pair<I128>;

impl Coder for HasNeon {
    fn symbols(self, model: &PlaneModel<'_>, codes: &[u16], out: &mut [Symbol]) -> Option<u64> {
        coder::symbols_any::<Ints>(self, model, codes, out)
    }

    fn decode(self, model: &PlaneModel<'_>, lanes: &mut Lanes<'_>, out: &mut [u16]) -> bool {
        coder::decode_any::<Ints>(self, model, lanes, out)
    }

    fn push(self, encoder: &mut LaneEncoder, symbols: &[Symbol]) {
        encode::push::<Ints>(self, encoder, symbols);
    }

    fn to_codes(self, mu: &[i32], unit: Unit, out: &mut [i32]) {
        observe::to_codes::<Ints>(self, mu, unit, out);
    }

    fn observe(self, plane: &Plane<'_>, rows: Rows<'_>) {
        coder::observe_any::<Ints>(self, plane, rows);
    }
}

/// A tile of up to 6 rows x 16 outputs: 24 accumulators, 4 registers of weights and one of the left operand, of 32.
macro_rules! kernel {
    ($type:ty, $a:ty, $line:ty, $inputs:literal, $tile:ident, $load:ident, $add:ident) => {
        impl Kernel for $type {
            type A = $a;
            type Line = $line;
            const MR: usize = 6;
            const LINES: usize = 1;
            const OFFSET: i32 = 0;

            #[inline]
            fn tile(self, a: &[$a], stride: usize, rows: usize, w: &[$line], acc: &mut [i32]) {
                assert!((1..=6).contains(&rows) && acc.len() >= rows * 16);
                assert!(w.is_empty() || a.len() >= (rows - 1) * stride + $inputs * w.len());
                // SAFETY: `self` proves the features. Row r reads a[r * stride..][..inputs * w.len()], r < rows, and `acc` has 16 values a
                // row: asserted above.
                unsafe {
                    match rows {
                        1 => $tile::<1>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                        2 => $tile::<2>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                        3 => $tile::<3>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                        4 => $tile::<4>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                        5 => $tile::<5>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                        _ => $tile::<6>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                    }
                }
            }
        }

        /// `M` rows x 16 outputs.
        ///
        /// # Safety
        /// For each `r < M`, `a + r * stride` is valid for reads of as many values as `w` has inputs, and `acc` for reads and writes of
        /// `16 * M`.
        #[target_feature(enable = "neon,dotprod")]
        unsafe fn $tile<const M: usize>(a: *const $a, stride: usize, w: &[$line], acc: *mut i32) {
            let mut sums = [[vdupq_n_s32(0); 4]; M];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (l, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: values 16r + 4l .. + 4 of `acc` are the caller's promise.
                    *sum = unsafe { vld1q_s32(acc.add(16 * r + 4 * l)) };
                }
            }
            for (g, line) in w.iter().enumerate() {
                let w = $load(line);
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: group g of row r, four bytes, is readable, as the caller promises.
                    let x = unsafe { a.add(r * stride + $inputs * g).cast::<i32>().read_unaligned() };
                    $add(sums, &w, x);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (l, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { vst1q_s32(acc.add(16 * r + 4 * l), *sum) };
                }
            }
        }
    };
}

kernel!(Narrow, i8, Line8, 4, bytes, quads, add_quads);
kernel!(Wide, i16, Line16, 2, pairs, halves, add_pairs);

/// Four outputs x four inputs a register.
#[inline]
#[target_feature(enable = "neon")]
fn quads(line: &Line8) -> [int8x16_t; 4] {
    // SAFETY: a line is four registers.
    [0, 16, 32, 48].map(|at| unsafe { vld1q_s8(line.0.as_ptr().add(at)) })
}

/// `sums[o] += sum over i of w[o][i] * x[i]`, `x` being four bytes. The intrinsic for this instruction is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_quads(sums: &mut [int32x4_t; 4], w: &[int8x16_t; 4], x: i32) {
    for (sum, w) in sums.iter_mut().zip(w) {
        // SAFETY: the instruction works on registers alone, and the feature is enabled here.
        unsafe {
            asm!("sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[0]", sum = inout(vreg) *sum, w = in(vreg) *w, x = in(vreg) x,
                 options(pure, nomem, nostack, preserves_flags));
        }
    }
}

/// The first input of eight outputs, the second one, and those of the other eight.
#[inline]
#[target_feature(enable = "neon")]
fn halves(line: &Line16) -> [int16x8_t; 4] {
    // SAFETY: a line is four registers.
    let (low, high) = unsafe { (vld2q_s16(line.0.as_ptr()), vld2q_s16(line.0.as_ptr().add(16))) };
    [low.0, low.1, high.0, high.1]
}

/// `sums[o] += sum over i of w[i][o] * x[i]`, `x` being two 16-bit numbers.
#[inline]
#[target_feature(enable = "neon")]
fn add_pairs(sums: &mut [int32x4_t; 4], w: &[int16x8_t; 4], x: i32) {
    let x = vreinterpret_s16_s32(vdup_n_s32(x));
    for (sums, w) in sums.as_chunks_mut::<2>().0.iter_mut().zip(w.as_chunks::<2>().0) {
        sums[0] = vmlal_lane_s16::<0>(sums[0], vget_low_s16(w[0]), x);
        sums[0] = vmlal_lane_s16::<1>(sums[0], vget_low_s16(w[1]), x);
        sums[1] = vmlal_high_lane_s16::<0>(sums[1], w[0], x);
        sums[1] = vmlal_high_lane_s16::<1>(sums[1], w[1], x);
    }
}
