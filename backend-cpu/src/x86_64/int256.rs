//! Eight integers in an AVX2 register.

use core::arch::asm;
use core::arch::x86_64::*;
use core::ops::{Add, BitAnd, BitOr, BitXor, Mul, Sub};

use speckv_predictor::core::Symbol;

use crate::coder::int::Int;
use crate::path::x86::HasAvx2;

/// Its values prove AVX2: they are made from a [`HasAvx2`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct I256(__m256i);

/// Lanes of all ones or zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask256(__m256i);

macro_rules! operators {
    ($type:ident: $($trait:ident $name:ident $with:ident),*) => {
        $(impl $trait for $type {
            type Output = $type;

            #[inline(always)]
            fn $name(self, other: $type) -> $type {
                // SAFETY: `self` proves AVX2.
                $type(unsafe { $with(self.0, other.0) })
            }
        })*
    };
}
operators!(I256: Add add _mm256_add_epi32, Sub sub _mm256_sub_epi32, Mul mul _mm256_mullo_epi32, BitAnd bitand _mm256_and_si256,
           BitOr bitor _mm256_or_si256, BitXor bitxor _mm256_xor_si256);
operators!(Mask256: BitAnd bitand _mm256_and_si256, BitOr bitor _mm256_or_si256);

/// Methods of one intrinsic.
macro_rules! methods {
    ($($name:ident($other:ident) -> $ret:ident: $with:ident),* $(,)?) => {
        $(#[inline(always)]
        fn $name(self, $other: I256) -> $ret {
            // SAFETY: `self` proves AVX2.
            $ret(unsafe { $with(self.0, $other.0) })
        })*
    };
}

/// For each mask of eight lanes the places of its lanes among the set ones before, four bits a lane: how words spread over lanes.
const SPREAD: [u32; 256] = {
    let mut table = [0; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            table[mask] |= next << (4 * lane);
            next += (mask >> lane & 1) as u32;
            lane += 1;
        }
        mask += 1;
    }
    table
};

/// For each mask its lanes, the last first, four bits each: how lanes gather to words.
const GATHER: [u32; 256] = {
    let mut table = [0; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut at) = (8, 0);
        while lane > 0 {
            lane -= 1;
            if mask >> lane & 1 != 0 {
                table[mask] |= lane << (4 * at);
                at += 1;
            }
        }
        mask += 1;
    }
    table
};

/// Lanes' places of four bits each, a lane each; only their low three bits count.
#[inline]
#[target_feature(enable = "avx2")]
fn places(packed: u32) -> __m256i {
    _mm256_srlv_epi32(_mm256_set1_epi32(packed as i32), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28))
}

/// Bytes at places, less 0, 16, 32 and 48, of a table and its differences.
#[inline]
#[target_feature(enable = "avx2")]
fn pick(tables: &[__m256i; 4], places: &[__m256i; 4]) -> __m256i {
    let (a, b) = (_mm256_shuffle_epi8(tables[0], places[0]), _mm256_shuffle_epi8(tables[1], places[1]));
    let (c, d) = (_mm256_shuffle_epi8(tables[2], places[2]), _mm256_shuffle_epi8(tables[3], places[3]));
    _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d))
}

/// 64 pairs of 16-bit numbers.
#[derive(Clone, Copy)]
pub(crate) struct Table64 {
    /// The second number in the high half.
    pairs: [u32; 64],
    /// By byte of a pair: the first 16 in each half of a register, and how each further 16 differ from the 16 before.
    bytes: [[__m256i; 4]; 4],
}

impl I256 {
    /// Low and high halves.
    #[inline(always)]
    fn halves(self) -> (I256, I256) {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let low = _mm256_blend_epi16(self.0, _mm256_setzero_si256(), 0xAA);
            (I256(low), I256(_mm256_srli_epi32(self.0, 16)))
        }
    }

    /// The low halves as eight words.
    #[inline(always)]
    fn narrow(self) -> __m128i {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let low = _mm256_blend_epi16(self.0, _mm256_setzero_si256(), 0xAA);
            let pairs = _mm256_packus_epi32(low, low);
            _mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0b1000))
        }
    }
}

/// Shifts by counts of their own. Of the intrinsics the compiler keeps too much: comparisons of counts with 32, which the instructions need not.
macro_rules! shifts {
    ($($name:ident: $with:literal),* $(,)?) => {
        $(#[inline(always)]
        fn $name(self, n: I256) -> I256 {
            #[inline]
            #[target_feature(enable = "avx2")]
            fn shift(x: __m256i, n: __m256i) -> __m256i {
                let out;
                // SAFETY: the instruction reads two registers and writes one.
                unsafe {
                    asm!(
                        concat!($with, " {}, {}, {}"),
                        out(ymm_reg) out,
                        in(ymm_reg) x,
                        in(ymm_reg) n,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
                out
            }
            // SAFETY: `self` proves AVX2.
            I256(unsafe { shift(self.0, n.0) })
        })*
    };
}

impl Int for I256 {
    const N: usize = 8;
    type Proof = HasAvx2;
    type Mask = Mask256;
    type Table8 = __m256i;
    type Table16 = [__m256i; 2];
    type Table64 = Table64;

    #[inline(always)]
    fn splat(_: HasAvx2, x: i32) -> I256 {
        // SAFETY: the proof is that of AVX2.
        I256(unsafe { _mm256_set1_epi32(x) })
    }

    #[inline(always)]
    fn load(_: HasAvx2, x: &[i32]) -> I256 {
        // SAFETY: the proof is that of AVX2; eight integers are there.
        I256(unsafe { _mm256_loadu_si256(x[..8].as_ptr().cast()) })
    }

    #[inline(always)]
    fn load_i16(_: HasAvx2, x: &[i16]) -> I256 {
        // SAFETY: the proof is that of AVX2; eight integers are there.
        I256(unsafe { _mm256_cvtepi16_epi32(_mm_loadu_si128(x[..8].as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_u16(_: HasAvx2, x: &[u16]) -> I256 {
        // SAFETY: the proof is that of AVX2; eight integers are there.
        I256(unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(x[..8].as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_symbols(_: HasAvx2, x: &[Symbol]) -> (I256, I256) {
        let x: *const __m256i = x[..8].as_ptr().cast();
        // SAFETY: the proof is that of AVX2; eight symbols of 8 bytes are there.
        unsafe {
            let (a, b) = (_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1)));
            let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
            // Within halves: a0 a2 b0 b2 | a4 a6 b4 b6.
            let low = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0b1000_1000));
            let high = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0b1101_1101));
            (
                I256(_mm256_permute4x64_epi64(low, 0b1101_1000)),
                I256(_mm256_permute4x64_epi64(high, 0b1101_1000)),
            )
        }
    }

    #[inline(always)]
    fn store(self, out: &mut [i32]) {
        // SAFETY: `self` proves AVX2; there is room for eight integers.
        unsafe { _mm256_storeu_si256(out[..8].as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn store_u16(self, out: &mut [u16]) {
        // SAFETY: `self` proves AVX2; there is room for eight integers.
        unsafe { _mm_storeu_si128(out[..8].as_mut_ptr().cast(), self.narrow()) }
    }

    #[inline(always)]
    fn store_symbols(self, high: I256, out: &mut [Symbol]) {
        let out: *mut __m256i = out[..8].as_mut_ptr().cast();
        // SAFETY: `self` proves AVX2; there is room for eight symbols of 8 bytes, any bits of which are a symbol.
        unsafe {
            let (a, b) = (_mm256_unpacklo_epi32(self.0, high.0), _mm256_unpackhi_epi32(self.0, high.0));
            _mm256_storeu_si256(out, _mm256_permute2x128_si256(a, b, 0x20));
            _mm256_storeu_si256(out.add(1), _mm256_permute2x128_si256(a, b, 0x31));
        }
    }

    #[inline(always)]
    fn table8(_: HasAvx2, x: &[i32; 8]) -> __m256i {
        // SAFETY: the proof is that of AVX2; eight integers are there.
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn table16(_: HasAvx2, x: &[i32; 16]) -> [__m256i; 2] {
        let x: *const __m256i = x.as_ptr().cast();
        // SAFETY: the proof is that of AVX2; 16 integers are there.
        unsafe { [_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1))] }
    }

    #[inline(always)]
    fn table64(_: HasAvx2, x: &[(u16, u16); 64]) -> Table64 {
        let pairs = x.map(|(a, b)| u32::from(a) | u32::from(b) << 16);
        let part = |byte: usize, sixteen: usize| {
            let all = pairs.map(|pair| pair.to_le_bytes()[byte]);
            let differs = |i: usize| if sixteen == 0 { 0 } else { all[16 * (sixteen - 1) + i] };
            let bytes: [u8; 16] = core::array::from_fn(|i| all[16 * sixteen + i] ^ differs(i));
            // SAFETY: the proof is that of AVX2; 16 bytes are there.
            unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())) }
        };
        let bytes = [0, 1, 2, 3].map(|byte| [0, 1, 2, 3].map(|sixteen| part(byte, sixteen)));
        Table64 { pairs, bytes }
    }

    #[inline(always)]
    fn lookup8(self, table: &__m256i) -> I256 {
        // SAFETY: `self` proves AVX2.
        I256(unsafe { _mm256_permutevar8x32_epi32(*table, self.0) })
    }

    #[inline(always)]
    fn lookup16(self, table: &[__m256i; 2]) -> I256 {
        // SAFETY: `self` proves AVX2. Bit 3 of the index picks the half.
        unsafe {
            let (a, b) = (
                _mm256_permutevar8x32_epi32(table[0], self.0),
                _mm256_permutevar8x32_epi32(table[1], self.0),
            );
            let pick = _mm256_castsi256_ps(_mm256_slli_epi32(self.0, 28));
            let x = _mm256_blendv_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), pick);
            I256(_mm256_castps_si256(x))
        }
    }

    #[inline(always)]
    fn lookup64(self, table: &Table64) -> (I256, I256) {
        let mut at = [0; 8];
        self.store(&mut at);
        let pairs = at.map(|at| table.pairs[(at & 63) as usize]);
        // SAFETY: `self` proves AVX2, and eight pairs are there.
        let x = unsafe { _mm256_loadu_si256(pairs.as_ptr().cast()) };
        I256(x).halves()
    }

    #[inline(always)]
    fn lookup64_four(x: [I256; 4], table: &Table64) -> [(I256, I256); 4] {
        // SAFETY: `x` proves AVX2. Packing, and what undoes it, stays within halves of registers. A shuffle leaves zeros where the highest bit
        // of a place is set, which it is of places before a table's 16; of places past them the next tables' differences take it back.
        unsafe {
            let packed =
                _mm256_packus_epi16(_mm256_packus_epi32(x[0].0, x[1].0), _mm256_packus_epi32(x[2].0, x[3].0));
            let places = [
                packed,
                _mm256_sub_epi8(packed, _mm256_set1_epi8(16)),
                _mm256_sub_epi8(packed, _mm256_set1_epi8(32)),
                _mm256_sub_epi8(packed, _mm256_set1_epi8(48)),
            ];
            let [a, b, c, d] = &table.bytes;
            let (a, b, c, d) = (pick(a, &places), pick(b, &places), pick(c, &places), pick(d, &places));
            let (first, second) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            let (third, fourth) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            [
                I256(_mm256_unpacklo_epi16(first, second)).halves(),
                I256(_mm256_unpackhi_epi16(first, second)).halves(),
                I256(_mm256_unpacklo_epi16(third, fourth)).halves(),
                I256(_mm256_unpackhi_epi16(third, fourth)).halves(),
            ]
        }
    }

    methods!(
        min(other) -> I256: _mm256_min_epi32,
        max(other) -> I256: _mm256_max_epi32,
        sign(by) -> I256: _mm256_sign_epi32,
        high_product(by) -> I256: _mm256_mulhi_epu16,
        gt(other) -> Mask256: _mm256_cmpgt_epi32,
        eq(other) -> Mask256: _mm256_cmpeq_epi32,
    );

    #[inline(always)]
    fn leading_zeros(self) -> I256 {
        // SAFETY: `self` proves AVX2. With the bit below the leading one cleared no float rounds up to the next octave; its exponent says
        // where the leading one is. 0 has exponent 0, and 31 + 127 - 0 is cut to 32.
        unsafe {
            let x = _mm256_andnot_si256(_mm256_srli_epi32(self.0, 1), self.0);
            let exponent = _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(x)), 23);
            let zeros = _mm256_sub_epi32(_mm256_set1_epi32(127 + 31), exponent);
            I256(_mm256_min_epi32(zeros, _mm256_set1_epi32(32)))
        }
    }

    shifts!(
        shl: "vpsllvd",
        shr: "vpsrlvd",
        sar: "vpsravd",
        shl_any: "vpsllvd",
        shr_any: "vpsrlvd",
    );

    #[inline(always)]
    fn left(self, n: i32) -> I256 {
        // SAFETY: `self` proves AVX2.
        I256(unsafe { _mm256_sll_epi32(self.0, _mm_cvtsi32_si128(n)) })
    }

    #[inline(always)]
    fn right(self, n: i32) -> I256 {
        // SAFETY: `self` proves AVX2.
        I256(unsafe { _mm256_srl_epi32(self.0, _mm_cvtsi32_si128(n)) })
    }

    #[inline(always)]
    fn right_signed(self, n: i32) -> I256 {
        // SAFETY: `self` proves AVX2.
        I256(unsafe { _mm256_sra_epi32(self.0, _mm_cvtsi32_si128(n)) })
    }

    #[inline(always)]
    fn abs(self) -> I256 {
        // SAFETY: `self` proves AVX2.
        I256(unsafe { _mm256_abs_epi32(self.0) })
    }

    #[inline(always)]
    fn exponent(self) -> I256 {
        // SAFETY: `self` proves AVX2. With the bit below the leading one cleared no float rounds up to the next octave.
        unsafe {
            let x = _mm256_andnot_si256(_mm256_srli_epi32(self.0, 1), self.0);
            I256(_mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(x)), 23))
        }
    }

    #[inline(always)]
    fn float(self) -> I256 {
        // SAFETY: `self` proves AVX2.
        I256(unsafe { _mm256_castps_si256(_mm256_cvtepi32_ps(self.0)) })
    }

    #[inline(always)]
    fn shrunk(self, by: I256) -> I256 {
        // SAFETY: `self` proves AVX2. High halves are 0 or -1: their product has none, and the sum is that of the low ones, carried or not.
        I256(unsafe { _mm256_add_epi16(self.0, _mm256_mulhi_epi16(self.0, by.0)) })
    }

    #[inline(always)]
    fn grown(self, by: I256) -> I256 {
        // SAFETY: `self` proves AVX2. As above.
        I256(unsafe { _mm256_add_epi16(self.0, _mm256_mulhrs_epi16(self.0, by.0)) })
    }

    #[inline(always)]
    fn part(self, by: I256) -> I256 {
        // SAFETY: `self` proves AVX2. (2^16 - 1) * by is less than 2^16 below 2^16 * by.
        unsafe {
            let x = _mm256_min_epi32(self.0, _mm256_set1_epi32(0xFFFF));
            I256(_mm256_add_epi32(_mm256_mulhi_epu16(x, by.0), _mm256_srli_epi32(self.0, 16)))
        }
    }

    #[inline(always)]
    fn quotient(self, by: I256) -> I256 {
        // SAFETY: `self` proves AVX2. Half of the number has a sign bit to spare; the quotient of the nearest floats is within 1 + 2^-7 of the
        // true one, above it by no more than 2^-7, and below by more than one half only if `by` is 1, where nothing is rounded. So rounded
        // down it is off by at most one.
        unsafe {
            let half = _mm256_cvtepi32_ps(_mm256_srli_epi32(self.0, 1));
            let guess = _mm256_div_ps(_mm256_add_ps(half, half), _mm256_cvtepi32_ps(by.0));
            let guess = I256(_mm256_cvttps_epi32(guess));
            let rest = (self - guess * by).0;
            // Masks are -1.
            let low = _mm256_andnot_si256(_mm256_cmpgt_epi32(by.0, rest), _mm256_set1_epi32(-1));
            let high = _mm256_cmpgt_epi32(_mm256_setzero_si256(), rest);
            I256(_mm256_add_epi32(_mm256_sub_epi32(guess.0, low), high))
        }
    }

    #[inline(always)]
    fn scaled(self, by: I256, bits: u32) -> I256 {
        // SAFETY: `self` proves AVX2. Low halves of 64-bit results; those of odd lanes end up in high halves.
        unsafe {
            let half = _mm256_set1_epi64x(1 << (bits - 1));
            let even = _mm256_add_epi64(_mm256_mul_epi32(self.0, by.0), half);
            let odd = _mm256_mul_epi32(_mm256_srli_epi64(self.0, 32), _mm256_srli_epi64(by.0, 32));
            let odd = _mm256_add_epi64(odd, half);
            let even = _mm256_srlv_epi64(even, _mm256_set1_epi64x(bits.into()));
            let odd = _mm256_sllv_epi64(odd, _mm256_set1_epi64x((32 - bits).into()));
            I256(_mm256_blend_epi32(even, odd, 0xAA))
        }
    }

    #[inline(always)]
    fn keep(self, mask: Mask256) -> I256 {
        // SAFETY: `self` proves AVX2.
        I256(unsafe { _mm256_and_si256(self.0, mask.0) })
    }

    #[inline(always)]
    fn select(mask: Mask256, a: I256, b: I256) -> I256 {
        // SAFETY: `a` proves AVX2.
        I256(unsafe { _mm256_blendv_epi8(b.0, a.0, mask.0) })
    }

    #[inline(always)]
    fn not(mask: Mask256) -> Mask256 {
        // SAFETY: a mask comes from a comparison and so proves AVX2.
        Mask256(unsafe { _mm256_xor_si256(mask.0, _mm256_set1_epi32(-1)) })
    }

    #[inline(always)]
    fn bits(mask: Mask256) -> u32 {
        // SAFETY: a mask comes from a comparison and so proves AVX2.
        unsafe { _mm256_movemask_ps(_mm256_castsi256_ps(mask.0)) as u32 }
    }

    #[inline(always)]
    fn refill(self, mask: Mask256, words: &[u8], at: usize) -> (I256, usize) {
        let bits = Self::bits(mask);
        // SAFETY: `self` proves AVX2, and 16 bytes are there.
        let load = |x: &[u8]| unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(x[..16].as_ptr().cast())) };
        let next = match words.get(at..).and_then(|w| w.get(..16)) {
            Some(words) => load(words),
            None => load(&super::last_words::<16>(words, at)),
        };
        // SAFETY: `self` proves AVX2.
        let refilled = unsafe {
            let next = _mm256_permutevar8x32_epi32(next, places(SPREAD[bits as usize & 255]));
            I256(_mm256_or_si256(_mm256_slli_epi32(self.0, 16), next))
        };
        (Self::select(mask, refilled, self), at + 2 * bits.count_ones() as usize)
    }

    #[inline(always)]
    fn emit(self, mask: Mask256, out: &mut [u16], at: usize) -> usize {
        let bits = Self::bits(mask);
        // SAFETY: `self` proves AVX2.
        let gathered =
            unsafe { I256(_mm256_permutevar8x32_epi32(self.0, places(GATHER[bits as usize & 255]))) };
        gathered.store_u16(&mut out[at..at + 8]);
        at + bits.count_ones() as usize
    }
}
