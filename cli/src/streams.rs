//! Streams to caches, for every command that decodes.

use std::path::{Path, PathBuf};

use clap::Args;
use speckv_capture::Cache;
use speckv_codec_core::{Checksum, Error as CoreError, Header, Limits, PredictorKind, Stream};
use speckv_predictor::codec::{self, Known, LoadedMode};
use speckv_predictor::profile::ProfileFile;
use speckv_predictor::{Backend, Error as CodecError};

use crate::caches::{self, Restored};
use crate::error::{Error, Result};
use crate::output::Output;
use crate::progress::Coding;
use crate::tokens;

/// What a decoder may need besides stream and profile.
#[derive(Args)]
pub struct BesidesArgs {
    /// Token ids of a stream that was compressed with --no-token-ids: numbers in a text file, or a cache file with ids
    #[arg(long, value_name = "FILE")]
    token_ids: Option<PathBuf>,
    /// Cache file with the tokens before a stream that does not start at token 0 (see `speckv extract`)
    #[arg(long, value_name = "CACHE")]
    prefix: Option<PathBuf>,
}

/// The same, read and found to fit the stream.
pub struct Besides {
    ids: Option<Vec<u32>>,
    /// Exactly the tokens before the stream.
    pub prefix: Option<Cache>,
}

impl Besides {
    /// For a stream that starts at token 0 and carries its ids.
    pub fn nothing() -> Self {
        Besides { ids: None, prefix: None }
    }
}

impl BesidesArgs {
    /// The files named, for the check of the output path.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.token_ids.iter().chain(&self.prefix).map(PathBuf::as_path)
    }

    /// Reads what the stream needs of it.
    pub fn read(&self, header: &Header, output: &Output) -> Result<Besides> {
        let ids = match &self.token_ids {
            Some(_) if header.token_ids => {
                output.note("the stream carries its token ids; --token-ids is not used");
                None
            }
            Some(path) => Some(fit_ids(tokens::read_ids(path)?, header).map_err(|e| e.of(path))?),
            None => None,
        };
        let prefix = match &self.prefix {
            Some(_) if header.first_token == 0 => {
                output.note("the stream starts at token 0; --prefix is not used");
                None
            }
            Some(path) => Some(fit_prefix(caches::read(path)?, header).map_err(|e| e.of(path))?),
            None if header.first_token > 0 && header.predictor == PredictorKind::Draft => {
                return Err(Error::mismatch(format!(
                    "the stream starts at token {}: expected the cache of the tokens before it, found none; give it with \
                     --prefix",
                    header.first_token
                )));
            }
            None => None,
        };
        Ok(Besides { ids, prefix })
    }
}

/// The ids of the stream's tokens, from exactly these or from those of the whole cache.
fn fit_ids(ids: Vec<u32>, header: &Header) -> Result<Vec<u32>> {
    let (first, tokens) = (header.first_token, header.tokens);
    let found = ids.len() as u64;
    if found == tokens {
        return Ok(ids);
    }
    if first > 0 && found >= first + tokens {
        return Ok(ids[first as usize..(first + tokens) as usize].to_vec());
    }
    Err(Error::mismatch(format!("expected {tokens} token ids, one per token of the stream, found {found}")))
}

fn fit_prefix(cache: Cache, header: &Header) -> Result<Cache> {
    let first = header.first_token;
    let (expected, found) = (header.geometry, caches::geometry(&cache));
    if (header.format, expected) != (cache.format, found) {
        return Err(Error::mismatch(format!(
            "expected a prefix of {}, {}, found {}, {}",
            header.format.name(),
            caches::geometry_text(expected),
            cache.format.name(),
            caches::geometry_text(found)
        )));
    }
    if (cache.tokens as u64) < first {
        return Err(Error::mismatch(format!(
            "expected the {first} tokens before the stream, found {}",
            cache.tokens
        )));
    }
    if caches::scale_bits(&cache)? != header.scales {
        return Err(Error::mismatch("expected the prefix of the same cache, found other fp8 scales"));
    }
    Ok(caches::slice(&cache, 0..first as usize))
}

/// Parses a stream and checks every length before anything is allocated.
pub fn parse<'a>(bytes: &'a [u8], path: &Path) -> Result<Stream<'a>> {
    Stream::parse(bytes, &Limits::default()).map_err(|e| Error::from(e).of(path))
}

/// Loads what a stream needs of its profile.
pub fn load<'a, B: Backend>(
    b: &B,
    file: &'a ProfileFile<'a>,
    header: &Header,
    path: &Path,
) -> Result<LoadedMode<'a, B>> {
    codec::check_stream(file, header)
        .map_err(|e| Error::from(e).of(path).hint("give the profile that the stream was compressed with"))?;
    codec::check_geometry(file, header.geometry)?;
    Ok(LoadedMode::load(b, file, codec::kind_of(header)?, header.precision.as_str(), header.format)?)
}

/// Restores the cache of a stream.
pub fn decode<B: Backend>(
    b: &B,
    mode: &LoadedMode<'_, B>,
    stream: &Stream<'_>,
    besides: &Besides,
    path: &Path,
    output: &Output,
) -> Result<Cache> {
    let header = stream.header();
    let mut coding = Coding::new(
        output.bar("decompressing", progress_total(header)),
        header.geometry.layers,
        header.tokens as usize,
    );
    let mut restored = Restored::new(header.format, header.geometry);
    if mode.needs_ids() && !header.token_ids && besides.ids.is_none() {
        return Err(Error::mismatch(format!(
            "the stream carries no token ids and its predictor needs them: expected {} ids, found none; give them with \
             --token-ids",
            header.tokens
        )));
    }
    let prefix = besides.prefix.as_ref();
    let before = |layer, part, head, tokens| match prefix {
        Some(cache) => caches::codes(cache, layer, part, head, tokens),
        None => Vec::new(),
    };
    let known = Known { ids: besides.ids.as_deref(), prefix: prefix.is_some().then_some(&before) };
    let ids = codec::decompress(
        b,
        mode,
        stream,
        known,
        &mut |layer, part, _, start, codes| restored.put(layer, part, start, codes),
        &mut |position, layer| coding.layer(position.saturating_sub(header.first_token as usize), layer),
    );
    let ids = ids.map_err(|e| match e {
        CodecError::Stream(CoreError::Damaged { checksum: Checksum::Payload, .. }) => Error::from(e).of(path),
        // An intact payload that decodes to nothing sensible was decoded with other predictions than the writer's.
        CodecError::Stream(_) if besides.ids.is_some() || prefix.is_some() => Error::mismatch(
            "the stream is intact but does not decode: the token ids or the prefix given are not those it was \
             compressed with",
        )
        .of(path),
        e => Error::from(e).of(path),
    })?;
    Ok(restored.finish(&header.scales, ids))
}

fn progress_total(header: &Header) -> u64 {
    header.tokens * header.geometry.layers as u64
}
