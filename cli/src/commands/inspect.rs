//! `speckv inspect`

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use speckv_codec_core::PredictorKind;
use speckv_codec_core::limits::MAGIC;
use speckv_predictor::profile::{Mode, Precision, ProfileFile};

use crate::error::{Error, Result};
use crate::files::Input;
use crate::output::{Output, grouped, rate, rounded};
use crate::profile::hex;
use crate::{caches, streams};

/// Tell what a stream, profile or cache file holds
///
/// Finds out by itself which of the three it is. Of a stream, header and payload checksums are checked; the values need
/// the profile (see `speckv verify`).
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Stream, profile or cache file
    file: PathBuf,
    /// List every chunk of a stream, not only the first sixteen
    #[arg(long)]
    all: bool,
}

const EXAMPLES: &str = "\
Examples:
  speckv inspect cache.skv             header, and bits per scalar chunk by chunk
  speckv inspect smol.speckv           target, predictors, what it was fitted on
  speckv inspect cache.safetensors     format and geometry
  speckv inspect cache.skv --json | jq .chunks[0]";

/// Chunks listed without `--all`.
const SOME: usize = 16;

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let input = Input::open(&args.file)?;
    let bytes = input.bytes();
    if bytes.starts_with(&MAGIC) || (!bytes.is_empty() && MAGIC.starts_with(bytes)) {
        return stream(&args.file, bytes, args.all, output);
    }
    match safetensors::SafeTensors::read_metadata(bytes) {
        Ok((_, about)) if about.metadata().as_ref().is_some_and(|m| m.contains_key("speckv")) => {
            profile(&args.file, &input, output)
        }
        Ok((_, about)) if about.tensors().keys().any(|name| name.starts_with("layers.")) => {
            cache(&args.file, output)
        }
        _ => Err(Error::input("expected a speckv stream, a profile or a cache file, found none of them")
            .of(&args.file)),
    }
}

fn stream(path: &Path, bytes: &[u8], all: bool, output: &Output) -> Result<()> {
    let stream = streams::parse(bytes, path)?;
    let header = stream.header();
    let per_token = header.geometry.scalars_per_token();
    let mut chunks = Vec::new();
    for index in 0..stream.directory().len() {
        let chunk = stream.chunk(index).map_err(|e| Error::from(e).of(path))?;
        let size = chunk.payload.len() as u64;
        let bits = rounded(rate(size, per_token * chunk.tokens as u64), 4);
        chunks.push(json!({
            "first_token": chunk.first_token, "tokens": chunk.tokens, "payload_bytes": size,
            "bits_per_scalar": bits, "values_checksum": format!("{:016x}", chunk.values_checksum),
        }));
    }
    let scalars = per_token * header.tokens;
    let size = bytes.len() as u64;
    let predictor = match header.predictor {
        PredictorKind::Static => "static",
        PredictorKind::Chain => "chain",
        PredictorKind::Draft => "draft",
        PredictorKind::External => "external",
    };
    let g = header.geometry;
    let per_part = header.scales.len() / (2 * g.layers);
    let value = json!({
        "kind": "stream", "version": speckv_codec_core::limits::VERSION, "format": header.format.name(),
        "predictor": predictor, "precision": header.precision.as_str(), "layers": g.layers, "kv_heads": g.kv_heads,
        "head_dim": g.head_dim, "first_token": header.first_token, "tokens": header.tokens,
        "chunk_tokens": header.chunk_tokens, "token_ids": header.token_ids, "scales_per_part": per_part,
        "profile": hex(&header.profile), "bytes": size, "front_bytes": stream.front.len, "scalars": scalars,
        "bits_per_scalar": rounded(rate(size, scalars), 4), "chunks": chunks,
    });
    output.result(&value, || {
        let mut text = format!(
            "stream of {} tokens from token {}, {} cache, {}\n\
             predictor   {predictor} {}\n\
             profile     {}\n\
             token ids   {}\n\
             scales      {}\n\
             size        {} bytes, {:.3} bits per scalar ({} of them header and directory)\n\
             chunks      {} of {} tokens\n",
            header.tokens,
            header.first_token,
            header.format.name(),
            caches::geometry_text(g),
            header.precision,
            hex(&header.profile),
            if header.token_ids { "in the stream" } else { "not in the stream" },
            match per_part {
                0 => "none".to_owned(),
                1 => "one per layer and part".to_owned(),
                n => format!("{n} per layer and part, one a head"),
            },
            grouped(size),
            rate(size, scalars),
            grouped(stream.front.len),
            chunks.len(),
            header.chunk_tokens,
        );
        let shown = if all { chunks.len() } else { chunks.len().min(SOME) };
        let _ = writeln!(
            text,
            "\n{:>10} {:>8} {:>12} {:>16}",
            "from token", "tokens", "bytes", "bits per scalar"
        );
        for c in &chunks[..shown] {
            let _ = writeln!(
                text,
                "{:>10} {:>8} {:>12} {:>16.3}",
                c["first_token"].as_u64().unwrap_or_default(),
                c["tokens"].as_u64().unwrap_or_default(),
                grouped(c["payload_bytes"].as_u64().unwrap_or_default()),
                c["bits_per_scalar"].as_f64().unwrap_or_default()
            );
        }
        if shown < chunks.len() {
            let _ = writeln!(text, "and {} more (--all lists them)", chunks.len() - shown);
        }
        text
    });
    Ok(())
}

fn class(mode: &Mode) -> &'static str {
    match mode.class {
        Precision::Fine => "16-bit",
        Precision::Coarse => "8-bit",
    }
}

fn profile(path: &Path, input: &Input, output: &Output) -> Result<()> {
    let file: ProfileFile<'_> = crate::profile::parse(input, path)?;
    let d = &file.description;
    let modes: Vec<Value> = d
        .modes
        .iter()
        .enumerate()
        .map(|(i, m)| {
            json!({
                "predictor": m.kind.name(), "precision": m.precision, "caches": class(m), "bytes": file.mode_bytes(i),
                "needs_token_ids": m.ids,
            })
        })
        .collect();
    let g = d.geometry();
    let value = json!({
        "kind": "profile", "version": d.version, "target": d.target, "digest": hex(&file.digest), "bytes": file.bytes,
        "layers": g.layers, "kv_heads": g.kv_heads, "head_dim": g.head_dim, "predictors": modes, "nets": d.nets.len(),
        "fitted": d.fitted,
    });
    output.result(&value, || {
        let mut text = format!(
            "profile of {}, {}\ndigest      {}\nsize        {} bytes\npredictors\n",
            d.target,
            caches::geometry_text(g),
            hex(&file.digest),
            grouped(file.bytes as u64)
        );
        for (i, mode) in d.modes.iter().enumerate() {
            let name = format!("{} {}", mode.kind.name(), mode.precision);
            let bytes = grouped(file.mode_bytes(i) as u64);
            let _ = writeln!(text, "  {name:<22} for {:>6} caches {bytes:>13} bytes", class(mode));
        }
        text.push_str("  (bytes of all a predictor uses; predictors share tensors)\n");
        if !d.fitted.is_null() {
            let _ = writeln!(text, "fitted\n{:#}", d.fitted);
        }
        text
    });
    Ok(())
}

fn cache(path: &Path, output: &Output) -> Result<()> {
    let cache = caches::read(path)?;
    let size = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    let scalars = caches::scalars(&cache);
    let per_part: Option<Vec<usize>> =
        cache.scales.as_ref().map(|s| s.iter().flatten().map(Vec::len).collect());
    let most = per_part.and_then(|counts| counts.into_iter().max()).unwrap_or(0);
    let value = json!({
        "kind": "cache", "format": cache.format.name(), "layers": cache.layers, "kv_heads": cache.kv_heads,
        "head_dim": cache.head_dim, "tokens": cache.tokens, "token_ids": cache.token_ids.is_some(),
        "scales_per_part": most, "bytes": size, "scalars": scalars,
    });
    output.result(&value, || {
        format!(
            "cache of {} tokens, {}, {}\ntoken ids   {}\nscales      {}\nsize        {} bytes, {:.3} bits per scalar",
            cache.tokens,
            cache.format.name(),
            caches::geometry_text(caches::geometry(&cache)),
            if cache.token_ids.is_some() { "yes" } else { "none" },
            if most == 0 { "none".to_owned() } else { format!("{most} per layer and part") },
            grouped(size),
            rate(size, scalars)
        )
    });
    Ok(())
}
