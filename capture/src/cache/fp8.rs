//! Rounding to fp8, as serving engines with an fp8 KV cache do it: to nearest even, saturating, one scale
//! per layer and part or per layer, part and head.

use speckv_codec_core::ElementFormat;

use super::{Cache, PARTS, is_fp8, is_scale};
use crate::error::{Error, Result};

/// fp8 scales `[layer][part]`: one, or one per KV head.
pub type Scales = Vec<[Vec<f32>; 2]>;

/// How many values share an fp8 scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScalePer {
    /// All heads of a layer's keys, or values.
    #[default]
    Part,
    /// One head of them.
    Head,
}

/// Layout of one fp8 format.
struct Layout {
    mantissa_bits: u32,
    /// Exponent of the smallest normal number.
    min_exponent: i32,
    /// Code of the largest finite number.
    max_code: u8,
    /// The largest finite number.
    max: f32,
    /// Code that a NaN becomes.
    nan: u8,
}

const E4M3: Layout = Layout { mantissa_bits: 3, min_exponent: -6, max_code: 0x7E, max: 448.0, nan: 0x7F };
const E5M2: Layout = Layout { mantissa_bits: 2, min_exponent: -14, max_code: 0x7B, max: 57344.0, nan: 0x7F };

fn layout(format: ElementFormat) -> &'static Layout {
    match format {
        ElementFormat::E5m2 => &E5M2,
        _ => &E4M3,
    }
}

/// The code nearest to `x`, ties to even, beyond the largest finite number that number; NaN keeps its sign.
///
/// `format` must be E4m3 or E5m2; anything else is taken as E4m3.
pub fn encode_fp8(format: ElementFormat, x: f32) -> u8 {
    let l = layout(format);
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = x.abs();
    let code = if magnitude.is_nan() {
        l.nan
    } else if magnitude >= l.max {
        l.max_code
    } else if magnitude < power_of_two(l.min_exponent) {
        // Multiples of one step; a round up to the first normal number gives its code by itself. Dividing by
        // a power of two is exact here unless the input is so small that it rounds to zero either way.
        (magnitude / power_of_two(l.min_exponent - l.mantissa_bits as i32)).round_ties_even() as u8
    } else {
        let drop = 23 - l.mantissa_bits;
        let bits = magnitude.to_bits();
        let half_less_one = (1 << (drop - 1)) - 1;
        let rounded = (bits + half_less_one + ((bits >> drop) & 1)) >> drop;
        // Exponent field 1 of the target is `min_exponent`; of f32 it is -126.
        let rebias = ((l.min_exponent + 126) as u32) << l.mantissa_bits;
        (rounded - rebias).min(u32::from(l.max_code)) as u8
    };
    sign | code
}

/// The number an fp8 code stands for.
///
/// `format` must be E4m3 or E5m2; anything else is taken as E4m3.
pub fn decode_fp8(format: ElementFormat, code: u8) -> f32 {
    let l = layout(format);
    let magnitude = code & 0x7F;
    let mantissa = f32::from(magnitude & ((1 << l.mantissa_bits) - 1));
    let exponent = i32::from(magnitude >> l.mantissa_bits);
    let step = -(l.mantissa_bits as i32);
    let value = if magnitude > l.max_code {
        // Of E5M2 the code after the largest number is infinity; E4M3 has none.
        if l.mantissa_bits == 2 && magnitude == l.max_code + 1 { f32::INFINITY } else { f32::NAN }
    } else if exponent == 0 {
        mantissa * power_of_two(l.min_exponent + step)
    } else {
        (1.0 + mantissa * power_of_two(step)) * power_of_two(l.min_exponent + exponent - 1)
    };
    if code & 0x80 != 0 { -value } else { value }
}

/// 2^`exponent` for the normal range of f32.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Scales that map the largest magnitude found in any of `caches` to the largest finite number of `format`: amax / 448 for E4m3,
/// amax / 57344 for E5m2.
///
/// What is zero throughout gets the scale 1. The caches must share one geometry and be finite.
pub fn fp8_scales(format: ElementFormat, caches: &[&Cache], per: ScalePer) -> Result<Scales> {
    check_format(format)?;
    let Some(first) = caches.first() else {
        return Err(Error::Argument("fp8 scales need at least one cache".to_owned()));
    };
    let lists = if per == ScalePer::Head { first.kv_heads } else { 1 };
    let mut amax: Scales = vec![[vec![0.0; lists], vec![0.0; lists]]; first.layers];
    for cache in caches {
        cache.check()?;
        let shape = (cache.layers, cache.kv_heads);
        if shape != (first.layers, first.kv_heads) {
            return Err(Error::Argument(format!(
                "fp8 scales: expected caches of {} layers and {} heads, found {} and {}",
                first.layers, first.kv_heads, shape.0, shape.1
            )));
        }
        for (layer, pair) in amax.iter_mut().enumerate() {
            for (part, most) in pair.iter_mut().enumerate() {
                let values = cache.values(layer, part);
                if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                    return Err(Error::Argument(format!(
                        "fp8 scales: layers.{layer}.{} holds {value}",
                        PARTS[part]
                    )));
                }
                let run = values.len().div_ceil(lists).max(1);
                for (most, values) in most.iter_mut().zip(values.chunks(run)) {
                    *most = values.iter().fold(*most, |m, v| m.max(v.abs()));
                }
            }
        }
    }
    let largest = layout(format).max;
    // A subnormal amax could otherwise divide down to a scale of zero.
    let scale =
        |amax: &mut f32| *amax = if *amax == 0.0 { 1.0 } else { (*amax / largest).max(f32::MIN_POSITIVE) };
    amax.iter_mut().flatten().flatten().for_each(scale);
    Ok(amax)
}

/// Rounds heads of equal length, each with its scale (or all with the one there is): the codes.
pub(crate) fn encode(format: ElementFormat, values: &[f32], scales: &[f32]) -> Vec<u8> {
    let run = values.len().div_ceil(scales.len().max(1)).max(1);
    let heads = values.chunks(run).zip(scales);
    heads.flat_map(|(head, scale)| head.iter().map(move |v| encode_fp8(format, v / scale))).collect()
}

impl Cache {
    /// The same cache in fp8: every code is the one nearest to value / scale (divided in f32), ties to even,
    /// saturating. See [`fp8_scales`].
    pub fn to_fp8(&self, format: ElementFormat, scales: &[[Vec<f32>; 2]]) -> Result<Cache> {
        check_format(format)?;
        self.check()?;
        check_scales(scales, self.layers, self.kv_heads)?;
        let mut planes = Vec::with_capacity(self.layers);
        for (layer, pair) in scales.iter().enumerate() {
            planes.push([0, 1].map(|part| encode(format, &self.values(layer, part), &pair[part])));
        }
        Ok(Cache {
            format,
            planes,
            scales: Some(scales.to_vec()),
            token_ids: self.token_ids.clone(),
            ..*self
        })
    }
}

/// Refuses formats that are not fp8.
pub(crate) fn check_format(format: ElementFormat) -> Result<()> {
    if is_fp8(format) {
        return Ok(());
    }
    Err(Error::Argument(format!("expected the format E4m3 or E5m2, found {format:?}")))
}

/// Refuses a list that is not one finite positive scale, or one per head, for each `[layer][part]`.
pub(crate) fn check_scales(scales: &[[Vec<f32>; 2]], layers: usize, kv_heads: usize) -> Result<()> {
    if scales.len() != layers {
        return Err(Error::Argument(format!(
            "expected fp8 scales of {layers} layers, found {}",
            scales.len()
        )));
    }
    for (layer, pair) in scales.iter().enumerate() {
        for (part, list) in PARTS.iter().zip(pair) {
            if list.len() != 1 && list.len() != kv_heads {
                return Err(Error::Argument(format!(
                    "layers.{layer}.{part}_scale: expected 1 or {kv_heads} scales, found {}",
                    list.len()
                )));
            }
            if let Some(scale) = list.iter().find(|s| !is_scale(**s)) {
                return Err(Error::Argument(format!(
                    "layers.{layer}.{part}_scale: expected a finite scale above 0, found {scale}"
                )));
            }
        }
    }
    Ok(())
}
