//! `Chain`: regressions from the true keys and values of earlier layers, and from the token where it is known; no network (numerics.md, section 9).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use speckv_codec_core::Part;

use crate::backend::{Backend, Quantise, Seen, Store};
use crate::data::Digits;
use crate::error::Error;
use crate::fixed::Scale;
use crate::layer::{Layer, Regress};
use crate::predict::Predict;
use crate::profile::{Description, Embedding, ProfileFile};

/// What predicts one layer.
pub struct ChainLayer<B: Backend> {
    /// Means of keys (before RoPE) and values, `2 * kv_heads * head_dim`: what later layers see is the difference from them.
    pub mean: [Vec<i32>; 2],
    /// The prediction where nothing else is known, `2 * kv_heads * head_dim`.
    pub bias: Vec<i32>,
    /// From the embedded token, `[2 * kv_heads * head_dim, width of the embedding]`.
    pub embed: Option<B::Matrix>,
    /// From keys and values of the layer before, of the one before that, ..., each `[2 * kv_heads * head_dim, kv_heads * head_dim]`.
    pub past: Vec<[B::Matrix; 2]>,
}

/// All layers of a chain.
pub struct LoadedChain<B: Backend> {
    layers: Vec<ChainLayer<B>>,
    regress: Vec<Regress<B>>,
}

impl<B: Backend> LoadedChain<B> {
    /// Loads and packs mode `mode` of a profile.
    pub fn load(b: &B, file: &ProfileFile<'_>, mode: usize) -> Result<Self, Error> {
        let d = &file.description;
        let (about, width) = (&d.modes[mode], d.kv_heads * d.head_dim);
        let table = |what: &str| file.values(&alloc::format!("mode.{mode}.{what}"), &[d.layers, 2, width]);
        let (mean, bias) = (table("mean")?, table("bias")?);
        let layer = |l: usize| {
            let matrix =
                |what: &str, inp| b.load(file.weights(&file.mode_tensor(mode, l, what), 2 * width, inp)?);
            let embed = match (&d.embedding, about.ids) {
                (Some(e), true) => Some(matrix("embed", e.width)?),
                _ => None,
            };
            let past = |i: usize| {
                Ok([
                    matrix(&alloc::format!("past.{i}.key"), width)?,
                    matrix(&alloc::format!("past.{i}.value"), width)?,
                ])
            };
            let at = 2 * l * width;
            Ok(ChainLayer {
                mean: [mean[at..at + width].to_vec(), mean[at + width..at + 2 * width].to_vec()],
                bias: bias[at..at + 2 * width].to_vec(),
                embed,
                past: (1..=about.depth.min(l)).map(past).collect::<Result<_, Error>>()?,
            })
        };
        Ok(LoadedChain {
            layers: (0..d.layers).map(layer).collect::<Result<_, Error>>()?,
            regress: Regress::load(b, file, mode)?,
        })
    }
}

/// A run of a chain and the steps that advance it: what `Chain` does, and what the builder does while it fits.
pub struct ChainState<'a, B: Backend> {
    about: &'a Description,
    depth: usize,
    /// The layer being coded.
    pub layer: Layer<'a, B>,
    embed: Option<B::Rows>,
    past: VecDeque<[B::Rows; 2]>,
}

impl<'a, B: Backend> ChainState<'a, B> {
    /// Of no run yet, looking `depth` layers back.
    pub fn new(about: &'a Description, steps: &'a [u64], depth: usize, residual: Digits) -> Self {
        ChainState {
            about,
            depth,
            layer: Layer::new(about, steps, residual, true),
            embed: None,
            past: VecDeque::new(),
        }
    }

    /// Starts a run at position `start`; `embedded` tokens if they are known.
    pub fn begin(&mut self, b: &B, start: usize, tokens: usize, embedded: Option<(&Embedding, B::Ints)>) {
        self.layer.begin(start, tokens);
        self.past.clear();
        self.embed = embedded.map(|(e, x)| {
            let norm = e.eps.map(|(m, e)| Scale { m, e });
            b.quantise(&x, &Quantise { norm, ..Quantise::rows(e.width, Digits::Two, e.exponent) })
        });
    }

    /// Predicts a layer.
    pub fn begin_layer(&mut self, b: &B, weights: &ChainLayer<B>) {
        let mut prediction = b.repeat(&weights.bias, self.layer.tokens());
        if let (Some(rows), Some(w)) = (&self.embed, &weights.embed) {
            b.gemm(rows, w, None, Store::ADD, &mut prediction);
        }
        for (rows, matrices) in self.past.iter().zip(&weights.past) {
            for (rows, w) in rows.iter().zip(matrices) {
                b.gemm(rows, w, None, Store::ADD, &mut prediction);
            }
        }
        self.layer.begin_layer(b, prediction);
    }

    /// Keeps what later layers are predicted from: differences from the means, keys before RoPE, in one digit.
    pub fn end_layer(&mut self, b: &B, layer: usize, weights: &ChainLayer<B>) {
        let (tokens, width) = (self.layer.tokens(), self.layer.width());
        let [key, value] = self.layer.take_values();
        let back = b.rope(&key, 0..width, &self.layer.rotary(true));
        b.reuse(key);
        let rows = [(back, 0), (value, 1)].map(|(x, part)| {
            let minus: Vec<i32> = weights.mean[part].iter().map(|m| -m).collect();
            let mut difference = b.repeat(&minus, tokens);
            b.add(&mut difference, 0, &x);
            b.reuse(x);
            let how = Quantise::rows(width, Digits::One, self.about.exponents[layer][part]);
            let rows = b.quantise(&difference, &how);
            b.reuse(difference);
            rows
        });
        self.past.push_front(rows);
        self.past.truncate(self.depth);
    }
}

/// The chain predictor of a mode.
pub struct Chain<'a, B: Backend> {
    file: &'a ProfileFile<'a>,
    weights: &'a LoadedChain<B>,
    embedding: Option<&'a crate::profile::Embedded<B>>,
    state: ChainState<'a, B>,
}

impl<'a, B: Backend> Chain<'a, B> {
    /// A predictor over a loaded chain; `embedding` for one that needs token ids.
    pub fn new(
        file: &'a ProfileFile<'a>,
        mode: usize,
        weights: &'a LoadedChain<B>,
        embedding: Option<&'a crate::profile::Embedded<B>>,
        steps: &'a [u64],
    ) -> Self {
        let (d, about) = (&file.description, &file.description.modes[mode]);
        let residual = Digits::from_count(about.residual_digits).unwrap_or(Digits::Two); // checked when the description was
        Chain { file, weights, embedding, state: ChainState::new(d, steps, about.depth, residual) }
    }
}

impl<B: Backend> Predict<B> for Chain<'_, B> {
    fn begin(&mut self, b: &B, start: usize, tokens: usize, ids: &[u32]) -> Result<(), Error> {
        let embedded = match (self.embedding, &self.file.description.embedding) {
            (Some(e), Some(about)) => Some((about, self.file.embed(b, e, tokens, ids)?)),
            _ => None,
        };
        self.state.begin(b, start, tokens, embedded);
        Ok(())
    }

    fn begin_layer(&mut self, b: &B, layer: usize) -> Result<(), Error> {
        self.state.begin_layer(b, &self.weights.layers[layer]);
        Ok(())
    }

    fn predict(&mut self, b: &B, _: usize, part: Part, head: usize) -> B::Ints {
        self.state.layer.predict(b, part, head)
    }

    fn observe(&mut self, b: &B, layer: usize, part: Part, head: usize, seen: &Seen<'_, B>) -> B::Ints {
        self.state.layer.learn(b, (layer, part, head), seen, &self.weights.regress[layer])
    }

    fn end_layer(&mut self, b: &B, layer: usize) -> Result<(), Error> {
        self.state.end_layer(b, layer, &self.weights.layers[layer]);
        Ok(())
    }

    fn powers(&self) -> Option<[&B::Ints; 2]> {
        None
    }
}
