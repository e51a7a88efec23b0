//! Fits a profile to a target model: rotation, quantisation, regressions and gains, channel scales, token-scale regressions, shapes.
//!
//! Floating point throughout: it runs offline and writes integers. The network is built layer by layer in lock-step with the integer
//! predictor itself, so that every fit sees exactly what encoder and decoder will see.

mod chain;
mod corpus;
mod draft;
mod embed;
mod fold;
mod linalg;
mod mode;
mod openings;
mod plane;
mod planes;
mod quantise;
mod regression;
mod report;
mod shape;
mod stat;

use speckv_capture::{Cache, CacheMode, ModelSource};
use speckv_predictor::Backend;
use speckv_predictor::backend::Rotary;
use speckv_predictor::data::Digits;
use speckv_predictor::profile::{NamedDigits, PRECISIONS, Precision, ProfileWriter};

use chain::Chains;
use draft::Networks;
use embed::Table;

pub use chain::DEPTH;
pub use draft::OPEN;
pub use fold::{WIDE, rope_steps};
pub use mode::Ablation;
pub use report::measure;

/// Digits of innovations entering regressions and gains.
pub const RESIDUAL: Digits = Digits::Two;

/// Sequences that the model writes itself, where nothing else is said.
pub const OWN_TEXTS: usize = 16;

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
    /// Precisions of the draft to build, the default one first: names of [`PRECISIONS`], each with `-open` at its end for the open loop. None: no
    /// draft at all.
    pub precisions: Vec<String>,
    /// Seed of the rotation, and of the model's own texts.
    pub seed: u64,
    /// Sequences that the model writes itself, as long as the longest one given, to fit to beside those given (only with a model).
    pub own_texts: usize,
    /// What to leave out of pricing.
    pub without: Ablation,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            name: "unnamed".into(),
            precisions: vec![PRECISIONS[0].name.into()],
            seed: 1,
            own_texts: OWN_TEXTS,
            without: Ablation::default(),
        }
    }
}

impl Options {
    /// All precisions there are, the default first.
    pub fn all_precisions() -> Vec<String> {
        let closed = PRECISIONS.iter().map(|p| p.name.to_owned());
        closed.chain([format!("{}{}", PRECISIONS[0].name, draft::OPEN)]).collect()
    }

    /// The precisions asked for, and whether each is in closed loop. Closed loops come first: it is they that round a network's weights.
    fn drafts(&self) -> Result<Vec<(NamedDigits, bool)>, Error> {
        let mut all: Vec<(NamedDigits, bool)> = Vec::new();
        for name in &self.precisions {
            let closed = name.strip_suffix(draft::OPEN);
            let Some(named) = PRECISIONS.iter().find(|p| p.name == closed.unwrap_or(name)) else {
                let known: Vec<&str> = PRECISIONS.iter().map(|p| p.name).collect();
                return Err(Error::Input(format!(
                    "there is no precision `{name}`; there are {} (each also with `{}` at its end)",
                    known.join(", "),
                    draft::OPEN
                )));
            };
            if !all.contains(&(*named, closed.is_none())) {
                all.push((*named, closed.is_none()));
            }
        }
        all.sort_by_key(|(_, closed)| !closed);
        if let Some((named, _)) = all.iter().find(|(named, closed)| !closed && !all.contains(&(*named, true)))
        {
            return Err(Error::Input(format!(
                "the open loop of `{0}` runs the network of `{0}`: build that too",
                named.name
            )));
        }
        Ok(all)
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
/// With eight sequences or more, one in eight is kept out of the fit and only measured. Texts that the model writes itself join the fit, so that it
/// serves texts of other kinds than those given too.
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
    let drafts = options.drafts()?;
    linalg::repeatable();
    let target = corpus::target(source)?;
    let kept = kept_out(sequences.len());
    let own = corpus::own_texts(&target, source, sequences, options, progress)?;
    let (given, rest) = sequences.split_at(sequences.len() - kept);
    let sequences = [given, &own, rest].concat();
    let (fit, count) = (sequences.len() - kept, sequences.len() as u64);
    let steps = rope_steps(&source.config().rope, source.config().head_dim);
    let mut out = ProfileWriter::default();
    out.u64s("rope.steps", &[source.config().head_dim / 2], &steps);
    let capture = |mode: &CacheMode, progress: Progress<'_>| {
        let stage = if *mode == CacheMode::Exact { "capture 16-bit" } else { "capture fp8" };
        corpus::capture(&target, &sequences, mode, &mut |n| progress(stage, n, count))
    };
    // One class of caches at a time: hidden states of all layers are what fills the memory.
    let mut set = capture(&CacheMode::Exact, progress)?;
    let coarse = corpus::e4m3_mode(&set)?;
    let mut about = fold::describe(source.config(), &set[..fit], options)?;
    about.fitted = report::fitted(&set[..fit], kept);
    about.fitted["own_texts"] = own.len().into();
    let fold = fold::Fold::new(source, &set[..fit], options.seed)?;
    let config = source.config();
    let table = Table::of_model(&fold, config.hidden, fold.stream_exponent(&set[..fit]), config.rms_eps)?;
    table.save(&mut out);
    about.embedding = Some(table.about.clone());
    let mut chains = Chains::new(true, options.without);
    let mut networks = Networks::new(&fold, options.without);
    let mut rest = Vec::new();
    for class in [Precision::Fine, Precision::Coarse] {
        if class == Precision::Coarse {
            drop(std::mem::take(&mut set));
            set = capture(&coarse, progress)?;
        }
        rest.push(set.drain(fit..).map(corpus::Sequence::without_hidden).collect());
        stat::fit(b, &mut about, &mut out, &steps, &set, options.without, progress)?;
        chains.fit(b, &mut about, &mut out, &steps, &set, Some(&table), progress)?;
        for draft in &drafts {
            networks.fit(b, &mut about, &mut out, &steps, &set, &table, *draft, progress)?;
        }
    }
    drop((set, networks));
    let profile = out.finish(&about)?;
    let report = report::report(b, &profile, &rest, progress)?;
    Ok(Built { profile, report })
}

/// Builds a profile without a draft, from captured caches of one format: `static`, `chain`, and if every cache has its token ids `chain` with ids.
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
    if caches.iter().any(|c| c.tokens == 0) {
        return Err(Error::Input("a cache to build from has no tokens".into()));
    }
    linalg::repeatable();
    let mut about = fold::describe_caches(&caches.iter().collect::<Vec<_>>(), options);
    let mut out = ProfileWriter::default();
    out.u64s("rope.steps", &[about.head_dim / 2], rope);
    let mut sequences: Vec<corpus::Sequence> = caches
        .into_iter()
        .map(|cache| corpus::Sequence {
            ids: cache.token_ids.clone().unwrap_or_default(),
            cache,
            hidden: Vec::new(),
        })
        .collect();
    let kept = kept_out(sequences.len());
    let rest: Vec<corpus::Sequence> = sequences.drain(sequences.len() - kept..).collect();
    stat::fit(b, &mut about, &mut out, rope, &sequences, options.without, progress)?;
    // A table learnt from few tokens knows few of those to come, and prices would not expect the others.
    let tokens: usize = sequences.iter().map(|s| s.cache.tokens).sum();
    let wanted = embed::TOKENS_PER_COLUMN * 2 * about.kv_heads * about.head_dim;
    let mut note = None;
    let table = if sequences.iter().any(|s| s.ids.is_empty()) {
        note = Some("no `chain ids`: it needs caches that all have token ids".to_owned());
        None
    } else if tokens < wanted {
        note = Some(format!(
            "no `chain ids`: it needs {wanted} tokens or more of this geometry, found {tokens}"
        ));
        None
    } else {
        let pricer = mode::Pricer::new(&about, &sequences, options.without)?;
        let means = stat::means(b, &about, &pricer, rope, &sequences, 0);
        let back = Rotary { head_dim: about.head_dim, steps: rope, start: 0, inverse: true };
        Table::of_caches(b, &pricer, &sequences, &means, about.exponents[0], &back)
    };
    if let Some(table) = &table {
        table.save(&mut out);
        about.embedding = Some(table.about.clone());
    }
    Chains::new(table.is_some(), options.without).fit(
        b,
        &mut about,
        &mut out,
        rope,
        &sequences,
        table.as_ref(),
        progress,
    )?;
    about.fitted = report::fitted(&sequences, kept);
    let profile = out.finish(&about)?;
    // All are of one class: the other has no modes.
    let mut report = report::report(b, &profile, &[rest.clone(), rest], progress)?;
    if let Some(note) = note {
        report["note"] = note.into();
    }
    Ok(Built { profile, report })
}

/// Of so many sequences, how many are kept out of the fit and only measured.
fn kept_out(sequences: usize) -> usize {
    if sequences >= 8 { sequences / 8 } else { 0 }
}
