//! 16 integers in an AVX-512 register.

use core::arch::asm;
use core::arch::x86_64::*;
use core::ops::{Add, BitAnd, BitOr, BitXor, Mul, Sub};

use speckv_predictor::core::Symbol;

use crate::coder::int::Int;
use crate::path::x86::HasAvx512Vnni;

/// Its values prove the features of [`HasAvx512Vnni`]: they are made from one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct I512(__m512i);

macro_rules! operators {
    ($($trait:ident $name:ident $with:ident),*) => {
        $(impl $trait for I512 {
            type Output = I512;

            #[inline(always)]
            fn $name(self, other: I512) -> I512 {
                // SAFETY: `self` proves AVX-512 F.
                I512(unsafe { $with(self.0, other.0) })
            }
        })*
    };
}
operators!(Add add _mm512_add_epi32, Sub sub _mm512_sub_epi32, Mul mul _mm512_mullo_epi32, BitAnd bitand _mm512_and_si512,
           BitOr bitor _mm512_or_si512, BitXor bitxor _mm512_xor_si512);

/// Methods of one intrinsic.
macro_rules! methods {
    ($($name:ident($($other:ident)?) -> $ret:ty: $with:ident),* $(,)?) => {
        $(#[inline(always)]
        fn $name(self $(, $other: I512)?) -> $ret {
            // SAFETY: `self` proves AVX-512 F and CD.
            unsafe { <$ret>::from($with(self.0 $(, $other.0)?)) }
        })*
    };
}

impl From<__m512i> for I512 {
    #[inline(always)]
    fn from(x: __m512i) -> I512 {
        I512(x)
    }
}

/// Shifts by counts of their own. Of the intrinsics the compiler keeps too much: comparisons of counts with 32, which the instructions need not.
macro_rules! shifts {
    ($($name:ident: $with:literal),* $(,)?) => {
        $(#[inline(always)]
        fn $name(self, n: I512) -> I512 {
            #[inline]
            #[target_feature(enable = "avx512f")]
            fn shift(x: __m512i, n: __m512i) -> __m512i {
                let out;
                // SAFETY: the instruction reads two registers and writes one.
                unsafe {
                    asm!(
                        concat!($with, " {}, {}, {}"),
                        out(zmm_reg) out,
                        in(zmm_reg) x,
                        in(zmm_reg) n,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
                out
            }
            // SAFETY: `self` proves AVX-512 F.
            I512(unsafe { shift(self.0, n.0) })
        })*
    };
}

impl Int for I512 {
    const N: usize = 16;
    type Proof = HasAvx512Vnni;
    type Mask = __mmask16;
    /// Twice.
    type Table8 = __m512i;
    type Table16 = __m512i;
    /// First and second numbers, 64 of 16 bits each.
    type Table64 = [__m512i; 4];

    #[inline(always)]
    fn splat(_: HasAvx512Vnni, x: i32) -> I512 {
        // SAFETY: the proof is that of AVX-512 F.
        I512(unsafe { _mm512_set1_epi32(x) })
    }

    #[inline(always)]
    fn load(_: HasAvx512Vnni, x: &[i32]) -> I512 {
        // SAFETY: the proof is that of AVX-512 F; 16 integers are there.
        I512(unsafe { _mm512_loadu_si512(x[..16].as_ptr().cast()) })
    }

    #[inline(always)]
    fn load_i16(_: HasAvx512Vnni, x: &[i16]) -> I512 {
        // SAFETY: the proof is that of AVX-512 F; 16 integers are there.
        I512(unsafe { _mm512_cvtepi16_epi32(_mm256_loadu_si256(x[..16].as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_u16(_: HasAvx512Vnni, x: &[u16]) -> I512 {
        // SAFETY: the proof is that of AVX-512 F; 16 integers are there.
        I512(unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(x[..16].as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_symbols(_: HasAvx512Vnni, x: &[Symbol]) -> (I512, I512) {
        let x: *const __m512i = x[..16].as_ptr().cast();
        // SAFETY: the proof is that of AVX-512 F; 16 symbols of 8 bytes are there.
        unsafe {
            let (a, b) = (_mm512_loadu_si512(x), _mm512_loadu_si512(x.add(1)));
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            (I512(_mm512_permutex2var_epi32(a, even, b)), I512(_mm512_permutex2var_epi32(a, odd, b)))
        }
    }

    #[inline(always)]
    fn store(self, out: &mut [i32]) {
        // SAFETY: `self` proves AVX-512 F; there is room for 16 integers.
        unsafe { _mm512_storeu_si512(out[..16].as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn store_u16(self, out: &mut [u16]) {
        // SAFETY: `self` proves AVX-512 F; there is room for 16 integers.
        unsafe { _mm256_storeu_si256(out[..16].as_mut_ptr().cast(), _mm512_cvtepi32_epi16(self.0)) }
    }

    #[inline(always)]
    fn store_symbols(self, high: I512, out: &mut [Symbol]) {
        let out: *mut __m512i = out[..16].as_mut_ptr().cast();
        // SAFETY: `self` proves AVX-512 F; there is room for 16 symbols of 8 bytes, any bits of which are a symbol.
        unsafe {
            let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            _mm512_storeu_si512(out, _mm512_permutex2var_epi32(self.0, first, high.0));
            _mm512_storeu_si512(out.add(1), _mm512_permutex2var_epi32(self.0, second, high.0));
        }
    }

    #[inline(always)]
    fn table8(_: HasAvx512Vnni, x: &[i32; 8]) -> __m512i {
        // SAFETY: the proof is that of AVX-512 F; eight integers are there.
        unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn table16(_: HasAvx512Vnni, x: &[i32; 16]) -> __m512i {
        // SAFETY: the proof is that of AVX-512 F; 16 integers are there.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn table64(_: HasAvx512Vnni, x: &[(u16, u16); 64]) -> [__m512i; 4] {
        let (first, second) = (x.map(|p| p.0), x.map(|p| p.1));
        // SAFETY: the proof is that of AVX-512 F; each half of each array is a register's worth.
        unsafe {
            let load = |x: &[u16]| _mm512_loadu_si512(x[..32].as_ptr().cast());
            [load(&first), load(&first[32..]), load(&second), load(&second[32..])]
        }
    }

    #[inline(always)]
    fn lookup8(self, table: &__m512i) -> I512 {
        self.lookup16(table)
    }

    #[inline(always)]
    fn lookup16(self, table: &__m512i) -> I512 {
        // SAFETY: `self` proves AVX-512 F.
        I512(unsafe { _mm512_permutexvar_epi32(self.0, *table) })
    }

    #[inline(always)]
    fn lookup64(self, table: &[__m512i; 4]) -> (I512, I512) {
        // SAFETY: `self` proves AVX-512 BW. The mask leaves zeros in the high halves.
        unsafe {
            let pick = |a, b| I512(_mm512_maskz_permutex2var_epi16(0x5555_5555, a, self.0, b));
            (pick(table[0], table[1]), pick(table[2], table[3]))
        }
    }

    methods!(
        min(other) -> I512: _mm512_min_epi32,
        max(other) -> I512: _mm512_max_epi32,
        abs() -> I512: _mm512_abs_epi32,
        leading_zeros() -> I512: _mm512_lzcnt_epi32,
        gt(other) -> __mmask16: _mm512_cmpgt_epi32_mask,
        eq(other) -> __mmask16: _mm512_cmpeq_epi32_mask,
    );

    shifts!(
        shl: "vpsllvd",
        shr: "vpsrlvd",
        sar: "vpsravd",
        shl_any: "vpsllvd",
        shr_any: "vpsrlvd",
    );

    #[inline(always)]
    fn left(self, n: i32) -> I512 {
        // SAFETY: `self` proves AVX-512 F.
        I512(unsafe { _mm512_sll_epi32(self.0, _mm_cvtsi32_si128(n)) })
    }

    #[inline(always)]
    fn right(self, n: i32) -> I512 {
        // SAFETY: `self` proves AVX-512 F.
        I512(unsafe { _mm512_srl_epi32(self.0, _mm_cvtsi32_si128(n)) })
    }

    #[inline(always)]
    fn right_signed(self, n: i32) -> I512 {
        // SAFETY: `self` proves AVX-512 F.
        I512(unsafe { _mm512_sra_epi32(self.0, _mm_cvtsi32_si128(n)) })
    }

    #[inline(always)]
    fn sign(self, by: I512) -> I512 {
        // SAFETY: `self` proves AVX-512 DQ.
        unsafe {
            let negative = _mm512_movepi32_mask(by.0);
            I512(_mm512_mask_sub_epi32(self.0, negative, _mm512_setzero_si512(), self.0))
        }
    }

    #[inline(always)]
    fn exponent(self) -> I512 {
        // SAFETY: `self` proves AVX-512 F. Rounded towards 0 no float is in the next octave.
        unsafe {
            let x = _mm512_cvt_roundepi32_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0);
            I512(_mm512_srli_epi32(_mm512_castps_si512(x), 23))
        }
    }

    #[inline(always)]
    fn float(self) -> I512 {
        // SAFETY: `self` proves AVX-512 F.
        I512(unsafe { _mm512_castps_si512(_mm512_cvtepi32_ps(self.0)) })
    }

    #[inline(always)]
    fn shrunk(self, by: I512) -> I512 {
        // SAFETY: `self` proves AVX-512 BW. High halves are 0 or -1: their product has none, and the sum is that of the low ones, carried or not.
        I512(unsafe { _mm512_add_epi16(self.0, _mm512_mulhi_epi16(self.0, by.0)) })
    }

    #[inline(always)]
    fn grown(self, by: I512) -> I512 {
        // SAFETY: `self` proves AVX-512 BW. As above.
        I512(unsafe { _mm512_add_epi16(self.0, _mm512_mulhrs_epi16(self.0, by.0)) })
    }

    #[inline(always)]
    fn high_product(self, by: I512) -> I512 {
        // SAFETY: `self` proves AVX-512 BW. The high half of `by` is 0.
        I512(unsafe { _mm512_mulhi_epu16(self.0, by.0) })
    }

    #[inline(always)]
    fn part(self, by: I512) -> I512 {
        // SAFETY: `self` proves AVX-512 BW. 2^16 is the one number whose low half is not all of it.
        unsafe {
            let whole = _mm512_cmpgt_epi32_mask(self.0, _mm512_set1_epi32(0xFFFF));
            I512(_mm512_mask_mov_epi32(_mm512_mulhi_epu16(self.0, by.0), whole, by.0))
        }
    }

    #[inline(always)]
    fn quotient(self, by: I512) -> I512 {
        // SAFETY: `self` proves AVX-512 F. The quotient of the nearest floats is within 2^-7 of the true one, which is below 2^16; so rounded
        // down it is off by at most one.
        unsafe {
            let guess = _mm512_div_ps(_mm512_cvtepu32_ps(self.0), _mm512_cvtepi32_ps(by.0));
            let guess = I512(_mm512_cvttps_epi32(guess));
            let rest = (self - guess * by).0;
            let zero = _mm512_setzero_si512();
            let one = _mm512_set1_epi32(1);
            let low = _mm512_cmpge_epi32_mask(rest, by.0);
            let high = _mm512_cmplt_epi32_mask(rest, zero);
            let guess = _mm512_mask_add_epi32(guess.0, low, guess.0, one);
            I512(_mm512_mask_sub_epi32(guess, high, guess, one))
        }
    }

    #[inline(always)]
    fn scaled(self, by: I512, bits: u32) -> I512 {
        // SAFETY: `self` proves AVX-512 F. Low halves of 64-bit results; those of odd lanes end up in high halves.
        unsafe {
            let half = _mm512_set1_epi64(1 << (bits - 1));
            let even = _mm512_add_epi64(_mm512_mul_epi32(self.0, by.0), half);
            let odd = _mm512_mul_epi32(_mm512_srli_epi64(self.0, 32), _mm512_srli_epi64(by.0, 32));
            let odd = _mm512_add_epi64(odd, half);
            let even = _mm512_srlv_epi64(even, _mm512_set1_epi64(bits.into()));
            let odd = _mm512_sllv_epi64(odd, _mm512_set1_epi64((32 - bits).into()));
            I512(_mm512_mask_blend_epi32(0xAAAA, even, odd))
        }
    }

    #[inline(always)]
    fn keep(self, mask: __mmask16) -> I512 {
        // SAFETY: `self` proves AVX-512 F.
        I512(unsafe { _mm512_maskz_mov_epi32(mask, self.0) })
    }

    #[inline(always)]
    fn select(mask: __mmask16, a: I512, b: I512) -> I512 {
        // SAFETY: `a` proves AVX-512 F.
        I512(unsafe { _mm512_mask_blend_epi32(mask, b.0, a.0) })
    }

    #[inline(always)]
    fn not(mask: __mmask16) -> __mmask16 {
        !mask
    }

    #[inline(always)]
    fn bits(mask: __mmask16) -> u32 {
        mask.into()
    }

    #[inline(always)]
    fn refill(self, mask: __mmask16, words: &[u8], at: usize) -> (I512, usize) {
        // SAFETY: `self` proves AVX-512 F, and 32 bytes are there.
        let load = |x: &[u8]| unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(x[..32].as_ptr().cast())) };
        let next = match words.get(at..).and_then(|w| w.get(..32)) {
            Some(words) => load(words),
            None => load(&super::last_words::<32>(words, at)),
        };
        // SAFETY: `self` proves AVX-512 F.
        let x = unsafe {
            let next = _mm512_maskz_expand_epi32(mask, next);
            let shifted = _mm512_mask_slli_epi32(self.0, mask, self.0, 16);
            _mm512_or_si512(shifted, next)
        };
        (I512(x), at + 2 * mask.count_ones() as usize)
    }

    #[inline(always)]
    fn emit(self, mask: __mmask16, out: &mut [u16], at: usize) -> usize {
        let out = &mut out[at..at + 16];
        // SAFETY: `self` proves AVX-512 F; there is room for 16 words. Lanes are turned round first, so that the last comes first.
        unsafe {
            let turned = _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            let x = _mm512_permutexvar_epi32(turned, self.0);
            let x = _mm512_maskz_compress_epi32(mask.reverse_bits(), x);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(x));
        }
        at + mask.count_ones() as usize
    }
}
