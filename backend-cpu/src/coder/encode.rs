//! Pricing of a plane and encoding of its symbols, `N` lanes at a time: `PlaneModel::price` and `LaneEncoder::push_symbols`.

use speckv_predictor::core::limits::LANES;
use speckv_predictor::core::{LaneEncoder, PlaneModel, Symbol};

use super::decode::active;
use super::int::Int;
use super::model::Shared;
use super::scales::Scales;
use super::units::Format;

/// Rows whose costs fit 32 bits, even if one lane were to add them all up: a symbol costs little more than 32 bits, in 1/256 bit.
const SUMMED: usize = 1 << 13;

/// `floor(256 * log2(1 + i / 256))`, four values an entry, the first one lowest: what `Symbol::cost` takes off whole bits.
const LOG2: [(u16, u16); 64] = {
    const fn log2(i: usize) -> u16 {
        let freq = 256 + i as u16;
        (8 * 256 - Symbol { start: 0, freq, raw: 0, raw_bits: 0 }.cost()) as u16
    }
    let mut table = [(0, 0); 64];
    let mut i = 0;
    while i < 256 {
        table[i / 4] = (log2(i) | log2(i + 1) << 8, log2(i + 2) | log2(i + 3) << 8);
        i += 4;
    }
    table
};

/// Symbols of a plane whose sizes and ranges were checked, as many as `out` has room for, and their cost. `None` if this cannot.
#[inline(always)]
pub(crate) fn price<V: Int, F: Format>(
    proof: V::Proof,
    model: &PlaneModel<'_>,
    codes: &[u16],
    out: &mut [Symbol],
) -> Option<u64> {
    let shared = Shared::<V>::new::<F>(proof, model)?;
    let log2 = V::table64(proof, &LOG2);
    let mut cost = 0;
    let mut scales = Scales::new(model);
    let (rows, rest) = codes.as_chunks::<LANES>();
    let (means, rest_means) = model.mu.as_chunks::<LANES>();
    let (symbols, rest_symbols) = out.as_chunks_mut::<LANES>();
    for ((rows, means), symbols) in
        rows.chunks(SUMMED).zip(means.chunks(SUMMED)).zip(symbols.chunks_mut(SUMMED))
    {
        let mut sums = V::splat(proof, 0);
        for ((codes, mu), out) in rows.iter().zip(means).zip(symbols) {
            sums = sums + price_row::<V, F>(proof, &shared, &log2, scales.row(), mu, codes, out);
        }
        let mut lanes = [0; LANES];
        sums.store(&mut lanes);
        for sum in lanes {
            cost += u64::from(sum as u32);
        }
    }
    if !rest.is_empty() {
        let (mut mu, mut row, mut symbols) = ([0; LANES], [0; LANES], [Symbol::default(); LANES]);
        mu[..rest.len()].copy_from_slice(rest_means);
        row[..rest.len()].copy_from_slice(rest);
        price_row::<V, F>(proof, &shared, &log2, scales.row(), &mu, &row, &mut symbols);
        rest_symbols.copy_from_slice(&symbols[..rest.len()]);
        for symbol in rest_symbols {
            cost += u64::from(symbol.cost());
        }
    }
    Some(cost)
}

/// One row, and its cost by lane modulo `N`.
#[inline(always)]
fn price_row<V: Int, F: Format>(
    proof: V::Proof,
    shared: &Shared<V>,
    log2: &V::Table64,
    (channels, token): (&[i16; LANES], i16),
    mu: &[i32; LANES],
    codes: &[u16; LANES],
    out: &mut [Symbol; LANES],
) -> V {
    let c = |x| shared.c(x);
    let mut sums = c(0);
    for from in (0..LANES).step_by(V::N) {
        let code = V::load_u16(proof, &codes[from..]);
        let w = shared.window::<F>(V::load(proof, &mu[from..]), shared.scale(&channels[from..], token));
        let m = code & c(F::MAGNITUDES - 1);
        let sign = c(0) - (code.right(F::WIDTH - 1) & c(1));
        let (cells, escape) = shared.cells::<F>(&w, m, sign);
        let raw = (m ^ sign) & (cells.ranks - c(1));
        let raw = if F::ZONES { V::select(shared.zone::<F>(&cells), m, raw) } else { raw };
        let start = V::select(escape, shared.upper_end(), cells.start);
        let freq = V::select(escape, c(65536) - shared.upper_end(), cells.end - cells.start);
        let raw = V::select(escape, code, raw);
        let raw_bits = V::select(escape, c(F::WIDTH), cells.raw_bits);
        (start | freq.left(16)).store_symbols(raw | raw_bits.left(16), &mut out[from..]);
        // `Symbol::cost`: with its leading one in bit 31 a frequency's next eight bits are the fraction of its octave.
        let zeros = freq.leading_zeros();
        let fraction = freq.shl(zeros).right(23) & c(255);
        let (low, high) = fraction.right(2).lookup64(log2);
        let log2 = (low | high.left(16)).shr((fraction & c(3)).left(3)) & c(255);
        sums = sums + (zeros + raw_bits - c(15)).left(8) - log2;
    }
    sums
}

/// Encodes one plane's symbols (all valid), which the decoder reads before everything encoded so far.
#[inline(always)]
pub(crate) fn push<V: Int>(proof: V::Proof, encoder: &mut LaneEncoder, symbols: &[Symbol]) {
    let mut states = encoder.states.map(|s| s as i32);
    let words = &mut encoder.words;
    let mut at = words.len();
    let (rows, rest) = symbols.as_chunks::<LANES>();
    // A row emits two words a lane at most, and a vector's worth is written at a time. No closures here: they would lack the features.
    let room = 3 * LANES;
    words.resize(at + room + symbols.len() / 4, 0);
    if !rest.is_empty() {
        // No raw bits and an interval of one slot at 0: what lanes past the end are given is dropped again.
        let mut row = [Symbol { start: 0, freq: 1, raw: 0, raw_bits: 0 }; LANES];
        row[..rest.len()].copy_from_slice(rest);
        at = push_row::<V, true>(proof, &row, rest.len(), &mut states, words, at);
    }
    for row in rows.iter().rev() {
        if words.len() < at + room {
            words.resize(at + room + symbols.len() / 4, 0);
        }
        at = push_row::<V, false>(proof, row, LANES, &mut states, words, at);
    }
    words.truncate(at);
    encoder.states = states.map(|s| s as u32);
}

#[inline(always)]
fn push_row<V: Int, const PART: bool>(
    proof: V::Proof,
    row: &[Symbol; LANES],
    count: usize,
    states: &mut [i32; LANES],
    words: &mut [u16],
    mut at: usize,
) -> usize {
    let c = |x| V::splat(proof, x);
    let zero = c(0);
    let any_raw = row.iter().fold(0, |any, symbol| any | symbol.raw_bits);
    if any_raw != 0 {
        for from in (0..LANES).step_by(V::N).rev() {
            let (_, high) = V::load_symbols(proof, &row[from..]);
            let (raw, bits) = (high & c(0xFFFF), high.right(16));
            let state = V::load(proof, &states[from..]);
            // Without raw bits the shift is by 32, which leaves nothing.
            let full = state.shr_any(c(32) - bits).eq(zero);
            let need = V::not(full);
            at = state.emit(need, words, at);
            let state = V::select(need, state.right(16), state);
            (state.shl(bits) | raw).store(&mut states[from..]);
        }
    }
    for from in (0..LANES).step_by(V::N).rev() {
        let (low, _) = V::load_symbols(proof, &row[from..]);
        let (start, freq) = (low & c(0xFFFF), low.right(16));
        let state = V::load(proof, &states[from..]);
        // state >= freq << 16.
        let mut need = V::not(freq.gt(state.right(16)));
        if PART {
            need = need & active::<V>(proof, from, count);
        }
        at = state.emit(need, words, at);
        let x = V::select(need, state.right(16), state);
        let quotient = x.quotient(freq);
        let next = quotient.left(16) + (x - quotient * freq) + start;
        let next = if PART { V::select(active::<V>(proof, from, count), next, state) } else { next };
        next.store(&mut states[from..]);
    }
    at
}
