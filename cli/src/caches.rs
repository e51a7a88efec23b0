//! Between cache files and the codec, which asks for planes and gives planes.

use std::ops::Range;
use std::path::Path;

use speckv_capture::Cache;
use speckv_codec_core::{ElementFormat, Geometry, Limits, Part};
use speckv_predictor::codec::CacheView;

use crate::error::{Code, Error, Result};

/// Reads a cache file that holds at least one token.
pub fn read(path: &Path) -> Result<Cache> {
    let cache = Cache::read(path)?;
    match cache.tokens {
        0 => Err(Error::input("expected at least one token, found none").of(path)),
        _ => Ok(cache),
    }
}

/// Layers, heads, columns.
pub fn geometry(cache: &Cache) -> Geometry {
    Geometry { layers: cache.layers, kv_heads: cache.kv_heads, head_dim: cache.head_dim }
}

/// A geometry in words.
pub fn geometry_text(g: Geometry) -> String {
    format!("{} layers x {} KV heads x {} columns", g.layers, g.kv_heads, g.head_dim)
}

/// Scalars of a cache.
pub fn scalars(cache: &Cache) -> u64 {
    geometry(cache).scalars_per_token() * cache.tokens as u64
}

/// The scales as a stream carries them: f32 bits in the order layer, part, head, as many for each part; none for
/// 16-bit formats. A file without scales means 1, and one scale stands for all heads where other parts have one each.
pub fn scale_bits(cache: &Cache) -> Result<Vec<u32>> {
    if cache.format.width() != 8 {
        return Ok(Vec::new());
    }
    let Some(scales) = &cache.scales else { return Ok(vec![1f32.to_bits(); 2 * cache.layers]) };
    let most = scales.iter().flatten().map(Vec::len).max().unwrap_or(1);
    let all = scales.iter().flatten().flat_map(|list| (0..most).map(|head| list[head.min(list.len() - 1)]));
    match all.clone().find(|s| !s.is_normal() || *s <= 0.0) {
        Some(bad) => Err(Error::input(format!("expected positive, normal fp8 scales, found {bad:e}"))),
        None => Ok(all.map(f32::to_bits).collect()),
    }
}

/// The codes of one plane.
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

/// Shows a cache to the codec.
pub fn with_view<T>(cache: &Cache, then: impl FnOnce(&CacheView<'_>) -> Result<T>) -> Result<T> {
    then(&CacheView {
        format: cache.format,
        geometry: geometry(cache),
        tokens: cache.tokens,
        scales: scale_bits(cache)?,
        ids: cache.token_ids.as_deref(),
        codes: &|layer, part, head, tokens| codes(cache, layer, part, head, tokens),
    })
}

/// Shows the codec a cache whose first token stands at position `from`, behind the cache before it (which predictors that learn nothing from it can do
/// without).
pub fn with_view_behind<T>(
    prefix: Option<&Cache>,
    from: usize,
    cache: &Cache,
    then: impl FnOnce(&CacheView<'_>) -> Result<T>,
) -> Result<T> {
    // A position is only a number in a header: nothing of its size is allocated beyond this.
    if from as u64 > Limits::default().max_tokens {
        return Err(Error::new(
            Code::Stream,
            format!("the stream starts at token {from}, beyond what this program takes"),
        ));
    }
    // Ids before `from` are not coded.
    let ids = cache.token_ids.as_ref().map(|ids| [&vec![0; from], ids.as_slice()].concat());
    let behind = |layer, part, head, tokens: Range<usize>| match prefix {
        _ if tokens.start >= from => codes(cache, layer, part, head, tokens.start - from..tokens.end - from),
        Some(prefix) => codes(prefix, layer, part, head, tokens),
        None => Vec::new(),
    };
    then(&CacheView {
        format: cache.format,
        geometry: geometry(cache),
        tokens: from + cache.tokens,
        scales: scale_bits(cache)?,
        ids: ids.as_deref(),
        codes: &behind,
    })
}

/// A cache being restored. Memory is taken run by run, as decoded codes arrive: what a header merely claims costs
/// nothing.
pub struct Restored {
    format: ElementFormat,
    geometry: Geometry,
    runs: Vec<Run>,
}

/// The tokens that were decoded together.
struct Run {
    start: usize,
    tokens: usize,
    /// `[layer][part]`, each `[heads, tokens, head_dim]`.
    planes: Vec<[Vec<u8>; 2]>,
}

impl Restored {
    /// Of no tokens yet.
    pub fn new(format: ElementFormat, geometry: Geometry) -> Self {
        Restored { format, geometry, runs: Vec::new() }
    }

    /// Takes a plane of the run that starts at token `start`. Runs come one after the other, heads in order.
    pub fn put(&mut self, layer: usize, part: Part, start: usize, codes: &[u16]) {
        let Geometry { layers, kv_heads, head_dim } = self.geometry;
        if self.runs.last().is_none_or(|run| run.start != start) {
            let planes = vec![[Vec::new(), Vec::new()]; layers];
            self.runs.push(Run { start, tokens: codes.len() / head_dim, planes });
        }
        let Some(run) = self.runs.last_mut() else { return };
        let plane = &mut run.planes[layer][part as usize];
        if plane.is_empty() {
            plane.reserve_exact(kv_heads * codes.len() * self.format.bytes());
        }
        match self.format.bytes() {
            1 => plane.extend(codes.iter().map(|&code| code as u8)),
            _ => plane.extend(codes.iter().flat_map(|code| code.to_le_bytes())),
        }
    }

    /// The cache, all tokens being there. Runs are joined part by part, so that no more than one part is held twice.
    pub fn finish(mut self, scales: &[u32], ids: Vec<u32>) -> Cache {
        let Geometry { layers, kv_heads, head_dim } = self.geometry;
        let tokens: usize = self.runs.iter().map(|run| run.tokens).sum();
        let row = head_dim * self.format.bytes();
        let mut planes = Vec::with_capacity(layers);
        for layer in 0..layers {
            planes.push([0, 1].map(|part| {
                if let [run] = self.runs.as_mut_slice() {
                    return std::mem::take(&mut run.planes[layer][part]);
                }
                let pieces: Vec<(usize, Vec<u8>)> = self
                    .runs
                    .iter_mut()
                    .map(|run| (run.tokens * row, std::mem::take(&mut run.planes[layer][part])))
                    .collect();
                let mut all = Vec::with_capacity(kv_heads * tokens * row);
                for head in 0..kv_heads {
                    for (bytes, piece) in &pieces {
                        all.extend_from_slice(&piece[head * bytes..(head + 1) * bytes]);
                    }
                }
                all
            }));
        }
        Cache {
            format: self.format,
            layers,
            kv_heads,
            head_dim,
            tokens,
            planes,
            scales: scale_lists(scales, layers),
            token_ids: (!ids.is_empty()).then_some(ids),
        }
    }
}

fn scale_lists(bits: &[u32], layers: usize) -> Option<Vec<[Vec<f32>; 2]>> {
    if bits.is_empty() {
        return None;
    }
    let per_part = bits.len() / (2 * layers);
    let mut lists = bits.chunks(per_part).map(|list| list.iter().map(|&b| f32::from_bits(b)).collect());
    Some((0..layers).map(|_| std::array::from_fn(|_| lists.next().unwrap_or_default())).collect())
}

/// Some tokens of a cache.
pub fn slice(cache: &Cache, tokens: Range<usize>) -> Cache {
    let row = cache.head_dim * cache.format.bytes();
    let part = |plane: &Vec<u8>| -> Vec<u8> {
        (0..cache.kv_heads)
            .flat_map(|head| {
                let at = head * cache.tokens;
                &plane[(at + tokens.start) * row..(at + tokens.end) * row]
            })
            .copied()
            .collect()
    };
    Cache {
        planes: cache.planes.iter().map(|[k, v]| [part(k), part(v)]).collect(),
        tokens: tokens.len(),
        scales: cache.scales.clone(),
        token_ids: cache.token_ids.as_ref().map(|ids| ids[tokens.clone()].to_vec()),
        ..*cache
    }
}

/// Where two caches first differ, in words. Scales are compared as streams carry them, token ids if both have them.
pub fn difference(expected: &Cache, found: &Cache) -> Result<Option<String>> {
    let shape =
        |c: &Cache| format!("{} of {} tokens, {}", c.format.name(), c.tokens, geometry_text(geometry(c)));
    if shape(expected) != shape(found) {
        return Ok(Some(format!("expected {}, found {}", shape(expected), shape(found))));
    }
    let (bytes, row) = (expected.format.bytes(), expected.head_dim);
    for (layer, (a, b)) in expected.planes.iter().zip(&found.planes).enumerate() {
        for (part, name) in ["key", "value"].into_iter().enumerate() {
            let (a, b) = (&a[part], &b[part]);
            let Some(at) = a.iter().zip(b).position(|(x, y)| x != y) else { continue };
            let at = at / bytes;
            let (head, token, column) = (at / row / expected.tokens, at / row % expected.tokens, at % row);
            let code = |c: &[u8]| {
                c[at * bytes..(at + 1) * bytes].iter().rev().fold(0, |all, &b| all << 8 | u16::from(b))
            };
            return Ok(Some(format!(
                "layer {layer} {name}, head {head}, token {token}, column {column}: expected code {:#06x}, found {:#06x}",
                code(a),
                code(b)
            )));
        }
    }
    let (a, b) = (scale_bits(expected)?, scale_bits(found)?);
    if spread(&a, expected) != spread(&b, found) {
        return Ok(Some("the scales differ".to_owned()));
    }
    let ids = expected.token_ids.as_ref().zip(found.token_ids.as_ref());
    let at = ids.and_then(|(a, b)| a.iter().zip(b).position(|(x, y)| x != y));
    Ok(at.map(|at| format!("token {at}: the ids differ")))
}

/// One scale per head, whatever the file has.
fn spread(bits: &[u32], cache: &Cache) -> Vec<u32> {
    let times = if bits.len() == 2 * cache.layers { cache.kv_heads } else { 1 };
    bits.iter().flat_map(|&b| std::iter::repeat_n(b, times)).collect()
}
