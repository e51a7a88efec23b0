//! One module per subcommand.

mod bench;
mod bisect;
mod build;
mod capture;
mod compress;
mod decompress;
mod demo;
mod extract;
mod frontier;
mod inspect;
mod plan;
mod verify;

use clap::Subcommand;

use crate::error::Result;
use crate::output::Output;

/// Subcommands.
#[derive(Subcommand)]
pub enum Command {
    Demo(demo::Args),
    Build(build::Args),
    Capture(capture::Args),
    Compress(compress::Args),
    Decompress(decompress::Args),
    Verify(verify::Args),
    Inspect(inspect::Args),
    Extract(extract::Args),
    Frontier(frontier::Args),
    Bench(bench::Args),
    Bisect(bisect::Args),
    Plan(plan::Args),
}

impl Command {
    /// Runs it.
    pub fn run(&self, output: &Output) -> Result<()> {
        match self {
            Command::Demo(args) => demo::run(args, output),
            Command::Build(args) => build::run(args, output),
            Command::Capture(args) => capture::run(args, output),
            Command::Compress(args) => compress::run(args, output),
            Command::Decompress(args) => decompress::run(args, output),
            Command::Verify(args) => verify::run(args, output),
            Command::Inspect(args) => inspect::run(args, output),
            Command::Extract(args) => extract::run(args, output),
            Command::Frontier(args) => frontier::run(args, output),
            Command::Bench(args) => bench::run(args, output),
            Command::Bisect(args) => bisect::run(args, output),
            Command::Plan(args) => plan::run(args, output),
        }
    }
}
