//! Speed of single operations on every path of this machine, at the shapes of a small model. `RAYON_NUM_THREADS` sets the threads.
//!
//! Figures are for people at work on the kernels; claims come from `benches`.

use std::ops::Range;
use std::time::{Duration, Instant};

use speckv_backend_cpu::{CpuBackend, Path};
use speckv_predictor::backend::{Attention, Backend, Pricing, Quantise, Rotary, Silu, Store, Unit};
use speckv_predictor::core::{ChunkEncoder, ElementFormat, Shape};
use speckv_predictor::data::{Digits, Ints, Weights};
use speckv_predictor::fixed::Scale;

/// Best of several runs.
fn time<R>(mut f: impl FnMut() -> R) -> Duration {
    let begin = Instant::now();
    let mut best = Duration::MAX;
    let mut runs = 0;
    while runs < 3 || begin.elapsed() < Duration::from_millis(400) {
        let start = Instant::now();
        std::hint::black_box(f());
        best = best.min(start.elapsed());
        runs += 1;
    }
    best
}

fn noise(rows: usize, cols: usize, bits: u32) -> Ints {
    let mut state = 1u64;
    let data = (0..rows * cols).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as i32 % (1 << bits)
    });
    Ints { rows, cols, data: data.collect() }
}

fn weights(out: usize, inp: usize, digits: Digits) -> Weights {
    let bits = digits.bits();
    let values = noise(out, inp, bits).data.iter().map(|v| (v - (1 << (bits - 1))) as i16).collect();
    Weights { out, inp, digits, values, scales: vec![Scale { m: 20000, e: -30 }; out], bias: None }
}

fn main() {
    println!("{} threads", rayon::current_num_threads());
    for path in Path::ALL {
        let cpu = match CpuBackend::forced(path) {
            Ok(cpu) => cpu,
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        println!("{}", cpu.name());
        let product = |t: usize, n: usize, k: usize, a: Digits, w: Digits| {
            let rows = cpu.quantise(&noise(t, k, 24), &Quantise::rows(k, a, 16));
            let matrix = cpu.load(weights(n, k, w)).expect("weights");
            let mut out = Ints::zeros(t, n);
            let best = time(|| cpu.gemm(&rows, &matrix, None, Store::SET, &mut out));
            let products = (t * n * k) as f64 * (a.count() * w.count()) as f64;
            println!(
                "  gemm {t} x {n} x {k}, digits {} x {}: {:9.1?}, {:6.1} G int8 multiply-adds/s",
                a.count(),
                w.count(),
                best,
                products / best.as_nanos() as f64
            );
        };
        use Digits::{One, Two};
        product(1024, 2048, 2048, One, One);
        product(1024, 2048, 2048, Two, Two);
        product(1024, 3072, 576, One, One);
        product(1024, 576, 1536, One, One);
        product(1024, 384, 576, Two, Two);
        product(1024, 64, 64, Two, Two);
        product(1, 2048, 2048, One, One);

        let each = |what: &str, count: usize, best: Duration| {
            println!("  {what}: {best:9.1?}, {:5.2} ns a value", best.as_nanos() as f64 / count as f64);
        };
        let t = 1024;
        let how = Attention { heads: 9, kv_heads: 3, head_dim: 64, value_exponent: 0, out_exponent: 16 };
        let head = |gain| Quantise { group: 64, hadamard: 6, gain, ..Quantise::rows(64, One, 16) };
        let query = cpu.quantise(&noise(t, 576, 18), &head(Scale { m: 16384, e: -18 }));
        let (keys, values) = (
            cpu.quantise(&noise(t, 192, 18), &head(Scale::ONE)),
            cpu.quantise(&noise(t, 192, 17), &head(Scale::ONE)),
        );
        each(
            "attention, 9 heads, scores",
            9 * t * (t + 1) / 2,
            time(|| cpu.attention(&query, &keys, &values, 0, &how)),
        );

        let x = noise(t, 576, 24);
        let norm = Quantise { norm: Some(Scale { m: 20000, e: -31 }), ..Quantise::rows(576, One, 16) };
        each("quantise 576, norm", x.data.len(), time(|| cpu.quantise(&x, &norm)));
        each("quantise 576 as heads, Hadamard", x.data.len(), time(|| cpu.quantise(&x, &head(Scale::ONE))));
        let up = noise(t, 3072, 24);
        let wide = Quantise { hadamard: 9, ..Quantise::rows(1536, One, 16) };
        let gated = cpu.silu(&up, Silu { gate: 20, up: 20, out: 20 });
        each("silu 1536", gated.data.len(), time(|| cpu.silu(&up, Silu { gate: 20, up: 20, out: 20 })));
        each("quantise 1536, Hadamard 512", gated.data.len(), time(|| cpu.quantise(&gated, &wide)));
        each("rms 576", x.data.len(), time(|| cpu.rms(&x, 16, Scale { m: 20000, e: -31 })));
        let steps: Vec<u64> = (0..32).map(|i| (u64::MAX / 7) >> i).collect();
        let rotary = Rotary { head_dim: 64, steps: &steps, start: 0, inverse: false };
        each("rope 576", x.data.len(), time(|| cpu.rope(&x, 0..576, &rotary)));
        let mut sum = noise(t, 576, 24);
        each("add 576", x.data.len(), time(|| cpu.add(&mut sum, 0, &x)));

        let (mu, token) = (noise(t, 64, 16), Ints::zeros(t, 1));
        let channel = [160i16; 64];
        let shape = Shape::gaussian();
        let pricing = Pricing {
            format: ElementFormat::Bf16,
            unit: Unit::ONE,
            exponent: 14,
            channel: &channel,
            shape: &shape,
        };
        let codes: Vec<u16> = mu
            .data
            .iter()
            .map(|m| pricing.format.code(pricing.format.rank_of_fixed(m + (m & 1023) - 512, 14)))
            .collect();
        let chunks: Vec<_> = (0..4).map(|i| 256 * i..256 * (i + 1)).collect();
        each("observe a plane of 64", codes.len(), time(|| cpu.observe(&pricing, &mu, &token, &codes)));
        each(
            "encode a plane of 64, 4 chunks",
            codes.len(),
            time(|| {
                let new =
                    |rows: &Range<usize>| (rows.clone(), ChunkEncoder::new(ElementFormat::Bf16, 1, None));
                let mut to = chunks.iter().map(new).collect();
                cpu.encode_plane(&pricing, &mu, &token, &codes, &mut to).expect("a plane");
                cpu.finish_chunks(to).expect("chunks")
            }),
        );
    }
}
