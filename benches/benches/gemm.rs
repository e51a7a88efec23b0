//! Integer matrix products on one thread, path by path: multiply-adds a second at 1024 x 2048 x 2048, and what share that is of the most
//! that the path's multiply instruction does on registers (measured here too). Answers are compared with the definition's, at odd sizes,
//! first.
//! `SPECKV_CPU` picks one path.

mod peak;

use std::time::{Duration, Instant};

use speckv_backend_cpu::{CpuBackend, Path, VARIABLE};
use speckv_predictor::backend::{Backend, Quantise, Store};
use speckv_predictor::data::{Digits, Ints, Weights};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::Portable;

/// Rows, outputs, inputs.
type Shape = (usize, usize, usize);

const SHAPE: Shape = (1024, 2048, 2048);
/// No multiple of any tile; the second is longer than one block of rows and of inputs.
const ODD: [Shape; 2] = [(37, 83, 71), (301, 135, 2115)];

/// Best of several runs, over at least `least`.
fn time(least: Duration, mut f: impl FnMut()) -> f64 {
    let (begin, mut best, mut runs) = (Instant::now(), f64::MAX, 0);
    while runs < 5 || begin.elapsed() < least {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn noise(rows: usize, cols: usize, magnitude: i32) -> Ints {
    let mut state = 1u64;
    let data = (0..rows * cols).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as i32 % (2 * magnitude + 1) - magnitude
    });
    Ints { rows, cols, data: data.collect() }
}

fn weights(out: usize, inp: usize, digits: Digits) -> Weights {
    let values = noise(out, inp, digits.levels()).data.iter().map(|v| *v as i16).collect();
    Weights { out, inp, digits, values, scales: vec![Scale { m: 20000, e: -30 }; out], bias: None }
}

/// Stops if a backend's product of odd sizes differs from the definition's.
fn check(cpu: &CpuBackend, (t, n, k): Shape, (a, w): (Digits, Digits)) {
    fn product<B: Backend>(b: &B, (t, n, k): Shape, (a, w): (Digits, Digits)) -> Ints {
        let rows = b.quantise(&b.upload(noise(t, k, 1 << 24)), &Quantise::rows(k, a, 16));
        let matrix = b.load(weights(n, k, w)).expect("weights");
        let mut out = b.upload(Ints::zeros(t, n));
        b.gemm(&rows, &matrix, None, Store::SET, &mut out);
        b.download(&out)
    }
    let (got, expected) = (product(cpu, (t, n, k), (a, w)), product(&Portable::new(), (t, n, k), (a, w)));
    assert!(expected.data.iter().any(|v| *v != 0), "a product of zeros shows nothing");
    assert!(
        got == expected,
        "{}: {t} x {n} x {k}, digits {a:?} x {w:?}, differs from the definition",
        cpu.name()
    );
}

fn main() {
    let paths = match std::env::var(VARIABLE) {
        Ok(name) => vec![Path::from_name(&name).unwrap_or_else(|| panic!("{VARIABLE}={name} names no path"))],
        Err(_) => Path::ALL.to_vec(),
    };
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    one.install(|| paths.into_iter().for_each(measure));
}

fn measure(path: Path) {
    let cpu = match CpuBackend::forced(path) {
        Ok(cpu) => cpu,
        Err(error) => return println!("NOT RUN: {error}"),
    };
    use Digits::{One, Two};
    for shape in ODD {
        [(One, One), (One, Two), (Two, One), (Two, Two)]
            .into_iter()
            .for_each(|digits| check(&cpu, shape, digits));
    }
    let peak = |operands: &peak::Operands| {
        let (multiply_adds, run) = peak::of(path)?;
        let rounds = 200_000;
        let best = time(Duration::from_millis(300), || run(operands, rounds));
        Some((rounds * multiply_adds) as f64 / best / 1e9)
    };
    let digits = noise(1, 4096, One.levels()).data;
    let zeros = peak(&peak::Operands([0; 4096]));
    let peak = peak(&peak::Operands(std::array::from_fn(|i| digits[i] as i8)));
    print!("{}: equal to the definition at odd sizes", cpu.name());
    match (peak, zeros) {
        (Some(peak), Some(zeros)) => println!("; peak {peak:.1} G multiply-adds/s ({zeros:.1} on zeros)"),
        _ => println!(),
    }
    let share =
        |speed: f64| peak.map_or(String::new(), |p| format!(", {:5.1} % of the peak", 100.0 * speed / p));
    for (digits, name) in [(One, "one digit"), (Two, "two digits")] {
        let (t, n, k) = SHAPE;
        let rows = cpu.quantise(&noise(t, k, 1 << 24), &Quantise::rows(k, digits, 16));
        let (matrix, mut out) = (cpu.load(weights(n, k, digits)).expect("weights"), Ints::zeros(t, n));
        let best = time(Duration::from_millis(700), || cpu.gemm(&rows, &matrix, None, Store::SET, &mut out));
        let speed = (t * n * k * digits.count() * digits.count()) as f64 / best / 1e9;
        println!(
            "  {t} x {n} x {k}, {name}: {:8.2} ms, {speed:7.1} G multiply-adds/s{}",
            1e3 * best,
            share(speed)
        );
    }
}
