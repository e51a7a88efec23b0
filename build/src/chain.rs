//! Fits the chain: regressions of each layer on the true keys and values of the layers before it, without and with the token.

use speckv_codec_core::Part;
use speckv_predictor::backend::{Backend, Rotary};
use speckv_predictor::chain::{ChainLayer, ChainState};
use speckv_predictor::data::{Digits, Weights};
use speckv_predictor::fixed::saturate;
use speckv_predictor::profile::{Description, Kind, Mode, Precision, ProfileWriter};

use crate::corpus::Sequence;
use crate::embed::Table;
use crate::mode::{Ablation, Pricer};
use crate::quantise::{Compensation, fixed, real, weights};
use crate::regression::{Regression, scarcity};
use crate::{Error, Progress, RESIDUAL, stat};

/// Layers that a chain looks back: the third still gives 0.06 bits a scalar, the fourth 0.02 (docs/predictors.md).
pub const DEPTH: usize = 3;
/// Tokens for each feature below which a chain looks less far back: what is fitted to few tokens predicts no others.
const TOKENS_PER_FEATURE: usize = 8;
/// Ridge of the regressions, relative to the mean diagonal, for many tokens.
const RIDGE: f64 = 1e-4;

/// Chains under construction: their regressions are fitted to the first class of caches and serve the other too.
pub struct Chains<B: Backend> {
    variants: Vec<Variant<B>>,
    depth: usize,
    without: Ablation,
}

/// A chain with or without token ids.
struct Variant<B: Backend> {
    ids: bool,
    mode: usize,
    layers: Vec<ChainLayer<B>>,
}

/// A variant's run over all sequences.
struct Pass<'a, B: Backend> {
    mode: usize,
    states: Vec<ChainState<'a, B>>,
    pricer: Pricer<'a, B>,
}

impl<B: Backend> Chains<B> {
    /// None yet: `ids` for a chain with token ids too.
    pub fn new(ids: bool, without: Ablation) -> Self {
        let variant = |ids| Variant { ids, mode: 0, layers: Vec::new() };
        let variants = [false, true][..1 + usize::from(ids)].iter().map(|ids| variant(*ids)).collect();
        Chains { variants, depth: 0, without }
    }

    /// Adds chain modes for the sequences' class of caches.
    #[allow(clippy::too_many_arguments)]
    pub fn fit(
        &mut self,
        b: &B,
        about: &mut Description,
        out: &mut ProfileWriter,
        steps: &[u64],
        sequences: &[Sequence],
        table: Option<&Table>,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let class = Precision::of(sequences[0].cache.format);
        let first = self.variants.iter().all(|v| v.layers.is_empty());
        if first {
            let tokens: usize = sequences.iter().map(|s| s.cache.tokens).sum();
            let features = 2 * about.kv_heads * about.head_dim;
            self.depth = DEPTH.min(tokens / (TOKENS_PER_FEATURE * features));
        }
        let depth = self.depth;
        let mut modes = Vec::new();
        for v in &mut self.variants {
            modes.push(about.modes.len());
            if first {
                v.mode = about.modes.len();
            }
            about.modes.push(Mode {
                kind: Kind::Chain,
                precision: if v.ids { "ids" } else { "no-ids" }.into(),
                class,
                net: None,
                residual_digits: RESIDUAL.count(),
                feedback: true,
                base: (!first).then_some(v.mode),
                depth,
                ids: v.ids,
            });
        }
        let about = &*about;
        let stage = if class == Precision::Fine { "fit chain, 16-bit" } else { "fit chain, fp8" };
        let mut passes = Vec::new();
        for (v, mode) in self.variants.iter().zip(modes) {
            let mut states = Vec::new();
            for s in sequences {
                let mut state = ChainState::new(about, steps, depth, RESIDUAL);
                let tokens = s.cache.tokens;
                let embedded = table.filter(|_| v.ids).map(|t| (&t.about, b.upload(t.rows(&s.ids))));
                state.begin(b, 0, tokens, embedded);
                states.push(state);
            }
            passes.push(Pass { mode, states, pricer: Pricer::new(about, sequences, self.without)? });
        }
        // What regressions see, newest first: differences from the means; [back][sequence][part].
        let mut past: Vec<Vec<[Vec<f32>; 2]>> = Vec::new();
        let tokens: Vec<Vec<f32>> = match table.filter(|_| first) {
            Some(t) => sequences.iter().map(|s| t.features(&s.ids)).collect(),
            None => sequences.iter().map(|_| Vec::new()).collect(),
        };
        for layer in 0..about.layers {
            progress(stage, layer as u64, about.layers as u64);
            if first {
                let means = stat::means(b, about, &passes[0].pricer, steps, sequences, layer);
                let now = differences(b, about, &passes[0].pricer, steps, sequences, layer, &means);
                self.regress(b, about, out, layer, &means, &now, &past, &tokens)?;
                past.insert(0, now);
                past.truncate(depth);
            }
            for (v, pass) in self.variants.iter().zip(&mut passes) {
                pass.states.iter_mut().for_each(|s| s.begin_layer(b, &v.layers[layer]));
                let mut begun: Vec<_> = pass.states.iter_mut().map(|s| (&mut s.layer, None)).collect();
                let regress = crate::planes::fit(b, about, layer, &mut begun, &mut pass.pricer, true)?;
                for (j, w) in regress.iter().enumerate() {
                    out.weights(&format!("mode.{}.layers.{layer}.regress.{j}", pass.mode), w);
                }
                pass.states.iter_mut().for_each(|s| s.end_layer(b, layer, &v.layers[layer]));
                pass.pricer.end_layer(true);
            }
        }
        for (v, pass) in self.variants.iter().zip(&passes) {
            pass.pricer.tables.save(out, pass.mode);
            let shape = [about.layers, 2, about.kv_heads * about.head_dim];
            let mean: Vec<i32> = v.layers.iter().flat_map(|l| l.mean.concat()).collect();
            let bias: Vec<i32> = v.layers.iter().flat_map(|l| l.bias.iter().copied()).collect();
            out.i32s(&format!("mode.{}.mean", pass.mode), &shape, &mean);
            out.i32s(&format!("mode.{}.bias", pass.mode), &shape, &bias);
        }
        Ok(())
    }

    /// Fits both variants of a layer.
    #[allow(clippy::too_many_arguments)]
    fn regress(
        &mut self,
        b: &B,
        about: &Description,
        out: &mut ProfileWriter,
        layer: usize,
        means: &[Vec<i32>; 2],
        now: &[[Vec<f32>; 2]],
        past: &[Vec<[Vec<f32>; 2]>],
        tokens: &[Vec<f32>],
    ) -> Result<(), Error> {
        let width = about.kv_heads * about.head_dim;
        let rows: usize = now.iter().map(|s| s[0].len() / width).sum();
        let embed = tokens.iter().map(Vec::len).sum::<usize>() / rows.max(1);
        let mut centre = vec![0.0f64; embed];
        for row in tokens.iter().flat_map(|t| t.chunks_exact(embed.max(1))) {
            centre.iter_mut().zip(row).for_each(|(c, v)| *c += *v as f64 / rows as f64);
        }
        let p = embed + 2 * width * past.len();
        let mut regression = Regression::new(p, 2 * width);
        for (s, now) in now.iter().enumerate() {
            let n = now[0].len() / width;
            let (mut x, mut y) = (Vec::with_capacity(n * p), Vec::with_capacity(n * 2 * width));
            for t in 0..n {
                let token = tokens[s].get(t * embed..(t + 1) * embed).unwrap_or_default();
                x.extend(token.iter().zip(&centre).map(|(v, c)| (*v as f64 - c) as f32));
                for back in past {
                    back[s].iter().for_each(|part| x.extend_from_slice(&part[t * width..(t + 1) * width]));
                }
                now.iter().for_each(|part| y.extend_from_slice(&part[t * width..(t + 1) * width]));
            }
            regression.add(x, y);
        }
        let normal = regression.normal();
        drop(regression);
        let [key, value] = about.exponents[layer];
        let to = |o: usize| if o < width { key } else { value };
        let mean: Vec<i32> = means.concat();
        for v in &mut self.variants {
            let columns = if v.ids { 0 } else { embed }..p;
            let w = if columns.is_empty() {
                Vec::new()
            } else {
                normal.solve(columns.clone(), RIDGE * scarcity(rows, columns.len()))?
            };
            let block = |at: usize, n: usize, digits: Digits| -> Weights {
                let w: Vec<f32> = w
                    .chunks_exact(columns.len().max(1))
                    .flat_map(|row| row[at - columns.start..][..n].iter().copied())
                    .collect();
                let compensation = Compensation::new(&normal.moments(at..at + n), n);
                weights(&w, n, digits, to, compensation.as_ref())
            };
            let mut put = |what: &str, w: Weights| {
                out.weights(&format!("mode.{}.layers.{layer}.{what}", v.mode), &w);
                b.load(w)
            };
            let mut bias = mean.clone();
            let mut from_token = None;
            if v.ids && embed > 0 {
                // The first layer follows from the token alone, so its rounding is all that is wrong with it.
                let w = block(0, embed, if layer == 0 { Digits::Two } else { Digits::One });
                for (o, bias) in bias.iter_mut().enumerate() {
                    let row = &w.values[o * embed..(o + 1) * embed];
                    let sum: f64 = row.iter().zip(&centre).map(|(q, c)| *q as f64 * c).sum();
                    // The output's scale holds its fixed point.
                    *bias = saturate(*bias as i64 - fixed(sum * real(w.scales[o]), 0) as i64);
                }
                from_token = Some(put("embed", w)?);
            }
            let mut matrices = Vec::new();
            for i in 0..past.len() {
                let at = embed + 2 * width * i;
                matrices.push([
                    put(&format!("past.{}.key", i + 1), block(at, width, Digits::One))?,
                    put(&format!("past.{}.value", i + 1), block(at + width, width, Digits::One))?,
                ]);
            }
            v.layers.push(ChainLayer { mean: means.clone(), bias, embed: from_token, past: matrices });
        }
        Ok(())
    }
}

/// True keys (before RoPE) and values of a layer less their means, `[tokens, kv_heads * head_dim]`, sequence by sequence.
fn differences<B: Backend>(
    b: &B,
    about: &Description,
    pricer: &Pricer<'_, B>,
    steps: &[u64],
    sequences: &[Sequence],
    layer: usize,
    means: &[Vec<i32>; 2],
) -> Vec<[Vec<f32>; 2]> {
    let (hd, width) = (about.head_dim, about.kv_heads * about.head_dim);
    let back = Rotary { head_dim: hd, steps, start: 0, inverse: true };
    let one = |s: usize, part: Part| {
        let unit = (-about.exponents[layer][part as usize] as f64).exp2();
        let tokens = sequences[s].cache.tokens;
        let mut all = vec![0.0f32; tokens * width];
        for head in 0..about.kv_heads {
            let x = pricer.truth(b, s, (layer, part, head), &back);
            for (all, x) in all.chunks_exact_mut(width).zip(x.chunks_exact(hd)) {
                let mean = &means[part as usize][head * hd..][..hd];
                all[head * hd..][..hd]
                    .iter_mut()
                    .zip(x.iter().zip(mean))
                    .for_each(|(d, (x, m))| *d = (*x as f64 - *m as f64 * unit) as f32);
            }
        }
        all
    };
    (0..sequences.len()).map(|s| [one(s, Part::Key), one(s, Part::Value)]).collect()
}
