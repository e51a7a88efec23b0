//! One scalar after another, for CPUs without vectors: tables of what a plane's scalars share, and branches round what few of them need. Zones,
//! escapes and slots far from their guesses are left to the definition.

mod tables;

use speckv_predictor::core::limits::{FIXED_LIMIT, LANES, SCALES};
use speckv_predictor::core::model::ScalarModel;
use speckv_predictor::core::{Lanes, PlaneModel, Symbol};

use self::tables::{Cell, Octave, Scale, Tables};
use super::int::word;
use super::model;
use super::scales::Scales;
use super::units::Format;

/// Where the window of a scalar lies, as `ScalarModel::new` has it.
#[derive(Clone, Copy)]
struct Window<'a> {
    scale: &'a Scale,
    octave: &'a Octave,
    mu: i32,
    lowest: i32,
    highest: i32,
    lo: i32,
    hi: i32,
}

/// A cell near a slot.
#[derive(Clone, Copy, Default)]
struct Near {
    /// Of its magnitudes.
    cell: Cell,
    /// -1 if it is the mirror image.
    sign: i32,
    /// Whether it is a zone, and all but the sign means nothing.
    zone: bool,
}

impl<'a> Window<'a> {
    #[inline(always)]
    fn new<F: Format>(tables: &'a Tables, mu: i32, q: i32) -> Self {
        let (scale, octave) = tables.scale(q);
        let lowest = (mu - scale.reach).max(1 - FIXED_LIMIT);
        let highest = (mu + scale.reach).min(FIXED_LIMIT - 1);
        let lo = octave.number::<F>(lowest, tables.largest);
        let hi = octave.number::<F>(highest, tables.largest);
        Window { scale, octave, mu, lowest, highest, lo, hi }
    }

    /// Start and end of the interval of a cell that lies in the window.
    #[inline(always)]
    fn interval(&self, tables: &Tables, sign: i32, cell: &Cell) -> (i32, i32) {
        let (number, turn) = (cell.number ^ sign, i64::from(sign));
        let (inner, outer) = ((cell.inner ^ turn) - turn, (cell.outer ^ turn) - turn);
        // One of the two, whichever, without a branch: nobody could foretell signs.
        let other = (inner ^ outer) & turn;
        let (lower, upper) = (inner ^ other, outer ^ other);
        let index = number - self.lo;
        let spread = i64::from(tables.end - 1 - (self.hi - self.lo));
        let at = |edge: i64| {
            let below = tables.cumulative(self.scale, edge - i64::from(self.mu));
            ((below * spread) >> 16) as i32
        };
        let start = if number == self.lo { 0 } else { at(lower) + index };
        let end = if number == self.hi { tables.end } else { at(upper) + index + 1 };
        (start, end)
    }

    /// A cell of the window near a slot.
    #[inline(always)]
    fn near<F: Format>(&self, tables: &Tables, slot: i32) -> Near {
        let z = tables.guess(slot);
        let away = (i64::from(z * self.scale.mant) << self.scale.octave) >> 25;
        let value = (i64::from(self.mu) + away).max(self.lowest.into()).min(self.highest.into()) as i32;
        // Zero's nearest magnitude is 1's, or a neighbour; -1's where the window ends at 0, for 1's may lie beyond it.
        let sign = value.min(self.highest - 1) >> 31;
        let v = value.unsigned_abs().clamp(1, tables.largest);
        let (binade, significand) = self.octave.nearest::<F>(v);
        let cell = self.octave.cell::<F>(binade, significand);
        Near { sign, zone: cell.is_none(), cell: cell.unwrap_or_default() }
    }

    /// The symbol of a code; nothing unless its cell is in the window, and no zone.
    #[inline(always)]
    fn symbol<F: Format>(&self, tables: &Tables, code: u16) -> Option<Symbol> {
        let magnitude = i32::from(code) & (F::MAGNITUDES - 1);
        let sign = -(i32::from(code) >> (F::WIDTH - 1) & 1);
        let (binade, significand) = self.octave.magnitude::<F>(magnitude, tables.exponent)?;
        let cell = self.octave.cell::<F>(binade, significand)?;
        let number = cell.number ^ sign;
        if number < self.lo || number > self.hi {
            return None;
        }
        let (start, end) = self.interval(tables, sign, &cell);
        // Of negative ones the greatest magnitude has raw value 0.
        let raw = (magnitude - cell.first) ^ (sign & (cell.ranks - 1));
        let [start, freq, raw, raw_bits] = [start, end - start, raw, cell.raw_bits].map(|x| x as u16);
        Some(Symbol { start, freq, raw, raw_bits })
    }
}

/// `ElementFormat::code` without a branch: nobody could foretell signs.
#[inline(always)]
fn code_of<F: Format>(rank: i32) -> u16 {
    let sign = rank >> 31;
    ((rank ^ sign) | (sign & F::MAGNITUDES)) as u16
}

/// Scale index of a channel's and a token's.
#[inline(always)]
fn index(channel: i16, token: i16) -> i32 {
    (i32::from(channel) + i32::from(token)).clamp(0, SCALES - 1)
}

/// [`encode::price`](super::encode::price).
pub(super) fn price<F: Format>(model: &PlaneModel<'_>, codes: &[u16], out: &mut [Symbol]) -> Option<u64> {
    let tables = Tables::new::<F>(model, model::largest(model)?);
    let mut cost = 0;
    let mut scales = Scales::new(model);
    for ((codes, means), out) in codes.chunks(LANES).zip(model.mu.chunks(LANES)).zip(out.chunks_mut(LANES)) {
        let (channels, token) = scales.row();
        for (((code, mu), channel), out) in codes.iter().zip(means).zip(channels).zip(out) {
            let q = index(*channel, token);
            *out = match Window::new::<F>(&tables, *mu, q).symbol::<F>(&tables, *code) {
                Some(symbol) => symbol,
                None => rare_symbol(model, *mu, q, *code),
            };
            cost += u64::from(out.cost());
        }
    }
    Some(cost)
}

#[cold]
#[inline(never)]
fn rare_symbol(model: &PlaneModel<'_>, mu: i32, q: i32, code: u16) -> Symbol {
    ScalarModel::new(model.format, model.exponent, model.shape, mu, q).symbol(code)
}

/// A scalar between its symbol and its raw bits.
#[derive(Clone, Copy, Default)]
struct Pending {
    /// Rank at raw value 0.
    origin: i32,
    /// -1 turns a raw value `r` into `-1 - r`.
    flip: i32,
    /// Raw values must be below this. 2^16 is that of escapes and of nothing else.
    raw_end: i32,
    raw_bits: u32,
}

/// [`decode::plane`](super::decode::plane).
pub(super) fn decode<F: Format>(model: &PlaneModel<'_>, lanes: &mut Lanes<'_>, out: &mut [u16]) -> bool {
    let Some(largest) = model::largest(model) else { return false };
    let tables = Tables::new::<F>(model, largest);
    let mut scales = Scales::new(model);
    let mut states = lanes.states;
    let (words, mut at) = (lanes.words, lanes.at);
    let refill = |x: u32, at: &mut usize| {
        if x >> 16 != 0 {
            return x;
        }
        *at += 2;
        x << 16 | word(words, *at - 2)
    };
    let mut pending = [Pending::default(); LANES];
    let mut good = true;
    // What a scalar takes is one long chain, of which a processor sees one or two at a time; of a third of it it sees several.
    let (scale, octave) = (&tables.scales[0], &tables.octaves[0]);
    let mut windows = [Window { scale, octave, mu: 0, lowest: 0, highest: 0, lo: 0, hi: 0 }; LANES];
    let mut nears = [Near::default(); LANES];
    for (codes, means) in out.chunks_mut(LANES).zip(model.mu.chunks(LANES)) {
        let (channels, token) = scales.row();
        for ((window, mu), channel) in windows.iter_mut().zip(means).zip(channels) {
            *window = Window::new::<F>(&tables, *mu, index(*channel, token));
        }
        for (((near, window), state), _) in nears.iter_mut().zip(&windows).zip(&states).zip(means) {
            *near = window.near::<F>(&tables, (*state & 0xFFFF) as i32);
        }
        let mut any_raw = 0;
        let scalars = windows.iter().zip(&nears).zip(&mut states).zip(&mut pending).zip(channels);
        for (((((window, near), state), pending), channel), code) in scalars.zip(codes.iter_mut()) {
            let slot = (*state & 0xFFFF) as i32;
            let (mut start, end) = window.interval(&tables, near.sign, &near.cell);
            let mut freq = end - start;
            if start <= slot && slot < end && !(F::ZONES && near.zone) {
                let Cell { first, ranks, raw_bits, .. } = near.cell;
                let origin = (first ^ near.sign) - near.sign - (ranks & near.sign);
                *pending = Pending { origin, flip: 0, raw_end: ranks, raw_bits: raw_bits as u32 };
            } else {
                (start, freq) = rare(model, window.mu, index(*channel, token), slot, pending);
            }
            any_raw |= pending.raw_bits;
            // What it is if no raw bits follow.
            *code = code_of::<F>(pending.origin + pending.flip);
            *state = refill(freq as u32 * (*state >> 16) + (slot - start) as u32, &mut at);
        }
        if any_raw == 0 {
            continue;
        }
        for ((code, state), pending) in codes.iter_mut().zip(&mut states).zip(&pending) {
            let raw = (*state & ((1 << pending.raw_bits) - 1)) as i32;
            // Without raw bits a state is at least 2^16 already.
            *state = refill(*state >> pending.raw_bits, &mut at);
            good &= raw < pending.raw_end;
            let rank = pending.origin + (raw ^ pending.flip);
            *code = if pending.raw_end == 1 << 16 { raw as u16 } else { code_of::<F>(rank) };
        }
    }
    (lanes.states, lanes.at) = (states, at);
    good && at <= words.len()
}

/// Start and width of the interval that holds a slot, by the definition.
#[cold]
#[inline(never)]
fn rare(model: &PlaneModel<'_>, mu: i32, q: i32, slot: i32, pending: &mut Pending) -> (i32, i32) {
    let found = ScalarModel::new(model.format, model.exponent, model.shape, mu, q).find(slot as u32);
    let cell = found.cell;
    let (origin, flip, raw_end) = match found.number {
        None => (0, 0, 1 << 16),
        Some(number) if cell.zone => (0, number >> 31, cell.ranks),
        Some(_) => (cell.first_rank, 0, cell.ranks),
    };
    *pending = Pending { origin, flip, raw_end, raw_bits: cell.raw_bits };
    (found.start as i32, found.freq as i32)
}
