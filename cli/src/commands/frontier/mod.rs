//! `speckv frontier`

mod chart;
mod measure;
mod prices;
mod published;
mod report;
mod rows;
mod samples;

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use serde_json::json;
use speckv_codec_core::ElementFormat;
use speckv_predictor::Backend;
use speckv_predictor::codec::LoadedMode;
use speckv_predictor::profile::{Mode, Precision, ProfileFile};
use speckv_predictor::work::{self, Dims};

use crate::error::{Error, Result};
use crate::files::{Input, OutputFile};
use crate::output::{Output, grouped, rounded};
use crate::progress::Bar;
use crate::{backend, caches, profile};
use measure::PASSES;
use published::Squares;
use rows::{PUBLISHED, Row};
use samples::{Sample, Wanted};

/// Measure every predictor of a profile: bits against work and time
///
/// Caches are captured from a model over texts, or read from files. Every predictor of the profile that fits their formats
/// compresses each of them and restores it, bit for bit, or the command fails. Take texts that the profile was not fitted to.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Cache files to measure
    #[arg(value_name = "CACHE", conflicts_with = "model", required_unless_present_any = ["cache", "model"])]
    files: Vec<PathBuf>,
    /// Cache files to measure, by another way of naming them
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "model")]
    cache: Vec<PathBuf>,
    /// Profile of the model that the caches are of
    #[arg(long, short)]
    profile: PathBuf,
    /// The model, instead of caches: a Hugging Face folder or a .gguf file
    #[arg(long, requires = "text")]
    model: Option<PathBuf>,
    /// tokenizer.json to use instead of the model's own
    #[arg(long, value_name = "FILE", requires = "model")]
    tokenizer: Option<PathBuf>,
    /// Texts that the model reads
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "model")]
    text: Vec<PathBuf>,
    /// Tokens to take of each text
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Formats of the model's caches; with fp8 the model attends to its fp8 cache
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', default_values = ["bf16", "e4m3"],
          value_parser = PossibleValuesParser::new(["bf16", "e4m3", "e5m2"]))]
    format: Vec<String>,
    /// Round finished bf16 caches to fp8, instead of letting the model attend to its fp8 cache
    #[arg(long, requires = "model")]
    round_after: bool,
    /// Only these predictors, for example static,draft
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    predictor: Vec<String>,
    /// Only these precisions, by the names that `speckv inspect PROFILE` lists
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    precision: Vec<String>,
    /// Also simulate the scheme published before this one, an fp8 copy of the model in open loop: its ideal code length
    #[arg(long, requires = "model")]
    published: bool,
    /// Tell the bits of every layer's keys and values
    #[arg(long)]
    layers: bool,
    /// Table to write, for other programs
    #[arg(long, value_name = "OUT.csv")]
    csv: Option<PathBuf>,
    /// Picture to write: bits per scalar against predictor work
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  speckv frontier --model SmolLM2/ --text a.txt b.txt --profile smol.speckv
  speckv frontier --model SmolLM2/ --text a.txt b.txt --profile smol.speckv --published --svg frontier.svg --csv frontier.csv
  speckv frontier cache.safetensors --profile smol.speckv --predictor draft --layers
  speckv frontier --model SmolLM2/ --text a.txt --profile smol.speckv --json | jq '.rows[] | [.precision, .bits_per_scalar]'";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let files: Vec<&Path> = args.files.iter().chain(&args.cache).map(PathBuf::as_path).collect();
    let named = args.model.iter().chain(&args.tokenizer).chain(&args.text).chain([&args.profile]);
    let inputs: Vec<&Path> = named.map(PathBuf::as_path).chain(files.iter().copied()).collect();
    let create = |path: &Option<PathBuf>| path.as_ref().map(|p| OutputFile::create(p, &inputs)).transpose();
    let (csv, svg) = (create(&args.csv)?, create(&args.svg)?);
    if args.published && args.text.len() < 2 {
        return Err(Error::usage(format!(
            "--published: its scales come from the other texts: expected at least 2 of them, found {}",
            args.text.len()
        )));
    }
    let input = Input::open(&args.profile)?;
    let profile = profile::parse(&input, &args.profile)?;
    let modes = choose(args, &profile)?;
    let backend = backend::open()?;

    let captured = match &args.model {
        Some(model) => Some(samples::capture(
            &Wanted {
                model,
                tokenizer: args.tokenizer.as_deref(),
                texts: &args.text,
                tokens: args.tokens as usize,
                formats: &formats(args),
                round_after: args.round_after,
                published: args.published,
            },
            &profile,
            output,
        )?),
        None => None,
    };
    let read = if captured.is_none() { samples::from_files(&files, &profile)? } else { Vec::new() };
    let samples = captured.as_ref().map_or(read.as_slice(), |c| &c.samples);
    let dims = captured.as_ref().map(|c| c.dims).or_else(|| profile.target_dims());
    let mut rows = measured(&backend, &profile, &modes, samples, dims, output)?;
    if args.published {
        rows.extend(simulated(&profile, samples, dims)?);
    }
    // From little work to much, in each format.
    let work = |row: &Row| row.work_share().unwrap_or(f64::INFINITY);
    rows.sort_by(|a, b| {
        (a.format.id(), work(a)).partial_cmp(&(b.format.id(), work(b))).unwrap_or(std::cmp::Ordering::Equal)
    });

    let target = &profile.description.target;
    let same = in_words(samples);
    // Both are made before either is written.
    let picture = svg.is_some().then(|| chart::svg(&rows, target, &same)).transpose()?;
    if let Some((file, picture)) = svg.zip(picture) {
        file.write(picture.as_bytes())?;
    }
    if let Some(file) = csv {
        file.write(report::csv(&rows).as_bytes())?;
    }
    let prefill = rows.iter().find_map(Row::mean_prefill);
    let threads = rayon::current_num_threads();
    let value = json!({
        "target": target, "backend": backend.name(), "threads": threads, "profile_bytes": profile.bytes,
        "prefill_seconds": prefill.map(|s| rounded(s, 4)), "equal": true, "csv": args.csv, "svg": args.svg,
        "rows": rows.iter().map(|row| row.json(args.layers)).collect::<Vec<_>>(),
    });
    output.result(&value, || {
        let prefill =
            prefill.map_or_else(String::new, |s| format!("; the target's bf16 prefill takes {s:.2} s"));
        format!(
            "KV caches of {target}, {same} ({}, {threads} threads); profile of {} bytes{prefill}\n{}",
            backend.name(),
            grouped(profile.bytes as u64),
            report::text(&rows, args.layers)
        )
    });
    Ok(())
}

/// The formats named, each once.
fn formats(args: &Args) -> Vec<ElementFormat> {
    ElementFormat::ALL.into_iter().filter(|f| args.format.iter().any(|name| name == f.name())).collect()
}

/// Indices of the modes that were asked for.
fn choose(args: &Args, profile: &ProfileFile<'_>) -> Result<Vec<usize>> {
    let modes = &profile.description.modes;
    let check = |option: &str, wanted: &[String], name: fn(&Mode) -> &str| {
        let Some(missing) = wanted.iter().find(|w| !modes.iter().any(|m| name(m) == w.as_str())) else {
            return Ok(());
        };
        let mut have: Vec<String> = modes.iter().map(|m| format!("`{}`", name(m))).collect();
        have.sort();
        have.dedup();
        let have = have.join(", ");
        Err(Error::mismatch(format!(
            "{option}: expected one that the profile has ({have}), found `{missing}`"
        )))
    };
    check("--predictor", &args.predictor, |m| m.kind.name())?;
    check("--precision", &args.precision, |m| &m.precision)?;
    let fits = |wanted: &[String], name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let fits = |m: &Mode| fits(&args.predictor, m.kind.name()) && fits(&args.precision, &m.precision);
    Ok((0..modes.len()).filter(|&i| fits(&modes[i])).collect())
}

/// Every mode on every cache it is for, one of each in memory at a time.
fn measured(
    b: &backend::Active,
    profile: &ProfileFile<'_>,
    modes: &[usize],
    samples: &[Sample],
    dims: Option<Dims>,
    output: &Output,
) -> Result<Vec<Row>> {
    let d = &profile.description;
    let pairs: Vec<(usize, &Sample)> = modes
        .iter()
        .flat_map(|&m| samples.iter().map(move |s| (m, s)))
        .filter(|(m, s)| Precision::of(s.format) == d.modes[*m].class)
        .collect();
    let total = pairs.iter().map(|(_, s)| PASSES * (s.tokens * d.layers) as u64).sum();
    let mut steps = Steps::new(output.bar("measuring", total));
    let mut rows: Vec<Row> = Vec::new();
    for pairs in pairs.chunk_by(|a, b| a.0 == b.0) {
        let (m, about) = (pairs[0].0, &d.modes[pairs[0].0]);
        let mode = LoadedMode::load(b, profile, about.kind, &about.precision, pairs[0].1.format)?;
        let work = profile.work(m)?;
        for (_, sample) in pairs {
            if mode.needs_ids() && !sample.ids {
                let name = about.kind.name();
                output.note(format!("{}: `{name}` needs token ids and it has none", sample.path.display()));
                continue;
            }
            let cache = caches::read(&sample.path)?;
            let found = measure::measure(b, &mode, &cache, &sample.path, &mut steps)?;
            let row = Row {
                stream_bytes: Some(found.bytes),
                costs: found.costs,
                seconds: Some(found.seconds),
                work: work.total(0, sample.tokens as u64),
                profile_bytes: Some(profile.mode_bytes(m) as u64),
                ..blank(profile, about.kind.name(), &about.precision, sample, dims)
            };
            put(&mut rows, row);
        }
    }
    match rows.is_empty() {
        true => Err(Error::mismatch(
            "nothing to measure: expected a predictor in the profile for these caches, found none; see `speckv inspect`",
        )),
        false => Ok(rows),
    }
}

/// The published scheme on every cache, with scales from all others of its format.
fn simulated(profile: &ProfileFile<'_>, samples: &[Sample], dims: Option<Dims>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for format in ElementFormat::ALL {
        let both = |sample: &Sample| -> Result<_> {
            let prediction = sample.prediction.as_ref().map(|path| caches::read(path)).transpose()?;
            prediction.map(|p| caches::read(&sample.path).map(|c| (c, p))).transpose()
        };
        let samples: Vec<&Sample> =
            samples.iter().filter(|s| s.format == format && s.prediction.is_some()).collect();
        let mut squares = Vec::new();
        for sample in &samples {
            squares.extend(both(sample)?.map(|(cache, prediction)| Squares::of(&cache, &prediction)));
        }
        for (i, sample) in samples.iter().enumerate() {
            let Some((cache, prediction)) = both(sample)? else { continue };
            let others: Vec<&Squares> =
                squares.iter().enumerate().filter(|s| s.0 != i).map(|s| s.1).collect();
            let blank = blank(profile, PUBLISHED, "fp8", sample, dims);
            // The whole target once, in fp8.
            let work = blank.target_work.unwrap_or_default();
            put(&mut rows, Row { costs: published::costs(&cache, &prediction, &others), work, ..blank });
        }
    }
    Ok(rows)
}

/// A row of one cache in which only what was measured is missing.
fn blank(
    profile: &ProfileFile<'_>,
    predictor: &str,
    precision: &str,
    sample: &Sample,
    dims: Option<Dims>,
) -> Row {
    let geometry = profile.description.geometry();
    let target = dims.map(|dims| work::target(geometry, dims).total(0, sample.tokens as u64));
    Row {
        texts: 1,
        tokens: sample.tokens as u64,
        prefill_seconds: sample.prefill_seconds,
        target_work: target,
        ..Row::new(predictor, precision, sample.format, geometry)
    }
}

/// Adds to the row of the same predictor and format.
fn put(rows: &mut Vec<Row>, row: Row) {
    let same =
        |r: &&mut Row| (&r.predictor, &r.precision, r.format) == (&row.predictor, &row.precision, row.format);
    match rows.iter_mut().find(same) {
        Some(found) => found.add(&row),
        None => rows.push(row),
    }
}

/// How many texts of how many tokens.
fn in_words(samples: &[Sample]) -> String {
    let formats = ElementFormat::ALL.map(|f| samples.iter().filter(|s| s.format == f).collect::<Vec<_>>());
    let most = formats.iter().max_by_key(|s| s.len()).map_or(&[][..], Vec::as_slice);
    let tokens: u64 = most.iter().map(|s| s.tokens as u64).sum();
    let (n, equal) = (most.len(), most.windows(2).all(|pair| pair[0].tokens == pair[1].tokens));
    match n {
        1 => format!("1 text of {} tokens", grouped(tokens)),
        _ if equal => format!("{n} texts of {} tokens", grouped(tokens / n.max(1) as u64)),
        _ => format!("{n} texts, {} tokens in all", grouped(tokens)),
    }
}

/// A bar over work of many parts.
pub struct Steps {
    bar: Bar,
    before: u64,
}

impl Steps {
    fn new(bar: Bar) -> Self {
        Steps { bar, before: 0 }
    }

    /// How far the part at hand is.
    fn within(&mut self, done: u64) {
        self.bar.set(self.before + done);
    }

    /// A part of this size is done.
    fn done(&mut self, size: u64) {
        self.before += size;
        self.bar.set(self.before);
    }
}
