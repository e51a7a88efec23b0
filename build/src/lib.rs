//! Fits a profile to a target model: rotation, quantisation, regressions and gains, channel scales, token-scale regressions, shapes.
//!
//! Floating point throughout: it runs offline and writes integers. The network is built layer by layer in lock-step with the integer
//! predictor itself, so that every fit sees exactly what encoder and decoder will see.

mod corpus;
mod draft;
mod fold;
mod linalg;
mod mode;
mod plane;
mod quantise;
mod regression;
mod report;
mod shape;
mod stat;

use speckv_capture::{Cache, CacheMode, ModelSource};
use speckv_predictor::Backend;
use speckv_predictor::profile::{Description, ProfileWriter};

pub use fold::rope_steps;
pub use report::measure;

/// What can go wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The model, or running it.
    Capture(speckv_capture::Error),
    /// The predictor or the profile.
    Predictor(speckv_predictor::Error),
    /// The caller's input.
    Input(String),
    /// A regression has no finite solution: the model's activations are not finite.
    Fit(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Capture(e) => e.fmt(f),
            Error::Predictor(e) => e.fmt(f),
            Error::Input(s) | Error::Fit(s) => f.write_str(s),
        }
    }
}

impl std::error::Error for Error {}

impl From<speckv_capture::Error> for Error {
    fn from(e: speckv_capture::Error) -> Self {
        Error::Capture(e)
    }
}

impl From<speckv_predictor::Error> for Error {
    fn from(e: speckv_predictor::Error) -> Self {
        Error::Predictor(e)
    }
}

/// How to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the target, for messages.
    pub name: String,
    /// Build the draft network too (not only the static predictor).
    pub draft: bool,
    /// Seed of the rotation.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { name: "unnamed".into(), draft: true, seed: 1 }
    }
}

/// Told what is being done: stage, steps done, steps in all.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// A profile and what is known of it.
#[derive(Clone, Debug)]
pub struct Built {
    /// The profile's bytes.
    pub profile: Vec<u8>,
    /// What it was fitted on and what it reached on sequences kept out of the fit.
    pub report: serde_json::Value,
}

/// Builds a profile for `source` from token sequences, each run from position 0. The same inputs give the same profile on one machine.
///
/// With eight sequences or more, one in eight is kept out of the fit and only measured.
///
/// # Errors
/// [`Error::Input`] without sequences; whatever reading or running the model says.
pub fn build<B: Backend>(
    b: &B,
    source: &ModelSource,
    sequences: &[Vec<u32>],
    options: &Options,
    progress: Progress<'_>,
) -> Result<Built, Error> {
    if sequences.is_empty() || sequences.iter().any(|s| s.is_empty()) {
        return Err(Error::Input(
            "building a profile needs at least one sequence of at least one token".into(),
        ));
    }
    linalg::repeatable();
    let target = corpus::target(source)?;
    let kept = if sequences.len() >= 8 { sequences.len() / 8 } else { 0 };
    let (fit, count) = (sequences.len() - kept, sequences.len() as u64);
    let steps = rope_steps(&source.config().rope, source.config().head_dim);
    let mut out = ProfileWriter::default();
    let mut network = None;
    let mut kept_out = Vec::new();
    let mut about = None;
    // One class of caches at a time: hidden states of all layers are what fills the memory.
    let mut mode = CacheMode::Exact;
    for stage in ["capture 16-bit", "capture fp8"] {
        let mut set = corpus::capture(&target, sequences, &mode, &mut |n| progress(stage, n, count))?;
        if about.is_none() {
            mode = corpus::e4m3_mode(&set)?;
            let mut description = fold::describe(source.config(), &set[..fit], options)?;
            description.fitted = report::fitted(&set[..fit], kept);
            out.u64s("rope.steps", &[description.head_dim / 2], &steps);
            about = Some(description);
        }
        let rest: Vec<_> = set.drain(fit..).map(corpus::Sequence::without_hidden).collect();
        kept_out.push(rest);
        let Some(about) = about.as_mut() else { continue };
        stat::fit(b, about, &mut out, &steps, &set, progress)?;
        if options.draft {
            let built = match network.take() {
                Some(built) => built,
                None => draft::Network::begin(source, about, &mut out, &set, options)?,
            };
            network = Some(built.fit(b, about, &mut out, &steps, &set, progress)?);
        }
    }
    drop((target, network));
    let Some(about) = about else { return Err(Error::Input("no sequences".into())) };
    let profile = out.finish(&about)?;
    let report = report::report(b, &profile, &kept_out, progress)?;
    Ok(Built { profile, report })
}

/// Builds a profile with the static predictor alone, from captured caches of one format.
///
/// # Errors
/// [`Error::Input`] without caches or if their geometries differ.
pub fn build_from_caches<B: Backend>(
    b: &B,
    caches: Vec<Cache>,
    rope: &[u64],
    options: &Options,
    progress: Progress<'_>,
) -> Result<Built, Error> {
    let Some(first) = caches.first() else {
        return Err(Error::Input("building a profile needs at least one cache".into()));
    };
    let shape = |c: &Cache| (c.layers, c.kv_heads, c.head_dim, c.format);
    if let Some(odd) = caches.iter().find(|c| shape(c) != shape(first)) {
        return Err(Error::Input(format!(
            "caches differ: {:?} and {:?} (layers, heads, head_dim, format)",
            shape(first),
            shape(odd)
        )));
    }
    let mut about: Description = fold::describe_caches(&caches.iter().collect::<Vec<_>>(), options);
    let mut out = ProfileWriter::default();
    out.u64s("rope.steps", &[about.head_dim / 2], rope);
    let sequences: Vec<corpus::Sequence> = caches
        .into_iter()
        .map(|cache| corpus::Sequence {
            ids: cache.token_ids.clone().unwrap_or_default(),
            cache,
            hidden: Vec::new(),
        })
        .collect();
    stat::fit(b, &mut about, &mut out, rope, &sequences, progress)?;
    about.fitted = report::fitted(&sequences, 0);
    let profile = out.finish(&about)?;
    let report = report::report(b, &profile, &[Vec::new(), Vec::new()], progress)?;
    Ok(Built { profile, report })
}
