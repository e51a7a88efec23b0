//! What real bits cost above the model's own prices, and above the continuous distribution the model stands for.
#![allow(clippy::disallowed_types, clippy::float_arithmetic)]

use speckv_codec_core::{ChunkDecoder, ChunkEncoder, ElementFormat, Shape};

mod common;
#[path = "common/normal.rs"]
mod normal;

/// Payload bits over the prices' exact sum, and over the continuous model's cross-entropy.
fn overheads(format: ElementFormat, bits: f64) -> (f64, f64, f64) {
    let shape = Shape::gaussian();
    let planes = normal::planes(format, bits, 60, 256, 64);
    let mut encoder = ChunkEncoder::new(format, planes.len(), None);
    let (mut prices, mut ideal) = (0.0, 0.0);
    for plane in &planes {
        let mut symbols = Vec::new();
        let cost = plane.model(&shape).price(&plane.codes, &mut symbols).unwrap();
        prices +=
            symbols.iter().map(|s| 16.0 - f64::from(s.freq).log2() + f64::from(s.raw_bits)).sum::<f64>();
        ideal += normal::ideal_bits(plane);
        encoder.push_symbols(symbols, cost, &plane.codes).unwrap();
    }
    let chunk = encoder.finish().unwrap();
    let mut decoder = ChunkDecoder::new(format, planes.len(), 256, false, &chunk.payload).unwrap();
    let mut out = vec![0; 256 * 64];
    for plane in &planes {
        decoder.next_plane(&plane.model(&shape), &mut out).unwrap();
        assert_eq!(out, plane.codes);
    }
    decoder.finish(chunk.values_checksum).unwrap();
    let payload = chunk.payload.len() as f64 * 8.0;
    let scalars = (planes.len() * 256 * 64) as f64;
    (ideal / scalars, payload / prices - 1.0, payload / ideal - 1.0)
}

#[test]
fn overhead_is_below_half_a_percent() {
    use ElementFormat::{Bf16, E4m3, E5m2, F16};
    for (format, bits) in [(E4m3, 1.1), (E4m3, 2.6), (E5m2, 1.1), (Bf16, 3.6), (Bf16, 6.6), (F16, 6.6)] {
        let (ideal, coder, model) = overheads(format, bits);
        println!(
            "{} at {ideal:.3} bit: coder {:+.3} %, model and coder {:+.3} %",
            format.name(),
            coder * 100.0,
            model * 100.0
        );
        assert!((ideal - bits).abs() < 0.1, "the data are not what the test is about");
        assert!(coder < 0.005, "{format:?} {bits}: coder {coder}");
        assert!(model < 0.005, "{format:?} {bits}: model {model}");
    }
}
