//! Repeats work and takes the median time.

use std::time::{Duration, Instant};

use speckv_predictor::Backend;

use crate::error::Result;

/// How often to repeat.
pub struct Timer {
    /// Less of everything.
    pub quick: bool,
    runs: usize,
    at_least: Duration,
}

impl Timer {
    /// At least 7 runs and 0.4 s; at least 3 runs if `quick`.
    pub fn new(quick: bool) -> Self {
        match quick {
            true => Timer { quick, runs: 3, at_least: Duration::ZERO },
            false => Timer { quick, runs: 7, at_least: Duration::from_millis(400) },
        }
    }

    /// Median seconds of one run, never zero.
    pub fn median<R>(&self, mut f: impl FnMut() -> R) -> f64 {
        let since = Instant::now();
        let mut all = Vec::new();
        while all.len() < self.runs || since.elapsed() < self.at_least {
            let start = Instant::now();
            std::hint::black_box(f());
            all.push(start.elapsed());
        }
        middle(&mut all)
    }

    /// Median seconds of one run of what a backend does: a device is waited for, after so many runs in a row that waiting is a small part.
    pub fn median_on<B: Backend, R>(&self, b: &B, mut f: impl FnMut() -> R) -> Result<f64> {
        let mut batch = |runs: u32| -> Result<f64> {
            let start = Instant::now();
            for _ in 0..runs {
                std::hint::black_box(f());
            }
            b.wait()?;
            Ok(start.elapsed().as_secs_f64())
        };
        // The first one warms up, and what is still at work is waited for.
        batch(1)?;
        let runs = (1e-3 / batch(1)?.max(1e-9)).clamp(1.0, 256.0) as u32;
        let mut failed = Ok(());
        let seconds = self.median(|| {
            if let Err(error) = batch(runs) {
                failed = Err(error);
            }
        });
        failed.map(|()| seconds / f64::from(runs))
    }
}

/// The median in seconds, never zero.
pub fn middle(all: &mut [Duration]) -> f64 {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default().max(Duration::from_nanos(1)).as_secs_f64()
}

/// SplitMix64: the same numbers in every measurement.
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `-limit..=limit`.
    pub fn within(&mut self, limit: i32) -> i32 {
        (self.bits() % (2 * limit as u64 + 1)) as i32 - limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let mut odd = [5, 1, 3].map(Duration::from_secs);
        assert_eq!(middle(&mut odd), 3.0);
        assert_eq!(middle(&mut [Duration::ZERO]), 1e-9);
        let mut runs = 0;
        Timer::new(true).median(|| runs += 1);
        assert_eq!(runs, 3);
    }

    #[test]
    fn numbers_stay_within() {
        let mut random = Random(1);
        let all: Vec<i32> = (0..1000).map(|_| random.within(3)).collect();
        assert_eq!((all.iter().min(), all.iter().max()), (Some(&-3), Some(&3)));
    }
}
