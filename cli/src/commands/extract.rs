//! `speckv extract`

use std::path::PathBuf;

use serde_json::json;

use crate::error::{Error, Result};
use crate::files::{Input, OutputFile};
use crate::output::{Output, grouped};
use crate::streams;

/// Copy one chunk out of a stream, as a stream of its own
///
/// No profile is needed: nothing is decoded. A chunk is what a serving engine stores as one object; it decompresses
/// once the cache of the tokens before it is there. (Not in open loop, which starts at token 0.)
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Stream to read
    stream: PathBuf,
    /// Which chunk, from 0
    #[arg(long, value_name = "INDEX")]
    chunk: usize,
    /// Stream to write
    #[arg(long, short, value_name = "OUT.skv")]
    output: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  speckv extract cache.skv --chunk 0 -o chunk0.skv
  speckv extract cache.skv --chunk 3 -o chunk3.skv
  speckv decompress chunk3.skv --profile smol.speckv --prefix first-3-chunks.safetensors -o chunk3.safetensors";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let file = OutputFile::create(&args.output, &[&args.stream])?;
    let bytes = Input::open(&args.stream)?;
    let stream = streams::parse(bytes.bytes(), &args.stream)?;
    let chunks = stream.directory().len();
    if args.chunk >= chunks {
        return Err(Error::usage(format!("--chunk: expected 0 to {}, found {}", chunks - 1, args.chunk)));
    }
    let chunk = stream.chunk(args.chunk).map_err(|e| Error::from(e).of(&args.stream))?;
    let precision = stream.header().precision.as_str();
    if chunk.first_token > 0 && precision.ends_with(speckv_build::OPEN) {
        return Err(Error::mismatch(format!(
            "an open-loop draft (`{precision}`) runs over all tokens from 0 on: expected chunk 0, which alone can be restored alone, \
             found chunk {}",
            args.chunk
        ))
        .of(&args.stream));
    }
    let extracted = stream.extract(args.chunk)?;
    let size = extracted.len() as u64;
    file.write(&extracted)?;
    let value = json!({
        "output": args.output, "chunk": args.chunk, "first_token": chunk.first_token, "tokens": chunk.tokens,
        "stream_bytes": size,
    });
    output.report(&value, || {
        format!(
            "{}: chunk {}, tokens {} to {}, {} bytes",
            args.output.display(),
            args.chunk,
            chunk.first_token,
            chunk.first_token + chunk.tokens as u64 - 1,
            grouped(size)
        )
    });
    Ok(())
}
