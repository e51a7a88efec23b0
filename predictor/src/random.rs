//! The random numbers of conformance inputs and made-up profiles.

use crate::fixed::Scale;

/// SplitMix64: the same inputs everywhere, from a seed that fits a line.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `-n..=n`.
    pub fn around(&mut self, n: i64) -> i64 {
        (self.bits() % (2 * n as u64 + 1)) as i64 - n
    }

    /// A number of `from..=to`.
    pub fn within(&mut self, from: i32, to: i32) -> i32 {
        let span = (to as i64 - from as i64 + 1) as u64;
        (from as i64 + (self.bits() % span) as i64) as i32
    }

    /// One of some values.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.bits() as usize % from.len()]
    }

    /// A value of at most `bits` bits of magnitude, small ones as likely as large ones.
    pub fn value(&mut self, bits: u32) -> i32 {
        let b = self.within(0, bits as i32) as u32;
        let v = (self.bits() & ((1u64 << b) - 1)) as i32;
        if self.bits() & 1 == 0 { v } else { -v }
    }

    /// A scale with an exponent of `from..=to`; now and then the smallest or largest mantissa.
    pub fn scale(&mut self, from: i32, to: i32) -> Scale {
        let m = match self.within(0, 9) {
            0 => 1 << 14,
            1 => (1 << 15) - 1,
            _ => self.within(1 << 14, (1 << 15) - 1),
        };
        Scale { m: m as i16, e: self.within(from, to) as i16 }
    }
}
