//! Shapes: the distribution of a residual divided by its scale, as 65 integer knots (section 3 of the format).

use crate::limits::{KNOTS, MAX_ESCAPE, SHAPE_HALF, Z_LIMIT};
use crate::{Error, Result, Rule};

/// Intervals of the inverse table that starts a decoder's search: four an octave of tail probability.
const GUESSES: usize = 64;

/// A validated shape: half a cumulative distribution at 65 knots, and the frequency of the escape symbol.
///
/// An invalid one cannot be built, so the model needs no checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// `T`: starts at 0, never decreases, ends at 32768.
    knots: [u16; KNOTS],
    /// 1..=8192.
    escape: u16,
    /// Derived: see [`Shape::steps`].
    steps: [(u16, u16); KNOTS - 1],
    /// Derived: see [`Shape::guesses`].
    guesses: [(u16, u16); GUESSES],
}

/// Knots of the normal distribution: `round(32768 * erf(z / sqrt 2))`.
const GAUSSIAN: [u16; KNOTS] = [
    0, 1633, 3260, 4874, 6469, 8039, 9579, 11084, 12548, 13967, 15336, 16654, 17916, 19120, 20265, 21348,
    22370, 23331, 24229, 25067, 25844, 26563, 27226, 27834, 28390, 28896, 29355, 29769, 30143, 30477, 30776,
    31042, 31277, 31667, 31967, 32193, 32361, 32484, 32573, 32636, 32680, 32710, 32730, 32744, 32753, 32759,
    32762, 32765, 32766, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 32768,
    32768, 32768, 32768, 32768,
];

/// Per segment of equal steps, by `ilog2(|z| >> 11) + 1`: (log2 of the step, first knot, its `|z|`).
const SEGMENTS: [(u32, u32, i32); 4] = [(6, 0, 0), (7, 32, 2048), (9, 48, 4096), (10, 56, 8192)];

/// `|z|` of a knot, 0..=16384.
pub const fn knot_position(knot: usize) -> i32 {
    match knot {
        0..=31 => knot as i32 * 64,
        32..=47 => 2048 + (knot as i32 - 32) * 128,
        48..=55 => 4096 + (knot as i32 - 48) * 512,
        _ => 8192 + (knot as i32 - 56) * 1024,
    }
}

impl Shape {
    /// Checks knots and escape frequency.
    ///
    /// # Errors
    /// [`Rule::Knots`] if the knots do not start at 0, decrease, or do not end at 32768; [`Rule::Escape`] if the
    /// frequency is not in 1..=8192.
    pub fn new(knots: [u16; KNOTS], escape: u16) -> Result<Self> {
        if knots[0] != 0 {
            return Err(Error::Argument { rule: Rule::Knots, expected: 0, found: knots[0].into() });
        }
        for pair in knots.windows(2) {
            if pair[1] < pair[0] {
                return Err(Error::Argument {
                    rule: Rule::Knots,
                    expected: pair[0].into(),
                    found: pair[1].into(),
                });
            }
        }
        if knots[KNOTS - 1] != SHAPE_HALF {
            let found = knots[KNOTS - 1].into();
            return Err(Error::Argument { rule: Rule::Knots, expected: SHAPE_HALF.into(), found });
        }
        if escape == 0 || escape > MAX_ESCAPE {
            let expected = if escape == 0 { 1 } else { MAX_ESCAPE.into() };
            return Err(Error::Argument { rule: Rule::Escape, expected, found: escape.into() });
        }
        Ok(Self::derive(knots, escape))
    }

    /// The normal distribution, for users without measured residuals. Escape frequency 16, one in 4096.
    pub fn gaussian() -> Self {
        Self::derive(GAUSSIAN, 16)
    }

    fn derive(knots: [u16; KNOTS], escape: u16) -> Self {
        let mut shape = Self { knots, escape, steps: [(0, 0); KNOTS - 1], guesses: [(0, 0); GUESSES] };
        for (step, pair) in shape.steps.iter_mut().zip(knots.windows(2)) {
            *step = (pair[0], pair[1] - pair[0]);
        }
        shape.fill_guesses();
        shape
    }

    /// The knots `T`.
    pub fn knots(&self) -> &[u16; KNOTS] {
        &self.knots
    }

    /// Per knot but the last `T` and the rise to the next knot.
    pub fn steps(&self) -> &[(u16, u16); KNOTS - 1] {
        &self.steps
    }

    /// The inverse of the cumulative by tail probability: at `4 * octave + quarter` the `|z|` beyond which a tail of
    /// `(4 + quarter) * 2^octave / 4` slots lies, and how far `|z|` falls to the next entry. Where a decoder's search begins: the table
    /// can cost time but never change a bit.
    pub fn guesses(&self) -> &[(u16, u16); GUESSES] {
        &self.guesses
    }

    /// Frequency of the escape symbol, 1..=8192 of 65536.
    #[inline(always)]
    pub fn escape(&self) -> u16 {
        self.escape
    }

    /// `T(|z|)` for `0 <= |z| <= 16384`: 0..=32768, non-decreasing.
    #[inline(always)]
    fn half(&self, magnitude: i32) -> i32 {
        debug_assert!((0..=Z_LIMIT).contains(&magnitude));
        if magnitude >= Z_LIMIT {
            return SHAPE_HALF.into();
        }
        let segment = 32 - (magnitude >> 11).leading_zeros();
        let (shift, first, start) = SEGMENTS[(segment & 3) as usize];
        let offset = (magnitude - start) as u32;
        let (below, rise) = self.steps[((first + (offset >> shift)) & 63) as usize];
        // rise <= 2^15, offset within a step < 2^10.
        i32::from(below) + ((u32::from(rise) * (offset & ((1 << shift) - 1))) >> shift) as i32
    }

    /// `C(z)`: 0..=65536, non-decreasing in `z` (-16384..=16384).
    #[inline(always)]
    pub fn cumulative(&self, z: i32) -> u32 {
        let half = self.half(z.abs());
        (i32::from(SHAPE_HALF) + if z >= 0 { half } else { -half }) as u32
    }

    /// A `z` near the one where `C(z) = c`, for `0 <= c`; more than 65536 counts as that.
    #[inline(always)]
    pub(crate) fn guess(&self, c: u32) -> i32 {
        let upper = c > SHAPE_HALF.into();
        let tail = if upper { 65536u32.saturating_sub(c) } else { c }.max(1);
        // The octave, two bits for the quarter, eight for the place between two entries.
        let significand = tail << tail.leading_zeros();
        let at = (tail.ilog2() << 2 | (significand >> 29 & 3)) & 63;
        let (z, fall) = self.guesses[at as usize];
        let z = (u32::from(z) - ((u32::from(fall) * (significand >> 21 & 255)) >> 8)) as i32;
        if upper { z } else { -z }
    }

    fn fill_guesses(&mut self) {
        // The |z| with T(|z|) = target.
        let position = |target: i32| {
            let knot = self.knots[1..KNOTS - 1].partition_point(|&t| i32::from(t) < target);
            let (below, above) = (i32::from(self.knots[knot]), i32::from(self.knots[knot + 1]));
            let (from, to) = (knot_position(knot), knot_position(knot + 1));
            let within = (target - below).clamp(0, above - below);
            if above > below { from + (to - from) * within / (above - below) } else { from }
        };
        let at = |index: usize| {
            let tail = ((4 + index % 4) << (index / 4)) / 4;
            position((i32::from(SHAPE_HALF) - tail as i32).max(0))
        };
        self.guesses = core::array::from_fn(|i| (at(i) as u16, (at(i) - at(i + 1)).max(0) as u16));
    }
}
