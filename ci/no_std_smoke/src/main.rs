//! codec-core on a machine without an operating system: encodes planes into a stream, compares it with the one that every other machine makes, decodes
//! it, refuses a damaged one. Exits by semihosting: 0 if all is as it must be, 1 if a comparison fails, 2 if something panics.
#![no_std]
#![no_main]

extern crate alloc;

mod machine;

use alloc::vec;

use speckv_codec_core::checksum::xxh3;
use speckv_codec_core::*;

/// Two tokens of four channels, e4m3; the last is a NaN.
const KEYS: [u16; 8] = [0x38, 0xC0, 0x30, 0x3C, 0x39, 0xC0, 0x30, 0x7F];
/// A part without a prediction.
const VALUES: [u16; 8] = [0x38; 8];
/// Length and XXH3-64 of the stream, as the documentation of codec-core has them of other machines.
const GOLDEN: (usize, u64) = (247, if cfg!(feature = "spoiled") { 0 } else { 0x88AB_E74B_5937_1754 });

/// Whether everything was as it must be.
fn smoke() -> Result<bool> {
    let shape = Shape::gaussian();
    let model = PlaneModel {
        format: ElementFormat::E4m3,
        exponent: 10,
        mu: &[1024, -2048, 512, 1536, 1024, -2048, 512, 1536],
        channel_scale: &[96, 96, 80, 96],
        token_scale: &[0, 0],
        shape: &shape,
    };
    let mut encoder = ChunkEncoder::new(ElementFormat::E4m3, 2, None);
    encoder.push_plane(&model, &KEYS)?;
    encoder.push_raw(&VALUES)?;
    let header = Header {
        format: ElementFormat::E4m3,
        predictor: PredictorKind::External,
        precision: Name::new("")?,
        geometry: Geometry { layers: 1, kv_heads: 1, head_dim: 4 },
        chunk_tokens: 256,
        first_token: 0,
        tokens: 2,
        profile: [0; 32],
        token_ids: false,
        scales: vec![0x3F80_0000; 2],
    };
    let mut bytes = write_stream(&header, &[encoder.finish()?])?;
    if (bytes.len(), xxh3(&bytes)) != GOLDEN {
        return Ok(false);
    }
    let stream = Stream::parse(&bytes, &Limits::default())?;
    let chunk = stream.chunk(0)?;
    let mut decoder = chunk.decoder(stream.header())?;
    let (mut keys, mut values) = ([0; 8], [0; 8]);
    decoder.next_plane(&model, &mut keys)?;
    decoder.next_plane(&model, &mut values)?;
    decoder.finish(chunk.values_checksum)?;
    if (keys, values) != (KEYS, VALUES) {
        return Ok(false);
    }
    bytes[200] ^= 1;
    let refused = Stream::parse(&bytes, &Limits::default()).and_then(|s| s.chunk(0).map(|_| ()));
    Ok(matches!(refused, Err(Error::Damaged { .. })))
}

/// Called once memory is as the language expects it.
fn main() -> u32 {
    match smoke() {
        Ok(true) => 0,
        _ => 1,
    }
}
