//! Builds the draft network and fits its closed loop, layer by layer, in lock-step with the integer predictor over all sequences.

use speckv_capture::ModelSource;
use speckv_codec_core::Part;
use speckv_predictor::backend::{Backend, Rotary};
use speckv_predictor::data::{Digits, Ints, Weights};
use speckv_predictor::draft::{NetLayer, State};
use speckv_predictor::profile::{Description, Kind, Mode, Precision, ProfileWriter};

use crate::corpus::Sequence;
use crate::fold::{Fold, Matrix, hadamard_real, normalised, value_peak};
use crate::linalg::Moments;
use crate::mode::Pricer;
use crate::quantise::{Compensation, fixed, real, weights};
use crate::regression::Regression;
use crate::{Error, Options, Progress};

/// Name of the default precision.
const PRECISION: &str = "w8a8+kv16";
/// Digits of residuals entering regressions and gains.
const RESIDUAL: Digits = Digits::Two;
/// All that a pass over the layers shares.
struct Pass<'a, B: Backend> {
    b: &'a B,
    about: &'a Description,
    steps: &'a [u64],
    sequences: &'a [Sequence],
    states: Vec<State<'a, B>>,
    pricer: Pricer<'a, B>,
}

/// The feedback of one layer as weights.
struct LayerFeedback {
    regress: Vec<Weights>,
    gain: [Weights; 2],
}

/// The draft network under construction: its weights are rounded during the first fit, with the inputs that they see there; later fits run it
/// as it is.
pub struct Network<'a, B: Backend> {
    fold: Fold<'a>,
    embed: Weights,
    layers: Vec<NetLayer<B>>,
}

impl<'a, B: Backend> Network<'a, B> {
    /// Chooses bases and fixed points from the target's own states over 16-bit sequences, and writes the embedding.
    pub fn begin(
        source: &'a ModelSource,
        about: &mut Description,
        out: &mut ProfileWriter,
        sequences: &[Sequence],
        options: &Options,
    ) -> Result<Self, Error> {
        let fold = Fold::new(source, sequences, options.seed)?;
        // The residual stream's peak over all layers, in the rotated basis.
        let mut peak = 0.0f32;
        for s in sequences {
            for layer in 0..about.layers {
                peak = fold.rotate(&s.hidden(layer)).iter().fold(peak, |m, v| m.max(v.abs()));
            }
        }
        let mut net = fold.net(peak as f64);
        for layer in 0..about.layers {
            net.layers.push(fold.exponents(layer, about, value_peak(sequences, layer, about.head_dim))?);
        }
        let exponent = net.hidden_exponent;
        let embed = weights(&fold.embedding()?, net.hidden, Digits::Two, |_| exponent, None);
        out.weights("net.0.embed", &embed);
        about.nets.push(net);
        Ok(Network { fold, embed, layers: Vec::new() })
    }

    /// Adds a draft mode for the sequences' class of caches.
    pub fn fit(
        mut self,
        b: &B,
        about: &mut Description,
        out: &mut ProfileWriter,
        steps: &[u64],
        sequences: &[Sequence],
        progress: Progress<'_>,
    ) -> Result<Self, Error> {
        let mode = about.modes.len();
        let class = Precision::of(sequences[0].cache.format);
        about.modes.push(Mode {
            kind: Kind::Draft,
            precision: PRECISION.into(),
            class,
            net: Some(0),
            residual_digits: RESIDUAL.count(),
        });
        let about = &*about;
        let first = self.layers.is_empty();
        let stage = if class == Precision::Fine { "fit draft, 16-bit" } else { "fit draft, fp8" };
        let mut run = Pass::new(b, about, steps, sequences, &self.embed)?;
        for layer in 0..about.layers {
            progress(stage, layer as u64, about.layers as u64);
            if first {
                self.layers.push(first_matrices(b, &self.fold, about, out, layer)?);
            }
            let feedback = run.predict_layer(layer, &self.layers[layer], &self.fold)?;
            for (j, w) in feedback.regress.iter().enumerate() {
                out.weights(&format!("mode.{mode}.layers.{layer}.regress.{j}"), w);
            }
            for (w, what) in feedback.gain.iter().zip(["gain.key", "gain.value"]) {
                out.weights(&format!("mode.{mode}.layers.{layer}.{what}"), w);
            }
            if layer + 1 < about.layers {
                run.rest(&self.fold, layer, &mut self.layers[layer], first.then_some(&mut *out))?;
            }
            run.pricer.end_layer();
        }
        run.pricer.tables.save(out, mode);
        Ok(self)
    }
}

/// The K and V projections of a layer, in two digits.
fn first_matrices<B: Backend>(
    b: &B,
    fold: &Fold<'_>,
    about: &Description,
    out: &mut ProfileWriter,
    layer: usize,
) -> Result<NetLayer<B>, Error> {
    let (net, [key, value]) = (&about.nets[0], about.exponents[layer]);
    let width = about.kv_heads * about.head_dim;
    let e = net.layers[layer];
    let kv = fold.kv(layer)?;
    let w = with_bias(&kv, Digits::Two, |o| if o < width { e.raw_key } else { value }, None);
    out.weights(&format!("net.0.layers.{layer}.kv"), &w);
    let key_norm = net.qk_norm.then(|| fold.head_norm(layer, "k_norm", key - e.raw_key)).transpose()?;
    if let Some(norm) = &key_norm {
        out.signed_scales(&format!("net.0.layers.{layer}.key_norm"), norm);
    }
    Ok(NetLayer { kv: b.load(w)?, key_norm, rest: None })
}

fn with_bias(
    m: &Matrix,
    digits: Digits,
    exponent: impl Fn(usize) -> i32 + Sync,
    c: Option<&Compensation>,
) -> Weights {
    let mut w = weights(&m.w, m.inp, digits, &exponent, c);
    w.bias =
        m.bias.as_ref().map(|b| b.iter().enumerate().map(|(o, v)| fixed(*v as f64, exponent(o))).collect());
    w
}

/// Fixed point to reals.
fn reals(x: &Ints, exponent: i32) -> Vec<f32> {
    let unit = (-exponent as f64).exp2();
    x.data.iter().map(|v| (*v as f64 * unit) as f32).collect()
}

impl<'a, B: Backend> Pass<'a, B> {
    fn new(
        b: &'a B,
        about: &'a Description,
        steps: &'a [u64],
        sequences: &'a [Sequence],
        embed: &Weights,
    ) -> Result<Self, Error> {
        let mut states = Vec::new();
        for s in sequences {
            let mut state = State::new(about, 0, RESIDUAL, steps);
            let data = s
                .ids
                .iter()
                .flat_map(|id| {
                    let id = *id as usize;
                    let row = &embed.values[id * embed.inp..(id + 1) * embed.inp];
                    let scale = embed.scales[id];
                    row.iter().map(move |q| {
                        speckv_predictor::fixed::scaled(*q as i32, scale, speckv_predictor::fixed::Scale::ONE)
                    })
                })
                .collect();
            state.begin(0, b.upload(Ints { rows: s.ids.len(), cols: embed.inp, data }), s.ids.len());
            states.push(state);
        }
        Ok(Pass { b, about, steps, sequences, states, pricer: Pricer::new(about, sequences)? })
    }

    /// True values of a plane, keys before RoPE, as reals.
    fn truth(&self, s: usize, (layer, part, head): (usize, Part, usize)) -> Vec<f32> {
        let hd = self.about.head_dim;
        let mut x = self.pricer.values(self.b, s, (layer, part, head));
        if part == Part::Key {
            x = self.b.rope(&x, 0..hd, &Rotary { head_dim: hd, steps: self.steps, start: 0, inverse: true });
        }
        reals(&self.b.download(&x), self.about.exponents[layer][part as usize])
    }

    /// Predicts and observes all planes of a layer in every sequence, fitting regressions, prices and gains, then corrects the hidden states.
    fn predict_layer(
        &mut self,
        layer: usize,
        weights_of: &NetLayer<B>,
        fold: &Fold<'_>,
    ) -> Result<LayerFeedback, Error> {
        let (b, hd, heads) = (self.b, self.about.head_dim, self.about.kv_heads);
        let exponents = self.about.exponents[layer];
        let planes: Vec<(Part, usize)> =
            [Part::Key, Part::Value].into_iter().flat_map(|p| (0..heads).map(move |h| (p, h))).collect();
        self.states.iter_mut().for_each(|s| s.begin_layer(b, layer, weights_of));
        // Innovations so far: digits for the backend, reals for the fits; [plane][sequence].
        let mut digits: Vec<Vec<B::Rows>> = Vec::new();
        let mut features: Vec<Vec<Vec<f32>>> = Vec::new();
        // blocks[j][k]: from plane j to plane j + 1 + k.
        let mut blocks: Vec<Vec<Vec<f32>>> = planes.iter().map(|_| Vec::new()).collect();
        for (j, &(part, head)) in planes.iter().enumerate() {
            if j > 0 {
                let mut regression = Regression::new(j * hd, hd);
                for (s, state) in self.states.iter().enumerate() {
                    let at = state.column(part, head);
                    let raw = reals(
                        &b.download(&b.columns(state.prediction(), at..at + hd)),
                        exponents[part as usize],
                    );
                    let mut y = self.truth(s, (layer, part, head));
                    y.iter_mut().zip(&raw).for_each(|(y, r)| *y -= r);
                    let tokens = y.len() / hd;
                    let mut x = vec![0.0; tokens * j * hd];
                    for (i, f) in features.iter().enumerate() {
                        for t in 0..tokens {
                            x[(t * j + i) * hd..][..hd].copy_from_slice(&f[s][t * hd..(t + 1) * hd]);
                        }
                    }
                    regression.add(x, y);
                }
                let w = regression.solve()?;
                for (i, rows) in digits.iter().enumerate() {
                    let block: Vec<f32> = w
                        .chunks_exact(j * hd)
                        .flat_map(|row| row[i * hd..(i + 1) * hd].iter().copied())
                        .collect();
                    let matrix =
                        b.load(weights(&block, hd, Digits::One, |_| exponents[part as usize], None))?;
                    for (state, rows) in self.states.iter_mut().zip(rows) {
                        let column = state.column(part, head);
                        state.regress(b, rows, column, &matrix);
                    }
                    blocks[i].push(block);
                }
            }
            let means: Vec<B::Ints> = self.states.iter().map(|s| s.predict(b, layer, part, head)).collect();
            let powers: Vec<_> = self.states.iter().map(|s| s.powers()).collect();
            let seen = self.pricer.plane(b, (layer, part, head), &means, &powers);
            let (mut rows, mut real) = (Vec::new(), Vec::new());
            for (s, observed) in seen.into_iter().enumerate() {
                self.pricer.push(s, part, observed.energy);
                rows.push(self.states[s].observe(b, layer, part, head, observed.truth));
                let all = self.states[s].innovation(part);
                let one = b.columns(all, head * hd..(head + 1) * hd);
                real.push(reals(&b.download(&one), exponents[part as usize]));
            }
            digits.push(rows);
            features.push(real);
        }
        let regress = blocks[..planes.len() - 1]
            .iter()
            .enumerate()
            .map(|(j, blocks)| {
                let to = |o: usize| exponents[planes[j + 1 + o / hd].0 as usize];
                weights(&blocks.concat(), hd, Digits::One, to, None)
            })
            .collect();
        let gain = self.gains(layer, fold)?;
        Ok(LayerFeedback { regress, gain })
    }

    /// Fits and applies the correction of the residual stream by a layer's innovations.
    fn gains(&mut self, layer: usize, fold: &Fold<'_>) -> Result<[Weights; 2], Error> {
        let (b, about) = (self.b, self.about);
        let (width, net) = (about.kv_heads * about.head_dim, &about.nets[0]);
        if layer + 1 == about.layers {
            return Ok([0, 1].map(|_| weights(&[], width, Digits::One, |_| 0, None)));
        }
        let mut regression = Regression::new(2 * width, net.hidden);
        for (state, sequence) in self.states.iter().zip(self.sequences) {
            let [key, value] = [Part::Key, Part::Value]
                .map(|p| reals(&b.download(state.innovation(p)), about.exponents[layer][p as usize]));
            let x = key
                .chunks_exact(width)
                .zip(value.chunks_exact(width))
                .flat_map(|(k, v)| [k, v].concat())
                .collect();
            let now = reals(&b.download(state.hidden()), net.hidden_exponent);
            let mut y = fold.rotate(&sequence.hidden(layer));
            for ((y, now), rms) in
                y.chunks_exact_mut(net.hidden).zip(now.chunks_exact(net.hidden)).zip(state.rms())
            {
                let share = if rms.m == 0 { 0.0 } else { 1.0 / real(*rms) };
                y.iter_mut().zip(now).for_each(|(y, n)| *y = ((*y - n) as f64 * share) as f32);
            }
            regression.add(x, y);
        }
        let w = regression.solve()?;
        let mut out = Vec::new();
        for (p, part) in [Part::Key, Part::Value].into_iter().enumerate() {
            let block: Vec<f32> = w
                .chunks_exact(2 * width)
                .flat_map(|row| row[p * width..(p + 1) * width].iter().copied())
                .collect();
            let matrix = weights(&block, width, Digits::One, |_| net.hidden_exponent, None);
            let packed = b.load(matrix.clone())?;
            self.states.iter_mut().for_each(|s| s.correct(b, layer, part, &packed));
            out.push(matrix);
        }
        let [a, b] = [out.remove(0), out.remove(0)];
        Ok([a, b])
    }

    /// Second moments of what a step reads, over all sequences.
    fn moments(
        &self,
        cols: usize,
        rows_of: impl Fn(&State<'a, B>, usize) -> Vec<f32>,
    ) -> Option<Compensation> {
        let mut m = Moments::new(cols, cols);
        for (s, state) in self.states.iter().enumerate() {
            let x = rows_of(state, s);
            m.add(&x, &x);
        }
        Compensation::new(m.sum(), cols)
    }

    /// Attention and MLP of a layer in every sequence; on the first pass (`out` given) rounds its weights on the way.
    fn rest(
        &mut self,
        fold: &Fold<'_>,
        layer: usize,
        weights_of: &mut NetLayer<B>,
        out: Option<&mut ProfileWriter>,
    ) -> Result<(), Error> {
        let (b, about) = (self.b, self.about);
        if let Some(rest) = &weights_of.rest {
            for state in &mut self.states {
                state.rest(b, layer, rest);
                state.forget(layer);
            }
            return Ok(());
        }
        let Some(out) = out else { return Ok(()) };
        let net = &about.nets[0];
        let e = net.layers[layer];
        let name = |what: &str| format!("net.0.layers.{layer}.{what}");
        let mut load = |what: &str, w: Weights| {
            out.weights(&name(what), &w);
            b.load(w)
        };
        let stream = |s: &State<'a, B>, _: usize| {
            normalised(reals(&b.download(s.hidden()), net.hidden_exponent), net.hidden)
        };

        let c = self.moments(net.hidden, stream);
        let q = load("q", with_bias(&fold.q(layer)?, Digits::One, |_| e.raw_query, c.as_ref()))?;
        let query_norm =
            net.qk_norm.then(|| fold.head_norm(layer, "q_norm", e.query - e.raw_query)).transpose()?;
        let mixed: Vec<B::Ints> =
            self.states.iter_mut().map(|s| s.attend(b, layer, &q, query_norm.as_deref())).collect();
        let wide = net.heads * about.head_dim;
        let c = self.moments(wide, |_, s| reals(&b.download(&mixed[s]), e.attention));
        let o = load("o", with_bias(&fold.o(layer)?, Digits::One, |_| net.hidden_exponent, c.as_ref()))?;
        self.states.iter_mut().zip(&mixed).for_each(|(s, m)| s.output(b, layer, m, &o));
        drop(mixed);

        let c = self.moments(net.hidden, stream);
        let both = fold.gate_up(layer)?;
        let to = |o: usize| if o < net.ffn { e.gate } else { e.up };
        let gate_up = load("gate_up", with_bias(&both, Digits::One, to, c.as_ref()))?;
        let act: Vec<B::Ints> = self.states.iter().map(|s| s.activate(b, layer, &gate_up)).collect();
        let c = self.moments(net.ffn, |_, s| {
            let mut x = reals(&b.download(&act[s]), e.act);
            hadamard_real(&mut x, net.hadamard_down);
            x
        });
        let w = fold.down(layer, net.hadamard_down)?;
        let down = load("down", with_bias(&w, Digits::One, |_| net.hidden_exponent, c.as_ref()))?;
        self.states.iter_mut().zip(&act).for_each(|(s, a)| s.down(b, layer, a, &down));
        if let Some(norm) = &query_norm {
            out.signed_scales(&name("query_norm"), norm);
        }
        self.states.iter_mut().for_each(|s| s.forget(layer));
        weights_of.rest = Some(speckv_predictor::draft::Rest { q, query_norm, o, gate_up, down });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_rows_have_unit_mean_square() {
        let x = normalised(vec![3.0, 4.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], 4);
        assert!(x.chunks_exact(4).all(|r| (r.iter().map(|v| v * v).sum::<f32>() / 4.0 - 1.0).abs() < 1e-5));
    }
}
