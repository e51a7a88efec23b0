//! Integer matrix products.

use alloc::format;
use alloc::vec::Vec;

use super::inputs::Pattern;
use super::{Case, definition};
use crate::backend::{Backend, Mlp, Quantise, Rotary, Silu, Store};
use crate::data::{Digits, Ints, Weights};
use crate::fixed::{LIMIT, Scale};
use crate::random::Random;

const BOTH: [Digits; 2] = [Digits::One, Digits::Two];

struct Product {
    x: Ints,
    how: Quantise,
    weights: Weights,
    factor: Option<Vec<Scale>>,
    store: Store,
    before: Ints,
}

impl Product {
    fn of<B: Backend>(&self, b: &B) -> Ints {
        let rows = b.quantise(&b.upload(self.x.clone()), &self.how);
        let matrix = b.load(self.weights.clone()).expect("weights that fit their description");
        let mut out = b.upload(self.before.clone());
        let factor = self.factor.clone().map(|f| b.upload_scales(f));
        b.gemm(&rows, &matrix, factor.as_ref(), self.store, &mut out);
        b.download(&out)
    }

    fn check<B: Backend>(&self, b: &B, seed: u64, patterns: &str) {
        let what = format!(
            "gemm {} x {} x {}, digits {} (wide {}) x {}, {patterns}, factor {}, bias {}, {:?} of {} columns",
            self.x.rows,
            self.x.cols,
            self.weights.out,
            self.how.digits.count(),
            self.how.wide,
            self.weights.digits.count(),
            self.factor.is_some(),
            self.weights.bias.is_some(),
            self.store,
            self.before.cols,
        );
        let (case, expected) = (Case::new(b, what, seed), self.of(&definition()));
        case.same(&self.of(b), &expected);
        if self.how.group == self.x.cols {
            let matrix = b.load(self.weights.clone()).expect("weights that fit their description");
            let (x, mut out) = (b.upload(self.x.clone()), b.upload(self.before.clone()));
            let factor = self.factor.clone().map(|f| b.upload_scales(f));
            b.product(&x, &self.how, &matrix, factor.as_ref(), self.store, &mut out);
            case.same(&b.download(&out), &expected);
        }
    }
}

/// Exponents of weights that bring a product of rows with `exponent` fraction bits into range, and beyond both ends of it.
fn exponents(rng: &mut Random) -> (i32, i32) {
    rng.pick(&[(-30, -24), (-44, -10), (-60, -30), (-14, 10), (-200, 200), (-4096, -4000)])
}

fn product(
    rng: &mut Random,
    (t, k, n): (usize, usize, usize),
    digits: (Digits, Digits),
    patterns: (Pattern, Pattern),
) -> Product {
    let mut x = patterns.0.ints(rng, t, k);
    let mut how = Quantise::rows(k, digits.0, rng.within(8, 24));
    if rng.bits() & 1 == 0 {
        how.gain = rng.scale(-20, -8);
    }
    if rng.bits() & 1 == 0 {
        // Leading columns of two digits, and the rest small enough for them to need both.
        how.wide = rng.pick(&[1, 2, 7, 16, 64]).min(k);
        let down = rng.pick(&[0, 3, 8, 10]);
        for row in x.data.chunks_exact_mut(k) {
            row[how.wide..].iter_mut().for_each(|v| *v >>= down);
        }
    }
    let (exponents, bias) = (exponents(rng), rng.bits() & 1 == 0);
    let weights = patterns.1.weights(rng, n, k, digits.1, exponents, bias);
    let factor = (rng.bits() & 1 == 0).then(|| {
        (0..t).map(|_| if rng.within(0, 9) == 0 { Scale::ZERO } else { rng.scale(-24, -4) }).collect()
    });
    let (left, right) = rng.pick(&[(0, 0), (3, 0), (0, 5), (64, 7)]);
    let store = Store { column: left, add: rng.bits() & 1 == 0 };
    let before = Pattern::Full.ints(rng, t, left + n + right);
    Product { x, how, weights, factor, store, before }
}

/// `gemm` and `product`: all pairs of digits, patterns and exponents; odd sizes, column offsets, add and set, factors and bias.
pub fn gemm<B: Backend>(b: &B) {
    let mut seed = 0;
    for a in BOTH {
        for w in BOTH {
            for pa in Pattern::ALL {
                for pw in Pattern::ALL {
                    seed += 1;
                    let rng = &mut Random::new(seed);
                    let size = rng.pick(&[
                        (1, 1, 1),
                        (1, 64, 64),
                        (2, 3, 5),
                        (7, 33, 17),
                        (13, 127, 65),
                        (5, 130, 200),
                        (31, 64, 1),
                        (3, 576, 192),
                        (100, 31, 40),
                    ]);
                    product(rng, size, (a, w), (pa, pw)).check(b, seed, &format!("{pa:?} x {pw:?}"));
                }
            }
            // Sums at their largest, at the sizes real matrices have.
            for k in [1023, 1024, 4096, 14336] {
                seed += 1;
                let rng = &mut Random::new(seed);
                for patterns in [
                    (Pattern::Largest, Pattern::Largest),
                    (Pattern::Largest, Pattern::Smallest),
                    (Pattern::Alternating, Pattern::Alternating),
                    (Pattern::Full, Pattern::Full),
                ] {
                    product(rng, (2, k, 3), (a, w), patterns).check(b, seed, &format!("{patterns:?}"));
                }
            }
        }
    }
}

/// `feed_forward`: few rows and many, an MLP that panels cut evenly and others, all digits, wide columns, Hadamard transforms.
pub fn feed_forward<B: Backend>(b: &B) {
    fn apply<B: Backend>(
        b: &B,
        x: &Ints,
        gate_up: &Weights,
        down: &Weights,
        (normed, silu, act): (Quantise, Silu, Quantise),
    ) -> Ints {
        let [gate_up, down] = [gate_up, down].map(|w| b.load(w.clone()).expect("weights"));
        let mlp = Mlp { ffn: act.group, normed, gate_up: &gate_up, silu, act, down: &down };
        let mut hidden = b.upload(x.clone());
        b.feed_forward(&mut hidden, &mlp, x.rows);
        b.download(&hidden)
    }
    let mut seed = 3000;
    for (rows, hidden, ffn) in
        [(1, 16, 16), (3, 33, 64), (5, 64, 80), (70, 96, 320), (130, 40, 512), (200, 64, 192), (67, 72, 600)]
    {
        for (a, w) in BOTH.into_iter().flat_map(|a| BOTH.map(|w| (a, w))) {
            seed += 1;
            let rng = &mut Random::new(seed);
            let x = Pattern::Full.ints(rng, rows, hidden);
            let bias = rng.bits() & 1 == 0;
            let gate_up = Pattern::Full.weights(rng, 2 * ffn, hidden, w, (-36, -30), bias);
            let down = Pattern::Full.weights(rng, hidden, ffn, w, (-36, -30), false);
            let wide = rng.pick(&[0, 1, 16]).min(hidden);
            let eps = rng.scale(-31, -20);
            let normed = Quantise { norm: Some(eps), wide, ..Quantise::rows(hidden, a, rng.within(12, 20)) };
            let [gate, up, out] = [(14, 22), (14, 22), (10, 22)].map(|(low, high)| rng.within(low, high));
            let silu = Silu { gate, up, out };
            let hadamard = ffn.trailing_zeros().min(6);
            let act = Quantise { hadamard, ..Quantise::rows(ffn, a, silu.out) };
            let what =
                format!("feed_forward of {rows} x {hidden}, ffn {ffn}, digits {a:?} x {w:?}, wide {wide}");
            let all = (normed, silu, act);
            Case::new(b, what, seed)
                .same(&apply(b, &x, &gate_up, &down, all), &apply(&definition(), &x, &gate_up, &down, all));
        }
    }
}

/// `load` and `gemm`: every small size of each side, so that no remainder of any tile is missed; more rows than any block.
pub fn load_all_sizes<B: Backend>(b: &B) {
    for n in 1..=72 {
        let rng = &mut Random::new(1000 + n as u64);
        let k = rng.within(1, 40) as usize;
        let digits = (rng.pick(&BOTH), rng.pick(&BOTH));
        let t = rng.within(1, 5) as usize;
        let patterns = (Pattern::Full, Pattern::Full);
        product(rng, (t, k, n), digits, patterns).check(b, 1000 + n as u64, "every n");
        product(rng, (t, n, k), digits, patterns).check(b, 1000 + n as u64, "every k");
        product(rng, (n, k, t), digits, patterns).check(b, 1000 + n as u64, "every t");
    }
    let rng = &mut Random::new(2000);
    product(rng, (5000, 9, 70), (Digits::One, Digits::One), (Pattern::Full, Pattern::Full))
        .check(b, 2000, "long");

    // Exact levels: rows whose digits are known to be the extreme ones.
    for (digits, level) in [(Digits::One, 127), (Digits::Two, 32639)] {
        let k = 256;
        let data: Vec<i32> =
            (0..4 * k).map(|i| if i / k % 2 == 0 { level } else { -level } * 32767).collect();
        assert!(data.iter().all(|v| v.abs() <= LIMIT));
        let weights = Pattern::Largest.weights(&mut Random::new(1), 20, k, digits, (-30, -30), false);
        let product = Product {
            x: Ints { rows: 4, cols: k, data },
            how: Quantise::rows(k, digits, 16),
            weights,
            factor: None,
            store: Store::SET,
            before: Ints::zeros(4, 20),
        };
        product.check(b, 1, "extreme levels");
    }
}

/// `gemm` and `quantise` at the sizes of real models.
pub(super) fn large<B: Backend>(b: &B) {
    let mut seed = 9000;
    let full = (Pattern::Full, Pattern::Full);
    for a in BOTH {
        for w in BOTH {
            for size in [(1100, 520, 1030), (130, 640, 8300), (1700, 200, 1700), (300, 1024, 2050)] {
                seed += 1;
                product(&mut Random::new(seed), size, (a, w), full).check(b, seed, "large");
            }
        }
        // Rows that fit nobody's fast memory.
        for (cols, hadamard) in [(14336, 11), (28672, 12), (65536, 0), (24576, 13)] {
            seed += 1;
            let mut product = product(&mut Random::new(seed), (3, cols, 40), (a, Digits::One), full);
            (product.how.hadamard, product.how.wide) = (hadamard, 0);
            product.check(b, seed, &format!("rows of {cols}, blocks of 2^{hadamard}"));
        }
    }
}

/// Products added to a matrix one after the other, its columns read in between, as a layer's planes are predicted: `gemm`, `rope`, `columns`.
pub fn regress<B: Backend>(b: &B) {
    let p = definition();
    let mut seed = 0;
    for (dim, planes) in [(64, 4), (128, 4), (128, 2), (16, 4), (64, 70)] {
        for rows in [1, 33, 70] {
            for digits in [Digits::One, Digits::Two] {
                seed += 1;
                let rng = &mut Random::new(seed + 4000);
                let pattern = rng.pick(&[Pattern::Full, Pattern::Mixed, Pattern::Rows, Pattern::Largest]);
                let mut all = pattern.ints(rng, rows, planes * dim);
                let mut ours = b.upload(all.clone());
                let steps: Vec<u64> = (0..dim / 2).map(|i| rng.bits() >> (i % 60)).collect();
                let rotary = Rotary { head_dim: dim, steps: &steps, start: rng.bits() >> 40, inverse: false };
                for j in 0..planes {
                    let columns = j * dim..(j + 1) * dim;
                    let (found, expected) = match j < planes / 2 {
                        true => (b.rope(&ours, columns.clone(), &rotary), p.rope(&all, columns, &rotary)),
                        false => (b.columns(&ours, columns.clone()), p.columns(&all, columns)),
                    };
                    let what = format!("plane {j} of {planes} x {dim}, {rows} rows, {digits:?}, {pattern:?}");
                    Case::new(b, what, seed).same(&b.download(&found), &expected);
                    let out = (planes - 1 - j) * dim;
                    if out == 0 {
                        break;
                    }
                    let x = Pattern::Mixed.ints(rng, rows, dim);
                    let w = Pattern::Full.weights(rng, out, dim, Digits::One, (-16, 4), false);
                    let how = Quantise::rows(dim, digits, rng.within(8, 24));
                    let store = Store { column: (j + 1) * dim, add: true };
                    b.gemm(
                        &b.quantise(&b.upload(x.clone()), &how),
                        &b.load(w.clone()).expect("weights"),
                        None,
                        store,
                        &mut ours,
                    );
                    p.gemm(&p.quantise(&x, &how), &w, None, store, &mut all);
                }
                let what = format!("all {planes} planes of {dim}, {rows} rows, {digits:?}");
                Case::new(b, what, seed).same(&b.download(&ours), &all);
            }
        }
    }
}
