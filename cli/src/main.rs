//! The `speckv` command.

mod backend;
mod caches;
mod commands;
mod error;
mod faults;
mod files;
mod machine;
mod output;
mod plot;
mod profile;
mod progress;
mod streams;
mod tokens;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use commands::Command;
use error::{Code, Error};
use output::Output;

/// Lossless compression of LLM KV caches.
///
/// A cache is coded against the predictions of a profile: all that both sides know of the target model. What comes
/// back is the cache, bit for bit. `speckv demo` shows it on an embedded model, without a network.
#[derive(Parser)]
#[command(name = "speckv", version, arg_required_else_help = true, after_long_help = AFTER_HELP)]
struct Cli {
    /// Print one JSON object on stdout instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but errors and what was asked for
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Worker threads [default: one per core]; never changes a bit of what is coded
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
From a model to a compressed cache and back:
  speckv build --model SmolLM2/ --text corpus.txt -o smol.speckv
  speckv capture --model SmolLM2/ --text prompt.txt -o cache.safetensors
  speckv compress cache.safetensors --profile smol.speckv -o cache.skv
  speckv decompress cache.skv --profile smol.speckv -o back.safetensors

Exit codes:
  0  done
  1  a file could not be read or written (no space, no permission, cut short while it was read), or a defect of this program
  2  the command line is wrong
  3  bad input: a cache, model, text or profile that is damaged or not supported
  4  the stream is damaged, truncated, or not one this version reads
  5  inputs that do not belong together: another profile, geometry, prefix or cache; token ids missing

An error is one line on stderr, `error: ...`, and leaves no output file behind, nor touches one that was there: outputs are
written under another name and renamed when they are whole and on the disk. A killed program may leave such
a file, `.speckv-*` or `.tmp*`, behind. With --json, stdout then holds {\"error\": \"...\", \"exit\": N}.

Streams and profiles may come from a pipe: `... | speckv verify /dev/stdin --profile smol.speckv`.";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    faults::watch(cli.json);
    let output = Output::new(cli.json, cli.quiet);
    let done = start_threads(cli.threads).and_then(|()| cli.command.run(&output));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => output.fail(&e),
    }
}

/// Help and version as clap prints them, mistakes in one line.
fn usage(e: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to tell if stdout is closed.
            let _ = e.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
            ExitCode::from(Code::Usage as u8)
        }
        _ => {
            let text = e.to_string();
            let text = text.split("\nUsage:").next().unwrap_or_default();
            let text = text.split("\nFor more information").next().unwrap_or_default();
            let words: Vec<&str> = text.trim_start_matches("error:").split_whitespace().collect();
            let name = Cli::command().get_name().to_owned();
            // The arguments could not be read, but a machine that asked for JSON still gets its object.
            let json = std::env::args_os().any(|a| a == "--json");
            Output::new(json, false).fail(&Error::usage(format!("{} (see `{name} --help`)", words.join(" "))))
        }
    }
}

/// The global pool serves captures, backends and rivals alike.
fn start_threads(threads: Option<u16>) -> Result<(), Error> {
    let Some(threads) = threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(usize::from(threads))
        .build_global()
        .map_err(|e| Error::new(Code::Internal, format!("{threads} threads cannot be started: {e}")))
}
