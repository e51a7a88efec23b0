//! speckv end to end: cache to stream and back, predictor included.

use std::ops::Range;

use speckv_backend_cpu::CpuBackend;
use speckv_capture::Cache;
use speckv_predictor::Backend;
use speckv_predictor::codec::{self, CacheView, Known, LoadedMode, Options};
use speckv_predictor::core::{ElementFormat, Geometry, Limits, Part, Stream};
use speckv_predictor::profile::{Kind, Precision, ProfileFile};

/// A predictor of a profile, loaded: what compressing and restoring share.
pub struct Ours<'a> {
    backend: &'a CpuBackend,
    /// Its weights, packed.
    pub mode: LoadedMode<'a, CpuBackend>,
    /// Kind of predictor.
    pub kind: Kind,
    /// Its precision, as the profile names it.
    pub precision: String,
}

/// Layers, heads, columns.
pub fn geometry(cache: &Cache) -> Geometry {
    Geometry { layers: cache.layers, kv_heads: cache.kv_heads, head_dim: cache.head_dim }
}

impl<'a> Ours<'a> {
    /// Every predictor and precision that the profile has for caches of `format`.
    pub fn all(
        backend: &'a CpuBackend,
        profile: &'a ProfileFile<'a>,
        format: ElementFormat,
    ) -> Vec<Ours<'a>> {
        let class = Precision::of(format);
        let modes = profile.description.modes.iter().filter(|mode| mode.class == class);
        modes
            .map(|mode| {
                let (kind, precision) = (mode.kind, mode.precision.clone());
                let mode = LoadedMode::load(backend, profile, kind, &precision, format);
                Ours { backend, mode: mode.expect("a mode of the profile"), kind, precision }
            })
            .collect()
    }

    /// Predictor and precision.
    pub fn name(&self) -> String {
        format!("{} {}", self.kind.name(), self.precision).trim_end().to_owned()
    }

    /// The stream.
    pub fn compress(&self, cache: &Cache) -> Vec<u8> {
        compress(self.backend, &self.mode, cache)
    }

    /// The planes of the cache, as [`Cache`] holds them, one after the other.
    pub fn decompress(&self, bytes: &[u8]) -> Vec<u8> {
        let stream = Stream::parse(bytes, &Limits::default()).expect("a stream");
        let header = stream.header();
        let (g, tokens, width) = (header.geometry, header.tokens as usize, header.format.bytes());
        let plane_bytes = tokens * g.head_dim * width;
        let mut out = vec![0; g.planes() * plane_bytes];
        let mut sink = |layer, part, head, start: usize, codes: &[u16]| {
            let at = g.plane(layer, part, head) * plane_bytes + start * g.head_dim * width;
            let place = &mut out[at..at + codes.len() * width];
            match width {
                1 => place.iter_mut().zip(codes).for_each(|(byte, &code)| *byte = code as u8),
                _ => place.as_chunks_mut().0.iter_mut().zip(codes).for_each(|(b, c)| *b = c.to_le_bytes()),
            }
        };
        codec::decompress(self.backend, &self.mode, &stream, Known::default(), &mut sink, &mut |_, _| ())
            .expect("the stream it made");
        out
    }
}

/// The stream that any backend makes.
pub fn compress<B: Backend>(backend: &B, mode: &LoadedMode<'_, B>, cache: &Cache) -> Vec<u8> {
    let view = CacheView {
        format: cache.format,
        geometry: geometry(cache),
        tokens: cache.tokens,
        scales: scales(cache),
        ids: cache.token_ids.as_deref(),
        codes: &|layer, part, head, tokens| codes(cache, layer, part, head, tokens),
    };
    codec::compress(backend, mode, &view, Options::default(), &mut |_, _| ())
        .expect("a cache of the profile's model")
}

/// fp8 scales as a stream carries them, as many for each part; a file without them means 1.
fn scales(cache: &Cache) -> Vec<u32> {
    if cache.format.width() != 8 {
        return Vec::new();
    }
    let Some(scales) = &cache.scales else { return vec![1f32.to_bits(); 2 * cache.layers] };
    let most = scales.iter().flatten().map(Vec::len).max().unwrap_or(1);
    let heads =
        |list: &Vec<f32>| (0..most).map(|head| list[head.min(list.len() - 1)].to_bits()).collect::<Vec<_>>();
    scales.iter().flatten().flat_map(heads).collect()
}

/// The codes of some tokens of one plane.
pub fn codes(cache: &Cache, layer: usize, part: Part, head: usize, tokens: Range<usize>) -> Vec<u16> {
    let width = cache.format.bytes();
    let row = cache.head_dim * width;
    let at = head * cache.tokens;
    let bytes = &cache.planes[layer][part as usize][(at + tokens.start) * row..(at + tokens.end) * row];
    match width {
        1 => bytes.iter().map(|&b| u16::from(b)).collect(),
        _ => bytes.as_chunks().0.iter().map(|&b| u16::from_le_bytes(b)).collect(),
    }
}

/// The embedded model's profile, as bytes.
pub fn profile() -> Vec<u8> {
    std::fs::read(crate::caches::repository("models/tiny-qwen3/profile.speckv"))
        .expect("the embedded profile")
}
