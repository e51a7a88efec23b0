//! Operations on rows.

use alloc::format;
use alloc::vec::Vec;

use super::inputs::Pattern;
use super::{Case, definition};
use crate::backend::{Backend, Quantise, Rotary, Silu, Store};
use crate::data::{Digits, Ints, Rows, Weights};
use crate::fixed::{LIMIT, Scale, scaled};
use crate::random::Random;

const SIZES: [(usize, usize); 6] = [(1, 1), (1, 64), (3, 7), (5, 129), (2, 576), (70, 33)];

/// `upload` and `download` are inverse.
pub fn transfer<B: Backend>(b: &B) {
    for (i, (rows, cols)) in SIZES.into_iter().enumerate() {
        let x = Pattern::Full.ints(&mut Random::new(i as u64), rows, cols);
        Case::new(b, format!("upload, download of {rows} x {cols}"), i as u64)
            .same(&b.download(&b.upload(x.clone())), &x);
    }
}

/// `repeat`, and `room` that is filled by `put`.
pub fn repeat<B: Backend>(b: &B) {
    for (i, (rows, cols)) in SIZES.into_iter().enumerate() {
        let row = Pattern::Full.ints(&mut Random::new(i as u64), 1, cols);
        let case = Case::new(b, format!("{rows} times {cols} columns"), i as u64);
        let expected = definition().repeat(&row.data, rows);
        case.same(&b.download(&b.repeat(&row.data, rows)), &expected);
        let mut filled = b.room(rows, cols);
        b.put(&mut filled, 0, &b.upload(expected.clone()));
        case.same(&b.download(&filled), &expected);
    }
}

/// `lookup`, where it answers: rows of a table in any order and none.
pub fn lookup<B: Backend>(b: &B) {
    for (seed, digits) in [(0, Digits::One), (1, Digits::Two)] {
        for inp in [1, 64, 130] {
            let rng = &mut Random::new(seed);
            let weights = Pattern::Full.weights(rng, 40, inp, digits, (-20, 12), false);
            let outputs: Vec<i32> = (0..70).map(|_| rng.within(-1, 39)).collect();
            let mut expected = Ints::zeros(outputs.len(), inp);
            for (t, o) in outputs.iter().enumerate().filter(|(_, o)| **o >= 0) {
                for i in 0..inp {
                    let q = weights.values[*o as usize * inp + i];
                    expected.data[t * inp + i] = scaled(q as i32, weights.scales[*o as usize], Scale::ONE);
                }
            }
            let table = b.load(weights).expect("a table");
            let found = b.lookup(&table, &outputs);
            assert_eq!(found.is_some(), b.looks_up(), "{}: lookup answers as looks_up says", b.name());
            if let Some(found) = found {
                Case::new(b, format!("lookup in {digits:?} x {inp}"), seed)
                    .same(&b.download(&found), &expected);
            }
        }
    }
}

/// Rows as numbers: products with a unit matrix, its scales chosen so that each row's `q * mantissa` comes out whole.
///
/// Every exponent that the definition's rows have gets its own columns: a wrong mantissa, exponent or digit shows.
pub(super) fn reveal<B: Backend>(b: &B, rows: &B::Rows, expected: &Rows) -> Ints {
    assert_eq!(expected.group, expected.cols, "one scale a row");
    let k = expected.cols;
    let mut exponents: Vec<i16> = expected.scales.iter().map(|s| s.e).collect();
    exponents.sort_unstable();
    exponents.dedup();
    let (mut values, mut scales) = (Vec::new(), Vec::new());
    for e in &exponents {
        for o in 0..k {
            values.extend((0..k).map(|i| (i == o) as i16));
            // q * m * 2^e * 2^14 * 2^(-14 - e).
            scales.push(Scale { m: 1 << 14, e: -14 - e });
        }
    }
    let out = scales.len();
    let weights = Weights { out, inp: k, digits: Digits::One, values, scales, bias: None };
    let mut found = b.upload(Ints::zeros(expected.rows, out));
    b.gemm(rows, &b.load(weights).expect("a unit matrix"), None, Store::SET, &mut found);
    b.download(&found)
}

/// `quantise`: digits, gains, norms, Hadamard blocks, groups (seen through products), every pattern.
pub fn quantise<B: Backend>(b: &B) {
    let p = definition();
    let mut seed = 0;
    for pattern in Pattern::ALL {
        for digits in [Digits::One, Digits::Two] {
            for (cols, hadamard) in
                [(1, 0), (7, 0), (33, 0), (64, 6), (48, 4), (96, 5), (128, 7), (130, 1), (72, 3), (256, 8)]
            {
                seed += 1;
                let rng = &mut Random::new(seed);
                let mut x = pattern.ints(rng, 4, cols);
                let exponent = rng.within(-10, 30);
                let norm = match rng.within(0, 5) {
                    0 | 1 => None,
                    2 => Some(Scale::ZERO),
                    3 => Some(rng.scale(-32, -28)),
                    4 => Some(edge_eps(rng, exponent)),
                    _ => Some(rng.scale(-60, 40)),
                };
                let wide = if hadamard == 0 { rng.pick(&[0, 1, 3, 16]).min(cols) } else { 0 };
                // Wide columns at the magnitude of the rest, or far above it.
                if wide > 0 {
                    let down = rng.within(0, 12);
                    for row in x.data.chunks_exact_mut(cols) {
                        row[wide..].iter_mut().for_each(|v| *v >>= down);
                    }
                }
                let gain = if rng.bits() & 1 == 0 { Scale::ONE } else { rng.scale(-30, 10) };
                let how = Quantise { group: cols, hadamard, digits, wide, exponent, norm, gain };
                let expected = p.quantise(&x, &how);
                let rows = b.quantise(&b.upload(x), &how);
                Case::new(b, format!("{pattern:?} 4 x {cols}, {how:?}"), seed)
                    .same(&reveal(b, &rows, &expected), &reveal(&p, &expected, &expected));
            }
        }
    }
}

/// An epsilon at an end of what fits the mean square of a row that fills 30 bits.
fn edge_eps(rng: &mut Random, exponent: i32) -> Scale {
    let shift = rng.pick(&[-17, -16, -15, -14, -1, 0, 44, 45, 46, 47, 48]) + 2 * (14 - exponent) - 16;
    rng.scale(shift, shift)
}

/// `rms`, by patterns and epsilons. A row of zeros needs an epsilon that is not lost in its fixed point.
pub fn rms<B: Backend>(b: &B) {
    let mut seed = 0;
    for pattern in Pattern::ALL {
        for (rows, cols) in SIZES {
            seed += 1;
            let rng = &mut Random::new(seed);
            let x = pattern.ints(rng, rows, cols);
            let exponent = rng.within(14, 30);
            let eps = match pattern {
                // The least epsilons that a row of zeros still feels.
                Pattern::Zero | Pattern::Tiny => {
                    let least = 2 * (14 - exponent) - 30;
                    let most = rng.pick(&[least, least + 1, 10]);
                    rng.scale(least, most)
                }
                _ if rng.bits() & 1 == 0 => edge_eps(rng, exponent),
                _ => rng.pick(&[Scale::ZERO, Scale { m: 21990, e: -31 }, Scale { m: 16384, e: 0 }]),
            };
            let case = Case::new(
                b,
                format!("rms of {pattern:?} {rows} x {cols}, exponent {exponent}, {eps:?}"),
                seed,
            );
            let found = b.download_scales(&b.rms(&b.upload(x.clone()), exponent, eps));
            case.equal(&found, &definition().rms(&x, exponent, eps));
        }
    }
}

/// `head_norm`, by patterns, weights of both signs and zero, offsets.
pub fn head_norm<B: Backend>(b: &B) {
    let mut seed = 0;
    for pattern in Pattern::ALL {
        for (head, heads, left, right) in [(64, 3, 0, 0), (1, 2, 1, 1), (7, 3, 5, 2), (128, 2, 128, 0)] {
            seed += 1;
            let rng = &mut Random::new(seed);
            let cols = left + head * heads + right;
            let x = pattern.ints(rng, 6, cols);
            let (exponent, eps) = (rng.within(14, 28), rng.scale(-31, -20));
            let weight: Vec<(i16, i16)> = (0..head)
                .map(|_| match rng.within(0, 9) {
                    0 => (0, 0),
                    n => {
                        let s = rng.scale(-4, 12);
                        (if n < 4 { -s.m } else { s.m }, s.e)
                    }
                })
                .collect();
            let of = |found: &mut Ints| {
                definition().head_norm(found, left..left + head * heads, exponent, eps, &weight)
            };
            let mut expected = x.clone();
            of(&mut expected);
            let mut found = b.upload(x);
            b.head_norm(&mut found, left..left + head * heads, exponent, eps, &weight);
            Case::new(b, format!("head_norm of {pattern:?}, {heads} heads of {head} from {left}"), seed)
                .same(&b.download(&found), &expected);
        }
    }
}

/// `rope`: positions near and far, both ways, offsets.
pub fn rope<B: Backend>(b: &B) {
    let mut seed = 0;
    for pattern in Pattern::ALL {
        for (head_dim, heads, left, right) in [(64, 3, 0, 0), (2, 5, 3, 1), (128, 1, 64, 64), (96, 2, 0, 7)] {
            for start in [0, 1, 4095, 1 << 40] {
                seed += 1;
                let rng = &mut Random::new(seed);
                let x = pattern.ints(rng, 9, left + heads * head_dim + right);
                let steps: Vec<u64> = (0..head_dim / 2)
                    .map(|i| if i == 0 { u64::MAX / 6 } else { rng.bits() >> (i % 60) })
                    .collect();
                let rotary = Rotary { head_dim, steps: &steps, start, inverse: rng.bits() & 1 == 0 };
                let columns = left..left + heads * head_dim;
                let expected = definition().rope(&x, columns.clone(), &rotary);
                let found = b.download(&b.rope(&b.upload(x), columns, &rotary));
                Case::new(
                    b,
                    format!("rope of {pattern:?}, {heads} heads of {head_dim} from {left}, start {start}"),
                    seed,
                )
                .same(&found, &expected);
            }
        }
    }
}

/// `columns`: every kind of range.
pub fn columns<B: Backend>(b: &B) {
    for (i, (cols, range)) in
        [(1, 0..1), (64, 0..64), (130, 3..67), (7, 6..7), (40, 8..24)].into_iter().enumerate()
    {
        let x = Pattern::Full.ints(&mut Random::new(i as u64), 11, cols);
        let found = b.download(&b.columns(&b.upload(x.clone()), range.clone()));
        Case::new(b, format!("columns {range:?} of {cols}"), i as u64)
            .same(&found, &definition().columns(&x, range));
    }
}

/// `add`: saturation at both ends, offsets.
pub fn add<B: Backend>(b: &B) {
    let mut seed = 0;
    for px in Pattern::ALL {
        for py in Pattern::ALL {
            for (cols, column, width) in [(64, 0, 64), (9, 4, 3), (130, 66, 64)] {
                seed += 1;
                let rng = &mut Random::new(seed);
                let (mut x, y) = (px.ints(rng, 5, cols), py.ints(rng, 5, width));
                let mut found = b.upload(x.clone());
                b.add(&mut found, column, &b.upload(y.clone()));
                definition().add(&mut x, column, &y);
                Case::new(b, format!("add {py:?} to {px:?} at {column} of {cols}"), seed)
                    .same(&b.download(&found), &x);
            }
        }
    }
}

/// `put`: offsets, fewer rows than there are.
pub fn put<B: Backend>(b: &B) {
    for (seed, (rows, cols, column, width)) in
        [(5, 64, 0, 64), (5, 9, 4, 3), (3, 130, 66, 64), (5, 256, 128, 128)].into_iter().enumerate()
    {
        let rng = &mut Random::new(seed as u64);
        let (mut x, y) = (Pattern::Full.ints(rng, 5, cols), Pattern::Full.ints(rng, rows, width));
        let mut found = b.upload(x.clone());
        b.put(&mut found, column, &b.upload(y.clone()));
        definition().put(&mut x, column, &y);
        Case::new(b, format!("put {rows} x {width} at {column} of {cols}"), seed as u64)
            .same(&b.download(&found), &x);
    }
}

/// `activate`: as `silu`, then digits of either kind, with and without Hadamard transforms.
pub fn activate<B: Backend>(b: &B) {
    let p = definition();
    let mut seed = 0;
    for pattern in Pattern::ALL {
        for (cols, hadamard) in [(1, 0), (37, 0), (64, 6), (96, 5), (256, 8), (1536, 0), (1536, 9)] {
            for digits in [Digits::One, Digits::Two] {
                seed += 1;
                let rng = &mut Random::new(seed);
                let silu = Silu { gate: rng.within(12, 28), up: rng.within(2, 28), out: rng.within(-20, 28) };
                let mut x = pattern.ints(rng, 3, 2 * cols);
                let edge = 16i64 << silu.gate;
                for v in x.data.iter_mut().step_by(5) {
                    let v5 = rng.pick(&[edge, -edge, 0]) + rng.within(-3, 3) as i64;
                    *v = v5.clamp(-(LIMIT as i64), LIMIT as i64) as i32;
                }
                let how = Quantise { hadamard, ..Quantise::rows(cols, digits, silu.out) };
                let expected = p.activate(&x, silu, &how);
                let rows = b.activate(&b.upload(x), silu, &how);
                let case = Case::new(b, format!("{pattern:?} 3 x {cols}, {silu:?}, {how:?}"), seed);
                match (cols <= 256, b.download_rows(&rows)) {
                    (_, Some(found)) => case.equal(&found, &expected),
                    (true, None) => {
                        case.same(&reveal(b, &rows, &expected), &reveal(&p, &expected, &expected))
                    }
                    // The product with a unit matrix would be large.
                    (false, None) => continue,
                }
            }
        }
    }
}

/// `silu`: all patterns, fixed points that shift either way, the ends of the table.
pub fn silu<B: Backend>(b: &B) {
    let mut seed = 0;
    for pattern in Pattern::ALL {
        for cols in [1, 16, 37, 256] {
            for how in [
                Silu { gate: 20, up: 20, out: 20 },
                Silu { gate: 24, up: 18, out: 14 },
                Silu { gate: 12, up: 10, out: 22 },
                Silu { gate: 16, up: 2, out: 28 },
                Silu { gate: 28, up: 28, out: -20 },
            ] {
                seed += 1;
                let rng = &mut Random::new(seed);
                let mut x = pattern.ints(rng, 3, 2 * cols);
                // Around +-16, where the table ends, and around zero.
                let edge = 16i64 << how.gate;
                for v in x.data.iter_mut().step_by(5) {
                    let v5 = rng.pick(&[edge, -edge, 0]) + rng.within(-3, 3) as i64;
                    *v = v5.clamp(-(LIMIT as i64), LIMIT as i64) as i32;
                }
                let found = b.download(&b.silu(&b.upload(x.clone()), how));
                Case::new(b, format!("{pattern:?} 3 x {cols}, {how:?}"), seed)
                    .same(&found, &definition().silu(&x, how));
            }
        }
    }
}

/// `append`: the appended rows are the rows of the whole.
pub fn append<B: Backend>(b: &B) {
    let p = definition();
    for (i, (first, second, cols, digits)) in [
        (1, 1, 64, Digits::One),
        (5, 0, 33, Digits::One),
        (3, 130, 7, Digits::Two),
        (64, 64, 64, Digits::Two),
    ]
    .into_iter()
    .enumerate()
    {
        let rng = &mut Random::new(i as u64);
        let (x, y) = (Pattern::Rows.ints(rng, first, cols), Pattern::Mixed.ints(rng, second, cols));
        let how = Quantise::rows(cols, digits, 16);
        let mut whole = x.clone();
        whole.rows += second;
        whole.data.extend(&y.data);
        let mut rows = b.quantise(&b.upload(x), &how);
        b.append(&mut rows, b.quantise(&b.upload(y), &how));
        let expected = p.quantise(&whole, &how);
        Case::new(b, format!("append {second} rows to {first}"), i as u64)
            .same(&reveal(b, &rows, &expected), &reveal(&p, &expected, &expected));
    }
}

/// `power`, by patterns and ranges.
pub fn power<B: Backend>(b: &B) {
    let mut seed = 0;
    for pattern in Pattern::ALL {
        for (cols, range) in [(64, 0..64), (9, 3..4), (200, 64..128)] {
            seed += 1;
            let rng = &mut Random::new(seed);
            let (x, exponent) = (pattern.ints(rng, 7, cols), rng.within(-20, 40));
            let found = b.download(&b.power(&b.upload(x.clone()), range.clone(), exponent));
            Case::new(b, format!("power of {pattern:?} columns {range:?}, exponent {exponent}"), seed)
                .same(&found, &definition().power(&x, range, exponent));
        }
    }
}

/// `token_scale`: no, one and several features; results at both ends.
pub fn token_scale<B: Backend>(b: &B) {
    for seed in 0..40 {
        let rng = &mut Random::new(seed);
        let rows = rng.pick(&[1, 3, 64, 300]);
        let count = rng.within(0, 6) as usize;
        let features: Vec<Ints> = (0..count)
            .map(|_| Ints { rows, cols: 1, data: (0..rows).map(|_| rng.value(18)).collect() })
            .collect();
        let weights: Vec<i32> = (0..count).map(|_| rng.value(20)).collect();
        let bias = (rng.value(30) as i64) << rng.within(0, 10);
        let ours: Vec<B::Ints> = features.iter().map(|f| b.upload(f.clone())).collect();
        let found = b.token_scale(rows, &ours.iter().zip(weights.iter().copied()).collect::<Vec<_>>(), bias);
        let expected = definition().token_scale(
            rows,
            &features.iter().zip(weights.iter().copied()).collect::<Vec<_>>(),
            bias,
        );
        Case::new(b, format!("token_scale of {count} features, {rows} rows"), seed)
            .same(&b.download(&found), &expected);
    }
}
