//! Attention.

use alloc::format;

use super::inputs::Pattern;
use super::{Case, definition};
use crate::backend::{Attention, Backend, Quantise};
use crate::data::{Digits, Ints};
use crate::fixed::Scale;
use crate::random::Random;

struct Inputs {
    query: Ints,
    keys: Ints,
    values: Ints,
    how: [Quantise; 3],
    start: usize,
    attention: Attention,
}

impl Inputs {
    fn of<B: Backend>(&self, b: &B) -> Ints {
        let rows = |x: &Ints, how| b.quantise(&b.upload(x.clone()), how);
        let [query, keys, values] = &self.how;
        let (query, keys, values) =
            (rows(&self.query, query), rows(&self.keys, keys), rows(&self.values, values));
        b.download(&b.attention(&query, &keys, &values, self.start, &self.attention))
    }
}

/// `attention`: digits, grouped heads, head sizes, starts, lengths across blocks of 64 keys; flat, sharp and saturated scores; equal
/// keys; value scales below, at and beyond their place.
pub fn attention<B: Backend>(b: &B) {
    let mut seed = 0;
    for (heads, kv_heads, head_dim) in
        [(1, 1, 64usize), (4, 2, 64), (3, 1, 16), (2, 2, 128), (6, 3, 8), (2, 1, 80), (5, 5, 2)]
    {
        for (start, rows, more) in
            [(0, 1, 0), (0, 5, 0), (0, 64, 0), (0, 65, 3), (63, 2, 0), (64, 13, 0), (127, 70, 1), (300, 7, 0)]
        {
            for round in 0..4 {
                seed += 1;
                // One digit, and each operand alone or all with two.
                let two =
                    [[false; 3], [true; 3], [true, false, true], [false, true, false]][(seed % 4) as usize];
                check(b, seed, [heads, kv_heads, head_dim], [start, rows, more], round, two);
            }
        }
    }
}

/// Attention that only long rows of large heads reach: tiles of 64 rows and 128 keys, whole and cut, from any start.
pub(super) fn large<B: Backend>(b: &B) {
    let mut seed = 20_000;
    for heads in [[4, 1, 128], [3, 1, 128], [2, 2, 128]] {
        for rows in [[0, 64, 0], [0, 200, 3], [63, 130, 0], [190, 129, 1], [511, 65, 0], [700, 128, 200]] {
            for round in 0..4 {
                seed += 1;
                check(b, seed, heads, rows, round, [false; 3]);
            }
        }
    }
}

/// One case: heads, key heads and head size; tokens before the rows, rows, tokens after them; which of queries, keys and values have two digits.
fn check<B: Backend>(
    b: &B,
    seed: u64,
    [heads, kv_heads, head_dim]: [usize; 3],
    [start, rows, more]: [usize; 3],
    round: u32,
    two: [bool; 3],
) {
    let rng = &mut Random::new(seed);
    let digits = |i: usize| if two[i] { Digits::Two } else { Digits::One };
    let hadamard = if head_dim.is_power_of_two() { head_dim.ilog2() } else { 0 };
    let gain = match round {
        0 => rng.scale(-18, -12),
        1 => rng.scale(-30, -24),
        2 => rng.scale(-10, 0),
        _ => rng.pick(&[Scale::ZERO, Scale { m: 32767, e: 60 }, Scale { m: 16384, e: -80 }]),
    };
    let tokens = start + rows + more;
    let (value_exponent, out_exponent) = (rng.within(-16, 16), rng.within(6, 24));
    let how = |i, gain| Quantise {
        group: head_dim,
        hadamard: if i < 2 { hadamard } else { 0 },
        digits: digits(i),
        wide: 0,
        exponent: 20,
        norm: None,
        gain,
    };
    let patterns = match round {
        0 => [Pattern::Rows, Pattern::Full, Pattern::Full],
        1 => [Pattern::Full, Pattern::Mixed, Pattern::Rows],
        2 => [Pattern::Mixed, Pattern::Rows, Pattern::Outlier],
        _ => [rng.pick(&Pattern::ALL), rng.pick(&Pattern::ALL), rng.pick(&Pattern::ALL)],
    };
    let query = patterns[0].ints(rng, rows, heads * head_dim);
    let mut keys = patterns[1].ints(rng, tokens, kv_heads * head_dim);
    let values = patterns[2].ints(rng, tokens, kv_heads * head_dim);
    if seed.is_multiple_of(5) {
        // All keys equal: all scores equal.
        let first = keys.row(0).to_vec();
        keys.data.chunks_exact_mut(first.len()).for_each(|row| row.copy_from_slice(&first));
    }
    let how = [how(0, gain), how(1, Scale::ONE), how(2, Scale::ONE)];
    let attention = Attention { heads, kv_heads, head_dim, value_exponent, out_exponent };
    let inputs = Inputs { query, keys, values, how, start, attention };
    let what = format!(
        "{attention:?}, {rows} rows from {start} of {tokens}, {patterns:?}, gain {gain:?}, two digits {two:?}"
    );
    Case::new(b, what, seed).same(&inputs.of(b), &inputs.of(&definition()));
}
