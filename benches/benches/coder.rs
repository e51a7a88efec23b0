//! The coder and the loop around it on one plane of 256 x 64: pricing, encoding, decoding, observing. Each answer is checked before it is timed.
//!
//! Codes are drawn from the model that prices them, by decoding random words.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use speckv_backend_cpu::CpuBackend;
use speckv_predictor::Backend;
use speckv_predictor::backend::{Pricing, Unit};
use speckv_predictor::core::{ChunkDecoder, ChunkEncoder, ElementFormat, Lanes, PlaneModel, Shape};
use speckv_predictor::data::Ints;

const TOKENS: usize = 256;
const COLUMNS: usize = 64;
/// Fraction bits of means.
const EXPONENT: i32 = 20;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn coder(c: &mut Criterion) {
    // Scales that cost about as much as drafts do: 3.6 bits in bf16, 1.1 in e4m3.
    for (format, scale) in [(ElementFormat::Bf16, 240i16), (ElementFormat::E4m3, 250)] {
        let mut random = Random(1);
        let mu: Vec<i32> = (0..TOKENS * COLUMNS)
            .map(|_| {
                let magnitude = (1 << EXPONENT) + (random.bits() % (1 << EXPONENT)) as i32;
                if random.bits() & 1 == 0 { magnitude } else { -magnitude }
            })
            .collect();
        let (channel, token, shape) = ([scale; COLUMNS], [0; TOKENS], Shape::gaussian());
        let model = PlaneModel {
            format,
            exponent: EXPONENT,
            mu: &mu,
            channel_scale: &channel,
            token_scale: &token,
            shape: &shape,
        };
        let words: Vec<u8> = (0..4 * TOKENS * COLUMNS).map(|_| random.bits() as u8).collect();
        let states = std::array::from_fn(|_| (random.bits() as u32) | 1 << 31);
        let mut codes = vec![0; TOKENS * COLUMNS];
        model.decode(&mut Lanes::new(states, &words), &mut codes).expect("any words decode");

        let encode = || {
            let mut encoder = ChunkEncoder::new(format, 1, None);
            encoder.push_plane(&model, &codes).expect("codes of the format");
            encoder.finish().expect("one plane")
        };
        let chunk = encode();
        let decode = || {
            let mut out = vec![0; codes.len()];
            let mut decoder = ChunkDecoder::new(format, 1, TOKENS, false, &chunk.payload).expect("a payload");
            decoder.next_plane(&model, &mut out).expect("a plane");
            decoder.finish(chunk.values_checksum).expect("the end");
            out
        };
        assert!(decode() == codes, "the plane must come back");
        let bits = 8.0 * chunk.payload.len() as f64 / codes.len() as f64;
        let mut group = c.benchmark_group(format!("{} at {bits:.2} bits", format.name()));
        group.throughput(Throughput::Elements(codes.len() as u64));
        group.bench_function("price", |b| {
            let mut symbols = Vec::new();
            b.iter(|| {
                symbols.clear();
                model.price(&codes, &mut symbols)
            });
        });
        group.bench_function("price and encode", |b| b.iter(encode));
        group.bench_function("decode", |b| b.iter(decode));
        let cpu = CpuBackend::best();
        let pricing =
            Pricing { format, unit: Unit::ONE, exponent: EXPONENT, channel: &channel, shape: &shape };
        let mean = Ints { rows: TOKENS, cols: COLUMNS, data: mu.clone() };
        let offsets = Ints::zeros(TOKENS, 1);
        group.bench_function(format!("observe, {}", cpu.name()), |b| {
            b.iter(|| cpu.observe(&pricing, &mean, &offsets, &codes));
        });
        group.finish();
    }
}

criterion_group!(benches, coder);
criterion_main!(benches);
