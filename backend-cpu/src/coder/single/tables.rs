//! What scalars of a plane share, worked out once: by binade, by scale, by slot.

use speckv_predictor::core::limits::{
    INV, KNOTS, MANT, SCALES, SHAPE_HALF, Z_LIMIT, ZONE_BINADES, scale_fraction, scale_octave,
};
use speckv_predictor::core::model::reach;
use speckv_predictor::core::shape::knot_position;
use speckv_predictor::core::{PlaneModel, Shape};

use super::super::units::Format;

/// Values of as many bits, `ilog2(2 v + 1)` of `v < 2^30`, and the binade that rounding may carry the largest to.
const BINADES: usize = 32;
/// log2 of the slots with the same guess.
const SLOTS: u32 = 6;
const GUESSES: usize = 1 << (16 - SLOTS);
/// log2 of the `z` with the same step.
const STEP: u32 = 6;

/// Magnitudes of one binade under the cells of one octave of scales. Values are taken with 32 bits below the point.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
pub(super) struct Binade {
    /// Half a significand's step.
    round: u64,
    /// With `significand >> raw_bits` the cell's number.
    add: i32,
    /// First magnitude less its significand.
    base: i32,
    /// To significands; and on to cells.
    to_significand: u8,
    to_cell: u8,
    /// From quarters of a significand, moved left by 32, to units.
    to_edge: u8,
    pub raw_bits: u8,
    /// Whether codes below the first are twice as dense.
    denser: u8,
}

/// Cells of the scales of one octave.
pub(super) struct Octave {
    binades: [Binade; BINADES],
    /// Magnitudes below are in the zone.
    zone_end: i32,
}

/// A cell of magnitudes outside the zone.
#[derive(Clone, Copy, Default)]
pub(super) struct Cell {
    pub number: i32,
    pub first: i32,
    pub ranks: i32,
    pub raw_bits: i32,
    /// Of magnitudes in units.
    pub inner: i64,
    pub outer: i64,
}

impl Octave {
    fn new<F: Format>(octave: i32, exponent: i32) -> Octave {
        let eb = (octave - 2 - exponent + F::BIAS).max(1 - F::MB);
        let ez = (eb - ZONE_BINADES + 1).max(0);
        let base = eb.max(1) - 1 - ez + ez.min(1);
        let mut binades = [Binade::default(); BINADES];
        // Of 0, which is in cell 0: everything is shifted out.
        binades[0].to_cell = 63;
        for (i, binade) in binades.iter_mut().enumerate().skip(1) {
            let t = (i as i32 - 1 - exponent + F::BIAS).max(1);
            // In units so coarse that codes differ by more than 2^31 every value is nearest to 0.
            let step = (t - F::BIAS - F::MB + exponent).min(31);
            let j = t - eb;
            let raw_bits = (F::MB - j).clamp(0, F::MB);
            *binade = Binade {
                round: 1 << (31 + step),
                add: base + (((j - F::MB).max(0)) << F::MB) + j.min(0),
                base: (t - 1) << F::MB,
                to_significand: (32 + step) as u8,
                to_cell: (32 + step + raw_bits).min(63) as u8,
                to_edge: (34 - step) as u8,
                raw_bits: raw_bits as u8,
                denser: u8::from(t > 1),
            };
        }
        Octave { binades, zone_end: ez << F::MB }
    }

    /// Number of the cell of the rank nearest to a value below 2^30 in magnitude; `largest` as in [`Tables`].
    #[inline(always)]
    pub(super) fn number<F: Format>(&self, value: i32, largest: u32) -> i32 {
        let sign = value >> 31;
        let v = u64::from(value.unsigned_abs().min(largest));
        let binade = &self.binades[(2 * v + 1).ilog2() as usize & (BINADES - 1)];
        // Twice the first significand of a binade gives what the first of the next gives.
        let number = (((v << 32) + binade.round) >> (binade.to_cell & 63)) as i32 + binade.add;
        (if F::ZONES { number.max(0) } else { number }) ^ sign
    }

    /// Binade and significand of the magnitude nearest to a value, 1..2^30.
    #[inline(always)]
    pub(super) fn nearest<F: Format>(&self, v: u32) -> (&Binade, i32) {
        let at = (2 * v + 1).ilog2() as usize;
        let binade = &self.binades[at & (BINADES - 1)];
        let significand = ((u64::from(v) << 32) + binade.round) >> (binade.to_significand & 63);
        let carry = significand >> (F::MB + 1);
        (&self.binades[(at + carry as usize) & (BINADES - 1)], (significand >> carry) as i32)
    }

    /// Binade and significand of a magnitude; nothing if it is in a binade of less than a unit or of more than 2^30.
    #[inline(always)]
    pub(super) fn magnitude<F: Format>(&self, m: i32, exponent: i32) -> Option<(&Binade, i32)> {
        let t = (m >> F::MB).max(1);
        let at = (t + exponent - F::BIAS) as usize;
        let binade = self.binades[1..BINADES - 1].get(at)?;
        Some((binade, m - binade.base))
    }

    /// The cell of a significand; nothing for a zone.
    #[inline(always)]
    pub(super) fn cell<F: Format>(&self, binade: &Binade, significand: i32) -> Option<Cell> {
        if F::ZONES && significand + binade.base < self.zone_end {
            return None;
        }
        let raw_bits = i32::from(binade.raw_bits & 15);
        let number = significand >> raw_bits;
        let (lead, ranks) = (number << raw_bits, 1 << raw_bits);
        let begins = i32::from(lead == 1 << F::MB) & i32::from(binade.denser);
        let units = |quarters: i32| (((quarters as u64) << 32) >> (binade.to_edge & 63)) as i64;
        Some(Cell {
            number: number + binade.add,
            first: lead + binade.base,
            ranks,
            raw_bits,
            inner: units((4 * lead - 2 + begins).max(0)),
            outer: units(4 * (lead + ranks) - 2),
        })
    }
}

/// A scale index's numbers.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub mant: i32,
    pub inv: i32,
    pub reach: i32,
    pub octave: i32,
}

/// A straight piece of the cumulative: `(rise z + add) >> shift`.
#[derive(Clone, Copy, Default)]
struct Step {
    rise: i32,
    add: i32,
    shift: i32,
}

/// Steps of all `|z| <= 16384`, and one beyond on either side.
const STEPS: usize = ((2 * Z_LIMIT as usize) >> STEP) + 2;

/// What all scalars of a plane share.
pub(super) struct Tables {
    pub exponent: i32,
    /// No larger number has another nearest magnitude than this value, or 2^30 - 1.
    pub largest: u32,
    /// `65536 - escape`.
    pub end: i32,
    first_octave: i32,
    pub octaves: Vec<Octave>,
    first_scale: i32,
    pub scales: Vec<Scale>,
    steps: [Step; STEPS],
    guesses: [i16; GUESSES],
}

impl Tables {
    /// Of a plane that was checked.
    pub(super) fn new<F: Format>(model: &PlaneModel<'_>, largest: i32) -> Tables {
        let ends = |x: &[i16]| {
            x.iter().fold((i32::MAX, i32::MIN), |(low, high), &x| (low.min(x.into()), high.max(x.into())))
        };
        let (channel, token) = (ends(model.channel_scale), ends(model.token_scale));
        let first_scale = (channel.0 + token.0).clamp(0, SCALES - 1);
        let last_scale = (channel.1 + token.1).clamp(0, SCALES - 1);
        let (first_octave, last_octave) = (scale_octave(first_scale), scale_octave(last_scale));
        Tables {
            exponent: model.exponent,
            largest: largest as u32,
            end: 65536 - i32::from(model.shape.escape()),
            first_octave,
            octaves: (first_octave..=last_octave).map(|o| Octave::new::<F>(o, model.exponent)).collect(),
            first_scale,
            scales: (first_scale..=last_scale)
                .map(|q| {
                    let i = scale_fraction(q);
                    Scale { mant: MANT[i] as i32, inv: INV[i], reach: reach(q), octave: scale_octave(q) }
                })
                .collect(),
            steps: steps(model.shape),
            guesses: guesses(model.shape),
        }
    }

    /// Of an index in 0..=479 that a channel and a token of the plane have.
    #[inline(always)]
    pub(super) fn scale(&self, q: i32) -> (&Scale, &Octave) {
        let scale = &self.scales[(q - self.first_scale) as usize];
        (scale, &self.octaves[(scale.octave - self.first_octave) as usize])
    }

    /// `Shape::cumulative` of `model::normalise`, of an edge inside a window `difference` units from its mean: there `|z|` is 16385 at
    /// most, for `reach` is rounded down and mantissas are to their nearest.
    #[inline(always)]
    pub(super) fn cumulative(&self, scale: &Scale, difference: i64) -> i64 {
        let z = ((((difference << 10) >> scale.octave) * i64::from(scale.inv)) >> 15) as i32;
        let at = (z + Z_LIMIT + (1 << STEP)) as u32 >> STEP;
        debug_assert!(at < STEPS as u32, "an edge of the window, {z} from the mean");
        let step = &self.steps[(at as usize).min(STEPS - 1)];
        i64::from((step.rise * z + step.add) >> (step.shift & 31))
    }

    /// A `z` near the slot's.
    #[inline(always)]
    pub(super) fn guess(&self, slot: i32) -> i32 {
        self.guesses[(slot as usize & 0xFFFF) >> SLOTS].into()
    }
}

fn steps(shape: &Shape) -> [Step; STEPS] {
    let mut steps = [Step::default(); STEPS];
    let middle = (Z_LIMIT >> STEP) as usize + 1;
    for (knot, &(below, rise)) in shape.steps().iter().enumerate() {
        let (start, end) = (knot_position(knot), knot_position(knot + 1));
        let shift = (end - start).ilog2() as i32;
        let (below, rise) = (i32::from(below), i32::from(rise));
        for i in start as usize >> STEP..end as usize >> STEP {
            let add = ((i32::from(SHAPE_HALF) + below) << shift) - rise * start;
            steps[middle + i] = Step { rise, add, shift };
            // |z| is rounded down, so z is rounded up.
            let add = ((i32::from(SHAPE_HALF) - below) << shift) + rise * start + (1 << shift) - 1;
            steps[middle - 1 - i] = Step { rise, add, shift };
        }
    }
    steps[STEPS - 1].add = 1 << 16;
    steps
}

/// The `z` where `C(z)` is the middle of each run of slots, if floors and escape were spread evenly.
fn guesses(shape: &Shape) -> [i16; GUESSES] {
    let mut guesses = [0; GUESSES];
    let end = 65536 - i32::from(shape.escape());
    let half = i32::from(SHAPE_HALF);
    // Less than 2^16 * 8/7.
    let middle = |i: usize| (((((i << SLOTS) + (1 << (SLOTS - 1))) << 16) / end as usize) as i32) - half;
    let first = (0..GUESSES).position(|i| middle(i) >= 0).unwrap_or(GUESSES);
    let mut inverse = Inverse::new(shape);
    for (i, guess) in guesses.iter_mut().enumerate().skip(first) {
        *guess = inverse.z(middle(i)) as i16;
    }
    let mut inverse = Inverse::new(shape);
    for (i, guess) in guesses[..first].iter_mut().enumerate().rev() {
        *guess = -inverse.z(-middle(i)) as i16;
    }
    guesses
}

/// Inverts half a cumulative at ever greater values.
struct Inverse<'a> {
    knots: &'a [u16; KNOTS],
    knot: usize,
    /// `z` a slot between this knot and the next, 16 bits below the point; 0 where nothing rises.
    slope: i64,
}

impl<'a> Inverse<'a> {
    fn new(shape: &'a Shape) -> Self {
        let mut new = Inverse { knots: shape.knots(), knot: 0, slope: 0 };
        new.turn();
        new
    }

    fn turn(&mut self) {
        let width = knot_position(self.knot + 1) - knot_position(self.knot);
        let rise = self.knots[self.knot + 1] - self.knots[self.knot];
        self.slope = (i64::from(width) << 16).checked_div(rise.into()).unwrap_or(0);
    }

    fn z(&mut self, target: i32) -> i32 {
        while self.knot < KNOTS - 2 && i32::from(self.knots[self.knot + 1]) < target {
            self.knot += 1;
            self.turn();
        }
        let within = target - i32::from(self.knots[self.knot]);
        knot_position(self.knot).min(Z_LIMIT) + ((i64::from(within) * self.slope) >> 16) as i32
    }
}
