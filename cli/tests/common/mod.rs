//! Runs the built binary on a made-up model, small enough that fitting its profile takes no time.

// Every test file uses some of this.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use speckv_capture::{Cache, ElementFormat};
use tempfile::TempDir;

pub const LAYERS: usize = 2;
pub const VOCAB: usize = 48;
/// Tokens of a fixture's caches: more than two chunks of 16, the last one short.
pub const TOKENS: usize = 40;

/// What a run of the binary said.
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `speckv`.
pub fn speckv<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_speckv")).args(args).output().expect("the binary runs");
    Said {
        code: output.status.code().expect("the binary was not killed"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Arguments of any kind of string as one list.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { [$(std::ffi::OsString::from($arg)),*] };
}

/// Runs `speckv ARGS --json`, which must succeed.
pub fn ok<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Value {
    let said = speckv(args.into_iter().map(|a| a.as_ref().to_owned()).chain(["--json".into()]));
    assert_eq!(said.code, 0, "{}", said.stderr);
    serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {}", said.stdout))
}

/// Runs `speckv`, which must fail with this code, in one line that holds `words`, and leave nothing at `output`.
pub fn fails<S: AsRef<OsStr>>(code: i32, words: &str, output: &Path, args: impl IntoIterator<Item = S>) {
    let before = std::fs::read(output).ok();
    let said = speckv(args);
    assert_eq!(said.code, code, "{}", said.stderr);
    // Notes may come first; the error is the last line and the only one of its kind.
    let lines: Vec<&str> = said.stderr.lines().collect();
    let errors = lines.iter().filter(|l| l.starts_with("error: ")).count();
    assert!(
        errors == 1 && lines.iter().all(|l| l.starts_with("error: ") || l.starts_with("note: ")),
        "{}",
        said.stderr
    );
    assert!(lines.last().unwrap().contains(words), "expected {words:?} in: {}", said.stderr);
    assert_eq!(said.stdout, "", "a failure prints nothing on stdout");
    assert_eq!(std::fs::read(output).ok(), before, "a failure leaves the output path as it was");
    let left = std::fs::read_dir(output.parent().unwrap()).unwrap();
    let left: Vec<_> =
        left.map(|e| e.unwrap().file_name()).filter(|n| n.to_string_lossy().starts_with(".speckv")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// A folder with a model, its profile and caches.
pub struct Fixture {
    pub dir: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
        write_model(&fixture.path("model"), "qwen3");
        std::fs::write(fixture.path("a.txt"), text(1, 200)).unwrap();
        std::fs::write(fixture.path("b.txt"), text(2, 90)).unwrap();
        std::fs::write(fixture.path("prompt.txt"), text(3, TOKENS)).unwrap();
        fixture.build("profile.speckv", 1);
        for format in ["bf16", "e4m3"] {
            let out = fixture.path(&format!("{format}.safetensors"));
            let (model, prompt) = (fixture.path("model"), fixture.path("prompt.txt"));
            ok(args!["capture", "--model", model, "--text", prompt, "--format", format, "-o", out]);
        }
        fixture
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Builds a profile of the model.
    pub fn build(&self, name: &str, seed: u32) -> Value {
        let seed = seed.to_string();
        let (model, a, b, out) =
            (self.path("model"), self.path("a.txt"), self.path("b.txt"), self.path(name));
        ok(args![
            "build",
            "--model",
            model,
            "--text",
            a,
            b,
            "--tokens",
            "40",
            "--sequences",
            "3",
            "--seed",
            seed,
            "-o",
            out
        ])
    }

    /// Compresses one of the caches with chunks of 16 tokens.
    pub fn compress(&self, cache: &str, stream: &str, more: &[&str]) -> Value {
        let (cache, profile, out) = (self.path(cache), self.path("profile.speckv"), self.path(stream));
        let all = args!["compress", cache, "--profile", profile, "--chunk", "16", "-o", out];
        ok(all.into_iter().chain(more.iter().map(|&m| m.into())))
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

/// Words w0..w47 in an order that `seed` chooses.
pub fn text(seed: u64, words: usize) -> String {
    let mut random = Random(seed);
    (0..words).map(|_| format!("w{}", random.next() as usize % VOCAB)).collect::<Vec<_>>().join(" ")
}

/// A small generator of numbers, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// Roughly normal with deviation 1.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.next() as f32 / (1u64 << 31) as f32).sum::<f32>() - 6.0
    }
}

const HIDDEN: usize = 32;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const FFN: usize = 48;

/// A Hugging Face folder with random weights and a tokenizer of words.
pub fn write_model(folder: &Path, model_type: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let config = json!({
        "model_type": model_type, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "intermediate_size": FFN, "vocab_size": VOCAB,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
        "max_position_embeddings": 512, "attention_bias": false,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let vocab: serde_json::Map<String, Value> = (0..VOCAB).map(|i| (format!("w{i}"), json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();

    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".into(), vec![HIDDEN]),
    ];
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![q, HIDDEN]),
            ("self_attn.k_proj", vec![kv, HIDDEN]),
            ("self_attn.v_proj", vec![kv, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, q]),
            ("self_attn.q_norm", vec![HEAD_DIM]),
            ("self_attn.k_norm", vec![HEAD_DIM]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![FFN, HIDDEN]),
            ("mlp.up_proj", vec![FFN, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, FFN]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let mut random = Random(7);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let spread = if shape.len() == 1 { 0.1 } else { (shape[1] as f32).sqrt().recip() };
            let middle = if shape.len() == 1 { 1.0 } else { 0.0 };
            let count: usize = shape.iter().product();
            let values = (0..count).flat_map(|_| (middle + spread * random.normal()).to_le_bytes()).collect();
            (name, shape, values)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// A cache of any bits at all: NaNs, infinities and negative zeros included.
pub fn noise(format: ElementFormat, heads_of_scales: usize, tokens: usize) -> Cache {
    let mut random = Random(tokens as u64);
    let bytes = KV_HEADS * tokens * HEAD_DIM * format.bytes();
    let mut part = || (0..bytes).map(|_| random.next() as u8).collect::<Vec<u8>>();
    let planes = (0..LAYERS).map(|_| [part(), part()]).collect();
    let scale = |layer: usize, part: usize| {
        (0..heads_of_scales).map(|h| 0.01 * (1 + layer + part + h) as f32).collect()
    };
    Cache {
        format,
        layers: LAYERS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        tokens,
        planes,
        scales: (format.width() == 8).then(|| (0..LAYERS).map(|l| [scale(l, 0), scale(l, 1)]).collect()),
        token_ids: Some((0..tokens).map(|t| (t * 5 % VOCAB) as u32).collect()),
    }
}
