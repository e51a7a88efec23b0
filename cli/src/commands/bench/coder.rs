//! The coder over one run of chunks, as a session drives it: chunks side by side on all threads. Residuals are nearly normal,
//! of the scale that prices them; what is decoded must be what was encoded.

use std::ops::Range;

use speckv_codec_core::{Chunk, ChunkDecoder, ChunkEncoder, ElementFormat, Shape};
use speckv_predictor::backend::{Backend, Pricing, Unit};
use speckv_predictor::data::Ints;

use super::time::{Random, Timer};
use crate::error::{Code, Error, Result};
use crate::machine;

/// A run of the codec: eight chunks of the usual length.
const CHUNK: usize = 256;
const CHUNKS: usize = 8;
const COLUMNS: usize = 64;
/// Fraction bits of means.
const EXPONENT: i32 = 20;

/// Rates for residuals of one scale index, a multiple of 16 at best. Means are in +-(1 .. 2).
pub fn measure<B: Backend>(
    b: &B,
    format: ElementFormat,
    scale: i16,
    timer: &Timer,
) -> Result<machine::Coder> {
    let mut random = Random(3);
    let (tokens, scalars) = (CHUNKS * CHUNK, CHUNKS * CHUNK * COLUMNS);
    let mean: Vec<i32> = (0..scalars)
        .map(|_| {
            let magnitude = (1 << EXPONENT) + (random.bits() % (1 << EXPONENT)) as i32;
            if random.bits() & 1 == 0 { magnitude } else { -magnitude }
        })
        .collect();
    let (channel, shape) = ([scale; COLUMNS], Shape::gaussian());
    // Twelve uniform numbers add up to a nearly normal one.
    let limit = 1 << (scale / 16);
    let codes: Vec<u16> = mean
        .iter()
        .map(|mu| mu + (0..12).map(|_| random.within(limit) / 2).sum::<i32>())
        .map(|x| {
            let below = format.rank_of_fixed(x, EXPONENT);
            format.code(below + i32::from(x >= format.edge(below + 1, EXPONENT)))
        })
        .collect();
    let pricing = Pricing { format, unit: Unit::ONE, exponent: EXPONENT, channel: &channel, shape: &shape };
    let mu = b.upload(Ints { rows: tokens, cols: COLUMNS, data: mean });
    let token = b.upload(Ints::zeros(tokens, 1));
    let on_backend = b.upload_codes(codes.clone());
    let ranges: Vec<Range<usize>> = (0..CHUNKS).map(|i| i * CHUNK..(i + 1) * CHUNK).collect();

    let encode = || -> Result<Vec<Chunk>> {
        let one = |rows: &Range<usize>| (rows.clone(), ChunkEncoder::new(format, 1, None));
        let mut encoder = b.encoder(ranges.iter().map(one).collect());
        b.encode_plane(&pricing, &mu, &token, &on_backend, &mut encoder)?;
        Ok(b.finish_chunks(encoder)?)
    };
    let chunks = encode()?;
    let decode = || -> Result<Vec<u16>> {
        let mut decoders = Vec::new();
        for (rows, chunk) in ranges.iter().zip(&chunks) {
            decoders.push((rows.clone(), ChunkDecoder::new(format, 1, CHUNK, false, &chunk.payload)?));
        }
        let mut decoder = b.decoder(decoders);
        let out = b.decode_plane(&pricing, &mu, &token, &mut decoder)?;
        let checksums: Vec<u64> = chunks.iter().map(|chunk| chunk.values_checksum).collect();
        b.finish_decoders(decoder, &checksums)?;
        Ok(b.download_codes(&out))
    };
    if decode()? != codes {
        let message = "the coder does not give back what was encoded; this is a defect, please report it";
        return Err(Error::new(Code::Internal, message));
    }
    let bytes: usize = chunks.iter().map(|c| c.payload.len()).sum();
    let rate = |seconds: f64| scalars as f64 / seconds;
    Ok(machine::Coder {
        format,
        bits: 8.0 * bytes as f64 / scalars as f64,
        encode: rate(timer.median_on(b, encode)?),
        decode: rate(timer.median_on(b, decode)?),
        observe: rate(timer.median_on(b, || b.observe(&pricing, &mu, &token, &on_backend))?),
    })
}
