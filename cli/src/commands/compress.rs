//! `speckv compress`

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use speckv_capture::Cache;
use speckv_predictor::Backend;
use speckv_predictor::codec::{self, LoadedMode, Options};
use speckv_predictor::profile::{Kind, ProfileFile};

use crate::backend::{Device, on_backend};
use crate::caches;
use crate::error::{Error, Result};
use crate::files::{Input, OutputFile};
use crate::output::{Output, grouped, rate, rounded};
use crate::profile::{self, Choice};
use crate::progress::Coding;

/// Compress a cache file to a stream
///
/// What `speckv decompress` restores from the stream is the cache, bit for bit: every code of every key and value, the
/// fp8 scales and, unless --no-token-ids is given, the token ids.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Cache file: safetensors with layers.N.key and layers.N.value
    cache: PathBuf,
    /// Profile of the model that the cache is of (see `speckv build`)
    #[arg(long, short)]
    profile: PathBuf,
    /// What predicts the values
    #[arg(long, value_enum, default_value_t)]
    predictor: Choice,
    /// Precision of the predictor, by the name that `speckv inspect PROFILE` lists: of the draft, or `ids` and `no-ids` of the chain [default: the
    /// first listed, with token ids if there are any]
    #[arg(long, value_name = "NAME")]
    precision: Option<String>,
    /// Tokens per chunk; each chunk is restored on its own once the tokens before it are there. A CUDA device codes chunks side by side: 16 or 32 suit it
    #[arg(long, value_name = "TOKENS", default_value_t = codec::CHUNK_TOKENS,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    chunk: u32,
    /// First token to compress, a multiple of --chunk: a cache that has grown gives its new chunks as a stream of its own
    #[arg(long, value_name = "TOKEN", default_value_t = 0)]
    from: usize,
    /// Leave the token ids out: whoever decompresses has them already
    #[arg(long)]
    no_token_ids: bool,
    /// What computes; the bytes are the same
    #[arg(long, value_enum, default_value_t)]
    backend: Device,
    /// Stream to write
    #[arg(long, short, value_name = "OUT.skv")]
    output: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  speckv compress cache.safetensors --profile smol.speckv -o cache.skv
      with the draft network if the cache file has its token_ids, else with a chain
  speckv compress cache.safetensors --profile smol.speckv --predictor static -o cache.skv
      fastest; needs no token ids on either side
  speckv compress cache.safetensors --profile smol.speckv --chunk 64 -o cache.skv
      finer random access, for some more bytes
  speckv compress longer.safetensors --profile smol.speckv --from 1024 -o more.skv
      only what a cache has gained since its first 1024 tokens were compressed";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let file = OutputFile::create(&args.output, &[&args.cache, &args.profile])?;
    let input = Input::open(&args.profile)?;
    let profile = profile::parse(&input, &args.profile)?;
    let cache = caches::read(&args.cache)?;
    codec::check_geometry(&profile, caches::geometry(&cache))?;
    if cache.format.width() == 8 && cache.scales.is_none() {
        output.note("the cache file has no scales; the stream records 1, and so will the restored file");
    }
    let (format, has_ids) = (cache.format, cache.token_ids.is_some());
    let (kind, precision) =
        profile::pick(&profile, args.predictor, args.precision.as_deref(), format, has_ids)?;
    if args.predictor == Choice::Auto && kind != Kind::Draft && !has_ids {
        output.note(format!(
            "the cache file has no token_ids: using `{}`; `draft` needs them and stores far fewer bits",
            kind.name()
        ));
    }
    let predictor = (kind, precision.as_str());
    let (stream, seconds, backend) =
        on_backend!(args.backend, output, |b| encode(&b, &profile, predictor, &cache, args, output))?;
    file.write(&stream)?;

    let tokens = cache.tokens - args.from;
    let share = |whole: u64| (whole as u128 * tokens as u128 / cache.tokens as u128) as u64;
    let before = share(std::fs::metadata(&args.cache).map_err(|e| Error::io(&args.cache, e))?.len());
    let after = stream.len() as u64;
    let scalars = share(caches::scalars(&cache));
    let (bits, ratio) = (rate(after, scalars), before as f64 / after as f64);
    let value = json!({
        "output": args.output, "format": format.name(), "predictor": kind.name(), "precision": precision,
        "from": args.from, "tokens": tokens, "chunks": tokens.div_ceil(args.chunk as usize), "scalars": scalars,
        "cache_bytes": before, "stream_bytes": after, "bits_per_scalar": rounded(bits, 4),
        "ratio": rounded(ratio, 4), "seconds": rounded(seconds, 3), "backend": backend,
    });
    output.report(&value, || {
        format!(
            "{}: {} -> {} bytes, {bits:.3} bits per scalar, {ratio:.2}x, {} {precision} in {seconds:.2} s on {backend}",
            args.output.display(),
            grouped(before),
            grouped(after),
            kind.name(),
        )
        .replace("  ", " ")
    });
    Ok(())
}

/// The stream, the seconds it took and what computed it.
fn encode<B: Backend>(
    b: &B,
    profile: &ProfileFile<'_>,
    (kind, precision): (Kind, &str),
    cache: &Cache,
    args: &Args,
    output: &Output,
) -> Result<(Vec<u8>, f64, String)> {
    let mode = LoadedMode::load(b, profile, kind, precision, cache.format)?;
    if mode.needs_ids() && cache.token_ids.is_none() {
        return Err(Error::mismatch(format!(
            "the predictor `{} {precision}` needs token ids: expected `token_ids` in {}, found none; add them or choose a predictor without (`speckv inspect` lists them)",
            kind.name(),
            args.cache.display()
        )));
    }

    let since = Instant::now();
    let total = (cache.tokens * cache.layers) as u64;
    let mut coding = Coding::new(output.bar("compressing", total), cache.layers, cache.tokens);
    let options = Options { chunk_tokens: args.chunk, store_ids: !args.no_token_ids, from: args.from };
    let stream = caches::with_view(cache, |view| {
        Ok(codec::compress(b, &mode, view, options, &mut |position, layer| coding.layer(position, layer))?)
    })?;
    drop(coding);
    Ok((stream, since.elapsed().as_secs_f64(), b.name().to_owned()))
}
