//! What people use without a predictor.

use std::time::Instant;

use speckv_capture::Cache;

use super::measure::{Measured, check};
use crate::error::{Code, Error, Result};
use crate::output::Output;

/// The level of `zstd -19`.
const LEVEL: i32 = 19;

/// zstd on the cache file, and on the file with the bytes of its 16-bit numbers sorted into planes: sign and exponent
/// are alike from one number to the next, mantissas are not, and zstd sees that only when they lie apart. For fp8 there
/// is one plane, so the second row repeats the first.
pub fn run(cache: &Cache, payload: &[u8], output: &Output) -> Result<Vec<Measured>> {
    let width = cache.format.bytes();
    let mut bar = output.bar("zstd", 2);
    let plain = zstd("zstd -19", payload, 1)?;
    bar.set(1);
    let name = "byte-planes + zstd -19";
    let planes = match width {
        1 => Measured { name, ..plain },
        _ => zstd(name, payload, width)?,
    };
    Ok(vec![plain, planes])
}

fn zstd(name: &'static str, payload: &[u8], width: usize) -> Result<Measured> {
    let failed = |e: std::io::Error| Error::new(Code::Internal, format!("{name}: {e}"));
    let since = Instant::now();
    let small = zstd::bulk::compress(&split(payload, width), LEVEL).map_err(failed)?;
    let compress = since.elapsed().as_secs_f64();
    let since = Instant::now();
    let back = unsplit(&zstd::bulk::decompress(&small, payload.len()).map_err(failed)?, width);
    let decompress = since.elapsed().as_secs_f64();
    check(name, payload, &back)?;
    Ok(Measured { name, bytes: small.len() as u64, seconds: Some([compress, decompress]), load_seconds: 0.0 })
}

/// Every first byte, then every second one. A safetensors header is a multiple of eight bytes long, so numbers keep
/// their alignment.
fn split(bytes: &[u8], width: usize) -> Vec<u8> {
    (0..width).flat_map(|at| bytes.iter().skip(at).step_by(width)).copied().collect()
}

fn unsplit(planes: &[u8], width: usize) -> Vec<u8> {
    let mut bytes = vec![0; planes.len()];
    let places = (0..width).flat_map(|at| (at..planes.len()).step_by(width));
    for (place, &byte) in places.zip(planes) {
        bytes[place] = byte;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_come_back_whatever_the_length() {
        for length in 0..9u8 {
            let bytes: Vec<u8> = (0..length).collect();
            for width in [1, 2] {
                assert_eq!(unsplit(&split(&bytes, width), width), bytes);
            }
        }
        assert_eq!(split(&[1, 2, 3, 4, 5], 2), [1, 3, 5, 2, 4]);
    }
}
