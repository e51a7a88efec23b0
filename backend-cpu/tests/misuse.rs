//! What does not fit together is refused before it gives other numbers than the definition would.

use std::panic::{AssertUnwindSafe, catch_unwind};

use speckv_backend_cpu::{CpuBackend, Path};
use speckv_predictor::backend::{Keep, Mlp, Pricing, Quantise, Rotary, Seen, Silu, Store, Unit};
use speckv_predictor::conformance::{Pattern, Random};
use speckv_predictor::core::{ElementFormat, Shape};
use speckv_predictor::data::{Digits, Ints, Weights};
use speckv_predictor::fixed::Scale;
use speckv_predictor::{Backend, Portable};

fn each(check: impl Fn(&CpuBackend)) {
    let mut ran = 0;
    for path in Path::ALL.into_iter().filter_map(|p| CpuBackend::forced(p).ok()) {
        check(&path);
        ran += 1;
    }
    assert!(ran > 0);
}

/// `f` must panic, and say why.
#[track_caller]
fn refused<T>(why: &str, f: impl FnOnce() -> T) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(f)) else { panic!("not refused: {why}") };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    assert!(text.contains(why), "refused for another reason than {why}: {text}");
}

fn weights(out: usize, inp: usize) -> Weights {
    Pattern::Full.weights(&mut Random::new(1), out, inp, Digits::One, (-30, -30), false)
}

#[test]
fn factors_are_as_many_as_rows() {
    each(|b| {
        let (x, how) = (Ints::zeros(3, 8), Quantise::rows(8, Digits::One, 16));
        let w = b.load(weights(4, 8)).expect("weights");
        let mut out = Ints::zeros(3, 4);
        let few = vec![Scale::ONE; 2];
        refused("a factor for each row", || b.product(&x, &how, &w, Some(&few), Store::SET, &mut out));
        b.product(&x, &how, &w, Some(&vec![Scale::ONE; 3]), Store::SET, &mut out);
    });
}

#[test]
fn an_mlp_takes_all_rows() {
    each(|b| {
        let [gate_up, down] =
            [(32, 8), (8, 16)].map(|(out, inp)| b.load(weights(out, inp)).expect("weights"));
        let [normed, act] = [8, 16].map(|cols| Quantise::rows(cols, Digits::One, 16));
        let silu = Silu { gate: 16, up: 16, out: 16 };
        let mlp = Mlp { ffn: 16, normed, gate_up: &gate_up, silu, act, down: &down };
        let mut x = Ints::zeros(300, 8);
        refused("an MLP of all rows", || b.feed_forward(&mut x, &mlp, 299));
        b.feed_forward(&mut x, &mlp, 300);
    });
}

#[test]
fn groups_are_whole() {
    each(|b| {
        let x = Ints::zeros(2, 10);
        refused("columns of whole groups", || b.quantise(&x, &Quantise::rows(4, Digits::One, 16)));
        b.quantise(&x, &Quantise::rows(5, Digits::One, 16));
    });
}

#[test]
fn heads_are_whole() {
    each(|b| {
        let mut x = Ints::zeros(2, 10);
        for head_dim in [4, 5] {
            let rotary = Rotary { head_dim, steps: &[1, 2], start: 0, inverse: false };
            let how = Quantise::rows(10, Digits::One, 16);
            refused("columns of whole heads", || b.rope(&x, 0..10, &rotary));
            refused("columns of whole heads", || b.heads(&mut x, 0..10, None, &rotary, &how));
        }
        b.rope(&x, 1..9, &Rotary { head_dim: 4, steps: &[1, 2], start: 0, inverse: false });
    });
}

const PLANE: (usize, usize) = (70, 64);

/// What `b` keeps of a plane, in matrices of some rows.
fn learn<B: Backend>(b: &B, channels: usize, kept: usize, back: Option<Rotary<'_>>) -> [Ints; 3] {
    let (rows, cols) = PLANE;
    let rng = &mut Random::new(7);
    let channel: Vec<i16> = (0..channels).map(|_| rng.within(200, 300) as i16).collect();
    let pricing = Pricing {
        format: ElementFormat::E4m3,
        unit: Unit::ONE,
        exponent: 20,
        channel: &channel,
        shape: &Shape::gaussian(),
    };
    let mu = b.upload(Pattern::Mixed.ints(rng, rows, cols));
    let token = b.upload(Ints::zeros(rows, 1));
    let codes = b.upload_codes((0..rows * cols).map(|_| rng.bits() as u16 & 0xFF).collect());
    let seen = Seen { pricing: &pricing, mu: &mu, token: &token, codes: &codes };
    let mut places = [0, 1].map(|_| b.upload(Ints::zeros(kept, cols)));
    let [innovation, value] = &mut places;
    let (energy, _) = b.learn(&seen, Some(Keep { innovation, value, column: 0, back, digits: None }));
    let [innovation, value] = places.map(|x| b.download(&x));
    [b.download(&energy), innovation, value]
}

#[test]
fn planes_fit_where_they_are_kept() {
    each(|b| {
        let (rows, cols) = PLANE;
        refused("more rows than its place", || learn(b, cols, rows - 1, None));
        refused("a scale for each column", || learn(b, cols - 1, rows, None));
        assert_eq!(learn(b, cols, rows + 1, None), learn(&Portable::new(), cols, rows + 1, None));
    });
}

/// Only one head is turned back, which every layer's planes are; of a smaller one the first columns are kept.
#[test]
fn a_head_narrower_than_its_plane_is_turned_back_as_the_definition_does() {
    let (rows, cols) = PLANE;
    let steps: Vec<u64> = (0..cols as u64 / 4).map(|i| 1 << (40 + i)).collect();
    let back = Rotary { head_dim: cols / 2, steps: &steps, start: 3, inverse: true };
    each(|b| assert_eq!(learn(b, cols, rows, Some(back)), learn(&Portable::new(), cols, rows, Some(back))));
}
