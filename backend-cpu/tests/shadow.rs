//! Shadow mode: a path beside the definition does what it does alone, at once where it can.

use speckv_backend_cpu::CpuBackend;
use speckv_predictor::backend::{Mlp, Quantise, Silu};
use speckv_predictor::both::Both;
use speckv_predictor::conformance::{self, Pattern, Random};
use speckv_predictor::data::{Digits, Ints};
use speckv_predictor::{Backend, Portable};

fn cpu() -> CpuBackend {
    CpuBackend::from_env().expect("an available path")
}

#[test]
fn a_path_beside_the_definition_conforms() {
    let both = Both::new(cpu(), Portable::new());
    conformance::run(&both);
    assert_eq!(both.difference(), None);
}

#[test]
fn matrices_go_back_to_their_pools() {
    let both = Both::new(cpu(), cpu());
    let mut x = both.room(64, 64);
    (x.0.data[0], x.1.data[0]) = (1, 2);
    both.reuse(x);
    let x = both.room(64, 64);
    assert_eq!((x.0.data[0], x.1.data[0]), (1, 2), "rooms are as they were left");
}

/// Steps would put gate and up into a matrix, and leave that in the pool.
#[test]
fn an_mlp_is_done_at_once() {
    let (rows, hidden, ffn) = (64 * rayon::current_num_threads(), 64, 128);
    let path = cpu();
    let both = Both::new(path.clone(), Portable::new());
    let rng = &mut Random::new(1);
    let [gate_up, down] = [(2 * ffn, hidden), (hidden, ffn)].map(|(out, inp)| {
        let weights = Pattern::Full.weights(rng, out, inp, Digits::One, (-36, -30), false);
        both.load(weights).expect("weights")
    });
    let silu = Silu { gate: 16, up: 16, out: 16 };
    let [normed, act] = [hidden, ffn].map(|cols| Quantise::rows(cols, Digits::One, 16));
    let mlp = Mlp { ffn, normed, gate_up: &gate_up, silu, act, down: &down };
    let mut x = both.upload(Pattern::Full.ints(rng, rows, hidden));
    both.feed_forward(&mut x, &mlp, rows);
    assert_eq!(both.difference(), None);
    assert_eq!(path.room(rows, 2 * ffn), Ints::zeros(rows, 2 * ffn), "a room that nobody has been in");
}
