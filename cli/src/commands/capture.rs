//! `speckv capture`

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use serde_json::json;
use speckv_capture::cache::{ScalePer, Scales, fp8_scales};
use speckv_capture::{Cache, CacheMode, ElementFormat, ModelSource, RunOptions, Target};

use crate::error::{Error, Result};
use crate::output::{Output, grouped, rounded};
use crate::{caches, files, tokens};

/// Run a model over a text and write its KV cache
///
/// The cache is that of a bf16 model as GPUs run it. In fp8 formats the model attends to its fp8 cache, as serving
/// engines do; the scales, one per layer and part, come from a first run in bf16 over the same text unless --scales-from
/// gives other ones.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The model: a Hugging Face folder or a .gguf file
    #[arg(long)]
    model: PathBuf,
    /// tokenizer.json to use instead of the model's own
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Text of the prompt
    #[arg(long, value_name = "FILE", required_unless_present = "ids", conflicts_with = "ids")]
    text: Option<PathBuf>,
    /// Token ids of the prompt: numbers in a text file, or a cache file with ids
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Tokens to run [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: Option<u32>,
    /// Tokens of the text to leave out at its beginning; the run starts at position 0 all the same
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Format of the cache
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// fp8 scales: those of an fp8 cache file, or what bf16 cache files would need
    #[arg(long, value_name = "CACHE", num_args = 1..)]
    scales_from: Vec<PathBuf>,
    /// fp8 scales per head, not only per layer and part
    #[arg(long)]
    scale_per_head: bool,
    /// Round a finished bf16 cache to fp8, instead of letting the model attend to its fp8 cache
    #[arg(long)]
    round_after: bool,
    /// Cache file to write
    #[arg(long, short, value_name = "OUT.safetensors")]
    output: PathBuf,
}

/// Formats a target's cache can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As the model computes it
    #[default]
    Bf16,
    /// fp8 with 4 exponent and 3 mantissa bits
    E4m3,
    /// fp8 with 5 exponent and 2 mantissa bits
    E5m2,
}

const EXAMPLES: &str = "\
Examples:
  speckv capture --model SmolLM2-135M/ --text prompt.txt -o cache.safetensors
  speckv capture --model SmolLM2-135M/ --text prompt.txt --tokens 1024 --format e4m3 -o fp8.safetensors
  speckv capture --model SmolLM2-135M/ --text other.txt --format e4m3 --scales-from fp8.safetensors -o other.safetensors
      with scales fixed beforehand, as in a server";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let format = match args.format {
        Format::Bf16 => ElementFormat::Bf16,
        Format::E4m3 => ElementFormat::E4m3,
        Format::E5m2 => ElementFormat::E5m2,
    };
    let fp8 = format.width() == 8;
    if !fp8 && (args.round_after || args.scale_per_head || !args.scales_from.is_empty()) {
        return Err(Error::usage(
            "--round-after, --scale-per-head and --scales-from need --format e4m3 or e5m2, found bf16",
        ));
    }
    let named = [&args.text, &args.ids, &args.tokenizer].into_iter().flatten().chain(&args.scales_from);
    let inputs: Vec<&Path> = named.chain([&args.model]).map(PathBuf::as_path).collect();
    files::check_output(&args.output, &inputs)?;
    let source = ModelSource::open_with(&args.model, args.tokenizer.as_deref())?;
    let ids = prompt(args, &source)?;
    let since = Instant::now();
    let target = Target::load(&source)?;
    let cache = if !fp8 {
        capture(&target, &ids, CacheMode::Exact, output)?
    } else {
        let per = if args.scale_per_head { ScalePer::Head } else { ScalePer::Part };
        let known = scales_from(&args.scales_from, format, per)?;
        let exact = match known.is_none() || args.round_after {
            true => Some(capture(&target, &ids, CacheMode::Exact, output)?),
            false => None,
        };
        let scales = match (known, &exact) {
            (Some(known), _) => known,
            (None, Some(exact)) => fp8_scales(format, &[exact], per)?,
            (None, None) => Vec::new(),
        };
        match exact.filter(|_| args.round_after) {
            Some(exact) => exact.to_fp8(format, &scales)?,
            None => capture(&target, &ids, CacheMode::Fp8 { format, scales }, output)?,
        }
    };
    let seconds = since.elapsed().as_secs_f64();
    cache.write(&args.output)?;

    let size = std::fs::metadata(&args.output).map_err(|e| Error::io(&args.output, e))?.len();
    let value = json!({
        "output": args.output, "format": format.name(), "tokens": cache.tokens, "layers": cache.layers,
        "kv_heads": cache.kv_heads, "head_dim": cache.head_dim, "bytes": size, "seconds": rounded(seconds, 3),
    });
    output.report(&value, || {
        format!(
            "{}: {} tokens of {}, {}, {} bytes in {seconds:.1} s",
            args.output.display(),
            cache.tokens,
            format.name(),
            caches::geometry_text(caches::geometry(&cache)),
            grouped(size)
        )
    });
    Ok(())
}

/// One run of the target, with a bar.
pub fn capture(target: &Target, ids: &[u32], cache: CacheMode, output: &Output) -> Result<Cache> {
    let mut bar = output.bar("capturing", target.config().layers as u64);
    let options = RunOptions { cache, ..RunOptions::default() };
    let run = target.run_with(ids, &options, &mut |state| {
        bar.set(state.layer as u64);
        Ok(())
    })?;
    Ok(run.cache)
}

fn prompt(args: &Args, source: &ModelSource) -> Result<Vec<u32>> {
    let (all, from) = match (&args.ids, &args.text) {
        (Some(path), _) => (tokens::read_ids(path)?, path),
        (None, Some(path)) => (tokens::encode(source, path)?, path),
        (None, None) => return Err(Error::usage("expected --text or --ids, found neither")),
    };
    let left = all.get(args.skip..).unwrap_or_default();
    let wanted = args.tokens.map_or(left.len(), |n| n as usize);
    if left.is_empty() || left.len() < wanted {
        let wanted = wanted.max(1);
        let message = format!(
            "expected {wanted} tokens after the first {}, found {}; take fewer",
            args.skip,
            left.len()
        );
        return Err(Error::input(message).of(from));
    }
    Ok(left[..wanted].to_vec())
}

/// The scales of the files named, if any: those of an fp8 cache as they are, or what 16-bit caches would need.
fn scales_from(paths: &[PathBuf], format: ElementFormat, per: ScalePer) -> Result<Option<Scales>> {
    let caches = paths.iter().map(|path| caches::read(path)).collect::<Result<Vec<_>>>()?;
    match (caches.as_slice(), paths) {
        ([], _) => Ok(None),
        ([one], [path]) if one.format.width() == 8 => {
            let Some(scales) = &one.scales else {
                return Err(Error::input("expected fp8 scales, found none").of(path));
            };
            if per == ScalePer::Head && scales.iter().flatten().any(|list| list.len() != one.kv_heads) {
                return Err(Error::mismatch(
                    "--scale-per-head: expected one scale per head, found one per part",
                )
                .of(path));
            }
            if one.format != format {
                let message = format!("expected scales for {}, found {}", format.name(), one.format.name());
                return Err(Error::mismatch(message).of(path));
            }
            Ok(Some(scales.clone()))
        }
        (many, _) => {
            if let Some(i) = many.iter().position(|c| c.format.width() == 8) {
                let message =
                    "expected a bf16 or f16 cache beside other files, found fp8: its scales are fixed";
                return Err(Error::input(message).of(&paths[i]));
            }
            Ok(Some(fp8_scales(format, &many.iter().collect::<Vec<_>>(), per)?))
        }
    }
}
