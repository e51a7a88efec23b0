//! `speckv verify`

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use speckv_capture::Cache;
use speckv_codec_core::Stream;
use speckv_predictor::Backend;
use speckv_predictor::codec::{self, LoadedMode, Options};

use crate::backend::{Device, on_backend};
use crate::error::{Error, Result};
use crate::files::Input;
use crate::output::{Output, rounded};
use crate::progress::Coding;
use crate::streams::{self, BesidesArgs};
use crate::{caches, profile};

/// Prove that a stream restores what it should
///
/// Decodes everything, checks every checksum, compresses the result again and expects the same bytes: same cache,
/// profile and options give the same stream on every machine. With --cache, every code is also compared with that file.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Stream to check
    stream: PathBuf,
    /// The profile that the stream was compressed with
    #[arg(long, short)]
    profile: PathBuf,
    /// Cache file to compare with, of these tokens or of the whole cache
    #[arg(long, value_name = "CACHE")]
    cache: Option<PathBuf>,
    /// What decodes and encodes again, one after the other; all must agree
    #[arg(long, value_enum, value_delimiter = ',', default_value = "cpu", value_name = "LIST")]
    backends: Vec<Device>,
    #[command(flatten)]
    besides: BesidesArgs,
}

const EXAMPLES: &str = "\
Examples:
  speckv verify cache.skv --profile smol.speckv
  speckv verify cache.skv --profile smol.speckv --cache cache.safetensors
      before the original is deleted
  speckv verify cache.skv --profile smol.speckv --backends cpu,cuda
      the same cache and the same bytes on both";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let bytes = Input::open(&args.stream)?;
    let stream = streams::parse(bytes.bytes(), &args.stream)?;
    let input = Input::open(&args.profile)?;
    let profile = profile::parse(&input, &args.profile)?;
    let besides = args.besides.read(stream.header(), output)?;

    let since = Instant::now();
    let (mut names, mut first) = (Vec::new(), None);
    for device in &args.backends {
        let (cache, name) = on_backend!(*device, output, |b| {
            let mode = streams::load(&b, &profile, stream.header(), &args.stream)?;
            let cache = streams::decode(&b, &mode, &stream, &besides, &args.stream, output)?;
            encode_again(&b, &mode, &stream, &cache, besides.prefix.as_ref(), output)?;
            (cache, b.name().to_owned())
        });
        match &first {
            None => first = Some(cache),
            Some(first) => {
                if let Some(what) = caches::difference(first, &cache)? {
                    return Err(Error::mismatch(format!(
                        "{} and {name} decode to other caches: {what}",
                        names[0]
                    )));
                }
            }
        }
        names.push(name);
    }
    let cache = first.ok_or_else(|| Error::usage("--backends: expected at least one"))?;
    if let Some(path) = &args.cache {
        compare(path, &cache, stream.header().first_token as usize)?;
    }
    let backends = names.join(", ");
    let seconds = since.elapsed().as_secs_f64();
    let value = json!({
        "stream": args.stream, "tokens": cache.tokens, "chunks": stream.directory().len(), "checksums": true,
        "same_bytes_again": true, "cache_equal": args.cache.as_ref().map(|_| true),
        "seconds": rounded(seconds, 3), "backend": backends,
    });
    output.result(&value, || {
        let cache_text = args.cache.as_ref().map(|path| format!("; every code equals {}", path.display()));
        format!(
            "{}: {} tokens in {} chunks decode, all checksums right; compressed again to the same bytes{} ({seconds:.2} s on {backends})",
            args.stream.display(),
            cache.tokens,
            stream.directory().len(),
            cache_text.unwrap_or_default()
        )
    });
    Ok(())
}

fn compare(path: &std::path::Path, restored: &Cache, first: usize) -> Result<()> {
    let mut expected = caches::read(path)?;
    if expected.tokens > restored.tokens && expected.tokens >= first + restored.tokens {
        expected = caches::slice(&expected, first..first + restored.tokens);
    }
    match caches::difference(&expected, restored)? {
        Some(what) => {
            Err(Error::mismatch(format!("the stream is sound but not of {}: {what}", path.display())))
        }
        None => Ok(()),
    }
}

/// Compresses the restored cache again, behind its prefix, and compares.
fn encode_again<B: Backend>(
    b: &B,
    mode: &LoadedMode<'_, B>,
    stream: &Stream<'_>,
    restored: &Cache,
    prefix: Option<&Cache>,
    output: &Output,
) -> Result<()> {
    let header = stream.header();
    let from = header.first_token as usize;
    let total = (restored.tokens * restored.layers) as u64;
    let mut coding = Coding::new(output.bar("compressing", total), restored.layers, from + restored.tokens);
    let options = Options { chunk_tokens: header.chunk_tokens, store_ids: header.token_ids, from };
    let bytes = caches::with_view_behind(prefix, from, restored, |view| {
        Ok(codec::compress(b, mode, view, options, &mut |position, layer| coding.layer(position, layer))?)
    })?;
    let again = streams::parse(&bytes, "the stream compressed again".as_ref())?;
    for index in 0..stream.directory().len() {
        if again.extract(index)? != stream.extract(index)? {
            return Err(Error::mismatch(format!(
                "chunk {index} decodes, but compressing it again gives other bytes: it was not written by this version of \
                 the format"
            )));
        }
    }
    Ok(())
}
