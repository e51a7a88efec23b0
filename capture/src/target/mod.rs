//! Runs a target model over a prompt and keeps its keys and values.
//!
//! The arithmetic is that of a bf16 model as GPUs run it: every tensor a layer hands on is rounded to bf16,
//! every sum inside one operation is kept in f32. Numbers are held as f32 whose values are bf16 values, since
//! CPUs multiply f32 matrices fast everywhere; only the order of the sums then differs from a GPU's.

mod arithmetic;
mod attention;
mod generate;
mod linear;
mod ops;
mod weights;

use crate::cache::{self, Cache};
use crate::error::{Error, Result};
use crate::model::{ModelConfig, ModelSource};
pub use arithmetic::Arithmetic;
use ops::RopeTable;
use speckv_codec_core::ElementFormat;
use weights::Weights;

/// How the target keeps its keys and values, and so what it attends to.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum CacheMode {
    /// As computed, in bf16.
    #[default]
    Exact,
    /// Rounded to fp8 before anything attends to them, as in a serving engine with an fp8 KV cache:
    /// attention sees code x scale, rounded to bf16.
    Fp8 {
        /// E4m3 or E5m2.
        format: ElementFormat,
        /// See [`cache::fp8_scales`].
        scales: cache::Scales,
    },
}

/// What to compute besides the cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunOptions {
    /// How keys and values are kept.
    pub cache: CacheMode,
    /// What the projections compute in; a target itself is run in the default.
    pub arithmetic: Arithmetic,
    /// Whether to compute the logits of the last position. Without them the last layer stops at its keys and
    /// values.
    pub logits: bool,
    /// Whether to keep the hidden state entering each layer. Large: layers x tokens x hidden f32.
    pub hidden: bool,
}

/// What a run yields.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Keys after RoPE and values, with the token ids.
    pub cache: Cache,
    /// Logits after the last token, `[vocab]`; bf16 values.
    pub logits: Option<Vec<f32>>,
    /// The hidden state entering each layer, `[layers][tokens * hidden]`; bf16 values.
    pub hidden: Option<Vec<Vec<f32>>>,
}

/// One layer as [`Target::run_with`] shows it; the slices are reused for the next layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerState<'a> {
    /// Index of the layer.
    pub layer: usize,
    /// The hidden state entering the layer, before its norm: `[tokens, hidden]`.
    pub hidden: &'a [f32],
    /// Keys after RoPE as attention sees them (in fp8 mode the rounded ones): `[kv_heads, tokens, head_dim]`.
    pub keys: &'a [f32],
    /// Values as attention sees them: `[kv_heads, tokens, head_dim]`.
    pub values: &'a [f32],
}

/// A target model ready to run; its weights take two bytes each.
pub struct Target {
    config: ModelConfig,
    weights: Weights,
}

/// Tokens the MLP handles at a time, which bounds its memory to this many rows of twice the MLP width.
const MLP_TOKENS: usize = 1024;

impl Target {
    /// Reads all weights and rounds them to bf16.
    pub fn load(source: &ModelSource) -> Result<Self> {
        Ok(Target { config: source.config().clone(), weights: Weights::load(source)? })
    }

    /// Shape and constants of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Runs the model over `ids` as one prefill.
    pub fn run(&self, ids: &[u32], options: &RunOptions) -> Result<Run> {
        self.run_with(ids, options, &mut |_| Ok(()))
    }

    /// As [`Target::run`], calling `visit` once per layer in order, after the layer's keys and values are
    /// known; an error from it ends the run.
    pub fn run_with(
        &self,
        ids: &[u32],
        options: &RunOptions,
        visit: &mut dyn FnMut(LayerState<'_>) -> Result<()>,
    ) -> Result<Run> {
        let c = &self.config;
        self.check(ids, options)?;
        let (tokens, arithmetic) = (ids.len(), options.arithmetic);
        let rope = RopeTable::new(&c.rope, c.head_dim, tokens);
        let mut hidden = self.weights.embedding.rows(ids);
        let mut kept_hidden = options.hidden.then(|| Vec::with_capacity(c.layers));
        let mut planes = Vec::with_capacity(c.layers);

        for (layer, w) in self.weights.layers.iter().enumerate() {
            let normed = ops::rms_norm(&hidden, &w.input_norm, c.rms_eps);
            let mut keys = w.k.apply(&normed, arithmetic)?;
            let mut values = w.v.apply(&normed, arithmetic)?;
            if let Some(norm) = &w.k_norm {
                keys = ops::rms_norm(&keys, norm, c.rms_eps);
            }
            rope.apply(&mut keys, c.kv_heads);
            keys = ops::heads_first(&keys, c.kv_heads, c.head_dim);
            values = ops::heads_first(&values, c.kv_heads, c.head_dim);
            planes.push(store(&options.cache, layer, &mut keys, &mut values));
            visit(LayerState { layer, hidden: &hidden, keys: &keys, values: &values })?;
            if let Some(kept) = &mut kept_hidden {
                kept.push(hidden.clone());
            }
            if layer + 1 == c.layers && !options.logits {
                break;
            }

            let mut queries = w.q.apply(&normed, arithmetic)?;
            drop(normed);
            if let Some(norm) = &w.q_norm {
                queries = ops::rms_norm(&queries, norm, c.rms_eps);
            }
            rope.apply(&mut queries, c.heads);
            let attended = attention::attend(c, &queries, &keys, &values)?;
            drop(queries);
            ops::add(&mut hidden, &w.o.apply(&attended, arithmetic)?);
            for block in hidden.chunks_mut(MLP_TOKENS * c.hidden) {
                let normed = ops::rms_norm(block, &w.post_norm, c.rms_eps);
                let mut inner = w.gate.apply(&normed, arithmetic)?;
                ops::silu_times(&mut inner, &w.up.apply(&normed, arithmetic)?);
                ops::add(block, &w.down.apply(&inner, arithmetic)?);
            }
        }

        let logits = match options.logits {
            true => {
                let last = &hidden[(tokens - 1) * c.hidden..];
                let normed = ops::rms_norm(last, &self.weights.final_norm, c.rms_eps);
                Some(self.weights.output().apply(&normed, Arithmetic::Bf16)?)
            }
            false => None,
        };
        let (format, scales) = match &options.cache {
            CacheMode::Exact => (ElementFormat::Bf16, None),
            CacheMode::Fp8 { format, scales } => (*format, Some(scales.clone())),
        };
        let cache = Cache {
            format,
            layers: c.layers,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            tokens,
            planes,
            scales,
            token_ids: Some(ids.to_vec()),
        };
        Ok(Run { cache, logits, hidden: kept_hidden })
    }

    fn check(&self, ids: &[u32], options: &RunOptions) -> Result<()> {
        self.check_ids(ids)?;
        if let CacheMode::Fp8 { format, scales } = &options.cache {
            cache::check_format(*format)?;
            cache::check_scales(scales, self.config.layers, self.config.kv_heads)?;
        }
        Ok(())
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::Argument("the prompt has no tokens".to_owned()));
        }
        let vocab = self.config.vocab;
        if let Some((at, id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= vocab) {
            return Err(Error::Argument(format!("token {at}: expected an id below {vocab}, found {id}")));
        }
        Ok(())
    }
}

/// The codes of one layer's keys and values; in fp8 mode the numbers become the rounded ones.
fn store(mode: &CacheMode, layer: usize, keys: &mut [f32], values: &mut [f32]) -> [Vec<u8>; 2] {
    let part = |numbers: &mut [f32], part: usize| match mode {
        CacheMode::Exact => {
            numbers.iter().flat_map(|x| half::bf16::from_f32(*x).to_bits().to_le_bytes()).collect()
        }
        CacheMode::Fp8 { format, scales } => {
            let codes = cache::encode(*format, numbers, &scales[layer][part]);
            numbers.iter_mut().zip(&codes).for_each(|(x, &code)| *x = cache::decode_fp8(*format, code));
            cache::multiply(numbers, &scales[layer][part]);
            numbers.iter_mut().for_each(|x| *x = ops::bf16(*x));
            codes
        }
    };
    [part(keys, cache::KEY), part(values, cache::VALUE)]
}
