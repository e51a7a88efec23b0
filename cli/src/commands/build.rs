//! `speckv build`

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use speckv_build::{Ablation, Built, Options};
use speckv_capture::ModelSource;
use speckv_capture::model::{Rope, RopeScaling};

use crate::error::{Code, Error, Result};
use crate::files::OutputFile;
use crate::output::{Output, grouped, rounded};
use crate::{backend, caches, tokens};

/// Fit a profile to a model, or to captured caches
///
/// The profile is all that compressing and decompressing need; the model itself is not needed again. Texts should be
/// like those the model will serve: 32 sequences of 1024 tokens are enough, other ones are predicted nearly as well.
/// From caches alone, without the model's weights, the predictors `static` and `chain` can be fitted.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The target model: a Hugging Face folder or a .gguf file
    #[arg(long, required_unless_present = "cache")]
    model: Option<PathBuf>,
    /// tokenizer.json to use instead of the model's own
    #[arg(long, value_name = "FILE", requires = "model")]
    tokenizer: Option<PathBuf>,
    /// Texts to fit to
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "cache", requires = "model")]
    text: Vec<PathBuf>,
    /// Tokens per sequence
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Sequences, taken from the texts in turn, from their beginning
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    sequences: u32,
    /// Sequences to fit to besides, which the model writes itself, as long as the longest one from the texts: with them the profile serves other
    /// kinds of text than those given, and those given, better
    #[arg(long, value_name = "N", default_value_t = Options::default().own_texts as u32, conflicts_with = "cache")]
    own_texts: u32,
    /// Captured caches of one format to fit to instead of texts (predictors static and chain, with token ids too if all of them have
    /// theirs and there are enough of them)
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "text")]
    cache: Vec<PathBuf>,
    /// With --cache and no --model: the model's rope_theta
    #[arg(long, value_name = "THETA", requires = "cache", conflicts_with = "model")]
    rope_theta: Option<f64>,
    /// Precisions of the draft to fit, the first being the default one: w8a8+kv16, w8a8, w8a16+kv16, w16a16, each also with -open at its
    /// end (open loop: from token ids alone); `all` for all closed loops and the first one's open loop
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', default_values_t = Options::default().precisions,
          conflicts_with_all = ["no_draft", "cache"])]
    precisions: Vec<String>,
    /// Leave the draft network out: a smaller profile with the predictors static and chain
    #[arg(long)]
    no_draft: bool,
    /// Name of the target, for messages [default: that of the model's folder or file]
    #[arg(long)]
    name: Option<String>,
    /// Seed of the draft's change of basis and of what the model writes itself
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave this out of pricing, to see what it buys: token-scale, shapes
    #[arg(long, value_name = "WHAT", hide = true, value_parser = ["token-scale", "shapes"])]
    without: Vec<String>,
    /// Profile to write
    #[arg(long, short, value_name = "OUT.speckv")]
    output: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  speckv build --model SmolLM2-135M/ --text prose.txt code.txt -o smol.speckv
  speckv build --model smollm2-q4_1.gguf --text prose.txt --sequences 8 --tokens 512 -o quick.speckv
  speckv build --cache a.safetensors b.safetensors --rope-theta 100000 -o chain.speckv
      without the model; its config.json tells rope_theta";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let inputs: Vec<&Path> = args
        .model
        .iter()
        .chain(&args.tokenizer)
        .chain(&args.text)
        .chain(&args.cache)
        .map(PathBuf::as_path)
        .collect();
    let file = OutputFile::create(&args.output, &inputs)?;
    let backend = backend::open()?;
    let precisions = match args.precisions.as_slice() {
        _ if args.no_draft => Vec::new(),
        [all] if all == "all" => Options::all_precisions(),
        some => some.to_vec(),
    };
    let left_out = |what: &str| args.without.iter().any(|w| w == what);
    let without = Ablation { token_scale: left_out("token-scale"), shapes: left_out("shapes") };
    let own_texts = args.own_texts as usize;
    let options = Options { name: name(args), precisions, seed: args.seed, own_texts, without };
    let since = Instant::now();
    let mut bar = output.bar("build", 1);
    let mut stage = String::new();
    let mut progress = |now: &str, done: u64, total: u64| {
        if now != stage {
            now.clone_into(&mut stage);
            bar.stage(now, total);
        }
        bar.set(done);
    };
    let (built, used) = if args.cache.is_empty() {
        let (source, sequences, used) = sequences(args)?;
        output.note(format!("fitting to {}", in_words(&used, own_texts)));
        (speckv_build::build(&backend, &source, &sequences, &options, &mut progress)?, used)
    } else {
        let caches = args.cache.iter().map(|path| caches::read(path)).collect::<Result<Vec<_>>>()?;
        let used = args
            .cache
            .iter()
            .zip(&caches)
            .map(|(path, c)| Used { path, sequences: 1, tokens: c.tokens })
            .collect();
        let steps = rope_steps(args, caches[0].head_dim)?;
        (speckv_build::build_from_caches(&backend, caches, &steps, &options, &mut progress)?, used)
    };
    drop(bar);
    let Built { profile, report, .. } = built;
    if let Some(note) = report["note"].as_str() {
        output.note(note);
    }
    let seconds = since.elapsed().as_secs_f64();
    file.write(&profile)?;

    let bytes = profile.len() as u64;
    let from: Vec<Value> = used
        .iter()
        .map(|u| json!({ "file": u.path, "sequences": u.sequences, "tokens": u.tokens }))
        .collect();
    let value = json!({
        "output": args.output, "profile_bytes": bytes, "used": from, "report": report, "seconds": rounded(seconds, 1),
    });
    output.report(&value, || {
        let mut text = format!(
            "{}: {} bytes in {seconds:.1} s, fitted to {}\n",
            args.output.display(),
            grouped(bytes),
            in_words(&used, if args.cache.is_empty() { own_texts } else { 0 })
        );
        for mode in report["modes"].as_array().into_iter().flatten() {
            let word = |key: &str| mode[key].as_str().unwrap_or_default();
            let name = format!("{} {}", word("predictor"), word("precision"));
            let reached = match mode["kept_out_bits_per_scalar"].as_f64() {
                Some(bits) => format!("{bits:.3} bits per scalar on sequences kept out of the fit"),
                None => "not measured (8 sequences or more leave one in eight out of the fit)".to_owned(),
            };
            text.push_str(&format!("  {name:<20} {:>6} caches: {reached}\n", word("caches")));
        }
        text
    });
    Ok(())
}

/// What a file contributed.
struct Used<'a> {
    path: &'a Path,
    sequences: usize,
    tokens: usize,
}

fn in_words(used: &[Used<'_>], own_texts: usize) -> String {
    let part = |u: &Used<'_>| {
        format!("{} tokens of {} ({} sequences)", grouped(u.tokens as u64), u.path.display(), u.sequences)
    };
    let own = (own_texts > 0).then(|| format!("{own_texts} sequences that the model writes itself"));
    let all: Vec<String> = used.iter().map(part).chain(own).collect();
    all.join(", ").replace("(1 sequences)", "(1 sequence)").replace(", 1 sequences", ", 1 sequence")
}

fn name(args: &Args) -> String {
    let from = |path: &PathBuf| {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        path.file_stem().map(|n| n.to_string_lossy().into_owned())
    };
    args.name
        .clone()
        .or_else(|| args.model.as_ref().and_then(from))
        .unwrap_or_else(|| Options::default().name)
}

/// Cuts texts into sequences, from each in turn and from its beginning, so that every text counts alike until it ends.
fn sequences(args: &Args) -> Result<(ModelSource, Vec<Vec<u32>>, Vec<Used<'_>>)> {
    let Some(model) = &args.model else { return Err(Error::usage("--text needs --model")) };
    let source = ModelSource::open_with(model, args.tokenizer.as_deref())?;
    let (length, wanted) = (args.tokens as usize, args.sequences as usize);
    let texts = args.text.iter().map(|path| tokens::encode(&source, path)).collect::<Result<Vec<_>>>()?;
    // A text shorter than a sequence is used whole; the rest of a longer one is not worth a short sequence.
    let mut pieces: Vec<_> = texts
        .iter()
        .map(|ids| ids.chunks(length).filter(|c| c.len() == length || ids.len() < length))
        .collect();
    let mut used: Vec<Used<'_>> =
        args.text.iter().map(|path| Used { path, sequences: 0, tokens: 0 }).collect();
    let mut all: Vec<Vec<u32>> = Vec::new();
    loop {
        let before = all.len();
        for (pieces, used) in pieces.iter_mut().zip(&mut used) {
            if let Some(piece) = pieces.next().filter(|_| all.len() < wanted) {
                all.push(piece.to_vec());
                used.sequences += 1;
                used.tokens += piece.len();
            }
        }
        if all.len() == before || all.len() == wanted {
            return Ok((source, all, used));
        }
    }
}

/// Phase per position of each rotary pair; 2^64 is one turn.
fn rope_steps(args: &Args, head_dim: usize) -> Result<Vec<u64>> {
    let rope = match (&args.model, args.rope_theta) {
        (Some(model), _) => ModelSource::open(model)?.config().rope.clone(),
        (None, Some(theta)) if theta.is_finite() && theta > 1.0 => Rope { theta, scaling: RopeScaling::None },
        (None, Some(theta)) => {
            return Err(Error::usage(format!("--rope-theta: expected a number above 1, found {theta}")));
        }
        (None, None) => {
            return Err(Error::usage(
                "--cache: keys are predicted before their rotation; give --rope-theta or --model",
            ));
        }
    };
    Ok(speckv_build::rope_steps(&rope, head_dim))
}

impl From<speckv_build::Error> for Error {
    fn from(e: speckv_build::Error) -> Self {
        use speckv_build::Error as E;
        match e {
            E::Capture(e) => e.into(),
            E::Predictor(e) => e.into(),
            E::Input(_) | E::Fit(_) => Error::new(Code::Input, e.to_string()),
            _ => Error::new(Code::Internal, e.to_string()),
        }
    }
}
