//! `speckv bisect`

use std::cell::Cell;
use std::ops::Range;
use std::path::PathBuf;

use serde_json::json;
use speckv_codec_core::{Limits, Part};
use speckv_predictor::both::Both;
use speckv_predictor::codec::{self, Known, LoadedMode, Options};
use speckv_predictor::profile::{Kind, ProfileFile};
use speckv_predictor::{Backend, Portable};

use crate::error::{Code, Error, Result};
use crate::files::Input;
use crate::output::Output;
use crate::profile::{self, Choice};
use crate::progress::Coding;
use crate::{backend, caches};

/// Find the first operation that two backends answer differently
///
/// Compresses and restores a cache on both at once, comparing the result of every operation: predictions, what is learnt from them, symbols, codes. The
/// first difference is a defect of one of them (`portable` is the definition) and is named with its layer, part, head, token and channel; exit code 1.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// One backend: `portable` or a CPU path (scalar, avx2, avx512vnni, amx, neon)
    a: String,
    /// The other
    b: String,
    /// Cache file
    cache: PathBuf,
    /// Profile of the model that the cache is of
    #[arg(long, short)]
    profile: PathBuf,
    /// What predicts the values
    #[arg(long, value_enum, default_value_t)]
    predictor: Choice,
    /// Precision of the predictor, as for `speckv compress`
    #[arg(long, value_name = "NAME")]
    precision: Option<String>,
    /// Tokens per chunk
    #[arg(long, value_name = "TOKENS", default_value_t = codec::CHUNK_TOKENS,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    chunk: u32,
}

const EXAMPLES: &str = "\
Examples:
  speckv bisect portable avx512vnni cache.safetensors --profile smol.speckv
  speckv bisect scalar avx2 cache.safetensors --profile smol.speckv --predictor chain";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    match (backend::named(&args.a)?, backend::named(&args.b)?) {
        (None, None) => Err(Error::usage("two different backends are needed, found `portable` twice")),
        (Some(a), Some(b)) if a.path() == b.path() => {
            Err(Error::usage(format!("two different backends are needed, found `{}` twice", args.a)))
        }
        (Some(a), Some(b)) => with(args, output, &Both::new(a, b)),
        (Some(fast), None) | (None, Some(fast)) => with(args, output, &Both::new(Portable::new(), fast)),
    }
}

fn with<A: Backend, B: Backend>(args: &Args, output: &Output, both: &Both<A, B>) -> Result<()> {
    let input = Input::open(&args.profile)?;
    let profile = profile::parse(&input, &args.profile)?;
    let cache = caches::read(&args.cache)?;
    codec::check_geometry(&profile, caches::geometry(&cache))?;
    let (kind, precision) = profile::pick(
        &profile,
        args.predictor,
        args.precision.as_deref(),
        cache.format,
        cache.token_ids.is_some(),
    )?;
    let planes = match both_ways(both, &profile, kind, &precision, args.chunk, &cache, output) {
        Ok(planes) => planes,
        // One of them is wrong. Other errors are the input's.
        Err(e) => return Err(both.difference().map_or(e, |d| Error::new(Code::Internal, d.to_string()))),
    };
    let value = json!({
        "backends": [args.a, args.b], "predictor": kind.name(), "precision": precision, "tokens": cache.tokens,
        "planes": planes, "difference": null,
    });
    output.result(&value, || {
        format!(
            "{} and {} agree: every operation of {} {precision} on {} tokens, {planes} planes coded and restored",
            args.a,
            args.b,
            kind.name(),
            cache.tokens
        )
    });
    Ok(())
}

/// Compresses and restores on both; returns how many planes were compared with the cache.
fn both_ways<B: Backend>(
    both: &B,
    profile: &ProfileFile<'_>,
    kind: Kind,
    precision: &str,
    chunk: u32,
    cache: &speckv_capture::Cache,
    output: &Output,
) -> Result<usize> {
    let mode = LoadedMode::load(both, profile, kind, precision, cache.format)?;
    let total = 2 * (cache.tokens * cache.layers) as u64;
    let mut coding = Coding::new(output.bar("comparing", total), cache.layers, cache.tokens);
    let options = Options { chunk_tokens: chunk, ..Options::default() };
    caches::with_view(cache, |view| {
        let stream = codec::compress(both, &mode, view, options, &mut |position, layer| {
            coding.layer(position, layer)
        })?;
        let stream = codec::parse(&stream, &Limits::default())?;
        let (planes, other) = (Cell::new(0), Cell::new(None));
        let mut sink = |layer: usize, part: Part, head: usize, at: usize, found: &[u16]| {
            let tokens: Range<usize> = at..at + found.len() / cache.head_dim;
            if found != (view.codes)(layer, part, head, tokens) {
                other.set(other.get().or(Some((layer, head))));
            }
            planes.set(planes.get() + 1);
        };
        codec::decompress(both, &mode, &stream, Known::default(), &mut sink, &mut |_, _| {})?;
        match other.get() {
            Some((layer, head)) => Err(Error::new(
                Code::Internal,
                format!("both agree, and on other codes than the cache's: layer {layer}, head {head}"),
            )),
            None => Ok(planes.get()),
        }
    })
}
