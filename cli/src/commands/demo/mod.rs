//! `speckv demo`

mod embedded;
mod measure;
mod rivals;
mod table;

use serde_json::json;
use speckv_capture::cache::{ScalePer, fp8_scales};
use speckv_capture::{Cache, CacheMode, ElementFormat, ModelSource, Target};
use speckv_predictor::Backend;
use speckv_predictor::profile::Kind;

use super::capture::capture;
use crate::backend;
use crate::error::{Error, Result};
use crate::output::Output;
use measure::Measured;

/// Compress the caches of an embedded model and compare with zstd; needs no files and no network
///
/// A small Qwen3 model reads a text that its profile was not fitted to. Its KV cache, in bf16 and in fp8, is compressed
/// by zstd, by zstd on byte-planes, and by speckv with and without the draft network. Everything is decompressed again
/// and compared. Sizes are of whole files and streams, every container byte included.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Tokens of the text, at most 4032; the text has a little fewer
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(16..=4032))]
    tokens: u32,
}

const EXAMPLES: &str = "\
Examples:
  speckv demo
  speckv demo --tokens 512
  speckv demo --json | jq '.formats[0].rows[] | [.name, .bits_per_scalar]'";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let folder = embedded::unpack()?;
    let profile = embedded::profile()?;
    let backend = backend::open()?;
    let caches = capture_both(folder.path(), args.tokens as usize, output)?;
    let mut formats = Vec::new();
    for cache in &caches {
        let file = folder.path().join(format!("{}.safetensors", cache.format.name()));
        cache.write(&file)?;
        let payload = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
        let mut rows = vec![Measured::raw(payload.len())];
        rows.extend(rivals::run(cache, &payload, output)?);
        for kind in [Kind::Static, Kind::Chain, Kind::Draft] {
            rows.push(measure::speckv(&backend, &profile, kind, cache, &payload, &file, output)?);
        }
        formats.push(table::Format::new(cache, &payload, rows));
    }
    let tokens = caches[0].tokens;
    let value = json!({
        "target": profile.description.target, "tokens": tokens, "backend": backend.name(),
        "threads": rayon::current_num_threads(), "profile_bytes": profile.bytes,
        "formats": formats.iter().map(table::Format::json).collect::<Vec<_>>(), "equal": true,
    });
    output.result(&value, || {
        format!(
            "KV caches of {} over {tokens} tokens of a text its profile was not fitted to ({}, {} threads)\n\n{}\n{}",
            profile.description.target,
            backend.name(),
            rayon::current_num_threads(),
            table::text(&formats),
            table::verdict(&formats)
        )
    });
    Ok(())
}

/// The same prompt with a bf16 cache and with an fp8 cache.
fn capture_both(model: &std::path::Path, tokens: usize, output: &Output) -> Result<[Cache; 2]> {
    let source = ModelSource::open(model)?;
    let mut ids = source.encode(embedded::TEXT)?;
    ids.truncate(tokens);
    let target = Target::load(&source)?;
    let fine = capture(&target, &ids, CacheMode::Exact, output)?;
    let format = ElementFormat::E4m3;
    let scales = fp8_scales(format, &[&fine], ScalePer::Part)?;
    let coarse = capture(&target, &ids, CacheMode::Fp8 { format, scales }, output)?;
    Ok([fine, coarse])
}
