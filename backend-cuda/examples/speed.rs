//! How fast the kernels are on the device at hand, each with what it is measured against: `cargo run --release -p speckv-backend-cuda --features cuda
//! --example speed`. Made-up data; whether answers are right is the conformance suite's business (`ci/gpu.sh`).

use std::ops::Range;
use std::time::Instant;

use speckv_backend_cuda::CudaBackend;
use speckv_predictor::Backend;
use speckv_predictor::backend::{Attention, Pricing, Quantise, Store, Unit};
use speckv_predictor::core::{ChunkDecoder, ChunkEncoder, ElementFormat, Shape};
use speckv_predictor::data::{Digits, Ints, Weights};
use speckv_predictor::fixed::Scale;

/// Chunks of the coder's runs: as many as keep a card busy, a single sequence of 4096 tokens, and 2^30 scalars.
const CHUNKS: [usize; 3] = [4096, 16, 32768];

/// Xorshift: good enough to keep hardware from finding zeros.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn within(&mut self, limit: i64) -> i64 {
        (self.next() >> 11) as i64 % (2 * limit + 1) - limit
    }
}

/// Median seconds of a call, over runs of `inner` calls with one wait at the end.
fn median(b: &CudaBackend, inner: u32, mut call: impl FnMut()) -> f64 {
    let mut times = Vec::new();
    for _ in 0..9 {
        b.synchronise().expect("work before");
        let since = Instant::now();
        (0..inner).for_each(|_| call());
        b.synchronise().expect("the work timed");
        times.push(since.elapsed().as_secs_f64() / f64::from(inner));
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn ints(r: &mut Random, rows: usize, cols: usize) -> Ints {
    Ints { rows, cols, data: (0..rows * cols).map(|_| r.within(1 << 24) as i32).collect() }
}

fn products(b: &CudaBackend, r: &mut Random) {
    println!("rows x out x inputs, digits: ms, tera-operations of digits a second");
    for (rows, out, inp) in
        [(4096, 12288, 4096), (4096, 4096, 12288), (4096, 1024, 4096), (512, 12288, 4096), (4096, 2000, 128)]
    {
        let x = b.upload(ints(r, rows, inp));
        for (da, dw) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let digits = |n| Digits::from_count(n).expect("one or two");
            let levels = i64::from(digits(dw).levels());
            let weights = Weights {
                out,
                inp,
                digits: digits(dw),
                values: (0..out * inp).map(|_| r.within(levels) as i16).collect(),
                scales: vec![Scale { m: 1 << 14, e: -20 }; out],
                bias: None,
            };
            let w = b.load(weights).expect("room for weights");
            let a = b.quantise(&x, &Quantise::rows(inp, digits(da), 20));
            let mut y = b.zeros(rows, out);
            let seconds = median(b, 8, || b.gemm(&a, &w, None, Store::SET, &mut y));
            let operations = 2.0 * (rows * out * inp * da * dw) as f64;
            println!(
                "  {rows} x {out} x {inp}, {da}{dw}: {:.4}, {:.0}",
                seconds * 1e3,
                operations / seconds / 1e12
            );
        }
    }
}

fn attention(b: &CudaBackend, r: &mut Random) {
    println!("attention, 4096 tokens: ms");
    for (heads, kv_heads, head_dim) in [(32, 8, 128), (9, 3, 64)] {
        let rows = |r: &mut Random, heads: usize| {
            let how = Quantise { group: head_dim, ..Quantise::rows(head_dim * heads, Digits::One, 24) };
            b.quantise(&b.upload(ints(r, 4096, head_dim * heads)), &how)
        };
        let (q, k, v) = (rows(r, heads), rows(r, kv_heads), rows(r, kv_heads));
        let how = Attention { heads, kv_heads, head_dim, value_exponent: 3, out_exponent: 20 };
        let seconds = median(b, 4, || drop(b.attention(&q, &k, &v, 0, &how)));
        println!("  {heads} and {kv_heads} heads of {head_dim}: {:.3}", seconds * 1e3);
    }
}

/// Median seconds of a call after the first, each with things of its own, made before the clock starts.
fn median_of<T>(b: &CudaBackend, mut make: impl FnMut() -> T, mut call: impl FnMut(&mut T)) -> f64 {
    let mut times = Vec::new();
    for _ in 0..8 {
        let mut with = make();
        b.synchronise().expect("work before");
        let since = Instant::now();
        call(&mut with);
        b.synchronise().expect("the work timed");
        times.push(since.elapsed().as_secs_f64());
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn coder(b: &CudaBackend, r: &mut Random, chunks: usize) {
    // Made-up chunks, and how often each is there.
    let (rows, cols, made) = (256, 128, chunks.min(256));
    let copies = chunks / made;
    let (count, scalars) = (made * rows * cols, made * copies * rows * cols);
    println!(
        "coder, {} chunks of a plane of {rows} x {cols}, {scalars} scalars: bits a scalar; G scalars/s of price, of what follows it up to payloads with \
         checksums on the device, of both, of decode; ms from prices to payloads on the host",
        made * copies
    );
    for (format, index) in
        [(ElementFormat::E4m3, 180i16), (ElementFormat::E4m3, 248), (ElementFormat::Bf16, 226)]
    {
        let exponent = if format.width() == 8 { 12 } else { 20 };
        let spread = if format.width() == 8 { 40.0 } else { 2.0 };
        let scale = (f64::from(index) / 16.0).exp2();
        let normal =
            |r: &mut Random| (0..12).map(|_| r.within(1 << 20) as f64 / (1 << 20) as f64).sum::<f64>() / 2.0;
        let mean: Vec<i32> =
            (0..count).map(|_| (normal(r) * spread * f64::from(1 << exponent)) as i32).collect();
        let codes: Vec<u16> = mean
            .iter()
            .map(|mu| format.code(format.rank_of_fixed(*mu + (normal(r) * scale) as i32, exponent)))
            .collect();
        let (channel, shape) = (vec![index; cols], Shape::gaussian());
        let pricing = Pricing { format, unit: Unit::ONE, exponent, channel: &channel, shape: &shape };
        let tokens = made * copies * rows;
        let (mu, token) =
            (b.upload(Ints { rows: tokens, cols, data: mean.repeat(copies) }), b.zeros(tokens, 1));
        let codes = b.upload_codes(codes.repeat(copies));
        let ranges: Vec<Range<usize>> = (0..made * copies).map(|c| c * rows..(c + 1) * rows).collect();
        let encoder =
            || b.encoder(ranges.iter().map(|r| (r.clone(), ChunkEncoder::new(format, 1, None))).collect());
        let price = median_of(b, encoder, |encoder| {
            b.encode_plane(&pricing, &mu, &token, &codes, encoder).expect("codes of the format");
        });
        let priced = || {
            let mut whole = encoder();
            b.encode_plane(&pricing, &mu, &token, &codes, &mut whole).expect("codes of the format");
            Some(whole)
        };
        let taken = |whole: &mut Option<_>| whole.take().expect("finished once");
        let pack = median_of(b, priced, |whole| {
            b.finish_resident(taken(whole)).expect("all planes are there");
        });
        let mut chunks = Vec::new();
        let finish = median_of(b, priced, |whole| {
            chunks = b.finish_chunks(taken(whole)).expect("all planes are there");
        });
        let bytes: usize = chunks.iter().map(|c| c.payload.len()).sum();
        let decoder = || {
            let each = ranges.iter().zip(&chunks).map(|(rows, c)| {
                let decoder = ChunkDecoder::new(format, 1, rows.len(), false, &c.payload);
                (rows.clone(), decoder.expect("a payload"))
            });
            b.decoder(each.collect())
        };
        let decode = median_of(b, decoder, |decoder| {
            b.decode_plane(&pricing, &mu, &token, decoder).expect("a plane");
        });
        let mut last = decoder();
        b.decode_plane(&pricing, &mu, &token, &mut last).expect("a plane");
        let checksums: Vec<u64> = chunks.iter().map(|c| c.values_checksum).collect();
        b.finish_decoders(last, &checksums).expect("the codes that were encoded");
        let rate = |seconds: f64| scalars as f64 / seconds / 1e9;
        println!(
            "  {}: {:.2}; {:.1}, {:.1}, {:.1}, {:.1}; {:.1}",
            format.name(),
            bytes as f64 * 8.0 / scalars as f64,
            rate(price),
            rate(pack),
            rate(price + pack),
            rate(decode),
            finish * 1e3
        );
    }
}

/// `speed [products] [attention] [coder] [CHUNKS...]`: all of them, or those named; the coder with so many chunks, unless told otherwise those of [`CHUNKS`].
fn main() {
    let b = match CudaBackend::open(0) {
        Ok(b) => b,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    println!("{}", b.name());
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let (counts, wanted): (Vec<String>, Vec<String>) =
        wanted.into_iter().partition(|w| w.parse::<usize>().is_ok());
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let r = &mut Random(88_172_645_463_325_252);
    if asked("products") {
        products(&b, r);
    }
    if asked("attention") {
        attention(&b, r);
    }
    if asked("coder") {
        let counts: Vec<usize> = counts.iter().filter_map(|c| c.parse().ok()).filter(|c| *c > 0).collect();
        for chunks in if counts.is_empty() { &CHUNKS[..] } else { &counts[..] } {
            coder(&b, r, *chunks);
        }
    }
}
