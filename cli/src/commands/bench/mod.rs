//! `speckv bench`

mod coder;
mod host;
mod prefill;
mod products;
mod storage;
mod time;

use std::path::PathBuf;

use speckv_codec_core::ElementFormat;
use speckv_predictor::Backend;

use crate::backend::{Device, on_backend};
use crate::error::{Error, Result};
use crate::files::OutputFile;
use crate::machine::{Machine, plain};
use crate::output::Output;
pub use prefill::sizes;
use time::Timer;

/// Measure this machine: products, attention, coder, memory, and on request disk and prefill
///
/// What has a known answer is checked before it is timed. Times are medians. Run it while the machine is idle and with
/// the --threads that will serve; `speckv plan` reads the file that --machine writes.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Machine file to write, for `speckv plan`
    #[arg(long, value_name = "OUT.json")]
    machine: Option<PathBuf>,
    /// Model whose prefill to time, in bf16: a Hugging Face folder or a .gguf file
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder whose disk to time; needs room for 1 GiB, for some seconds
    #[arg(long, value_name = "DIR")]
    disk: Option<PathBuf>,
    /// What to measure; the coder's figures of a CUDA device include copies from and to the host
    #[arg(long, value_enum, default_value_t)]
    backend: Device,
    /// Name of the CPU, where the system tells no good one
    #[arg(long, value_name = "TEXT")]
    cpu: Option<String>,
    /// Less data and fewer repetitions: rough figures in a few seconds
    #[arg(long)]
    quick: bool,
}

const EXAMPLES: &str = "\
Examples:
  speckv bench
  speckv bench --machine here.json --model SmolLM2-135M/
      with the rate of a prefill, which `speckv plan` compares with
  speckv bench --machine here.json --disk /var/cache/kv
      with the speed at which that disk is read
  speckv bench --machine gpu.json --backend cuda
      a CUDA device instead of the CPU
  speckv bench --machine one.json --threads 1";

/// Element format, and the scale index of residuals that cost about so many bits.
const CODER_POINTS: [(ElementFormat, i16); 5] = [
    (ElementFormat::E4m3, 248),
    (ElementFormat::E4m3, 336),
    (ElementFormat::Bf16, 230),
    (ElementFormat::Bf16, 304),
    (ElementFormat::Bf16, 336),
];
/// Head dimensions of common models.
const HEAD_DIMS: [usize; 2] = [64, 128];

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let inputs: Vec<_> = args.model.iter().map(PathBuf::as_path).collect();
    let file = args.machine.as_ref().map(|path| OutputFile::create(path, &inputs)).transpose()?;
    let machine = on_backend!(args.backend, output, |b| measure(&b, args, output))?;
    let value = machine.to_json();
    if let Some(file) = file {
        file.write(format!("{value:#}\n").as_bytes())?;
    }
    output.result(&value, || {
        let written = args.machine.as_ref().map(|path| format!("\nwritten to {}", path.display()));
        host::table(&machine) + &written.unwrap_or_default()
    });
    Ok(())
}

fn measure<B: Backend>(b: &B, args: &Args, output: &Output) -> Result<Machine> {
    if args.model.is_some() && b.name().starts_with("cuda/") {
        return Err(Error::usage(
            "--model times a prefill on the CPU: expected --backend cpu, or leave it out and give `speckv plan` the device's --prefill-rate",
        ));
    }
    let timer = Timer::new(args.quick);
    let steps = 4 + HEAD_DIMS.len() + CODER_POINTS.len();
    let mut bar = output.bar("products", steps as u64);
    let mut done = 0;
    let mut step = |what: &str| {
        bar.stage(what, steps as u64);
        bar.set(done);
        done += 1;
    };
    step("products");
    let gemm = products::gemm(b, &timer)?;
    let mut attention = Vec::new();
    for head_dim in HEAD_DIMS {
        step("attention");
        attention.push(products::attention(b, head_dim, &timer)?);
    }
    step("rows");
    let rows = products::rows_rate(b, &timer)?;
    let mut coder = Vec::new();
    for (format, scale) in CODER_POINTS {
        step("coder");
        coder.push(coder::measure(b, format, scale, &timer)?);
    }
    step("memory");
    let memory_copy = storage::memory_copy(&timer)?;
    step("disk");
    let disk = args.disk.as_ref().map(|dir| storage::disk(dir, args.quick)).transpose()?;
    drop(bar);
    let prefill = args.model.as_ref().map(|model| prefill::measure(model, args.quick, output)).transpose()?;
    Ok(Machine {
        cpu: plain(&args.cpu.clone().unwrap_or_else(host::cpu)),
        backend: plain(b.name()),
        threads: rayon::current_num_threads() as u64,
        date: host::today(),
        speckv: env!("CARGO_PKG_VERSION").to_owned(),
        quick: args.quick,
        gemm,
        attention,
        rows,
        coder,
        memory_copy,
        disk,
        prefill,
    })
}
