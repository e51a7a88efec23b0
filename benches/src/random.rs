//! Random numbers that are the same on every machine: integers from a seed, and functions of them that do not depend on the system's libm.

/// SplitMix64.
pub struct Random(
    /// The seed.
    pub u64,
);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// An integer in `-most..=most`.
    pub fn within(&mut self, most: i16) -> i16 {
        (self.bits() % (2 * most as u64 + 1)) as i16 - most
    }

    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Normal, variance 1 (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.unit(), self.unit());
        libm::sqrt(-2.0 * libm::log(u)) * libm::cos(core::f64::consts::TAU * v)
    }

    /// Laplace, variance 1.
    pub fn laplace(&mut self) -> f64 {
        let size = -libm::log(self.unit()) * core::f64::consts::FRAC_1_SQRT_2;
        if self.bits() & 1 == 0 { size } else { -size }
    }
}
