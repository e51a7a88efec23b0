//! The caches to measure: files, or runs of a model over texts, kept in files meanwhile so that only one is in memory at a time.

use std::path::{Path, PathBuf};
use std::time::Instant;

use speckv_capture::cache::{ScalePer, fp8_scales};
use speckv_capture::{Arithmetic, Cache, CacheMode, ElementFormat, ModelSource, RunOptions, Target};
use speckv_codec_core::Geometry;
use speckv_predictor::codec;
use speckv_predictor::profile::ProfileFile;
use speckv_predictor::work::Dims;
use tempfile::TempDir;

use super::Steps;
use crate::error::{Error, Result};
use crate::output::Output;
use crate::{caches, tokens};

/// A cache in a file.
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// Of its scalars.
    pub format: ElementFormat,
    /// Its tokens.
    pub tokens: usize,
    /// Whether it has token ids.
    pub ids: bool,
    /// Seconds that the target's bf16 prefill took.
    pub prefill_seconds: Option<f64>,
    /// Cache file of the keys and values that the published scheme predicts.
    pub prediction: Option<PathBuf>,
}

impl Sample {
    /// Of a file, without what is not in it.
    pub fn of(path: &Path, cache: &Cache) -> Self {
        Sample {
            path: path.to_owned(),
            format: cache.format,
            tokens: cache.tokens,
            ids: cache.token_ids.is_some(),
            prefill_seconds: None,
            prediction: None,
        }
    }
}

/// Caches of a model.
pub struct Captured {
    /// One for each text and format.
    pub samples: Vec<Sample>,
    /// Sizes of the model.
    pub dims: Dims,
    /// Goes with the files in it.
    _folder: TempDir,
}

/// Cache files that fit the profile.
pub fn from_files(paths: &[&Path], profile: &ProfileFile<'_>) -> Result<Vec<Sample>> {
    let sample = |path: &&Path| {
        let cache = caches::read(path)?;
        codec::check_geometry(profile, caches::geometry(&cache)).map_err(|e| Error::from(e).of(path))?;
        Ok(Sample::of(path, &cache))
    };
    paths.iter().map(sample).collect()
}

/// What to capture.
pub struct Wanted<'a> {
    /// Folder or file of the model.
    pub model: &'a Path,
    /// `tokenizer.json`, if not the model's own.
    pub tokenizer: Option<&'a Path>,
    /// Texts.
    pub texts: &'a [PathBuf],
    /// Tokens of a text, at most.
    pub tokens: usize,
    /// Formats of caches.
    pub formats: &'a [ElementFormat],
    /// Whether fp8 caches are finished bf16 caches, rounded, and not what the model attended to.
    pub round_after: bool,
    /// Whether the published scheme is to predict them as well.
    pub published: bool,
}

/// Runs the model over every text: once in bf16, timed, and once with each fp8
/// cache, whose scales are those of the text's own bf16 cache.
pub fn capture(wanted: &Wanted<'_>, profile: &ProfileFile<'_>, output: &Output) -> Result<Captured> {
    let source = ModelSource::open_with(wanted.model, wanted.tokenizer)?;
    let c = source.config().clone();
    let geometry = Geometry { layers: c.layers, kv_heads: c.kv_heads, head_dim: c.head_dim };
    codec::check_geometry(profile, geometry).map_err(|e| Error::from(e).of(wanted.model))?;
    let mut prompts = Vec::new();
    for path in wanted.texts {
        let mut ids = tokens::encode(&source, path)?;
        if ids.len() < wanted.tokens {
            output.note(format!("{}: all of its {} tokens", path.display(), ids.len()));
        }
        ids.truncate(wanted.tokens);
        prompts.push(ids);
    }
    let fp8 = |format: &&ElementFormat| format.width() == 8 && !wanted.round_after;
    let runs = 1 + wanted.formats.iter().filter(fp8).count() + usize::from(wanted.published);
    let all: usize = prompts.iter().map(Vec::len).sum();
    let mut steps = Steps::new(output.bar("capturing", (all * runs * c.layers) as u64));
    let target = Target::load(&source)?;
    let folder = tempfile::Builder::new().prefix("speckv-frontier-").tempdir();
    let folder = folder.map_err(|e| Error::io(&std::env::temp_dir(), e))?;
    let mut samples = Vec::new();
    for (text, ids) in prompts.iter().enumerate() {
        let file = |what: &str| folder.path().join(format!("{text}-{what}.safetensors"));
        let since = Instant::now();
        let exact = run(&target, ids, RunOptions::default(), &mut steps)?;
        let prefill_seconds = Some(since.elapsed().as_secs_f64());
        let mut prediction = None;
        if wanted.published {
            let options = RunOptions { arithmetic: Arithmetic::Fp8, ..RunOptions::default() };
            let path = file("predicted");
            run(&target, ids, options, &mut steps)?.write(&path)?;
            prediction = Some(path);
        }
        for &format in wanted.formats {
            let fp8 = match format.width() {
                8 => Some(in_fp8(&target, &exact, format, wanted.round_after, &mut steps)?),
                _ => None,
            };
            let (path, cache) = (file(format.name()), fp8.as_ref().unwrap_or(&exact));
            cache.write(&path)?;
            let prediction = prediction.clone();
            samples.push(Sample { prefill_seconds, prediction, ..Sample::of(&path, cache) });
        }
    }
    let dims = Dims { hidden: c.hidden, heads: c.heads, ffn: c.ffn };
    Ok(Captured { samples, dims, _folder: folder })
}

/// The cache of the same tokens in fp8, with the scales of `exact`.
fn in_fp8(
    target: &Target,
    exact: &Cache,
    format: ElementFormat,
    round_after: bool,
    steps: &mut Steps,
) -> Result<Cache> {
    let scales = fp8_scales(format, &[exact], ScalePer::Part)?;
    if round_after {
        return Ok(exact.to_fp8(format, &scales)?);
    }
    let options = RunOptions { cache: CacheMode::Fp8 { format, scales }, ..RunOptions::default() };
    run(target, exact.token_ids.as_deref().unwrap_or_default(), options, steps)
}

fn run(target: &Target, ids: &[u32], options: RunOptions, steps: &mut Steps) -> Result<Cache> {
    let run = target.run_with(ids, &options, &mut |state| {
        steps.within((state.layer * ids.len()) as u64);
        Ok(())
    })?;
    steps.done((ids.len() * run.cache.layers) as u64);
    Ok(run.cache)
}
