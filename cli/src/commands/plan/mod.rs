//! `speckv plan`

mod model;
mod rates;
mod surface;
mod table;
mod units;
mod ways;

use std::path::{Path, PathBuf};

use speckv_capture::ModelConfig;
use speckv_codec_core::ElementFormat;

use crate::commands::bench::sizes;
use crate::error::{Error, Result};
use crate::files::OutputFile;
use crate::machine::{Machine, plain};
use crate::output::Output;
use model::{Pipeline, Way};
use rates::{Rate, Rates};
use units::{Link, Speed};
use ways::{Speeds, Target};

/// Say which is faster: sending a cache raw, sending it compressed, or computing it anew
///
/// Works from the shape of a model, the speed of a link and a machine file of `speckv bench`; runs nothing. For each
/// context length and link: bytes, times, the fastest way, and the link speeds at which that changes. docs/plan.md has
/// the formula.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The model: config.json of a Hugging Face folder, the folder, or a .gguf file; no weights are needed
    #[arg(long, value_name = "MODEL")]
    config: PathBuf,
    /// Machine file that `speckv bench --machine` wrote on the machine that decodes
    #[arg(long, value_name = "FILE")]
    machine: PathBuf,
    /// Context lengths, k = 1024
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_delimiter = ',', num_args = 1.., default_value = "4k,32k",
          value_parser = units::tokens)]
    tokens: Vec<u64>,
    /// Speeds of links: 25Gbit/s, 3.5GB/s, 200MB/s; `memory` and `disk` are those of the machine file
    #[arg(long, value_name = "SPEED", value_delimiter = ',', num_args = 1..,
          default_value = "1Gbit/s,10Gbit/s,100Gbit/s")]
    link: Vec<Link>,
    /// Format of the cache: bf16, f16, e4m3 or e5m2
    #[arg(long, default_value = "bf16", value_parser = format)]
    format: ElementFormat,
    /// Bits per scalar of each predictor, the CSV of `speckv frontier` [default: measured on SmolLM2-135M-Instruct]
    #[arg(long, value_name = "FILE")]
    rates: Option<PathBuf>,
    /// Time that every transfer takes beside its bytes
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::seconds)]
    latency: f64,
    /// Tokens of a chunk: pieces that are decoded while the next are under way
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    chunk: u32,
    /// Decode only when everything has arrived
    #[arg(long)]
    no_overlap: bool,
    /// The sender still has to compress: prefill-to-decode transfer
    #[arg(long)]
    with_encode: bool,
    /// The target's prefill, multiply-adds/s such as 200T [default: of the machine file]
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    prefill_rate: Option<f64>,
    /// Products of the predictor, int8 multiply-adds/s [default: of the machine file]
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    gemm_rate: Option<f64>,
    /// Attention of the predictor, int8 multiply-adds/s [default: of the machine file]
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    attention_rate: Option<f64>,
    /// Coder, scalars/s both ways, all included [default: of the machine file]
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    coder_rate: Option<f64>,
    /// Table to write, one line for each context length, link and way
    #[arg(long, value_name = "OUT.csv")]
    csv: Option<PathBuf>,
    /// Picture to write: the fastest way by context length and link speed
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  speckv plan --config SmolLM2-135M/config.json --machine here.json
  speckv plan --config Llama-3.1-8B/config.json --machine here.json --prefill-rate 200T --tokens 8k,128k --link 25Gbit/s
      the prefill runs elsewhere, at 200e12 multiply-adds a second
  speckv plan --config Qwen3-8B/ --machine here.json --format e4m3 --link 200MB/s,disk,memory --svg plan.svg
  speckv plan --config model.gguf --machine here.json --with-encode --latency 250us
      from prefill to decode: the sender compresses first";

/// All that times follow from.
pub struct Plan {
    target: Target,
    machine: Machine,
    rates: Rates,
    speeds: Speeds,
    latency: f64,
    chunk: u64,
    overlap: bool,
    encode: bool,
    /// Names and bytes a second.
    links: Vec<(String, f64)>,
}

impl Plan {
    fn rates(&self) -> Result<Vec<&Rate>> {
        self.rates.of(self.target.format)
    }

    /// The ways for one context length, and how their stages follow each other.
    fn at(&self, tokens: u64, rates: &[&Rate]) -> (Vec<Way>, Pipeline) {
        let chunks = if self.overlap { tokens.div_ceil(self.chunk) as f64 } else { 1.0 };
        let pipe = Pipeline { chunks, latency: self.latency, encode: self.encode };
        (self.target.ways(tokens, rates, &self.machine, &self.speeds), pipe)
    }
}

/// The first of the fastest.
fn fastest(ways: &[Way], pipe: &Pipeline, link: f64) -> usize {
    let time = |i: &usize| pipe.ready(&ways[*i], link);
    (0..ways.len()).min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or_default()
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let inputs: Vec<&Path> =
        [&args.config, &args.machine].into_iter().chain(&args.rates).map(PathBuf::as_path).collect();
    if args.csv.is_some() && args.csv == args.svg {
        return Err(Error::usage("--csv and --svg name the same file; give each its own"));
    }
    let create = |path: &Option<PathBuf>| path.as_ref().map(|p| OutputFile::create(p, &inputs)).transpose();
    let (csv, svg) = (create(&args.csv)?, create(&args.svg)?);
    let plan = prepare(args)?;
    let rates = plan.rates()?;
    for rate in rates.iter().filter(|r| plan.target.work(r).is_none()) {
        output.note(format!(
            "`{} {}` of the rates is left out: this program cannot count its work, and no work_share is given",
            rate.predictor, rate.precision
        ));
    }
    if plan.rates.ideal > 0 {
        output.note(format!(
            "{} lines of the rates are ideal code lengths and no streams: left out",
            plan.rates.ideal
        ));
    }
    if let Some(file) = csv {
        file.write(table::csv(&plan, &rates, &args.tokens).as_bytes())?;
    }
    if let Some(file) = svg {
        file.write(surface::svg(&plan, &rates, &args.tokens)?.as_bytes())?;
    }
    output.result(&table::json(&plan, &rates, &args.tokens), || table::text(&plan, &rates, &args.tokens));
    Ok(())
}

fn prepare(args: &Args) -> Result<Plan> {
    let machine = Machine::read(&args.machine)?;
    let (geometry, dims) = sizes(&ModelConfig::read(&args.config)?);
    let most = [geometry.layers, geometry.kv_heads, geometry.head_dim].into_iter().max();
    let widest = dims.hidden.max(dims.heads).max(dims.ffn);
    if most > Some(4096) || widest > 1 << 20 {
        return Err(Error::input(
            "expected a model of at most 4096 layers, KV heads and columns and 2^20 wide",
        )
        .of(&args.config));
    }
    let prefill = args.prefill_rate.or(machine.prefill.as_ref().map(|p| p.rate)).ok_or_else(|| {
        Error::usage(format!(
            "{} has no prefill rate; give --prefill-rate (multiply-adds/s), or measure with `speckv bench --model`",
            args.machine.display()
        ))
    })?;
    let speeds = Speeds {
        gemm: args.gemm_rate.unwrap_or(machine.gemm),
        attention: args.attention_rate.unwrap_or_else(|| machine.attention_rate(geometry.head_dim)),
        rows: machine.rows,
        prefill,
        coder: args.coder_rate,
    };
    let links = args.link.iter().map(|link| {
        let speed = match link.speed {
            Speed::Given(speed) => speed,
            Speed::Memory => machine.memory_copy,
            Speed::Disk => machine.disk.as_ref().map(|d| d.rate).ok_or_else(|| {
                let message = format!("{} has no disk speed", args.machine.display());
                Error::usage(message).hint("measure with `speckv bench --disk DIR`, or give the speed")
            })?,
        };
        Ok((link.name.clone(), speed))
    });
    let links = links.collect::<Result<_>>()?;
    Ok(Plan {
        target: Target { name: name(&args.config), geometry, dims, format: args.format },
        rates: Rates::read(args.rates.as_deref())?,
        machine,
        speeds,
        latency: args.latency,
        chunk: u64::from(args.chunk),
        overlap: !args.no_overlap,
        encode: args.with_encode,
        links,
    })
}

/// A name for a model: the folder's for a config.json.
fn name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let named = match whole.file_name() {
        Some(file) if file == "config.json" => whole.parent().and_then(Path::file_name),
        _ if whole.is_dir() => whole.file_name(),
        _ => whole.file_stem(),
    };
    plain(&named.unwrap_or(path.as_os_str()).to_string_lossy())
}

fn format(text: &str) -> std::result::Result<ElementFormat, String> {
    let found = ElementFormat::ALL.into_iter().find(|f| f.name() == text);
    found.ok_or_else(|| "expected bf16, f16, e4m3 or e5m2".to_owned())
}
