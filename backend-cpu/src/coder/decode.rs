//! Decoding of a coded plane, `N` lanes at a time: `PlaneModel::decode`.

use speckv_predictor::core::limits::LANES;
use speckv_predictor::core::model::ScalarModel;
use speckv_predictor::core::{Lanes, PlaneModel};

use super::int::Int;
use super::model::{Shared, Window};
use super::scales::Scales;
use super::units::Format;

/// Intervals of `N` slots, and what they stand for.
struct Found<V: Int> {
    start: V,
    freq: V,
    /// Code of the smallest magnitude; of a negative one raw values count down to it, but in zones up.
    origin: V,
    raw_bits: V,
    /// Raw values must be below these.
    raw_end: V,
}

/// A row between its symbols and its raw bits, as in [`Found`].
struct Pending {
    origin: [i32; LANES],
    raw_bits: [i32; LANES],
    raw_end: [i32; LANES],
}

/// Decodes a plane whose sizes and ranges were checked. `false` if this cannot: mostly because the stream breaks a rule or ends too
/// soon, and the definition, started where this started, knows which.
#[inline(always)]
pub(crate) fn plane<V: Int, F: Format>(
    proof: V::Proof,
    model: &PlaneModel<'_>,
    lanes: &mut Lanes<'_>,
    out: &mut [u16],
) -> bool {
    let Some(shared) = Shared::<V>::new::<F>(proof, model) else { return false };
    let mut states = [0; LANES];
    states.iter_mut().zip(&lanes.states).for_each(|(s, l)| *s = *l as i32);
    let (words, mut at) = (lanes.words, lanes.at);
    let mut scales = Scales::new(model);
    let (rows, rest) = out.as_chunks_mut::<LANES>();
    let (means, rest_means) = model.mu.as_chunks::<LANES>();
    let mut good = true;
    for (codes, mu) in rows.iter_mut().zip(means) {
        let q = scales.row();
        good &= row::<V, F, false>(&shared, model, &mut states, words, &mut at, q, mu, codes, LANES);
    }
    if !rest.is_empty() {
        let (mut mu, mut codes) = ([0; LANES], [0; LANES]);
        mu[..rest.len()].copy_from_slice(rest_means);
        let q = scales.row();
        good &=
            row::<V, F, true>(&shared, model, &mut states, words, &mut at, q, &mu, &mut codes, rest.len());
        rest.copy_from_slice(&codes[..rest.len()]);
    }
    lanes.states = states.map(|s| s as u32);
    lanes.at = at;
    good && at <= words.len()
}

/// One row: of 32 scalars, or if `PART` of the first `count`. Whether its raw values are what they may be.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn row<V: Int, F: Format, const PART: bool>(
    shared: &Shared<V>,
    model: &PlaneModel<'_>,
    states: &mut [i32; LANES],
    words: &[u8],
    at: &mut usize,
    (channels, token): (&[i16; LANES], i16),
    mu: &[i32; LANES],
    codes: &mut [u16; LANES],
    count: usize,
) -> bool {
    let (proof, c) = (shared.proof(), |x| shared.c(x));
    let zero = c(0);
    let mut pending = Pending { origin: [0; LANES], raw_bits: [0; LANES], raw_end: [0; LANES] };
    let mut any_raw = 0;
    for from in (0..LANES).step_by(V::N) {
        let state = V::load(proof, &states[from..]);
        let q = shared.scale(&channels[from..], token);
        let window = shared.window::<F>(V::load(proof, &mu[from..]), q);
        let slot = state & c(0xFFFF);
        let found = find::<V, F>(shared, model, &window, slot, &mu[from..], q);
        let next = found.freq * state.right(16) + (slot - found.start);
        let mut need = next.right(16).eq(zero);
        if PART {
            need = need & active::<V>(proof, from, count);
        }
        let (next, after) = next.refill(need, words, *at);
        *at = after;
        let next = if PART { V::select(active::<V>(proof, from, count), next, state) } else { next };
        next.store(&mut states[from..]);
        let raw_bits =
            if PART { found.raw_bits.keep(active::<V>(proof, from, count)) } else { found.raw_bits };
        any_raw |= V::bits(raw_bits.gt(zero));
        raw_bits.store(&mut pending.raw_bits[from..]);
        found.origin.store(&mut pending.origin[from..]);
        if F::ZONES {
            found.raw_end.store(&mut pending.raw_end[from..]);
        }
        // What it is if no raw bits follow.
        found.origin.store_u16(&mut codes[from..]);
    }
    any_raw == 0 || raw::<V, F>(shared, &pending, states, words, at, codes)
}

/// The second step of a row. Whether raw values are what they may be.
#[inline(always)]
fn raw<V: Int, F: Format>(
    shared: &Shared<V>,
    pending: &Pending,
    states: &mut [i32; LANES],
    words: &[u8],
    at: &mut usize,
    codes: &mut [u16; LANES],
) -> bool {
    let (proof, c) = (shared.proof(), |x| shared.c(x));
    let mut bad = 0;
    for from in (0..LANES).step_by(V::N) {
        let state = V::load(proof, &states[from..]);
        let raw_bits = V::load(proof, &pending.raw_bits[from..]);
        let mask = c(1).shl(raw_bits) - c(1);
        let raw = state & mask;
        let next = state.shr(raw_bits);
        // Without raw bits a state is at least 2^16 already.
        let (next, after) = next.refill(next.right(16).eq(c(0)), words, *at);
        *at = after;
        next.store(&mut states[from..]);
        if F::ZONES {
            bad |= V::bits(V::not(V::load(proof, &pending.raw_end[from..]).gt(raw)));
        }
        let origin = V::load(proof, &pending.origin[from..]);
        let flip = mask & (c(0) - origin.right(F::WIDTH - 1));
        let flip = if F::ZONES { flip.keep(V::not(raw_bits.eq(c(F::WIDTH - 1)))) } else { flip };
        let code = origin + (raw ^ flip);
        code.store_u16(&mut codes[from..]);
    }
    bad == 0
}

/// Lanes below `count`.
#[inline(always)]
pub(crate) fn active<V: Int>(proof: V::Proof, from: usize, count: usize) -> V::Mask {
    const NUMBERS: [i16; LANES] = {
        let mut numbers = [0; LANES];
        let mut i = 0;
        while i < LANES {
            numbers[i] = i as i16;
            i += 1;
        }
        numbers
    };
    V::splat(proof, count as i32).gt(V::load_i16(proof, &NUMBERS[from..]))
}

/// `ScalarModel::find`: cells near slots, checked; of what is not there the definition's.
#[inline(always)]
fn find<V: Int, F: Format>(
    shared: &Shared<V>,
    model: &PlaneModel<'_>,
    w: &Window<V>,
    slot: V,
    mu: &[i32],
    q: V,
) -> Found<V> {
    let cells = shared.find::<F>(w, slot);
    let mut found = Found {
        start: cells.start,
        freq: cells.end - cells.start,
        origin: cells.first | (cells.sign & shared.c(F::MAGNITUDES)),
        raw_bits: cells.raw_bits,
        raw_end: cells.ranks,
    };
    let miss = V::bits(cells.start.gt(slot) | V::not(cells.end.gt(slot)));
    if miss != 0 {
        search(shared.proof(), model, miss, slot, mu, q, &mut found);
    }
    found
}

/// Lanes that are far from their guesses, and escapes, one by one: a few in ten thousand, in the tails.
#[cold]
#[inline(never)]
fn search<V: Int>(
    proof: V::Proof,
    model: &PlaneModel<'_>,
    miss: u32,
    slot: V,
    mu: &[i32],
    q: V,
    found: &mut Found<V>,
) {
    let (mut slots, mut scales) = ([0; LANES], [0; LANES]);
    slot.store(&mut slots);
    q.store(&mut scales);
    let mut fields = [[0; LANES]; 5];
    let Found { start, freq, origin, raw_bits, raw_end } = found;
    let places = [start, freq, origin, raw_bits, raw_end];
    for (field, place) in fields.iter_mut().zip(&places) {
        place.store(field);
    }
    for i in (0..V::N).filter(|i| miss >> i & 1 != 0) {
        let scalar = ScalarModel::new(model.format, model.exponent, model.shape, mu[i], scales[i]);
        let one = scalar.find(slots[i] as u32);
        let cell = one.cell;
        let (origin, raw_end) = match one.number {
            // The raw value is the code.
            None => (0, 1 << 16),
            Some(number) if number >= 0 => (cell.first_rank, cell.ranks),
            Some(_) => ((-cell.first_rank - cell.ranks) | model.format.magnitudes(), cell.ranks),
        };
        let values = [one.start as i32, one.freq as i32, origin, cell.raw_bits as i32, raw_end];
        fields.iter_mut().zip(values).for_each(|(field, value)| field[i] = value);
    }
    for (field, place) in fields.iter().zip(places) {
        *place = V::load(proof, field);
    }
}
