//! A KV cache in memory, and its file.
//!
//! `file` reads and writes cache files, `fp8` rounds to the eight-bit formats.

mod file;
mod fp8;

use crate::error::{Error, Result};
use speckv_codec_core::ElementFormat;

pub use fp8::{ScalePer, Scales, decode_fp8, encode_fp8, fp8_scales};
#[cfg(feature = "models")]
pub(crate) use fp8::{check_format, check_scales, encode};

/// Index of the keys in a layer's pair of parts.
pub const KEY: usize = 0;
/// Index of the values in a layer's pair of parts.
pub const VALUE: usize = 1;

/// The keys (after RoPE) and values of a run of tokens in every layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Number format of every scalar.
    pub format: ElementFormat,
    /// Number of layers.
    pub layers: usize,
    /// Key and value heads per layer.
    pub kv_heads: usize,
    /// Scalars per head.
    pub head_dim: usize,
    /// Number of tokens.
    pub tokens: usize,
    /// Raw little-endian codes of `[layer][part]`, part 0 the keys and 1 the values; each
    /// `[kv_heads, tokens, head_dim]` row-major.
    pub planes: Vec<[Vec<u8>; 2]>,
    /// For the fp8 formats, `[layer][part]`: one scale, or one per head; the value is code x scale.
    pub scales: Option<Vec<[Vec<f32>; 2]>>,
    /// Token ids, one per token.
    pub token_ids: Option<Vec<u32>>,
}

impl Cache {
    /// Checks that every buffer has the size the geometry says and every scale is a positive number.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Argument(format!("cache: {what}")));
        let named = [("layers", self.layers), ("heads", self.kv_heads), ("head dimension", self.head_dim)];
        if let Some((name, _)) = named.into_iter().find(|&(_, n)| n == 0) {
            return wrong(format!("expected at least one of {name}, found 0"));
        }
        if self.planes.len() != self.layers {
            return wrong(format!("expected {} layers, found {}", self.layers, self.planes.len()));
        }
        let expected = self.part_bytes()?;
        for (layer, pair) in self.planes.iter().enumerate() {
            for (part, plane) in PARTS.iter().zip(pair) {
                if plane.len() != expected {
                    return wrong(format!(
                        "layers.{layer}.{part}: expected {expected} bytes, found {}",
                        plane.len()
                    ));
                }
            }
        }
        if let Some(ids) = self.token_ids.as_ref().filter(|ids| ids.len() != self.tokens) {
            return wrong(format!("expected {} token ids, found {}", self.tokens, ids.len()));
        }
        let Some(scales) = &self.scales else { return Ok(()) };
        if !is_fp8(self.format) {
            return wrong(format!("expected no scales with {:?}, found some", self.format));
        }
        if scales.len() != self.layers {
            return wrong(format!("expected scales of {} layers, found {}", self.layers, scales.len()));
        }
        for (layer, pair) in scales.iter().enumerate() {
            for (part, list) in PARTS.iter().zip(pair) {
                if list.len() != 1 && list.len() != self.kv_heads {
                    return wrong(format!(
                        "layers.{layer}.{part}_scale: expected 1 or {} scales, found {}",
                        self.kv_heads,
                        list.len()
                    ));
                }
                if let Some(bad) = list.iter().find(|s| !is_scale(**s)) {
                    return wrong(format!(
                        "layers.{layer}.{part}_scale: expected finite scales above 0, found {bad}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Bytes of the keys, or of the values, of one layer.
    pub fn part_bytes(&self) -> Result<usize> {
        [self.tokens, self.head_dim, element_bytes(self.format)]
            .into_iter()
            .try_fold(self.kv_heads, usize::checked_mul)
            .ok_or_else(|| Error::Argument("cache: its size does not fit the address space".to_owned()))
    }

    /// The values that the codes of one layer's part stand for, `[kv_heads, tokens, head_dim]`, scales applied
    /// in f32.
    ///
    /// # Panics
    /// If `layer` or `part` is out of range, or the cache would not pass [`Cache::check`].
    pub fn values(&self, layer: usize, part: usize) -> Vec<f32> {
        let plane = &self.planes[layer][part];
        let pairs = || plane.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let mut values: Vec<f32> = match self.format {
            ElementFormat::Bf16 => pairs().map(|code| half::bf16::from_bits(code).to_f32()).collect(),
            ElementFormat::F16 => pairs().map(|code| half::f16::from_bits(code).to_f32()).collect(),
            ElementFormat::E4m3 | ElementFormat::E5m2 => {
                plane.iter().map(|&code| decode_fp8(self.format, code)).collect()
            }
        };
        if let Some(scales) = &self.scales {
            multiply(&mut values, &scales[layer][part]);
        }
        values
    }
}

/// Multiplies heads of equal length, each by its scale, or all by the one there is.
pub(crate) fn multiply(values: &mut [f32], scales: &[f32]) {
    let run = values.len().div_ceil(scales.len().max(1)).max(1);
    let heads = values.chunks_mut(run).zip(scales);
    heads.for_each(|(head, scale)| head.iter_mut().for_each(|v| *v *= scale));
}

/// The parts' names in cache files, by index.
const PARTS: [&str; 2] = ["key", "value"];

/// Bytes of one code.
fn element_bytes(format: ElementFormat) -> usize {
    match format {
        ElementFormat::Bf16 | ElementFormat::F16 => 2,
        ElementFormat::E4m3 | ElementFormat::E5m2 => 1,
    }
}

fn is_fp8(format: ElementFormat) -> bool {
    matches!(format, ElementFormat::E4m3 | ElementFormat::E5m2)
}

fn is_scale(scale: f32) -> bool {
    scale.is_finite() && scale > 0.0
}
