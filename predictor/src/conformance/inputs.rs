//! Inputs: a small generator and the patterns that reach the ends of ranges.

use alloc::vec::Vec;

use crate::data::{Digits, Ints, Weights};
use crate::fixed::{LIMIT, Scale};
use crate::random::Random;

/// How a matrix is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Uniform over the whole range.
    Full,
    /// Each row at its own magnitude.
    Rows,
    /// All sizes in every row.
    Mixed,
    /// Zeros.
    Zero,
    /// Every value the largest.
    Largest,
    /// Every value the smallest.
    Smallest,
    /// The ends in turn.
    Alternating,
    /// One end in a row of ones.
    Outlier,
    /// -1, 0 and 1.
    Tiny,
}

impl Pattern {
    /// All patterns.
    pub const ALL: [Pattern; 9] = [
        Pattern::Full,
        Pattern::Rows,
        Pattern::Mixed,
        Pattern::Zero,
        Pattern::Largest,
        Pattern::Smallest,
        Pattern::Alternating,
        Pattern::Outlier,
        Pattern::Tiny,
    ];

    /// Values of magnitude at most `limit`.
    pub fn fill(self, rng: &mut Random, rows: usize, cols: usize, limit: i32) -> Vec<i32> {
        let bits = (limit as u32 + 1).ilog2();
        let mut out = Vec::with_capacity(rows * cols);
        for t in 0..rows {
            let top = (limit >> rng.within(0, bits as i32 - 1)).max(1);
            let at = rng.bits() as usize % cols.max(1);
            for c in 0..cols {
                out.push(match self {
                    Pattern::Full => rng.within(-limit, limit),
                    Pattern::Rows => rng.within(-top, top),
                    Pattern::Mixed => rng.value(bits),
                    Pattern::Zero => 0,
                    Pattern::Largest => limit,
                    Pattern::Smallest => -limit,
                    Pattern::Alternating => [limit, -limit][(c + t) % 2],
                    Pattern::Outlier if c == at => [limit, -limit][rng.bits() as usize % 2],
                    Pattern::Outlier => 1,
                    Pattern::Tiny => rng.within(-1, 1),
                });
            }
        }
        out
    }

    /// A matrix over the whole fixed-point range.
    pub fn ints(self, rng: &mut Random, rows: usize, cols: usize) -> Ints {
        Ints { rows, cols, data: self.fill(rng, rows, cols, LIMIT) }
    }

    /// Weights of the digits' whole range, scales of the given exponents (now and then zero), with or without bias.
    pub fn weights(
        self,
        rng: &mut Random,
        out: usize,
        inp: usize,
        digits: Digits,
        exponents: (i32, i32),
        bias: bool,
    ) -> Weights {
        let values = self.fill(rng, out, inp, digits.levels()).into_iter().map(|v| v as i16).collect();
        let scales = (0..out)
            .map(|_| if rng.within(0, 20) == 0 { Scale::ZERO } else { rng.scale(exponents.0, exponents.1) })
            .collect();
        let bias = bias.then(|| {
            let pattern = rng.pick(&[Pattern::Full, Pattern::Mixed, Pattern::Largest, Pattern::Smallest]);
            pattern.fill(rng, 1, out, LIMIT)
        });
        Weights { out, inp, digits, values, scales, bias }
    }
}
