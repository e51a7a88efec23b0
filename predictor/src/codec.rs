//! Whole caches to streams and back.

use alloc::vec::Vec;
use core::ops::Range;

use speckv_codec_core::{
    ChunkEncoder, ElementFormat, Geometry, Header, Limits, Name, Part, PredictorKind, Stream, write_stream,
};

use crate::backend::Backend;
use crate::error::Error;
pub use crate::loaded::LoadedMode;
use crate::predict::Before;
use crate::profile::{Kind, Precision, ProfileFile};
use crate::session::{Decode, Encode, Progress, Session};

/// Default tokens of a chunk.
pub const CHUNK_TOKENS: u32 = 256;
/// Most tokens of a run, which go through a layer together.
pub const RUN_TOKENS: usize = 2048;
/// Most keys and values of one layer in a run: 256 MiB for each sum, prediction or innovation of them.
pub const RUN_SCALARS: usize = 1 << 26;

/// Tokens of a run of whole chunks: as many as [`RUN_TOKENS`] and [`RUN_SCALARS`] allow, at least one chunk. It bounds memory by what a chunk may
/// take, and never changes a bit.
pub fn run_tokens(geometry: Geometry, chunk: usize) -> usize {
    let layer = geometry.kv_heads.saturating_mul(geometry.head_dim).saturating_mul(2);
    let (most, chunk) = (RUN_TOKENS.min(RUN_SCALARS / layer.max(1)), chunk.max(1));
    chunk * (most / chunk).max(1)
}

/// A cache to compress, its codes in host memory or (`C` = [`Backend::Codes`]) where the backend has them.
pub struct CacheView<'c, C = Vec<u16>> {
    /// Format of its elements.
    pub format: ElementFormat,
    /// Layers, heads, columns.
    pub geometry: Geometry,
    /// Tokens.
    pub tokens: usize,
    /// Scales as f32 bits, order layer, part, head; empty for 16-bit formats.
    pub scales: Vec<u32>,
    /// One id a token, if known.
    pub ids: Option<&'c [u32]>,
    /// Codes of tokens of a plane, `[tokens, head_dim]`.
    pub codes: &'c dyn Fn(usize, Part, usize, Range<usize>) -> C,
}

/// How to compress.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tokens of a chunk.
    pub chunk_tokens: u32,
    /// Put the token ids into the stream (otherwise the reader must supply them).
    pub store_ids: bool,
    /// First token to code, a multiple of `chunk_tokens`: the tokens before it are known to the reader, as when a cache has grown. The chunks are
    /// those that compressing the whole cache gives.
    pub from: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { chunk_tokens: CHUNK_TOKENS, store_ids: true, from: 0 }
    }
}

/// Refuses a cache whose geometry is not the profile's.
pub fn check_geometry(file: &ProfileFile<'_>, found: Geometry) -> Result<(), Error> {
    let want = file.description.geometry();
    if want == found {
        return Ok(());
    }
    let say = |g: Geometry| {
        alloc::format!("{} layers x {} KV heads x {} columns", g.layers, g.kv_heads, g.head_dim)
    };
    Err(Error::Mismatch(alloc::format!(
        "the cache has {}, the profile of {} is for {}",
        say(found),
        file.description.target,
        say(want)
    )))
}

/// The tokens of a run, as ranges of chunks relative to the run.
fn chunk_ranges(start: usize, end: usize, chunk: usize) -> Vec<Range<usize>> {
    (start..end).step_by(chunk).map(|t| t - start..(t + chunk).min(end) - start).collect()
}

/// Compresses a cache to a stream. The same input gives the same bytes on every backend.
pub fn compress<B: Backend>(
    b: &B,
    mode: &LoadedMode<'_, B>,
    cache: &CacheView<'_>,
    options: Options,
    progress: Progress<'_>,
) -> Result<Vec<u8>, Error> {
    let codes =
        |layer, part, head, tokens: Range<usize>| b.upload_codes((cache.codes)(layer, part, head, tokens));
    let view = CacheView {
        format: cache.format,
        geometry: cache.geometry,
        tokens: cache.tokens,
        scales: cache.scales.clone(),
        ids: cache.ids,
        codes: &codes,
    };
    compress_codes(b, mode, &view, options, progress)
}

/// [`compress`] of a cache whose codes the backend has.
pub fn compress_codes<B: Backend>(
    b: &B,
    mode: &LoadedMode<'_, B>,
    cache: &CacheView<'_, B::Codes>,
    options: Options,
    progress: Progress<'_>,
) -> Result<Vec<u8>, Error> {
    compress_runs(
        b,
        mode,
        cache,
        options,
        run_tokens(cache.geometry, options.chunk_tokens as usize),
        progress,
    )
}

/// [`compress_codes`] in runs of `run` tokens, a multiple of the chunk length.
fn compress_runs<B: Backend>(
    b: &B,
    mode: &LoadedMode<'_, B>,
    cache: &CacheView<'_, B::Codes>,
    options: Options,
    run: usize,
    progress: Progress<'_>,
) -> Result<Vec<u8>, Error> {
    check_geometry(mode.file, cache.geometry)?;
    let about = mode.about();
    if options.from >= cache.tokens {
        let (from, tokens) = (options.from, cache.tokens);
        return Err(Error::Input(alloc::format!(
            "nothing to compress: the cache has {tokens} tokens, from token {from} on none"
        )));
    }
    if Precision::of(cache.format) != about.class {
        return Err(Error::Mismatch(alloc::format!(
            "the predictor was loaded for other caches than {}",
            cache.format.name()
        )));
    }
    if !(options.from as u64).is_multiple_of(u64::from(options.chunk_tokens.max(1))) {
        return Err(Error::Input(alloc::format!(
            "the first token to compress, {}, is not a multiple of the chunk length {}",
            options.from,
            options.chunk_tokens
        )));
    }
    // What no reader with ordinary limits would take is not written.
    let most = Limits::default().max_chunk_scalars / cache.geometry.scalars_per_token().max(1);
    if (cache.tokens - options.from).min(options.chunk_tokens as usize) as u64 > most {
        return Err(Error::Input(alloc::format!(
            "chunks of {} tokens are too long for this geometry: readers take up to {most} tokens a chunk",
            options.chunk_tokens
        )));
    }
    let ids = match (cache.ids, mode.needs_ids()) {
        (Some(ids), _) if ids.len() == cache.tokens => ids,
        (Some(ids), _) => {
            return Err(Error::Input(alloc::format!("{} token ids for {} tokens", ids.len(), cache.tokens)));
        }
        (None, true) => {
            return Err(Error::Input(alloc::format!(
                "the predictor `{} {}` needs the cache's token ids and it has none; add `token_ids` or use a predictor without",
                about.kind.name(),
                about.precision
            )));
        }
        (None, false) => &[],
    };
    let predictor = match about.kind {
        Kind::Static => PredictorKind::Static,
        Kind::Chain => PredictorKind::Chain,
        Kind::Draft => PredictorKind::Draft,
    };
    let header = Header {
        format: cache.format,
        predictor,
        precision: Name::new(&about.precision)?,
        geometry: cache.geometry,
        chunk_tokens: options.chunk_tokens,
        first_token: options.from as u64,
        tokens: (cache.tokens - options.from) as u64,
        profile: mode.file.digest,
        token_ids: options.store_ids && !ids.is_empty(),
        scales: cache.scales.clone(),
    };
    header.check()?;
    let chunk = options.chunk_tokens as usize;
    let mut session = mode.session(b, cache.format, &cache.scales)?;
    start_at(&mut session, options.from, run, Some(cache.codes))?;
    let mut chunks = Vec::new();
    for start in (options.from..cache.tokens).step_by(run) {
        let end = (start + run).min(cache.tokens);
        let ranges = chunk_ranges(start, end, chunk);
        let stored = |r: &Range<usize>| header.token_ids.then(|| &ids[start + r.start..start + r.end]);
        let planes = cache.geometry.planes();
        let encoders = ranges.into_iter().map(|r| {
            let encoder = ChunkEncoder::new(cache.format, planes, stored(&r));
            (r, encoder)
        });
        let mut encoder = b.encoder(encoders.collect());
        let mut planes = Encode::<B, _> {
            encoder: &mut encoder,
            codes: |layer, part, head| (cache.codes)(layer, part, head, start..end),
        };
        let run_ids = if ids.is_empty() { ids } else { &ids[start..end] };
        session.run(end - start, run_ids, &mut planes, progress)?;
        chunks.extend(b.finish_chunks(encoder)?);
    }
    Ok(write_stream(&header, &chunks)?)
}

/// Comes to token `first`: what must be known of the tokens before it is learnt from their codes, a run at a time.
fn start_at<B: Backend>(
    session: &mut Session<'_, B>,
    first: usize,
    run: usize,
    codes: Option<Prefix<'_, B::Codes>>,
) -> Result<(), Error> {
    let Some(codes) = codes.filter(|_| session.before() == Before::Truth) else {
        return session.pass(first);
    };
    for start in (0..first).step_by(run) {
        let end = (start + run).min(first);
        session.skip(end - start, |layer, part, head| codes(layer, part, head, start..end))?;
    }
    Ok(())
}

/// Takes restored codes: layer, part, head, first token, `[tokens, head_dim]`.
pub type Sink<'a> = &'a mut dyn FnMut(usize, Part, usize, usize, &[u16]);
/// Supplies the true codes of earlier tokens: layer, part, head, tokens.
pub type Prefix<'a, C = Vec<u16>> = &'a dyn Fn(usize, Part, usize, Range<usize>) -> C;

/// What a decoder may be told besides the stream.
pub struct Known<'a, C = Vec<u16>> {
    /// Token ids, if the stream does not carry them.
    pub ids: Option<&'a [u32]>,
    /// The true codes of the tokens before a stream that does not start at token 0.
    pub prefix: Option<Prefix<'a, C>>,
}

impl<C> Default for Known<'_, C> {
    fn default() -> Self {
        Known { ids: None, prefix: None }
    }
}

/// Takes restored planes as the backend has them.
pub trait Restore<B: Backend> {
    /// The codes of a plane (layer, part, head), `[tokens, head_dim]`, from token `first` of the stream on.
    fn plane(&mut self, b: &B, at: (usize, Part, usize), first: usize, codes: B::Codes);
    /// A run of tokens is over, but not yet found good.
    fn end_run(&mut self, _b: &B) {}
}

/// Brings planes to the host, a layer at a time: asking a device waits for its work.
struct ToHost<'a, B: Backend> {
    sink: Sink<'a>,
    waiting: Vec<Waiting<B::Codes>>,
}

/// A plane (layer, part, head), its first token, its codes.
type Waiting<C> = ((usize, Part, usize), usize, C);

impl<B: Backend> Restore<B> for ToHost<'_, B> {
    fn plane(&mut self, b: &B, at: (usize, Part, usize), first: usize, codes: B::Codes) {
        if self.waiting.last().is_some_and(|((layer, ..), ..)| *layer != at.0) {
            self.end_run(b);
        }
        self.waiting.push((at, first, codes));
    }

    fn end_run(&mut self, b: &B) {
        for ((layer, part, head), first, codes) in self.waiting.drain(..) {
            (self.sink)(layer, part, head, first, &b.download_codes(&codes));
        }
    }
}

/// Most bytes that [`decompress`] holds with [`Portable`](crate::portable::Portable), beside the loaded mode, the stream and what the sink keeps: for every token
/// of a run, 12 bytes for each column that a layer of the predictor works on; for every token of the stream, 16 bytes and, if the predictor attends to the
/// cache, 4 for each scalar of it; 1 KiB for each chunk of a run; and 16 KiB.
pub fn memory_bound<B: Backend>(mode: &LoadedMode<'_, B>, header: &Header) -> u64 {
    let g = header.geometry;
    let all = header.first_token.saturating_add(header.tokens);
    let run = (run_tokens(g, header.chunk_tokens as usize) as u64).min(all);
    let (columns, attends) = mode.columns();
    let scalars = if attends { g.scalars_per_token() } else { 0 };
    let chunks = run.div_ceil(header.chunk_tokens.max(1).into());
    (12 * run)
        .saturating_mul(columns as u64)
        .saturating_add(all.saturating_mul(4 * scalars + 16))
        .saturating_add((chunks + 16) << 10)
}

/// Restores the cache in `stream`; returns the token ids, if known. Nothing handed to `sink` may be used if this fails. What it holds: [`memory_bound`]. Time is
/// linear in the tokens that the header declares, but that a draft attends to all tokens before each; the caller bounds them by its [`Limits`].
pub fn decompress<B: Backend>(
    b: &B,
    mode: &LoadedMode<'_, B>,
    stream: &Stream<'_>,
    known: Known<'_>,
    sink: Sink<'_>,
    progress: Progress<'_>,
) -> Result<Vec<u32>, Error> {
    let prefix = known.prefix.map(|codes| {
        move |layer, part, head, tokens: Range<usize>| b.upload_codes(codes(layer, part, head, tokens))
    });
    let known = Known { ids: known.ids, prefix: prefix.as_ref().map(|codes| codes as Prefix<'_, B::Codes>) };
    decompress_codes(b, mode, stream, known, &mut ToHost { sink, waiting: Vec::new() }, progress)
}

/// [`decompress`] to where the backend has codes.
pub fn decompress_codes<B: Backend>(
    b: &B,
    mode: &LoadedMode<'_, B>,
    stream: &Stream<'_>,
    known: Known<'_, B::Codes>,
    restore: &mut impl Restore<B>,
    progress: Progress<'_>,
) -> Result<Vec<u32>, Error> {
    let header = stream.header();
    let run = run_tokens(header.geometry, header.chunk_tokens as usize);
    decompress_runs(b, mode, stream, known, run, restore, progress)
}

/// [`decompress_codes`] in runs of `run` tokens, a multiple of the chunk length.
fn decompress_runs<B: Backend>(
    b: &B,
    mode: &LoadedMode<'_, B>,
    stream: &Stream<'_>,
    known: Known<'_, B::Codes>,
    run: usize,
    restore: &mut impl Restore<B>,
    progress: Progress<'_>,
) -> Result<Vec<u32>, Error> {
    let header = stream.header();
    check_stream(mode.file, header)?;
    check_geometry(mode.file, header.geometry)?;
    let about = mode.about();
    let asked = (kind_of(header)?, header.precision.as_str(), Precision::of(header.format));
    if asked != (about.kind, about.precision.as_str(), about.class) {
        return Err(Error::Mismatch(alloc::format!(
            "the stream was made by `{} {}`, the predictor loaded is `{} {}`",
            asked.0.name(),
            asked.1,
            about.kind.name(),
            about.precision
        )));
    }
    let place = |n: u64| {
        usize::try_from(n)
            .map_err(|_| Error::Input(alloc::format!("token {n} is beyond this machine's address space")))
    };
    let (first, tokens) = (place(header.first_token)?, place(header.tokens)?);
    let mut session = mode.session(b, header.format, &header.scales)?;
    start_at(&mut session, first, run, known.prefix)?;
    let chunk = header.chunk_tokens as usize;
    let mut all_ids = Vec::new();
    for start in (0..tokens).step_by(run) {
        let end = (start + run).min(tokens);
        let ranges = chunk_ranges(start, end, chunk);
        let refs: Vec<_> =
            (start / chunk..).take(ranges.len()).map(|c| stream.chunk(c)).collect::<Result<_, _>>()?;
        let mut decoders = Vec::new();
        for (rows, chunk) in ranges.into_iter().zip(&refs) {
            decoders.push((rows, chunk.decoder(header)?));
        }
        let mut ids: Vec<u32> =
            decoders.iter().filter_map(|(_, d)| d.token_ids()).flatten().copied().collect();
        if ids.is_empty() {
            ids = match known.ids {
                Some(known) if known.len() == tokens => known[start..end].to_vec(),
                Some(known) => {
                    return Err(Error::Input(alloc::format!(
                        "{} token ids for {tokens} tokens",
                        known.len()
                    )));
                }
                None if mode.needs_ids() => {
                    return Err(Error::Input(
                        "the stream carries no token ids and the predictor needs them: supply them".into(),
                    ));
                }
                None => Vec::new(),
            };
        }
        let mut decoder = b.decoder(decoders);
        let mut planes =
            Decode::<B, _> { decoder: &mut decoder, sink: |at, codes| restore.plane(b, at, start, codes) };
        session.run(end - start, &ids, &mut planes, progress)?;
        restore.end_run(b);
        let checksums: Vec<u64> = refs.iter().map(|chunk| chunk.values_checksum).collect();
        b.finish_decoders(decoder, &checksums)?;
        all_ids.extend(ids);
    }
    Ok(all_ids)
}

/// Refuses a stream that was not made with this profile.
pub fn check_stream(file: &ProfileFile<'_>, header: &Header) -> Result<(), Error> {
    if header.profile == file.digest {
        return Ok(());
    }
    let hex =
        |d: &[u8; 32]| d[..8].iter().map(|b| alloc::format!("{b:02x}")).collect::<alloc::string::String>();
    Err(Error::Mismatch(alloc::format!(
        "the stream was made with profile {}, this one ({}) is {}",
        hex(&header.profile),
        file.description.target,
        hex(&file.digest)
    )))
}

/// The predictor kind of a stream.
pub fn kind_of(header: &Header) -> Result<Kind, Error> {
    match header.predictor {
        PredictorKind::Static => Ok(Kind::Static),
        PredictorKind::Chain => Ok(Kind::Chain),
        PredictorKind::Draft => Ok(Kind::Draft),
        other => Err(Error::Mismatch(alloc::format!(
            "the stream's predictor ({other:?}) is not one this program has"
        ))),
    }
}

/// Parses a stream within the caller's limits.
pub fn parse<'s>(bytes: &'s [u8], limits: &Limits) -> Result<Stream<'s>, Error> {
    Ok(Stream::parse(bytes, limits)?)
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;
    use crate::portable::Portable;
    use crate::synthetic::{MODES, Make, Random};

    #[test]
    fn runs_are_bounded_in_tokens_and_scalars() {
        let g = |kv_heads, head_dim| Geometry { layers: 1, kv_heads, head_dim };
        assert_eq!([256, 1, 100, 2048].map(|chunk| run_tokens(g(8, 128), chunk)), [2048, 2048, 2000, 2048]);
        // 2^26 scalars are 128 tokens of the widest layer that profiles may have; a chunk is never divided.
        assert_eq!([1, 100, 256, 65536].map(|chunk| run_tokens(g(64, 4096), chunk)), [128, 100, 256, 65536]);
        assert_eq!([0, 7].map(|chunk| run_tokens(g(usize::MAX, 2), chunk)), [1, 7]);
        assert_eq!(run_tokens(g(0, 0), 256), 2048);
    }

    /// Each run ends where a chunk does, somewhere else with every length: the streams are the same, and each is read in runs of any length.
    #[test]
    fn the_length_of_runs_changes_no_bit() {
        let (b, make, tokens) = (Portable::new(), Make::default(), 100);
        let bytes = make.profile().unwrap();
        let file = ProfileFile::parse(&bytes).unwrap();
        let (format, hd, mut r) = (ElementFormat::Bf16, make.geometry.head_dim, Random(4));
        let planes: Vec<_> =
            (0..make.geometry.planes()).map(|_| make.codes(&mut r, format, tokens)).collect();
        let codes = |l, p, h, t: Range<usize>| {
            planes[make.geometry.plane(l, p, h)][t.start * hd..t.end * hd].to_vec()
        };
        let ids: Vec<u32> = (0..tokens).map(|_| (r.bits() % make.vocab as u64) as u32).collect();
        let view = CacheView {
            format,
            geometry: make.geometry,
            tokens,
            scales: Vec::new(),
            ids: Some(&ids),
            codes: &codes,
        };
        for (kind, precision) in MODES {
            let mode = LoadedMode::load(&b, &file, kind, precision, format).unwrap();
            for from in [0, 48] {
                if from > 0 && mode.before() == Before::Predictions {
                    continue;
                }
                let options = Options { chunk_tokens: 16, from, ..Options::default() };
                let in_runs = |run| compress_runs(&b, &mode, &view, options, run, &mut |_, _| {}).unwrap();
                let whole = compress(&b, &mode, &view, options, &mut |_, _| {}).unwrap();
                for run in [16, 32, 80] {
                    assert!(in_runs(run) == whole, "{kind:?} {precision} from {from} in runs of {run}");
                    let stream = parse(&whole, &Limits::default()).unwrap();
                    let mut seen = 0;
                    let mut sink = |l, p, h, at: usize, found: &[u16]| {
                        let at = from + at;
                        assert_eq!(found, codes(l, p, h, at..at + found.len() / hd));
                        seen += found.len();
                    };
                    let known = Known { ids: None, prefix: Some(&codes) };
                    let mut host = ToHost { sink: &mut sink, waiting: Vec::new() };
                    decompress_runs(&b, &mode, &stream, known, run, &mut host, &mut |_, _| {}).unwrap();
                    assert_eq!(seen, (tokens - from) * hd * planes.len());
                }
            }
        }
    }
}
