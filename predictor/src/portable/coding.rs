//! Between predictions and the coder: units of the cache, innovations, energies, token scales (numerics.md, section 8).

use speckv_codec_core::ElementFormat;

use crate::fixed::{Scale, shift_round};
use crate::tables::Tables;

/// Largest scale index of the probability model.
pub const MAX_SCALE_INDEX: i32 = 479;
/// Log-energies have 12 fractional bits.
pub const ENERGY_ONE: i32 = 1 << 12;

/// What one code step means: real value = code value * `m * 2^e`. From the cache's f32 scale, without any float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Mantissa, `2^23 <= m < 2^24`.
    pub m: u32,
    /// Exponent.
    pub e: i32,
}

impl Unit {
    /// Codes are the values (bf16 and f16 caches).
    pub const ONE: Unit = Unit { m: 1 << 23, e: -23 };

    /// From the bits of a positive, finite, normal f32; `None` otherwise.
    pub fn from_f32_bits(bits: u32) -> Option<Unit> {
        let exponent = bits >> 23;
        (1..255).contains(&exponent).then(|| Unit { m: bits & 0x7F_FFFF | 1 << 23, e: exponent as i32 - 150 })
    }

    /// The plane exponent of code units for values with `exponent` fraction bits.
    pub fn code_exponent(self, exponent: i32) -> i32 {
        exponent + self.e + 23
    }

    /// A value as a fixed-point code value: `round(mu / (m / 2^23))`, no larger than `mu`.
    #[inline(always)]
    pub fn to_code(self, mu: i32) -> i32 {
        if self.m == 1 << 23 {
            return mu;
        }
        let recip = (1i64 << 54) / self.m as i64;
        ((mu as i64 * recip + (1 << 30)) >> 31) as i32
    }

    /// The inverse of [`Unit::to_code`], saturated.
    #[inline(always)]
    pub fn from_code(self, v: i32) -> i32 {
        shift_round(v as i64 * self.m as i64, -23)
    }

    /// What to add to scale indices (1/16 octave) when values become code values: `-16 log2(m / 2^23)`, rounded.
    pub fn index_shift(self, tables: &Tables) -> i16 {
        -((tables.log2_q12(self.m as u64) - (23 << 12) + 128) >> 8) as i16
    }

    /// The value of a code with `exponent` fraction bits, saturated; NaNs and infinities count as the numbers their bits would be.
    #[inline]
    pub fn value(self, code: u16, format: ElementFormat, exponent: i32) -> i32 {
        let (w, mb) = (format.width(), format.mantissa_bits());
        let m = (code & ((1 << (w - 1)) - 1)) as i64;
        let (e, f) = ((m >> mb) as i32, m & ((1 << mb) - 1));
        let sig = if e == 0 { f } else { f | 1 << mb };
        let v = shift_round(sig * self.m as i64, e.max(1) - format.bias() - mb as i32 + self.e + exponent);
        if code >> (w - 1) != 0 { -v } else { v }
    }
}

/// `10 s^2 / (10 s^2 + w^2)` for `log2(w / s) = t / 16`, 15 fractional bits: how far knowing the cell of width `w` says more than its nearest point
/// when the prediction's scale is `s`: linear least squares against rounding noise, whose variance w^2/12 heavy tails make look like w^2/10.
#[derive(Clone, Debug)]
pub struct Shrink([i32; 256]);

impl Shrink {
    /// Computes the table from exp2.
    pub fn new(tables: &Tables) -> Shrink {
        Shrink(core::array::from_fn(|i| {
            let t = i as i32 - 128;
            // (w/s)^2 = 2^(t/8), 20 fractional bits.
            let octave = t.div_euclid(8);
            let frac = tables.exp2[256 - 32 * t.rem_euclid(8) as usize] as i64 * 2; // 2^(frac/8), Q30: 2 * 2^-(1 - frac/8)
            let square = if octave >= 10 { frac << (octave - 10) } else { frac >> (10 - octave) };
            let ten = 10i64 << 20;
            ((ten << 15) / (ten + square)) as i32
        }))
    }

    /// The factors, by `t + 128`; each 0..=32767.
    pub fn factors(&self) -> &[i32; 256] {
        &self.0
    }

    /// The expected value, relative to the prediction, of a scalar known to lie `lo..hi` from it, with scale `2^(q/16)`.
    #[inline]
    pub fn innovation(&self, lo: i32, hi: i32, q: i32, tables: &Tables) -> i32 {
        let near = 0.clamp(lo, hi) as i64;
        let centre = (lo as i64 + hi as i64) >> 1;
        let width = (hi as i64 - lo as i64).max(1) as u64;
        let t = ((tables.log2_q12(width) >> 8) - q).clamp(-128, 127);
        shift_round(((near << 15) + (centre - near) * self.0[(t + 128) as usize] as i64) >> 15, 0)
    }
}

/// log2 of the mean square of `z` (1024 is one scale, `|z| <= 16384`), 12 fractional bits, never below about -10.
pub fn energy(sum_of_squares: u64, count: usize, tables: &Tables) -> i32 {
    tables.log2_q12(sum_of_squares / count as u64 + 1024) - (20 << 12)
}

/// log2 of the mean square of fixed-point values with `exponent` fraction bits, 12 fractional bits.
pub fn log_power(x: &[i32], exponent: i32, tables: &Tables) -> i32 {
    let sum: u64 = x.iter().map(|v| (*v as i64 >> 8) * (*v as i64 >> 8)).sum::<i64>() as u64;
    tables.log2_q12(sum / x.len() as u64 + 1) - ((2 * (exponent - 8)) << 12)
}

/// A token's scale offset in 1/16 octaves: features (12 fractional bits) times weights (16 fractional bits) plus `bias` (28 fractional bits).
pub fn token_scale(features: impl Iterator<Item = (i32, i32)>, bias: i64) -> i32 {
    let sum: i64 = features.map(|(f, w)| f as i64 * w as i64).sum::<i64>() + bias;
    ((sum + (1 << 27)) >> 28).clamp(-400, 400) as i32
}

/// A scale whose real value is `sqrt(1/2)^n`: normalisation of Hadamard transforms of `2^n` points.
pub fn hadamard_gain(n: u32) -> Scale {
    let half = Scale::ONE.shifted(-((n / 2) as i32));
    if n % 2 == 1 { half.times(Scale { m: 23170, e: -15 }) } else { half }
}
