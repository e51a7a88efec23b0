//! Two vectors as one: what happens to the second fills the time in which the first waits for itself. Decoding is one long chain of dependent
//! operations, and processors look ahead less far than a vector's worth of it.

use core::ops::{Add, BitAnd, BitOr, BitXor, Mul, Sub};

use speckv_predictor::core::Symbol;

use super::int::Int;

/// `2 N` integers: the first `N`, then the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<T>(T, T);

macro_rules! operators {
    ($($trait:ident $name:ident),*) => {
        $(impl<T: $trait<Output = T>> $trait for Pair<T> {
            type Output = Pair<T>;

            #[inline(always)]
            fn $name(self, other: Pair<T>) -> Pair<T> {
                Pair(self.0.$name(other.0), self.1.$name(other.1))
            }
        })*
    };
}
operators!(Add add, Sub sub, Mul mul, BitAnd bitand, BitOr bitor, BitXor bitxor);

/// Methods that do the same to both.
macro_rules! both {
    ($($name:ident($($other:ident)?) -> $ret:ty),* $(,)?) => {
        $(#[inline(always)]
        fn $name(self $(, $other: Self)?) -> $ret {
            Pair(self.0.$name($($other.0)?), self.1.$name($($other.1)?))
        })*
    };
}

/// Functions that read the `N` after `N`.
macro_rules! loads {
    ($($name:ident: $item:ty),* $(,)?) => {
        $(#[inline(always)]
        fn $name(proof: V::Proof, x: &[$item]) -> Self {
            Pair(V::$name(proof, x), V::$name(proof, &x[V::N..]))
        })*
    };
}

impl<V: Int> Int for Pair<V> {
    const N: usize = 2 * V::N;
    type Proof = V::Proof;
    type Mask = Pair<V::Mask>;
    type Table8 = V::Table8;
    type Table16 = V::Table16;
    type Table64 = V::Table64;

    #[inline(always)]
    fn splat(proof: V::Proof, x: i32) -> Self {
        let x = V::splat(proof, x);
        Pair(x, x)
    }

    loads!(load: i32, load_i16: i16, load_u16: u16);

    #[inline(always)]
    fn load_symbols(proof: V::Proof, x: &[Symbol]) -> (Self, Self) {
        let (a, b) = (V::load_symbols(proof, x), V::load_symbols(proof, &x[V::N..]));
        (Pair(a.0, b.0), Pair(a.1, b.1))
    }

    #[inline(always)]
    fn store(self, out: &mut [i32]) {
        self.0.store(out);
        self.1.store(&mut out[V::N..]);
    }

    #[inline(always)]
    fn store_u16(self, out: &mut [u16]) {
        self.0.store_u16(out);
        self.1.store_u16(&mut out[V::N..]);
    }

    #[inline(always)]
    fn store_symbols(self, high: Self, out: &mut [Symbol]) {
        self.0.store_symbols(high.0, out);
        self.1.store_symbols(high.1, &mut out[V::N..]);
    }

    #[inline(always)]
    fn table8(proof: V::Proof, x: &[i32; 8]) -> V::Table8 {
        V::table8(proof, x)
    }

    #[inline(always)]
    fn table16(proof: V::Proof, x: &[i32; 16]) -> V::Table16 {
        V::table16(proof, x)
    }

    #[inline(always)]
    fn table64(proof: V::Proof, x: &[(u16, u16); 64]) -> V::Table64 {
        V::table64(proof, x)
    }

    #[inline(always)]
    fn lookup8(self, table: &V::Table8) -> Self {
        Pair(self.0.lookup8(table), self.1.lookup8(table))
    }

    #[inline(always)]
    fn lookup16(self, table: &V::Table16) -> Self {
        Pair(self.0.lookup16(table), self.1.lookup16(table))
    }

    #[inline(always)]
    fn lookup64(self, table: &V::Table64) -> (Self, Self) {
        let [a, b] = V::lookup64_two([self.0, self.1], table);
        (Pair(a.0, b.0), Pair(a.1, b.1))
    }

    #[inline(always)]
    fn lookup64_two(x: [Self; 2], table: &V::Table64) -> [(Self, Self); 2] {
        let [a, b, c, d] = V::lookup64_four([x[0].0, x[0].1, x[1].0, x[1].1], table);
        [(Pair(a.0, b.0), Pair(a.1, b.1)), (Pair(c.0, d.0), Pair(c.1, d.1))]
    }

    both!(
        shl(n) -> Self,
        shr(n) -> Self,
        sar(n) -> Self,
        shl_any(n) -> Self,
        shr_any(n) -> Self,
        min(other) -> Self,
        max(other) -> Self,
        abs() -> Self,
        sign(by) -> Self,
        leading_zeros() -> Self,
        exponent() -> Self,
        float() -> Self,
        shrunk(by) -> Self,
        grown(by) -> Self,
        high_product(by) -> Self,
        part(by) -> Self,
        quotient(by) -> Self,
        gt(other) -> Self::Mask,
        eq(other) -> Self::Mask,
    );

    #[inline(always)]
    fn left(self, n: i32) -> Self {
        Pair(self.0.left(n), self.1.left(n))
    }

    #[inline(always)]
    fn right(self, n: i32) -> Self {
        Pair(self.0.right(n), self.1.right(n))
    }

    #[inline(always)]
    fn right_signed(self, n: i32) -> Self {
        Pair(self.0.right_signed(n), self.1.right_signed(n))
    }

    #[inline(always)]
    fn scaled(self, by: Self, bits: u32) -> Self {
        Pair(self.0.scaled(by.0, bits), self.1.scaled(by.1, bits))
    }

    #[inline(always)]
    fn keep(self, mask: Self::Mask) -> Self {
        Pair(self.0.keep(mask.0), self.1.keep(mask.1))
    }

    #[inline(always)]
    fn select(mask: Self::Mask, a: Self, b: Self) -> Self {
        Pair(V::select(mask.0, a.0, b.0), V::select(mask.1, a.1, b.1))
    }

    #[inline(always)]
    fn not(mask: Self::Mask) -> Self::Mask {
        Pair(V::not(mask.0), V::not(mask.1))
    }

    #[inline(always)]
    fn bits(mask: Self::Mask) -> u32 {
        V::bits(mask.0) | V::bits(mask.1) << V::N
    }

    #[inline(always)]
    fn refill(self, mask: Self::Mask, words: &[u8], at: usize) -> (Self, usize) {
        let (first, at) = self.0.refill(mask.0, words, at);
        let (second, at) = self.1.refill(mask.1, words, at);
        (Pair(first, second), at)
    }

    #[inline(always)]
    fn emit(self, mask: Self::Mask, out: &mut [u16], at: usize) -> usize {
        let at = self.1.emit(mask.1, out, at);
        self.0.emit(mask.0, out, at)
    }
}
