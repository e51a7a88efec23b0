//! Seeded random models and codes for the tests.
#![allow(dead_code)]

use proptest::prelude::ProptestConfig;
use speckv_codec_core::{ElementFormat, PlaneModel, Shape};

/// SplitMix64: enough for tests, the same everywhere.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }
}

/// Inputs are seeds, printed on failure: nothing to persist.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A plane's model and its codes, owned.
pub struct Plane {
    pub format: ElementFormat,
    pub exponent: i32,
    pub mu: Vec<i32>,
    pub channel_scale: Vec<i16>,
    pub token_scale: Vec<i16>,
    pub codes: Vec<u16>,
}

impl Plane {
    pub fn model<'a>(&'a self, shape: &'a Shape) -> PlaneModel<'a> {
        PlaneModel {
            format: self.format,
            exponent: self.exponent,
            mu: &self.mu,
            channel_scale: &self.channel_scale,
            token_scale: &self.token_scale,
            shape,
        }
    }

    /// Anything the interface allows: absurd means, scales and exponents, every bit pattern.
    pub fn absurd(random: &mut Random, format: ElementFormat, tokens: usize, channels: usize) -> Self {
        let exponent = random.range(-120, 120) as i32;
        let near = random.below(2) == 0;
        let scalars = tokens * channels;
        let codes: Vec<u16> =
            (0..scalars).map(|_| (random.next() & ((1 << format.width()) - 1)) as u16).collect();
        let mu = codes
            .iter()
            .map(|&code| {
                let edge = format.edge(format.rank(code), exponent);
                let anywhere = random.range(-(1 << 30) + 1, (1 << 30) - 1) as i32;
                if near && random.below(8) != 0 { edge } else { anywhere >> random.below(31) }
            })
            .collect();
        let channel_scale = (0..channels).map(|_| random.range(-600, 600) as i16).collect();
        let token_scale = (0..tokens).map(|_| random.range(-200, 200) as i16).collect();
        Self { format, exponent, mu, channel_scale, token_scale, codes }
    }
}

/// A random valid shape: knots rise by random steps.
pub fn random_shape(random: &mut Random) -> Shape {
    let mut steps = [0u64; 64];
    let power = random.below(20);
    for (i, step) in steps.iter_mut().enumerate() {
        *step = random.below((1 << 20) >> (i as u64 * power / 64)) * random.below(2);
    }
    steps[0] += 1;
    let total: u64 = steps.iter().sum();
    let mut knots = [0u16; 65];
    let mut sum = 0;
    for (knot, step) in knots[1..].iter_mut().zip(steps) {
        sum += step;
        *knot = (sum * 32768 / total) as u16;
    }
    let escape = if random.below(4) == 0 { random.range(1, 8192) } else { 16 };
    Shape::new(knots, escape as u16).unwrap()
}
