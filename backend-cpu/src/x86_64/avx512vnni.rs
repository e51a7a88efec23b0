//! AVX-512 VNNI: `vpdpbusd` multiplies unsigned by signed bytes, four a lane, without saturation. The left operand is offset by 128; the
//! accumulators start at -128 times the sums of the weights, which undoes it.

use core::arch::x86_64::*;

use speckv_predictor::backend::{Rotary, Silu, Unit};
use speckv_predictor::core::{LaneEncoder, Lanes, PlaneModel, Symbol};
use speckv_predictor::fixed::Scale;

use crate::coder::observe::{Plane, Rows};
use crate::coder::pair::Pair;
use crate::kernel::{Kernel, Line8, Line16};
use crate::path::x86::HasAvx512Vnni;
use crate::vector::{Columns, Steps, operations};
use crate::x86_64::int512::I512;
use crate::x86_64::{coder, packing, special512, vectorised};

/// int8 digits by `vpdpbusd`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Narrow(pub HasAvx512Vnni);

/// 16-bit left operands by `vpdpwssd`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide(pub HasAvx512Vnni);

operations!(vectorised, { Vector, Narrow, "avx2,avx512f,avx512bw,avx512dq,avx512vl" });
coder!(HasAvx512Vnni, Pair<I512>, "avx2,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl");
operations!(vectorised, { Vector, Wide, "avx2,avx512f,avx512bw,avx512dq,avx512vl" });
special512!(Narrow, |p: Narrow| Wide(p.0));
special512!(Wide, |p| p);

/// A tile of up to 6 rows x 64 outputs: 24 accumulators, 4 registers of weights and one of the left operand, of 32.
macro_rules! kernel {
    ($type:ty, $a:ty, $line:ty, $inputs:literal, $offset:literal, $tile:ident, $dot:ident) => {
        impl Kernel for $type {
            type A = $a;
            type Line = $line;
            const MR: usize = 6;
            const LINES: usize = 4;
            const OFFSET: i32 = $offset;

            packing!($a, "avx512f,avx512bw,avx512vl");

            #[inline]
            fn tile(self, a: &[$a], stride: usize, rows: usize, w: &[$line], acc: &mut [i32]) {
                let groups = w.len() / 4;
                assert!((1..=6).contains(&rows) && acc.len() >= rows * 64);
                assert!(groups == 0 || a.len() >= (rows - 1) * stride + $inputs * groups);
                // SAFETY: `self` proves the features. Row r reads a[r * stride..][..inputs * groups], r < rows, and `acc` has 64 values a
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

        /// `M` rows x 64 outputs.
        ///
        /// # Safety
        /// For each `r < M`, `a + r * stride` is valid for reads of as many values as `w` has inputs, and `acc` for reads and writes of
        /// `64 * M`.
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        unsafe fn $tile<const M: usize>(a: *const $a, stride: usize, w: &[$line], acc: *mut i32) {
            let mut sums = [[_mm512_setzero_si512(); 4]; M];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (l, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: values 64r + 16l .. + 16 of `acc` are the caller's promise.
                    *sum = unsafe { _mm512_loadu_si512(acc.add(64 * r + 16 * l).cast()) };
                }
            }
            for (g, lines) in w.as_chunks::<4>().0.iter().enumerate() {
                let w: [__m512i; 4] = core::array::from_fn(|l| {
                    // SAFETY: a line is one aligned register.
                    unsafe { _mm512_load_si512(lines[l].0.as_ptr().cast()) }
                });
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: group g of row r is readable, as the caller promises.
                    let x = unsafe { a.add(r * stride + $inputs * g).cast::<i32>().read_unaligned() };
                    let x = _mm512_set1_epi32(x);
                    for (sum, w) in sums.iter_mut().zip(&w) {
                        *sum = $dot(*sum, x, *w);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (l, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { _mm512_storeu_si512(acc.add(64 * r + 16 * l).cast(), *sum) };
                }
            }
        }
    };
}

kernel!(Narrow, u8, Line8, 4, 128, bytes, _mm512_dpbusd_epi32);
kernel!(Wide, i16, Line16, 2, 0, pairs, _mm512_dpwssd_epi32);
