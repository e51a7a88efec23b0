//! Integer tables of sine, exp2, the logistic function and log2, each computed in integers when first asked for.
//!
//! Every entry is the nearest integer to the exact real (no entry is near a tie), so the tables are what
//! `docs/numerics.md` says whatever computes them. Here: 128-bit fixed point with 60 or more fractional bits.

use alloc::vec::Vec;

/// Fractional bits of sine, exp2 and the logistic table.
pub const ONE_Q30: i64 = 1 << 30;

const ONE_Q60: i128 = 1 << 60;
/// pi, 60 fractional bits.
const PI_Q60: i128 = 3_622_009_729_038_561_421;

fn mul60(a: i128, b: i128) -> i128 {
    (a * b) >> 60
}

/// The tables that predictions read.
#[derive(Clone, Debug)]
pub struct Tables {
    /// `round(2^30 * sin(2 pi i / 4096))`, i = 0..=4096.
    pub sine: Vec<i32>,
    /// `round(2^30 * 2^(-i/256))`, i = 0..=256.
    pub exp2: Vec<i32>,
    /// `round(2^30 / (1 + e^(-i/128)))`, i = 0..=2048.
    pub logistic: Vec<i32>,
    /// `round(256 * 16 * log2(1 + i/256))`, i = 0..=256: 12 fractional bits.
    pub log2: Vec<i32>,
}

fn round30(v: i128) -> i32 {
    ((v + (1 << 29)) >> 30) as i32
}

/// sin(x), x in 0..=pi/2, by its Taylor series.
fn sine_q60(x: i128) -> i128 {
    let x2 = mul60(x, x);
    let (mut term, mut sum, mut n) = (x, x, 1);
    while term != 0 && n < 40 {
        term = -mul60(term, x2) / ((n + 1) * (n + 2));
        sum += term;
        n += 2;
    }
    sum
}

/// e^-x, x >= 0, by its series on x/64, raised to the 64th power.
fn exp_minus_q60(x: i128) -> i128 {
    let y = x / 64;
    let (mut term, mut sum, mut n) = (ONE_Q60, ONE_Q60, 1);
    while term != 0 && n < 60 {
        term = -mul60(term, y) / n;
        sum += term;
        n += 1;
    }
    for _ in 0..6 {
        sum = mul60(sum, sum);
    }
    sum
}

/// ln 2, 60 fractional bits.
const LN2_Q60: i128 = 799_144_290_325_165_979;

/// log2(v), v in [1, 2) with 60 fractional bits, by squaring: 40 binary digits.
fn log2_q40(mut v: i128) -> i128 {
    let mut out = 0;
    for bit in (0..40).rev() {
        v = mul60(v, v);
        if v >= 2 * ONE_Q60 {
            v >>= 1;
            out |= 1 << bit;
        }
    }
    out
}

impl Tables {
    /// Computes all tables (a few hundred microseconds).
    pub fn new() -> Tables {
        let quarter: Vec<i32> = (0..=1024).map(|i| round30(sine_q60(PI_Q60 * i / 2048))).collect();
        let sine = (0..=4096usize)
            .map(|i| match i / 1024 {
                0 => quarter[i],
                1 => quarter[2048 - i],
                2 => -quarter[i - 2048],
                3 => -quarter[4096 - i],
                _ => 0,
            })
            .collect();
        let exp2 = (0..=256).map(|i| round30(exp_minus_q60(LN2_Q60 * i / 256))).collect();
        let logistic = (0..=2048)
            .map(|i| round30((ONE_Q60 << 60) / (ONE_Q60 + exp_minus_q60(ONE_Q60 * i / 128))))
            .collect();
        let log2 = (0..=256)
            .map(|i| {
                if i == 256 {
                    4096
                } else {
                    ((log2_q40(ONE_Q60 + (ONE_Q60 * i) / 256) + (1 << 27)) >> 28) as i32
                }
            })
            .collect();
        Tables { sine, exp2, logistic, log2 }
    }

    /// Sine and cosine of a phase (2^64 is one turn), 30 fractional bits, linearly interpolated: error below 2^-21.
    #[inline]
    pub fn sin_cos(&self, phase: u64) -> (i32, i32) {
        (self.sin(phase), self.sin(phase.wrapping_add(1 << 62)))
    }

    #[inline]
    fn sin(&self, phase: u64) -> i32 {
        let i = (phase >> 52) as usize;
        let f = (phase >> 32) as i64 & 0xF_FFFF;
        let (a, b) = (self.sine[i] as i64, self.sine[i + 1] as i64);
        (a + (((b - a) * f + (1 << 19)) >> 20)) as i32
    }

    /// `2^(-x / 65536)` with 16 fractional bits, `x >= 0`: 65536 at 0, 0 from 18 octaves on.
    #[inline]
    pub fn exp2_q16(&self, x: u32) -> i32 {
        let octave = x >> 16;
        if octave >= 18 {
            return 0;
        }
        let (i, f) = ((x >> 8 & 255) as usize, (x & 255) as i64);
        let (a, b) = (self.exp2[i] as i64, self.exp2[i + 1] as i64);
        let v = a + (((b - a) * f) >> 8);
        ((v + (1 << (13 + octave))) >> (14 + octave)) as i32
    }

    /// `1 / (1 + e^-x)`, 30 fractional bits, of `x` with 20 fractional bits (any i32; saturates beyond +-16).
    #[inline]
    pub fn logistic_q30(&self, x: i32) -> i64 {
        let a = x.unsigned_abs().min((16 << 20) - 1);
        let (i, f) = ((a >> 13) as usize, (a & 8191) as i64);
        let (lo, hi) = (self.logistic[i] as i64, self.logistic[i + 1] as i64);
        let v = lo + (((hi - lo) * f) >> 13);
        if x < 0 { ONE_Q30 - v } else { v }
    }

    /// `log2(v)` with 12 fractional bits, rounded down between table entries by linear interpolation; `v >= 1`.
    #[inline]
    pub fn log2_q12(&self, v: u64) -> i32 {
        let top = v.ilog2();
        let n = if top >= 16 { v >> (top - 16) } else { v << (16 - top) }; // 2^16..2^17
        let (i, f) = ((n >> 8 & 255) as usize, (n & 255) as i32);
        (top << 12) as i32 + self.log2[i] + (((self.log2[i + 1] - self.log2[i]) * f) >> 8)
    }
}

impl Default for Tables {
    fn default() -> Self {
        Tables::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_types, clippy::float_arithmetic)]
    fn tables_are_the_nearest_integers() {
        let t = Tables::new();
        for (i, v) in t.sine.iter().enumerate() {
            let x = (i as f64 / 4096.0 * core::f64::consts::TAU).sin() * ONE_Q30 as f64;
            assert!((*v as f64 - x).abs() <= 0.5 + 1e-4, "sine {i}");
        }
        for (i, v) in t.exp2.iter().enumerate() {
            assert!(
                (*v as f64 - (-(i as f64) / 256.0).exp2() * ONE_Q30 as f64).abs() <= 0.5 + 1e-4,
                "exp2 {i}"
            );
        }
        for (i, v) in t.logistic.iter().enumerate() {
            let x = ONE_Q30 as f64 / (1.0 + (-(i as f64) / 128.0).exp());
            assert!((*v as f64 - x).abs() <= 0.5 + 1e-4, "logistic {i}");
        }
        for (i, v) in t.log2.iter().enumerate() {
            assert!((*v as f64 - (1.0 + i as f64 / 256.0).log2() * 4096.0).abs() <= 0.5 + 1e-6, "log2 {i}");
        }
        for x in [0u32, 1, 255, 256, 65535, 65536, 300_000, 18 << 16, u32::MAX] {
            assert!((t.exp2_q16(x) as f64 - (-(x as f64) / 65536.0).exp2() * 65536.0).abs() < 0.6, "{x}");
        }
        for p in [0u64, 1 << 62, 1 << 63, 3 << 62, 12345 << 45, u64::MAX] {
            let x = p as f64 / 18_446_744_073_709_551_616.0 * core::f64::consts::TAU;
            let (s, c) = t.sin_cos(p);
            assert!((s as f64 / ONE_Q30 as f64 - x.sin()).abs() < 5e-7);
            assert!((c as f64 / ONE_Q30 as f64 - x.cos()).abs() < 5e-7);
        }
        for v in [1u64, 2, 3, 1000, 65537, 1 << 40, u64::MAX] {
            assert!((t.log2_q12(v) as f64 / 4096.0 - (v as f64).log2()).abs() < 1e-3, "{v}");
        }
    }
}
