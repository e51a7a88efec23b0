//! Synthetic planes whose residuals are normal, and the exact cost of coding them by the continuous model.
#![allow(dead_code, clippy::disallowed_types, clippy::float_arithmetic)]

use speckv_codec_core::ElementFormat;

use crate::common::{Plane, Random};

/// A number in 0..1.
pub fn uniform(random: &mut Random) -> f64 {
    (random.next() >> 11) as f64 / (1u64 << 53) as f64
}

/// A standard normal number (Box-Muller).
pub fn normal(random: &mut Random) -> f64 {
    let (u, v) = (1.0 - uniform(random), uniform(random));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Value of a rank's lower edge as a real number, straight from the definition of floating point.
pub fn edge_value(format: ElementFormat, rank: i32) -> f64 {
    let value = |m: i32| {
        let mb = format.mantissa_bits();
        let (e, f) = (m >> mb, m & ((1 << mb) - 1));
        let significand = if e == 0 { f } else { f + (1 << mb) };
        f64::from(significand) * 2f64.powi(e.max(1) - format.bias() - mb as i32)
    };
    if rank > 0 {
        (value(rank) + value(rank - 1)) / 2.0
    } else if rank == 0 {
        0.0
    } else {
        -edge_value(format, -rank)
    }
}

/// The code that a real number rounds to (ties aside).
pub fn round(format: ElementFormat, value: f64) -> u16 {
    let last = format.magnitudes() - 1;
    let (mut low, mut high) = (0, last);
    while low < high {
        let middle = (low + high + 1) / 2;
        if edge_value(format, middle) <= value.abs() { low = middle } else { high = middle - 1 }
    }
    format.code(if value < 0.0 { -1 - low } else { low })
}

/// The complementary error function to about 1e-15 relative, by its continued fraction or series.
pub fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut fraction = 0.0;
    for k in (1..200).rev() {
        fraction = f64::from(k) / 2.0 / (x + fraction);
    }
    (-x * x).exp() / (x + fraction) / std::f64::consts::PI.sqrt()
}

/// Probability that a normal number lies between two edges, accurate in the tails.
pub fn normal_between(low: f64, high: f64) -> f64 {
    let half = |x: f64| 0.5 * erfc(x / std::f64::consts::SQRT_2);
    if low >= 0.0 {
        half(low) - half(high)
    } else if high <= 0.0 {
        half(-high) - half(-low)
    } else {
        1.0 - half(high) - half(-low)
    }
}

/// Bits of a plane under the continuous model: each code by the normal probability of the reals that round to it.
pub fn ideal_bits(plane: &Plane) -> f64 {
    let width = plane.channel_scale.len();
    let unit = 2f64.powi(-plane.exponent);
    let bits = plane.codes.iter().zip(&plane.mu).enumerate().map(|(i, (&code, &mu))| {
        let q = i32::from(plane.channel_scale[i % width]) + i32::from(plane.token_scale[i / width]);
        let scale = 2f64.powf(f64::from(q) / 16.0) * unit;
        let mean = f64::from(mu) * unit;
        let rank = plane.format.rank(code);
        let low = (edge_value(plane.format, rank) - mean) / scale;
        let high = (edge_value(plane.format, rank + 1) - mean) / scale;
        -normal_between(low, high).log2()
    });
    bits.sum()
}

/// Planes of about `bits` bits a scalar: means spread over several binades like a cache's, scales by channel and token.
pub fn planes(format: ElementFormat, bits: f64, count: usize, tokens: usize, channels: usize) -> Vec<Plane> {
    let mut random = Random(format.id().into());
    // Entropy of a normal of scale s over steps of ulp: log2(s / ulp) + 2.05 where s is not far below ulp. Caches of 8-bit
    // formats are scaled to fill them; the means then lie some binades below the top.
    let spread = if format.width() == 8 { 40.0 } else { 2.0 };
    let mut scale = spread * 2f64.powf(bits - 4.0 - f64::from(format.mantissa_bits()));
    let exponent = if format.width() == 8 { 12 } else { 20 };
    for _ in 0..30 {
        let trial = plane(&mut Random(1), format, spread, scale, exponent, 64, channels);
        let found = ideal_bits(&trial) / trial.codes.len() as f64;
        scale *= 2f64.powf((bits - found) * 0.7);
    }
    (0..count).map(|_| plane(&mut random, format, spread, scale, exponent, tokens, channels)).collect()
}

fn plane(
    random: &mut Random,
    format: ElementFormat,
    spread: f64,
    scale: f64,
    exponent: i32,
    tokens: usize,
    channels: usize,
) -> Plane {
    let unit = 2f64.powi(-exponent);
    let index = ((scale / unit).log2() * 16.0).round() as i64;
    let channel_scale: Vec<i16> = (0..channels).map(|_| (index + random.range(-8, 8)) as i16).collect();
    let token_scale: Vec<i16> = (0..tokens).map(|_| random.range(-4, 4) as i16).collect();
    let (mut mu, mut codes) = (Vec::new(), Vec::new());
    for token in &token_scale {
        for channel in &channel_scale {
            let mean = (normal(random) * spread / unit).round();
            let scale = 2f64.powf(f64::from(channel + token) / 16.0);
            mu.push(mean as i32);
            codes.push(round(format, (mean + scale * normal(random)) * unit));
        }
    }
    Plane { format, exponent, mu, channel_scale, token_scale, codes }
}
