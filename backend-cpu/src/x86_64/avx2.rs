//! AVX2: `vpmaddwd` on 16-bit digits, exact (`vpmaddubsw` would saturate).

use core::arch::x86_64::*;

use speckv_predictor::backend::{Quantise, Rotary, Silu, Unit};
use speckv_predictor::core::{LaneEncoder, Lanes, PlaneModel, Symbol};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::attention::BLOCK;

use crate::coder::observe::{Plane, Rows};
use crate::coder::pair::Pair;
use crate::kernel::{Kernel, Line16};
use crate::path::x86::HasAvx2;
use crate::vector::{Columns, Exp2, Steps, operations, special};
use crate::x86_64::int256::I256;
use crate::x86_64::{coder, packing, vectorised};

operations!(vectorised, { Vector, HasAvx2, "avx2" });
special!(vectorised, { Special, HasAvx2, "avx2" });
coder!(HasAvx2, Pair<Pair<I256>>, "avx2,popcnt");

impl Kernel for HasAvx2 {
    type A = i16;
    type Line = Line16;
    const MR: usize = 6;
    const LINES: usize = 1;
    const OFFSET: i32 = 0;

    packing!(i16, "avx2");

    #[inline]
    fn tile(self, a: &[i16], stride: usize, rows: usize, w: &[Line16], acc: &mut [i32]) {
        assert!((1..=6).contains(&rows) && acc.len() >= rows * 16);
        assert!(w.is_empty() || a.len() >= (rows - 1) * stride + 2 * w.len());
        // SAFETY: `self` proves AVX2. Row r reads a[r * stride..][..2 * w.len()], r < rows, and `acc` has 16 values a row: asserted above.
        unsafe {
            match rows {
                1 => tile::<1>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                2 => tile::<2>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                3 => tile::<3>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                4 => tile::<4>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                5 => tile::<5>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
                _ => tile::<6>(a.as_ptr(), stride, w, acc.as_mut_ptr()),
            }
        }
    }
}

/// `M` rows x 16 outputs.
///
/// # Safety
/// For each `r < M`, `a + r * stride` is valid for reads of `2 * w.len()` values, and `acc` for reads and writes of `16 * M`.
#[target_feature(enable = "avx2")]
unsafe fn tile<const M: usize>(a: *const i16, stride: usize, w: &[Line16], acc: *mut i32) {
    let mut sums = [[_mm256_setzero_si256(); 2]; M];
    for (g, line) in w.iter().enumerate() {
        let line = line.0.as_ptr().cast::<__m256i>();
        // SAFETY: a line is two aligned registers.
        let (w0, w1) = unsafe { (_mm256_load_si256(line), _mm256_load_si256(line.add(1))) };
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: values 2g and 2g + 1 of row r are readable, as the caller promises.
            let x = _mm256_set1_epi32(unsafe { a.add(r * stride + 2 * g).cast::<i32>().read_unaligned() });
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(x, w0));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(x, w1));
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: values 16r + 8 half .. + 8 of `acc` are the caller's promise.
            unsafe {
                let at = acc.add(16 * r + 8 * half).cast::<__m256i>();
                _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), *sum));
            }
        }
    }
}
