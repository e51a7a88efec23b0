//! The target's own prefill: what a cache that is not restored costs.

use std::path::Path;
use std::time::{Duration, Instant};

use speckv_capture::{ModelConfig, ModelSource, RunOptions, Target};
use speckv_codec_core::Geometry;
use speckv_predictor::work::{self, Dims};

use super::time::middle;
use crate::error::{Code, Error, Result};
use crate::machine::{Prefill, plain};
use crate::output::Output;

/// A run as long as this is not repeated.
const LONG: Duration = Duration::from_secs(6);

/// Geometry and sizes of a model.
pub fn sizes(c: &ModelConfig) -> (Geometry, Dims) {
    let geometry = Geometry { layers: c.layers, kv_heads: c.kv_heads, head_dim: c.head_dim };
    (geometry, Dims { hidden: c.hidden, heads: c.heads, ffn: c.ffn })
}

/// Times a prefill of 512 made-up tokens, with the logits of the last one.
pub fn measure(model: &Path, quick: bool, output: &Output) -> Result<Prefill> {
    let source = ModelSource::open(model)?;
    let target = Target::load(&source)?;
    let (config, tokens) = (target.config(), if quick { 64 } else { 512 });
    let ids: Vec<u32> = (0..tokens).map(|i| (i * 7919 % config.vocab) as u32).collect();
    let options = RunOptions { logits: true, ..RunOptions::default() };
    let runs = if quick { 1 } else { 3 };
    let mut bar = output.bar("prefill", (runs * config.layers) as u64);
    let mut times = Vec::new();
    for run in 0..runs {
        let since = Instant::now();
        let done = target.run_with(&ids, &options, &mut |state| {
            bar.set((run * config.layers + state.layer) as u64);
            Ok(())
        })?;
        times.push(since.elapsed());
        if done.logits.is_none_or(|all| all.iter().any(|x| !x.is_finite())) {
            return Err(Error::new(Code::Internal, "the prefill gave logits that are no numbers").of(model));
        }
        if times[run] > LONG {
            break;
        }
    }
    let (geometry, dims) = sizes(config);
    let multiply_adds = work::target(geometry, dims).total(0, tokens as u64) as f64;
    let name = model.file_stem().unwrap_or(model.as_os_str()).to_string_lossy();
    Ok(Prefill { rate: multiply_adds / middle(&mut times), model: plain(&name), tokens: tokens as u64 })
}
