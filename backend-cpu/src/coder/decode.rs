//! Decoding of a coded plane, `N` lanes at a time: `PlaneModel::decode`.

use speckv_predictor::core::limits::LANES;
use speckv_predictor::core::model::ScalarModel;
use speckv_predictor::core::{Lanes, PlaneModel};

use super::int::Int;
use super::model::{Cells, Shared, Window};
use super::scales::Scales;
use super::units::Format;

/// Steps from a guessed cell to its neighbours before a lane is left to the definition's search.
const STEPS: usize = 2;

/// Above every raw value.
const ESCAPE_END: i32 = 1 << 16;

/// Cells and intervals of `N` slots.
struct Found<V: Int> {
    cells: Cells<V>,
    start: V,
    freq: V,
    escape: V::Mask,
}

/// A row between its symbols and its raw bits.
struct Pending {
    /// Ranks at raw value 0.
    origin: [i32; LANES],
    /// -1 turns a raw value `r` into `-1 - r`.
    flip: [i32; LANES],
    raw_bits: [i32; LANES],
    /// Raw values must be below these. 2^16 is that of escapes and of nothing else.
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
    let Some(shared) = Shared::<V>::new(proof, model) else { return false };
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
    let mut pending =
        Pending { origin: [0; LANES], flip: [0; LANES], raw_bits: [0; LANES], raw_end: [0; LANES] };
    let mut any_raw = 0;
    for from in (0..LANES).step_by(V::N) {
        let state = V::load(proof, &states[from..]);
        let q = shared.scale(&channels[from..], token);
        let window = shared.window::<F>(V::load(proof, &mu[from..]), q);
        let slot = state & c(0xFFFF);
        let found = find::<V, F>(shared, model, &window, slot, &mu[from..], q);
        let next = found.freq * state.shr(c(16)) + slot - found.start;
        let mut need = next.shr(c(16)).eq(zero);
        if PART {
            need = need & active::<V>(proof, from, count);
        }
        let (next, after) = next.refill(need, words, *at);
        *at = after;
        let next = if PART { V::select(active::<V>(proof, from, count), next, state) } else { next };
        next.store(&mut states[from..]);
        let raw_bits = V::select(found.escape, c(F::WIDTH), found.cells.raw_bits);
        let raw_bits =
            if PART { V::select(active::<V>(proof, from, count), raw_bits, zero) } else { raw_bits };
        any_raw |= V::bits(raw_bits.gt(zero));
        let (mut origin, mut flip) = (found.cells.first_rank, zero);
        if F::ZONES {
            let zone = shared.zones::<F>(&found.cells);
            origin = V::select(zone, zero, origin);
            flip = V::select(zone, found.cells.number.sar(c(31)), zero);
        }
        origin.store(&mut pending.origin[from..]);
        flip.store(&mut pending.flip[from..]);
        raw_bits.store(&mut pending.raw_bits[from..]);
        V::select(found.escape, c(ESCAPE_END), found.cells.ranks).store(&mut pending.raw_end[from..]);
        // What it is if no raw bits follow.
        shared.codes::<F>(origin + flip).store_u16(&mut codes[from..]);
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
        let raw_end = V::load(proof, &pending.raw_end[from..]);
        let raw = state & (c(1).shl(raw_bits) - c(1));
        let next = state.shr(raw_bits);
        // Without raw bits a state is at least 2^16 already.
        let (next, after) = next.refill(next.shr(c(16)).eq(c(0)), words, *at);
        *at = after;
        next.store(&mut states[from..]);
        bad |= V::bits(V::not(raw_end.gt(raw)));
        let rank = V::load(proof, &pending.origin[from..]) + (raw ^ V::load(proof, &pending.flip[from..]));
        V::select(raw_end.eq(c(ESCAPE_END)), raw, shared.codes::<F>(rank)).store_u16(&mut codes[from..]);
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

/// `ScalarModel::find`: a guess, checked; then neighbours, checked; then the definition.
#[inline(always)]
fn find<V: Int, F: Format>(
    shared: &Shared<V>,
    model: &PlaneModel<'_>,
    w: &Window<V>,
    slot: V,
    mu: &[i32],
    q: V,
) -> Found<V> {
    let c = |x| shared.c(x);
    let mut cells = shared.guess::<F>(w, slot);
    let upper_end = shared.upper_end();
    let escape = slot.gt(upper_end - c(1));
    for _ in 0..STEPS {
        let below = cells.start.gt(slot);
        let miss = missed(shared, &cells, slot);
        if V::bits(miss) == 0 {
            break;
        }
        let rank = V::select(below, cells.first_rank - c(1), cells.first_rank + cells.ranks);
        cells = Cells::select(miss, shared.cells::<F>(w, rank), cells);
    }
    let miss = V::bits(missed(shared, &cells, slot));
    let mut found = Found {
        cells,
        start: V::select(escape, upper_end, cells.start),
        freq: V::select(escape, c(65536) - upper_end, cells.end - cells.start),
        escape,
    };
    if miss != 0 {
        search(shared.proof(), model, miss, slot, mu, q, &mut found);
    }
    found
}

/// Slots below the escapes that are not in their cells.
#[inline(always)]
fn missed<V: Int>(shared: &Shared<V>, cells: &Cells<V>, slot: V) -> V::Mask {
    (cells.start.gt(slot) | slot.gt(cells.end - shared.c(1))) & shared.upper_end().gt(slot)
}

/// Lanes that are far from their guesses, one by one: a few in ten thousand, in the tails.
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
    let mut fields = [[0; LANES]; 6];
    let cells = &mut found.cells;
    let places = [
        &mut cells.number,
        &mut cells.first_rank,
        &mut cells.ranks,
        &mut cells.raw_bits,
        &mut found.start,
        &mut found.freq,
    ];
    for (field, place) in fields.iter_mut().zip(&places) {
        place.store(field);
    }
    for i in (0..V::N).filter(|i| miss >> i & 1 != 0) {
        let model = ScalarModel::new(model.format, model.exponent, model.shape, mu[i], scales[i]);
        let one = model.find(slots[i] as u32);
        // A slot below the escapes has a cell.
        let number = one.number.unwrap_or(0);
        let cell = one.cell;
        let values =
            [number, cell.first_rank, cell.ranks, cell.raw_bits as i32, one.start as i32, one.freq as i32];
        fields.iter_mut().zip(values).for_each(|(field, value)| field[i] = value);
    }
    for (field, place) in fields.iter().zip(places) {
        *place = V::load(proof, field);
    }
}
