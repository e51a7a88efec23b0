//! Sizes and times of one way to store a cache, after it was restored and compared.

use std::path::Path;
use std::time::Instant;

use speckv_capture::Cache;
use speckv_predictor::codec::{self, LoadedMode, Options};
use speckv_predictor::profile::{Kind, ProfileFile};

use crate::backend::Active;
use crate::caches;
use crate::error::{Code, Error, Result};
use crate::output::Output;
use crate::progress::Coding;
use crate::streams::{self, Besides};

/// One row of the table for one format.
pub struct Measured {
    /// How it was stored.
    pub name: &'static str,
    /// In how many bytes, container included.
    pub bytes: u64,
    /// Seconds to compress and to decompress.
    pub seconds: Option<[f64; 2]>,
    /// Seconds to load what both need of the profile.
    pub load_seconds: f64,
}

impl Measured {
    /// The cache file as it is.
    pub fn raw(bytes: usize) -> Self {
        Measured { name: "raw", bytes: bytes as u64, seconds: None, load_seconds: 0.0 }
    }
}

/// Compresses and restores with speckv; the restored cache, written out, must be the same file.
pub fn speckv(
    b: &Active,
    profile: &ProfileFile<'_>,
    kind: Kind,
    cache: &Cache,
    payload: &[u8],
    file: &Path,
    output: &Output,
) -> Result<Measured> {
    // Loading packs the weights for the backend: once per process, not once per cache.
    let since = Instant::now();
    let (_, precision) = crate::profile::pick(profile, kind.into(), None, cache.format, true)?;
    let mode = LoadedMode::load(b, profile, kind, &precision, cache.format)?;
    let load_seconds = since.elapsed().as_secs_f64();

    let since = Instant::now();
    let mut coding = Coding::new(
        output.bar(kind.name(), (cache.tokens * cache.layers) as u64),
        cache.layers,
        cache.tokens,
    );
    let bytes = caches::with_view(cache, |view| {
        Ok(codec::compress(b, &mode, view, Options::default(), &mut |position, layer| {
            coding.layer(position, layer)
        })?)
    })?;
    drop(coding);
    let compress = since.elapsed().as_secs_f64();

    let since = Instant::now();
    let name = Path::new("the demo's stream");
    let stream = streams::parse(&bytes, name)?;
    let restored = streams::decode(b, &mode, &stream, &Besides::nothing(), name, output)?;
    let decompress = since.elapsed().as_secs_f64();

    let again = file.with_extension("restored");
    restored.write(&again)?;
    let back = std::fs::read(&again).map_err(|e| Error::io(&again, e))?;
    check(kind.name(), payload, &back)?;
    let (name, bytes) = (kind.name(), bytes.len() as u64);
    Ok(Measured { name, bytes, seconds: Some([compress, decompress]), load_seconds })
}

/// Refuses to go on if a single byte did not come back.
pub fn check(name: &str, payload: &[u8], back: &[u8]) -> Result<()> {
    if payload == back {
        return Ok(());
    }
    Err(Error::new(
        Code::Internal,
        format!("{name}: what came back is not what went in; this is a defect, please report it"),
    ))
}
