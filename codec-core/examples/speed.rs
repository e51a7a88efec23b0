//! Speed of the portable loops on one core: `cargo run --release -p speckv-codec-core --example speed`.
#![allow(clippy::disallowed_types, clippy::float_arithmetic)]

use std::time::Instant;

use speckv_codec_core::{ChunkDecoder, ChunkEncoder, ElementFormat, PlaneModel, Shape};

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/normal.rs"]
mod normal;

fn main() {
    let shape = Shape::gaussian();
    for (format, bits) in [
        (ElementFormat::Bf16, 3.6),
        (ElementFormat::F16, 6.0),
        (ElementFormat::E4m3, 1.1),
        (ElementFormat::E5m2, 1.1),
    ] {
        let planes = normal::planes(format, bits, 60, 256, 64);
        let scalars = (60 * 256 * 64) as f64;
        let models: Vec<PlaneModel<'_>> = planes.iter().map(|plane| plane.model(&shape)).collect();
        let mut best = [f64::INFINITY; 3];
        let mut size = 0;
        for _ in 0..20 {
            let start = Instant::now();
            let priced: Vec<_> = models
                .iter()
                .zip(&planes)
                .map(|(model, plane)| {
                    let mut symbols = Vec::new();
                    let cost = model.price(&plane.codes, &mut symbols).unwrap();
                    (symbols, cost)
                })
                .collect();
            best[0] = best[0].min(start.elapsed().as_secs_f64());
            let start = Instant::now();
            let mut encoder = ChunkEncoder::new(format, 60, None);
            for ((symbols, cost), plane) in priced.into_iter().zip(&planes) {
                encoder.push_symbols(symbols, cost, &plane.codes).unwrap();
            }
            let chunk = encoder.finish().unwrap();
            best[1] = best[1].min(start.elapsed().as_secs_f64());
            size = chunk.payload.len();
            let start = Instant::now();
            let mut decoder = ChunkDecoder::new(format, 60, 256, false, &chunk.payload).unwrap();
            let mut out = vec![0; 256 * 64];
            for (model, plane) in models.iter().zip(&planes) {
                decoder.next_plane(model, &mut out).unwrap();
                assert_eq!(out, plane.codes);
            }
            decoder.finish(chunk.values_checksum).unwrap();
            best[2] = best[2].min(start.elapsed().as_secs_f64());
        }
        let [price, code, decode] = best.map(|seconds| scalars / seconds / 1e6);
        println!(
            "{:5} {:.3} bit/scalar: price {price:.1}, encode {code:.1}, decode {decode:.1} M scalars/s",
            format.name(),
            size as f64 * 8.0 / scalars,
        );
    }
}
