//! `speckv decompress`

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use speckv_predictor::Backend;

use crate::backend::{Device, on_backend};
use crate::error::Result;
use crate::files::{self, Input};
use crate::output::{Output, grouped, rounded};
use crate::profile;
use crate::streams::{self, BesidesArgs};

/// Restore the cache file from a stream
///
/// Every code, scale and token id is the one that was compressed. Anything that would make them differ (another profile, a
/// damaged stream, wrong token ids) is an error, and then no file is written.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Stream to read
    stream: PathBuf,
    /// The profile that the stream was compressed with
    #[arg(long, short)]
    profile: PathBuf,
    #[command(flatten)]
    besides: BesidesArgs,
    /// What computes; the bytes are the same
    #[arg(long, value_enum, default_value_t)]
    backend: Device,
    /// Cache file to write
    #[arg(long, short, value_name = "OUT.safetensors")]
    output: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  speckv decompress cache.skv --profile smol.speckv -o cache.safetensors
  speckv decompress cache.skv --profile smol.speckv --token-ids ids.json -o cache.safetensors
      a stream compressed with --no-token-ids
  speckv decompress chunk3.skv --profile smol.speckv --prefix first-3-chunks.safetensors -o chunk3.safetensors
      a chunk alone, given the tokens before it";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let inputs: Vec<&Path> =
        [args.stream.as_path(), &args.profile].into_iter().chain(args.besides.paths()).collect();
    files::check_output(&args.output, &inputs)?;
    let bytes = Input::open(&args.stream)?;
    let stream = streams::parse(bytes.bytes(), &args.stream)?;
    let input = Input::open(&args.profile)?;
    let profile = profile::parse(&input, &args.profile)?;
    let besides = args.besides.read(stream.header(), output)?;

    let (cache, seconds, backend) = on_backend!(args.backend, output, |b| {
        let mode = streams::load(&b, &profile, stream.header(), &args.stream)?;
        // A profile is loaded once, however many caches follow: `compress` does not count it either.
        let since = Instant::now();
        let cache = streams::decode(&b, &mode, &stream, &besides, &args.stream, output)?;
        (cache, since.elapsed().as_secs_f64(), b.name().to_owned())
    });
    cache.write(&args.output)?;

    let size = bytes.bytes().len() as u64;
    let value = json!({
        "output": args.output, "format": cache.format.name(), "tokens": cache.tokens, "stream_bytes": size,
        "token_ids": cache.token_ids.is_some(), "seconds": rounded(seconds, 3), "backend": backend,
    });
    output.report(&value, || {
        format!(
            "{}: {} tokens of {} from {} bytes in {seconds:.2} s on {backend}; all checksums right",
            args.output.display(),
            cache.tokens,
            cache.format.name(),
            grouped(size)
        )
    });
    Ok(())
}
