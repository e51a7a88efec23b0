//! Queries to digits.

use alloc::format;
use alloc::vec::Vec;

use super::inputs::Pattern;
use super::rows::reveal;
use super::{Case, definition};
use crate::backend::{Backend, HeadNorm, Quantise, Rotary};
use crate::data::Digits;
use crate::fixed::Scale;
use crate::random::Random;

/// `heads`: with and without norm, Hadamard transforms, both kinds of digits, one head and several, offsets.
pub fn heads<B: Backend>(b: &B) {
    let mut seed = 0;
    for pattern in Pattern::ALL {
        // So many rows that a device's warp takes more than one head of a row, and once fewer of them than before.
        let many = if pattern == Pattern::ALL[0] { 4200 } else { 9 };
        for (rows, head_dim, heads, left, right) in [
            (9, 64, 1, 0, 0),
            (9, 128, 1, 0, 0),
            (9, 64, 5, 64, 1),
            (9, 128, 3, 0, 128),
            (9, 80, 2, 3, 0),
            (9, 6, 1, 1, 1),
            (9, 256, 2, 0, 0),
            (many, 64, 9, 0, 2),
        ] {
            for (normed, digits) in [(true, Digits::One), (false, Digits::Two), (true, Digits::Two)] {
                seed += 1;
                let rng = &mut Random::new(seed);
                let columns = left..left + heads * head_dim;
                let x = pattern.ints(rng, rows, columns.end + right);
                let weight: Vec<(i16, i16)> = (0..head_dim)
                    .map(|_| {
                        let s = rng.scale(-4, 12);
                        (if rng.bits() & 3 == 0 { -s.m } else { s.m }, s.e)
                    })
                    .collect();
                let norm =
                    HeadNorm { exponent: rng.within(14, 28), eps: rng.scale(-31, -20), weight: &weight };
                let norm = normed.then_some(&norm);
                let steps: Vec<u64> = (0..head_dim / 2).map(|i| rng.bits() >> (i % 60)).collect();
                let start = rng.pick(&[0, 4095, 1 << 40]);
                let rotary = Rotary { head_dim, steps: &steps, start, inverse: rng.bits() & 1 == 0 };
                let how = Quantise {
                    hadamard: if rng.bits() & 1 == 0 { head_dim.trailing_zeros() } else { 0 },
                    gain: if rng.bits() & 1 == 0 { Scale::ONE } else { rng.scale(-20, 4) },
                    ..Quantise::rows(head_dim, digits, rng.within(-10, 30))
                };
                let p = definition();
                let expected = p.heads(&mut x.clone(), columns.clone(), norm, &rotary, &how);
                let rows = b.heads(&mut b.upload(x), columns, norm, &rotary, &how);
                let what = format!(
                    "heads of {pattern:?}, {heads} of {head_dim} from {left}, norm {normed}, {how:?}"
                );
                let case = Case::new(b, what, seed);
                if heads == 1 {
                    case.same(&reveal(b, &rows, &expected), &reveal(&p, &expected, &expected));
                } else if let Some(found) = b.download_rows(&rows) {
                    case.equal(&found, &expected);
                }
            }
        }
    }
}
