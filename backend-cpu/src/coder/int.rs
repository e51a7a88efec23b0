//! What the coder needs of vectors of 32-bit integers, and the vector of one that the scalar path uses.
//!
//! The coder is written once, for any vector; instruction sets fill in these few operations. A value can only be made from a proof
//! that the CPU has the instructions, so whatever is computed from it needs no other.

use core::fmt::Debug;
use core::ops::{Add, BitAnd, BitOr, BitXor, Mul, Sub};

use speckv_predictor::core::Symbol;

/// A vector of [`Int::N`] 32-bit integers. Additions, subtractions and products wrap.
pub(crate) trait Int:
    Copy
    + Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
{
    /// Integers, a divisor of 32.
    const N: usize;
    /// That the CPU can compute.
    type Proof: Copy;
    /// One boolean an integer.
    type Mask: Copy + BitAnd<Output = Self::Mask> + BitOr<Output = Self::Mask>;
    /// 8 integers.
    type Table8: Copy;
    /// 16 integers.
    type Table16: Copy;
    /// 64 pairs of 16-bit numbers.
    type Table64: Copy;

    /// The same number everywhere.
    fn splat(proof: Self::Proof, x: i32) -> Self;
    /// The first `N` of `x`.
    fn load(proof: Self::Proof, x: &[i32]) -> Self;
    /// The first `N` of `x`, widened.
    fn load_i16(proof: Self::Proof, x: &[i16]) -> Self;
    /// The first `N` of `x`, widened without sign.
    fn load_u16(proof: Self::Proof, x: &[u16]) -> Self;
    /// The first `N` of `x` as two words each: `start | freq << 16` and `raw | raw_bits << 16`.
    fn load_symbols(proof: Self::Proof, x: &[Symbol]) -> (Self, Self);
    /// Sets the first `N` of `out`.
    fn store(self, out: &mut [i32]);
    /// Sets the first `N` of `out` to the low halves.
    fn store_u16(self, out: &mut [u16]);
    /// The inverse of [`Int::load_symbols`].
    fn store_symbols(self, high: Self, out: &mut [Symbol]);
    /// A table to look up.
    fn table8(proof: Self::Proof, x: &[i32; 8]) -> Self::Table8;
    /// A table to look up.
    fn table16(proof: Self::Proof, x: &[i32; 16]) -> Self::Table16;
    /// A table to look up.
    fn table64(proof: Self::Proof, x: &[(u16, u16); 64]) -> Self::Table64;
    /// `table[self & 7]`.
    fn lookup8(self, table: &Self::Table8) -> Self;
    /// `table[self]`, 0..16.
    fn lookup16(self, table: &Self::Table16) -> Self;
    /// `table[self]`, 0..64; elsewhere anything.
    fn lookup64(self, table: &Self::Table64) -> (Self, Self);
    /// [`Int::lookup64`] of two and of four, for what does many as cheaply as one.
    #[inline(always)]
    fn lookup64_two(x: [Self; 2], table: &Self::Table64) -> [(Self, Self); 2] {
        [x[0].lookup64(table), x[1].lookup64(table)]
    }
    /// As above.
    #[inline(always)]
    fn lookup64_four(x: [Self; 4], table: &Self::Table64) -> [(Self, Self); 4] {
        [x[0].lookup64(table), x[1].lookup64(table), x[2].lookup64(table), x[3].lookup64(table)]
    }
    /// Left by `0 <= n < 32` bits.
    fn left(self, n: i32) -> Self;
    /// Right by `0 <= n < 32` bits, zeros from the left.
    fn right(self, n: i32) -> Self;
    /// Right by `0 <= n < 32` bits with the sign.
    fn right_signed(self, n: i32) -> Self;
    /// Left by `0 <= n < 32` bits; by other numbers anything.
    fn shl(self, n: Self) -> Self;
    /// Right by `0 <= n < 32` bits, zeros from the left; by other numbers anything.
    fn shr(self, n: Self) -> Self;
    /// Right by `0 <= n < 32` bits with the sign; by other numbers anything.
    fn sar(self, n: Self) -> Self;
    /// Left by `n` bits; 0 unless `0 <= n < 32`.
    fn shl_any(self, n: Self) -> Self;
    /// Right by `n` bits, zeros from the left; 0 unless `0 <= n < 32`.
    fn shr_any(self, n: Self) -> Self;
    /// The smaller one, signed.
    fn min(self, other: Self) -> Self;
    /// The greater one, signed.
    fn max(self, other: Self) -> Self;
    /// Without its sign; `self > -2^31`.
    fn abs(self) -> Self;
    /// With the sign of `by` too; `self > -2^31`. If `by` is 0, `self` or 0.
    fn sign(self, by: Self) -> Self;
    /// Leading zeros of `0 <= self`; 32 for 0.
    fn leading_zeros(self) -> Self;
    /// `ilog2(self) + 127`, or 0 for 0; of negative numbers anything.
    fn exponent(self) -> Self;
    /// The bits of `0 <= self < 2^24` as `f32`.
    fn float(self) -> Self;
    /// `self + (self * by >> 16)`, where both, and the result, fit 16 bits with a sign and `by <= 0`; elsewhere anything.
    fn shrunk(self, by: Self) -> Self;
    /// `self + (self * by + 2^14 >> 15)`, where both, and the result, fit 16 bits with a sign and `by >= 0`; elsewhere anything.
    fn grown(self, by: Self) -> Self;
    /// `self * by >> 16`, of the low halves without sign; `0 <= by < 2^16`.
    fn high_product(self, by: Self) -> Self;
    /// `self * by >> 16`; `0 <= self <= 2^16`, `1 <= by < 2^16`; elsewhere anything.
    fn part(self, by: Self) -> Self;
    /// `floor(self / by)` of numbers without sign, if that is below 2^16; `1 <= by < 2^16`.
    fn quotient(self, by: Self) -> Self;
    /// `(self * by + 2^(bits - 1)) >> bits`, signed and exact, if that fits; `1 <= bits <= 32`.
    fn scaled(self, by: Self, bits: u32) -> Self;
    /// `self > other`, signed.
    fn gt(self, other: Self) -> Self::Mask;
    /// `self == other`.
    fn eq(self, other: Self) -> Self::Mask;
    /// `self` where the mask says so, else 0.
    fn keep(self, mask: Self::Mask) -> Self;
    /// `a` where the mask says so, else `b`.
    fn select(mask: Self::Mask, a: Self, b: Self) -> Self;
    /// The mask turned round.
    fn not(mask: Self::Mask) -> Self::Mask;
    /// The mask, lane 0 in bit 0.
    fn bits(mask: Self::Mask) -> u32;
    /// `self << 16 | word` where the mask says so, with the next word (2 bytes of `words` from `at` on, zeros past the end) for each
    /// such lane in turn. Returns the offset after the last.
    fn refill(self, mask: Self::Mask, words: &[u8], at: usize) -> (Self, usize);
    /// Writes the low halves of the lanes that the mask names, the last lane first, to `out[at..]` (which has room for `N`). Returns the
    /// offset after the last; what lies behind it means nothing.
    fn emit(self, mask: Self::Mask, out: &mut [u16], at: usize) -> usize;
}

/// The word at `at`; 0 past the end.
#[inline(always)]
pub(crate) fn word(words: &[u8], at: usize) -> u32 {
    match words.get(at..) {
        Some([low, high, ..]) => u32::from(*low) | u32::from(*high) << 8,
        _ => 0,
    }
}

/// A vector of one, for CPUs without anything better.
#[derive(Clone, Copy, Debug)]
pub(crate) struct One(i32);

macro_rules! operators {
    ($($trait:ident $name:ident $with:ident),*) => {
        $(impl $trait for One {
            type Output = One;

            #[inline(always)]
            fn $name(self, other: One) -> One {
                One(self.0.$with(other.0))
            }
        })*
    };
}
operators!(Add add wrapping_add, Sub sub wrapping_sub, Mul mul wrapping_mul, BitAnd bitand bitand, BitOr bitor bitor,
           BitXor bitxor bitxor);

impl Int for One {
    const N: usize = 1;
    type Proof = ();
    type Mask = bool;
    type Table8 = [i32; 8];
    type Table16 = [i32; 16];
    type Table64 = [(u16, u16); 64];

    #[inline(always)]
    fn splat((): (), x: i32) -> One {
        One(x)
    }

    #[inline(always)]
    fn load((): (), x: &[i32]) -> One {
        One(x[0])
    }

    #[inline(always)]
    fn load_i16((): (), x: &[i16]) -> One {
        One(x[0].into())
    }

    #[inline(always)]
    fn load_u16((): (), x: &[u16]) -> One {
        One(x[0].into())
    }

    #[inline(always)]
    fn load_symbols((): (), x: &[Symbol]) -> (One, One) {
        let Symbol { start, freq, raw, raw_bits } = x[0];
        let pair = |low: u16, high: u16| One((u32::from(low) | u32::from(high) << 16) as i32);
        (pair(start, freq), pair(raw, raw_bits))
    }

    #[inline(always)]
    fn store(self, out: &mut [i32]) {
        out[0] = self.0;
    }

    #[inline(always)]
    fn store_u16(self, out: &mut [u16]) {
        out[0] = self.0 as u16;
    }

    #[inline(always)]
    fn store_symbols(self, high: One, out: &mut [Symbol]) {
        let (low, high) = (self.0 as u32, high.0 as u32);
        out[0] = Symbol {
            start: low as u16,
            freq: (low >> 16) as u16,
            raw: high as u16,
            raw_bits: (high >> 16) as u16,
        };
    }

    #[inline(always)]
    fn table8((): (), x: &[i32; 8]) -> [i32; 8] {
        *x
    }

    #[inline(always)]
    fn table16((): (), x: &[i32; 16]) -> [i32; 16] {
        *x
    }

    #[inline(always)]
    fn table64((): (), x: &[(u16, u16); 64]) -> [(u16, u16); 64] {
        *x
    }

    #[inline(always)]
    fn lookup8(self, table: &[i32; 8]) -> One {
        One(table[(self.0 & 7) as usize])
    }

    #[inline(always)]
    fn lookup16(self, table: &[i32; 16]) -> One {
        One(table[(self.0 & 15) as usize])
    }

    #[inline(always)]
    fn lookup64(self, table: &[(u16, u16); 64]) -> (One, One) {
        let (a, b) = table[(self.0 & 63) as usize];
        (One(a.into()), One(b.into()))
    }

    #[inline(always)]
    fn left(self, n: i32) -> One {
        One(self.0 << n)
    }

    #[inline(always)]
    fn right(self, n: i32) -> One {
        One((self.0 as u32 >> n) as i32)
    }

    #[inline(always)]
    fn right_signed(self, n: i32) -> One {
        One(self.0 >> n)
    }

    #[inline(always)]
    fn shl(self, n: One) -> One {
        One(self.0.wrapping_shl(n.0 as u32))
    }

    #[inline(always)]
    fn shr(self, n: One) -> One {
        One((self.0 as u32).wrapping_shr(n.0 as u32) as i32)
    }

    #[inline(always)]
    fn sar(self, n: One) -> One {
        One(self.0.wrapping_shr(n.0 as u32))
    }

    #[inline(always)]
    fn shl_any(self, n: One) -> One {
        if (n.0 as u32) < 32 { self.shl(n) } else { One(0) }
    }

    #[inline(always)]
    fn shr_any(self, n: One) -> One {
        if (n.0 as u32) < 32 { self.shr(n) } else { One(0) }
    }

    #[inline(always)]
    fn min(self, other: One) -> One {
        One(self.0.min(other.0))
    }

    #[inline(always)]
    fn max(self, other: One) -> One {
        One(self.0.max(other.0))
    }

    #[inline(always)]
    fn leading_zeros(self) -> One {
        One(self.0.leading_zeros() as i32)
    }

    #[inline(always)]
    fn abs(self) -> One {
        One(self.0.wrapping_abs())
    }

    #[inline(always)]
    fn sign(self, by: One) -> One {
        One(self.0.wrapping_mul(by.0.signum()))
    }

    #[inline(always)]
    fn exponent(self) -> One {
        One((self.0 as u32).checked_ilog2().map_or(0, |log| log as i32 + 127))
    }

    #[inline(always)]
    fn float(self) -> One {
        One((self.0 as f32).to_bits() as i32)
    }

    #[inline(always)]
    fn shrunk(self, by: One) -> One {
        One(self.0.wrapping_add(self.0.wrapping_mul(by.0) >> 16))
    }

    #[inline(always)]
    fn grown(self, by: One) -> One {
        One(self.0.wrapping_add((self.0.wrapping_mul(by.0).wrapping_add(1 << 14)) >> 15))
    }

    #[inline(always)]
    fn high_product(self, by: One) -> One {
        One(((u32::from(self.0 as u16) * u32::from(by.0 as u16)) >> 16) as i32)
    }

    #[inline(always)]
    fn part(self, by: One) -> One {
        One(((i64::from(self.0) * i64::from(by.0)) >> 16) as i32)
    }

    #[inline(always)]
    fn quotient(self, by: One) -> One {
        One((self.0 as u32 / by.0 as u32) as i32)
    }

    #[inline(always)]
    fn scaled(self, by: One, bits: u32) -> One {
        One(((i64::from(self.0) * i64::from(by.0) + (1 << (bits - 1))) >> bits) as i32)
    }

    #[inline(always)]
    fn gt(self, other: One) -> bool {
        self.0 > other.0
    }

    #[inline(always)]
    fn eq(self, other: One) -> bool {
        self.0 == other.0
    }

    #[inline(always)]
    fn keep(self, mask: bool) -> One {
        if mask { self } else { One(0) }
    }

    #[inline(always)]
    fn select(mask: bool, a: One, b: One) -> One {
        if mask { a } else { b }
    }

    #[inline(always)]
    fn not(mask: bool) -> bool {
        !mask
    }

    #[inline(always)]
    fn bits(mask: bool) -> u32 {
        mask.into()
    }

    #[inline(always)]
    fn refill(self, mask: bool, words: &[u8], at: usize) -> (One, usize) {
        if mask { (One(self.0 << 16 | word(words, at) as i32), at + 2) } else { (self, at) }
    }

    #[inline(always)]
    fn emit(self, mask: bool, out: &mut [u16], at: usize) -> usize {
        out[at] = self.0 as u16;
        at + usize::from(mask)
    }
}
