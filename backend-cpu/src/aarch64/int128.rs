//! Four integers in a NEON register.

use core::arch::aarch64::*;
use core::ops::{Add, BitAnd, BitOr, BitXor, Mul, Sub};

use speckv_predictor::core::Symbol;

use crate::coder::int::{Int, word};
use crate::path::arm::HasNeon;

/// Its values prove NEON: they are made from a [`HasNeon`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct I128(int32x4_t);

/// Lanes of all ones or zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask128(uint32x4_t);

macro_rules! operators {
    ($type:ident: $($trait:ident $name:ident $with:ident),*) => {
        $(impl $trait for $type {
            type Output = $type;

            #[inline(always)]
            fn $name(self, other: $type) -> $type {
                // SAFETY: `self` proves NEON.
                $type(unsafe { $with(self.0, other.0) })
            }
        })*
    };
}
operators!(I128: Add add vaddq_s32, Sub sub vsubq_s32, Mul mul vmulq_s32, BitAnd bitand vandq_s32, BitOr bitor vorrq_s32,
           BitXor bitxor veorq_s32);
operators!(Mask128: BitAnd bitand vandq_u32, BitOr bitor vorrq_u32);

/// Methods of one intrinsic.
macro_rules! methods {
    ($($name:ident($($other:ident)?) -> $ret:ident: $with:ident),* $(,)?) => {
        $(#[inline(always)]
        fn $name(self $(, $other: I128)?) -> $ret {
            // SAFETY: `self` proves NEON.
            $ret(unsafe { $with(self.0 $(, $other.0)?) })
        })*
    };
}

/// For each mask of four lanes and each byte of a register the byte of the words that goes there; none where the mask is not set, nor into
/// the high halves. The look-up gives 0 for bytes that are not there.
static SPREAD: [[u8; 16]; 16] = {
    let mut table = [[u8::MAX; 16]; 16];
    let mut mask = 0;
    while mask < 16 {
        let (mut lane, mut next) = (0, 0);
        while lane < 4 {
            if mask >> lane & 1 != 0 {
                table[mask][4 * lane] = next;
                table[mask][4 * lane + 1] = next + 1;
                next += 2;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
};

/// For each mask the bytes of its lanes' low halves, the last lane first.
static GATHER: [[u8; 16]; 16] = {
    let mut table = [[u8::MAX; 16]; 16];
    let mut mask = 0;
    while mask < 16 {
        let (mut lane, mut at) = (4, 0);
        while lane > 0 {
            lane -= 1;
            if mask >> lane & 1 != 0 {
                table[mask][at] = 4 * lane as u8;
                table[mask][at + 1] = 4 * lane as u8 + 1;
                at += 2;
            }
        }
        mask += 1;
    }
    table
};

/// The next four words, and zeros past the end.
#[cold]
#[inline(never)]
fn last_words(words: &[u8], at: usize) -> [u8; 8] {
    let next = |i: usize| u64::from(word(words, at + 2 * i)) << (16 * i);
    (next(0) | next(1) | next(2) | next(3)).to_le_bytes()
}

impl Int for I128 {
    const N: usize = 4;
    type Proof = HasNeon;
    type Mask = Mask128;
    /// Bytes: little-endian integers.
    type Table8 = uint8x16x2_t;
    type Table16 = uint8x16x4_t;
    /// The second number in the high half. Four loads, where four look-ups in 64 bytes each would have to be put together.
    type Table64 = [u32; 64];

    #[inline(always)]
    fn splat(_: HasNeon, x: i32) -> I128 {
        // SAFETY: the proof is that of NEON.
        I128(unsafe { vdupq_n_s32(x) })
    }

    #[inline(always)]
    fn load(_: HasNeon, x: &[i32]) -> I128 {
        // SAFETY: the proof is that of NEON; four integers are there.
        I128(unsafe { vld1q_s32(x[..4].as_ptr()) })
    }

    #[inline(always)]
    fn load_i16(_: HasNeon, x: &[i16]) -> I128 {
        // SAFETY: the proof is that of NEON; four integers are there.
        I128(unsafe { vmovl_s16(vld1_s16(x[..4].as_ptr())) })
    }

    #[inline(always)]
    fn load_u16(_: HasNeon, x: &[u16]) -> I128 {
        // SAFETY: the proof is that of NEON; four integers are there.
        I128(unsafe { vreinterpretq_s32_u32(vmovl_u16(vld1_u16(x[..4].as_ptr()))) })
    }

    #[inline(always)]
    fn load_symbols(_: HasNeon, x: &[Symbol]) -> (I128, I128) {
        // SAFETY: the proof is that of NEON; four symbols of 8 bytes are there.
        let x = unsafe { vld2q_s32(x[..4].as_ptr().cast()) };
        (I128(x.0), I128(x.1))
    }

    #[inline(always)]
    fn store(self, out: &mut [i32]) {
        // SAFETY: `self` proves NEON; there is room for four integers.
        unsafe { vst1q_s32(out[..4].as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_u16(self, out: &mut [u16]) {
        // SAFETY: `self` proves NEON; there is room for four integers.
        unsafe { vst1_u16(out[..4].as_mut_ptr(), vmovn_u32(vreinterpretq_u32_s32(self.0))) }
    }

    #[inline(always)]
    fn store_symbols(self, high: I128, out: &mut [Symbol]) {
        // SAFETY: `self` proves NEON; there is room for four symbols of 8 bytes, any bits of which are a symbol.
        unsafe { vst2q_s32(out[..4].as_mut_ptr().cast(), int32x4x2_t(self.0, high.0)) }
    }

    #[inline(always)]
    fn table8(_: HasNeon, x: &[i32; 8]) -> uint8x16x2_t {
        // SAFETY: the proof is that of NEON; 32 bytes are there.
        unsafe { vld1q_u8_x2(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn table16(_: HasNeon, x: &[i32; 16]) -> uint8x16x4_t {
        // SAFETY: the proof is that of NEON; 64 bytes are there.
        unsafe { vld1q_u8_x4(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn table64(_: HasNeon, x: &[(u16, u16); 64]) -> [u32; 64] {
        x.map(|(a, b)| u32::from(a) | u32::from(b) << 16)
    }

    #[inline(always)]
    fn lookup8(self, table: &uint8x16x2_t) -> I128 {
        // SAFETY: `self` proves NEON.
        unsafe {
            let at = I128(vandq_s32(self.0, vdupq_n_s32(7))).bytes();
            I128(vreinterpretq_s32_u8(vqtbl2q_u8(*table, at)))
        }
    }

    #[inline(always)]
    fn lookup16(self, table: &uint8x16x4_t) -> I128 {
        // SAFETY: `self` proves NEON.
        I128(unsafe { vreinterpretq_s32_u8(vqtbl4q_u8(*table, self.bytes())) })
    }

    #[inline(always)]
    fn lookup64(self, table: &[u32; 64]) -> (I128, I128) {
        let mut at = [0; 4];
        self.store(&mut at);
        let pairs = at.map(|at| table[(at & 63) as usize]);
        // SAFETY: `self` proves NEON, and four pairs are there.
        unsafe {
            let x = vld1q_u32(pairs.as_ptr());
            let (low, high) = (vandq_u32(x, vdupq_n_u32(0xFFFF)), vshrq_n_u32::<16>(x));
            (I128(vreinterpretq_s32_u32(low)), I128(vreinterpretq_s32_u32(high)))
        }
    }

    // Shifts go by the low byte of the count, with its sign: to the left, or if negative to the right.
    methods!(
        shl(n) -> I128: vshlq_s32,
        min(other) -> I128: vminq_s32,
        max(other) -> I128: vmaxq_s32,
        abs() -> I128: vabsq_s32,
        leading_zeros() -> I128: vclzq_s32,
        gt(other) -> Mask128: vcgtq_s32,
        eq(other) -> Mask128: vceqq_s32,
    );

    #[inline(always)]
    fn left(self, n: i32) -> I128 {
        // SAFETY: `self` proves NEON.
        self.shl(I128(unsafe { vdupq_n_s32(n) }))
    }

    #[inline(always)]
    fn right(self, n: i32) -> I128 {
        // SAFETY: `self` proves NEON.
        self.shr(I128(unsafe { vdupq_n_s32(n) }))
    }

    #[inline(always)]
    fn right_signed(self, n: i32) -> I128 {
        // SAFETY: `self` proves NEON.
        self.sar(I128(unsafe { vdupq_n_s32(n) }))
    }

    #[inline(always)]
    fn shr(self, n: I128) -> I128 {
        // SAFETY: `self` proves NEON.
        I128(unsafe { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(self.0), vnegq_s32(n.0))) })
    }

    #[inline(always)]
    fn sar(self, n: I128) -> I128 {
        // SAFETY: `self` proves NEON.
        I128(unsafe { vshlq_s32(self.0, vnegq_s32(n.0)) })
    }

    #[inline(always)]
    fn shl_any(self, n: I128) -> I128 {
        self.shl(n.at_most_32())
    }

    #[inline(always)]
    fn shr_any(self, n: I128) -> I128 {
        self.shr(n.at_most_32())
    }

    #[inline(always)]
    fn sign(self, by: I128) -> I128 {
        // SAFETY: `self` proves NEON.
        unsafe {
            let sign = vshrq_n_s32::<31>(by.0);
            let x = vsubq_s32(veorq_s32(self.0, sign), sign);
            I128(vandq_s32(x, vreinterpretq_s32_u32(vtstq_s32(by.0, by.0))))
        }
    }

    #[inline(always)]
    fn exponent(self) -> I128 {
        // SAFETY: `self` proves NEON. With the bit below the leading one cleared no float rounds up to the next octave.
        unsafe {
            let half = vreinterpretq_s32_u32(vshrq_n_u32::<1>(vreinterpretq_u32_s32(self.0)));
            let x = vcvtq_f32_s32(vbicq_s32(self.0, half));
            I128(vreinterpretq_s32_u32(vshrq_n_u32::<23>(vreinterpretq_u32_f32(x))))
        }
    }

    #[inline(always)]
    fn float(self) -> I128 {
        // SAFETY: `self` proves NEON.
        I128(unsafe { vreinterpretq_s32_f32(vcvtq_f32_s32(self.0)) })
    }

    #[inline(always)]
    fn shrunk(self, by: I128) -> I128 {
        // SAFETY: `self` proves NEON.
        I128(unsafe { vsraq_n_s32::<16>(self.0, vmulq_s32(self.0, by.0)) })
    }

    #[inline(always)]
    fn grown(self, by: I128) -> I128 {
        // SAFETY: `self` proves NEON.
        I128(unsafe { vrsraq_n_s32::<15>(self.0, vmulq_s32(self.0, by.0)) })
    }

    #[inline(always)]
    fn high_product(self, by: I128) -> I128 {
        // SAFETY: `self` proves NEON. Halves without sign: the product fits 32 bits.
        unsafe {
            let low = vandq_u32(vreinterpretq_u32_s32(self.0), vdupq_n_u32(0xFFFF));
            let product = vmulq_u32(low, vreinterpretq_u32_s32(by.0));
            I128(vreinterpretq_s32_u32(vshrq_n_u32::<16>(product)))
        }
    }

    #[inline(always)]
    fn part(self, by: I128) -> I128 {
        // SAFETY: `self` proves NEON. At most 2^16 * (2^16 - 1).
        unsafe {
            let product = vmulq_u32(vreinterpretq_u32_s32(self.0), vreinterpretq_u32_s32(by.0));
            I128(vreinterpretq_s32_u32(vshrq_n_u32::<16>(product)))
        }
    }

    #[inline(always)]
    fn quotient(self, by: I128) -> I128 {
        // SAFETY: `self` proves NEON. The quotient of the nearest floats is within 2^-7 of the true one, which is below 2^16; so rounded
        // down it is off by at most one. Masks are -1.
        unsafe {
            let x = vcvtq_f32_u32(vreinterpretq_u32_s32(self.0));
            let guess = I128(vcvtq_s32_f32(vdivq_f32(x, vcvtq_f32_s32(by.0))));
            let rest = (self - guess * by).0;
            let (low, high) = (vcgeq_s32(rest, by.0), vcltzq_s32(rest));
            let guess = vsubq_s32(guess.0, vreinterpretq_s32_u32(low));
            I128(vaddq_s32(guess, vreinterpretq_s32_u32(high)))
        }
    }

    #[inline(always)]
    fn scaled(self, by: I128, bits: u32) -> I128 {
        // SAFETY: `self` proves NEON. A rounding shift to the left, by a negative count.
        unsafe {
            let count = vdupq_n_s64(-i64::from(bits));
            let low = vmull_s32(vget_low_s32(self.0), vget_low_s32(by.0));
            let high = vmull_high_s32(self.0, by.0);
            I128(vmovn_high_s64(vmovn_s64(vrshlq_s64(low, count)), vrshlq_s64(high, count)))
        }
    }

    #[inline(always)]
    fn keep(self, mask: Mask128) -> I128 {
        // SAFETY: `self` proves NEON.
        I128(unsafe { vandq_s32(self.0, vreinterpretq_s32_u32(mask.0)) })
    }

    #[inline(always)]
    fn select(mask: Mask128, a: I128, b: I128) -> I128 {
        // SAFETY: `a` proves NEON.
        I128(unsafe { vbslq_s32(mask.0, a.0, b.0) })
    }

    #[inline(always)]
    fn not(mask: Mask128) -> Mask128 {
        // SAFETY: a mask comes from a comparison and so proves NEON.
        Mask128(unsafe { vmvnq_u32(mask.0) })
    }

    #[inline(always)]
    fn bits(mask: Mask128) -> u32 {
        // SAFETY: a mask comes from a comparison and so proves NEON; four integers are there.
        unsafe { vaddvq_u32(vandq_u32(mask.0, vld1q_u32([1, 2, 4, 8].as_ptr()))) }
    }

    #[inline(always)]
    fn refill(self, mask: Mask128, words: &[u8], at: usize) -> (I128, usize) {
        let bits = Self::bits(mask);
        // SAFETY: `self` proves NEON, and eight bytes are there.
        let load = |x: &[u8]| unsafe { vld1_u8(x[..8].as_ptr()) };
        let next = match words.get(at..).and_then(|w| w.get(..8)) {
            Some(words) => load(words),
            None => load(&last_words(words, at)),
        };
        // SAFETY: `self` proves NEON, and 16 places are there.
        let refilled = unsafe {
            let places = vld1q_u8(SPREAD[bits as usize & 15].as_ptr());
            let next = vqtbl1q_u8(vcombine_u8(next, vdup_n_u8(0)), places);
            I128(vorrq_s32(vshlq_n_s32::<16>(self.0), vreinterpretq_s32_u8(next)))
        };
        (Self::select(mask, refilled, self), at + 2 * bits.count_ones() as usize)
    }

    #[inline(always)]
    fn emit(self, mask: Mask128, out: &mut [u16], at: usize) -> usize {
        let bits = Self::bits(mask);
        // SAFETY: `self` proves NEON; 16 places are there, and room for four words.
        unsafe {
            let places = vld1q_u8(GATHER[bits as usize & 15].as_ptr());
            let words = vqtbl1q_u8(vreinterpretq_u8_s32(self.0), places);
            vst1_u8(out[at..at + 4].as_mut_ptr().cast(), vget_low_u8(words));
        }
        at + bits.count_ones() as usize
    }
}

impl I128 {
    /// The places of the bytes of 32-bit numbers in a table, in turn: 4i, 4i + 1, 4i + 2 and 4i + 3.
    #[inline(always)]
    fn bytes(self) -> uint8x16_t {
        // SAFETY: `self` proves NEON.
        unsafe { vreinterpretq_u8_s32(vmlaq_n_s32(vdupq_n_s32(0x0302_0100), self.0, 0x0404_0404)) }
    }

    /// The number without sign, 32 if it is more: a count that leaves nothing of an integer, to either side.
    #[inline(always)]
    fn at_most_32(self) -> I128 {
        // SAFETY: `self` proves NEON.
        I128(unsafe { vreinterpretq_s32_u32(vminq_u32(vreinterpretq_u32_s32(self.0), vdupq_n_u32(32))) })
    }
}
