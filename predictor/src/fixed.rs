//! Fixed-point numbers: saturating values, rounding shifts, and [`Scale`], an integer mantissa with an exponent.
//!
//! Law: `docs/numerics.md`, section 1.

/// Largest magnitude of any fixed-point value: sums of two never overflow an `i32`.
pub const LIMIT: i32 = (1 << 30) - 1;

/// `v` brought into `-LIMIT..=LIMIT`.
#[inline(always)]
pub fn saturate(v: i64) -> i32 {
    v.clamp(-(LIMIT as i64), LIMIT as i64) as i32
}

/// `round(v * 2^shift)`, halves toward plus infinity, saturated to the fixed-point range. Any `shift`; `|v| < 2^62`.
#[inline(always)]
pub fn shift_round(v: i64, shift: i32) -> i32 {
    if shift < 0 {
        let n = -shift;
        if n > 62 { 0 } else { saturate((v + (1 << (n - 1))) >> n) }
    } else if v == 0 {
        0
    } else if shift > 30 {
        if v > 0 { LIMIT } else { -LIMIT }
    } else {
        saturate(v.clamp(-(1 << 31), 1 << 31) << shift)
    }
}

/// A non-negative real `m * 2^e` with a 15-bit mantissa: `2^14 <= m < 2^15`, or `m = 0`.
///
/// Relative precision 2^-15. `e` stays within +-4096 for every product that the predictor forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// Mantissa, 0 or `2^14..2^15`.
    pub m: i16,
    /// Exponent.
    pub e: i16,
}

impl Scale {
    /// One.
    pub const ONE: Scale = Scale { m: 1 << 14, e: -14 };
    /// Zero.
    pub const ZERO: Scale = Scale { m: 0, e: 0 };

    /// `v * 2^e`, rounded to 15 bits (halves up).
    pub fn new(v: u64, e: i32) -> Scale {
        if v == 0 {
            return Scale::ZERO;
        }
        let top = v.ilog2() as i32;
        let (m, e) = if top <= 14 {
            (v << (14 - top), e - (14 - top))
        } else {
            let n = top - 14;
            let m = ((v >> (n - 1)) + 1) >> 1;
            if m == 1 << 15 { (1 << 14, e + n + 1) } else { (m, e + n) }
        };
        Scale { m: m as i16, e: e.clamp(-4096, 4096) as i16 }
    }

    /// The product, rounded.
    pub fn times(self, other: Scale) -> Scale {
        Scale::new(self.m as u64 * other.m as u64, self.e as i32 + other.e as i32)
    }

    /// `self * 2^n`.
    pub fn shifted(self, n: i32) -> Scale {
        if self.m == 0 { self } else { Scale { m: self.m, e: (self.e as i32 + n).clamp(-4096, 4096) as i16 } }
    }

    /// `1 / self`; zero stays zero.
    pub fn recip(self) -> Scale {
        if self.m == 0 { self } else { Scale::new((1 << 44) / self.m as u64, -44 - self.e as i32) }
    }

    /// The power of two at or below the value, as an exponent; `None` for zero.
    pub fn log2_floor(self) -> Option<i32> {
        (self.m != 0).then_some(self.e as i32 + 14)
    }
}

/// `round(acc * a * b)`, saturated: the one rounding multiply behind every product. `|acc| < 2^31`: the product stays below 2^61.
#[inline(always)]
pub fn scaled(acc: i32, a: Scale, b: Scale) -> i32 {
    shift_round(acc as i64 * (a.m as i64 * b.m as i64), a.e as i32 + b.e as i32)
}

/// Floor of the square root.
pub fn isqrt(v: u64) -> u64 {
    v.isqrt()
}
