//! Rows to digits in AVX-512 registers.

use core::arch::x86_64::*;

use speckv_predictor::backend::Quantise;
use speckv_predictor::fixed::Scale;

use crate::vector::{Pieces, quantise_with};
use crate::x86_64::avx512vnni::Wide;

/// [`vector::quantise`](crate::vector::quantise).
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn quantise(p: Wide, x: &[i32], how: &Quantise, out: &mut [i16], scratch: &mut [i32]) -> Scale {
    quantise_with(p, x, how, out, scratch)
}

impl Pieces for Wide {
    /// Butterflies in natural order: of 64 values in four registers, then of whole registers.
    #[inline(always)]
    fn hadamard(self, x: &mut [i32], spare: &mut [i32], log2: u32) {
        if log2 < 6 {
            return crate::vector::hadamard(x, spare, log2);
        }
        for x in x.as_chunks_mut::<64>().0 {
            // SAFETY: `self` proves the features.
            unsafe { hadamard_64(x) };
        }
        let mut half = 64;
        while half < 1 << log2 {
            for pair in x.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                let b = &mut b[..half];
                for i in 0..half {
                    (a[i], b[i]) = (a[i].wrapping_add(b[i]), a[i].wrapping_sub(b[i]));
                }
            }
            half *= 2;
        }
    }

    #[inline(always)]
    fn digits(self, x: &[i32], n: i32, recip: i32, bits: u32, out: &mut [i16]) {
        assert!((33..64).contains(&bits) && (0..32).contains(&n) && x.len() == out.len());
        // SAFETY: `self` proves the features.
        unsafe { digits(x, n, recip, bits, out) }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn hadamard_64(x: &mut [i32; 64]) {
    let at = x.as_mut_ptr().cast::<__m512i>();
    // SAFETY: 64 integers are four registers.
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| unsafe { _mm512_loadu_si512(at.add(i)) });
    let (a, b) = (_mm512_add_epi32(a, b), _mm512_sub_epi32(a, b));
    let (c, d) = (_mm512_add_epi32(c, d), _mm512_sub_epi32(c, d));
    let all =
        [_mm512_add_epi32(a, c), _mm512_add_epi32(b, d), _mm512_sub_epi32(a, c), _mm512_sub_epi32(b, d)];
    for (i, v) in all.into_iter().enumerate() {
        let v = step(v, 0xAAAA, _mm512_shuffle_epi32::<0b10_11_00_01>(v));
        let v = step(v, 0xCCCC, _mm512_shuffle_epi32::<0b01_00_11_10>(v));
        let v = step(v, 0xF0F0, _mm512_shuffle_i64x2::<0b10_11_00_01>(v, v));
        let v = step(v, 0xFF00, _mm512_shuffle_i64x2::<0b01_00_11_10>(v, v));
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(at.add(i), v) };
    }
}

/// Sums of lanes and their partners; in the upper of two, `partner - v`.
#[inline]
#[target_feature(enable = "avx512f")]
fn step(v: __m512i, upper: __mmask16, partner: __m512i) -> __m512i {
    _mm512_mask_sub_epi32(_mm512_add_epi32(partner, v), upper, partner, v)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn digits(x: &[i32], n: i32, recip: i32, bits: u32, out: &mut [i16]) {
    let (recip, half) = (_mm512_set1_epi32(recip), _mm512_set1_epi64(1 << (bits - 1)));
    let (n, rest) = (_mm_cvtsi32_si128(n), _mm_cvtsi32_si128(bits as i32 - 32));
    for (x, out) in x.chunks(16).zip(out.chunks_mut(16)) {
        let mask = (u32::MAX >> (32 - x.len())) as __mmask16;
        // SAFETY: masked lanes are those of `x`.
        let x = _mm512_sll_epi32(unsafe { _mm512_maskz_loadu_epi32(mask, x.as_ptr()) }, n);
        let even = _mm512_add_epi64(_mm512_mul_epi32(x, recip), half);
        let odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64::<32>(x), recip), half);
        // High halves of 64 bits, at least 33 of which go.
        let high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64::<32>(even), odd);
        let q = _mm512_cvtepi32_epi16(_mm512_sra_epi32(high, rest));
        // SAFETY: `out` is as long as `x`.
        unsafe { _mm256_mask_storeu_epi16(out.as_mut_ptr(), mask, q) };
    }
}
