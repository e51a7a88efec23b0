//! Builds the draft network and fits its closed loop, layer by layer, in lock-step with the integer predictor over all sequences.

use std::sync::Arc;

use speckv_codec_core::Part;
use speckv_predictor::backend::Backend;
use speckv_predictor::data::{Digits, Weights};
use speckv_predictor::draft::{NetLayer, Rest, State};
use speckv_predictor::profile::{Description, Kind, Mode, NamedDigits, Precision, ProfileWriter};

use crate::corpus::Sequence;
use crate::embed::Table;
use crate::fold::{Fold, Matrix, hadamard_real, normalised, value_peak};
use crate::linalg::Moments;
use crate::mode::{Ablation, Pricer};
use crate::planes::reals;
use crate::quantise::{Compensation, fixed, real, weights};
use crate::regression::Regression;
use crate::{Error, Progress, RESIDUAL};

/// What the names of open-loop precisions end with.
pub const OPEN: &str = "-open";

/// All that a pass over the layers shares.
struct Pass<'a, B: Backend> {
    b: &'a B,
    about: &'a Description,
    net: usize,
    sequences: &'a [Sequence],
    states: Vec<State<'a, B>>,
    pricer: Pricer<'a, B>,
}

/// The networks under construction: the weights of each are rounded during its first fit, with the inputs that they see there; later fits run it
/// as it is. Matrices of as many digits as the first network's are the first network's.
pub struct Networks<'a, B: Backend> {
    fold: &'a Fold<'a>,
    layers: Vec<Vec<NetLayer<B>>>,
    names: Vec<NamedDigits>,
    without: Ablation,
}

/// Makes a network's matrices, or takes those of the first network.
struct Maker<'m, B: Backend> {
    b: &'m B,
    net: usize,
    layer: usize,
    digits: NamedDigits,
    first: Option<(NamedDigits, &'m NetLayer<B>)>,
    out: &'m mut ProfileWriter,
}

impl<B: Backend> Maker<'_, B> {
    /// The matrix `what`: `digits` and `taken` pick it from a precision and from the first network's layer.
    fn matrix(
        &mut self,
        what: &str,
        digits: impl Fn(&NamedDigits) -> usize,
        taken: impl Fn(&NetLayer<B>) -> Option<Arc<B::Matrix>>,
        make: impl FnOnce(Digits) -> Result<Weights, Error>,
    ) -> Result<Arc<B::Matrix>, Error> {
        let n = digits(&self.digits);
        if let Some((named, layer)) = self.first
            && digits(&named) == n
            && let Some(matrix) = taken(layer)
        {
            return Ok(matrix);
        }
        let w = make(if n == 1 { Digits::One } else { Digits::Two })?;
        self.out.weights(&format!("net.{}.layers.{}.{what}", self.net, self.layer), &w);
        Ok(Arc::new(self.b.load(w)?))
    }

    /// A per-head norm: the same in every network, written with the first.
    fn norm(&mut self, what: &str, norm: &[(i16, i16)]) {
        if self.first.is_none() {
            self.out.signed_scales(&format!("net.{}.layers.{}.{what}", self.net, self.layer), norm);
        }
    }
}

impl<'a, B: Backend> Networks<'a, B> {
    /// None yet.
    pub fn new(fold: &'a Fold<'a>, without: Ablation) -> Self {
        Networks { fold, layers: Vec::new(), names: Vec::new(), without }
    }

    /// Describes the network of a precision, with fixed points from bounds of the target's matrices and the target's states.
    fn describe(
        &mut self,
        about: &mut Description,
        sequences: &[Sequence],
        named: NamedDigits,
        exponent: i32,
    ) -> Result<usize, Error> {
        if let Some(net) = self.names.iter().position(|n| n.name == named.name) {
            return Ok(net);
        }
        let mut net = match about.nets.first() {
            Some(first) => first.clone(),
            None => {
                let mut net = self.fold.net(exponent);
                for layer in 0..about.layers {
                    let peak = value_peak(sequences, layer, about.head_dim);
                    net.layers.push(self.fold.exponents(layer, about, peak)?);
                }
                net
            }
        };
        // The scale of a value row that the fixed point was chosen for gets finer with its digits.
        let finer = 8 * (named.activations.attention as i32 - net.digits.attention as i32);
        net.layers.iter_mut().for_each(|l| l.value_scale += finer);
        net.digits = named.activations;
        net.base = (!self.names.is_empty()).then_some(0);
        about.nets.push(net);
        self.names.push(named);
        self.layers.push(Vec::new());
        Ok(self.names.len() - 1)
    }

    /// Adds a draft mode for the sequences' class of caches: a named precision, in closed loop or open.
    #[allow(clippy::too_many_arguments)]
    pub fn fit(
        &mut self,
        b: &B,
        about: &mut Description,
        out: &mut ProfileWriter,
        steps: &[u64],
        sequences: &[Sequence],
        table: &Table,
        (named, feedback): (NamedDigits, bool),
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let net = self.describe(about, sequences, named, table.about.exponent)?;
        let mode = about.modes.len();
        let class = Precision::of(sequences[0].cache.format);
        let precision = if feedback { named.name.to_owned() } else { format!("{}{OPEN}", named.name) };
        let stage = format!("fit {precision}, {}", if class == Precision::Fine { "16-bit" } else { "fp8" });
        about.modes.push(Mode {
            kind: Kind::Draft,
            precision,
            class,
            net: Some(net),
            residual_digits: RESIDUAL.count(),
            feedback,
            base: None,
            depth: 0,
            ids: true,
        });
        let about = &*about;
        let first = self.layers[net].is_empty();
        let mut run = Pass::new(b, about, steps, sequences, table, mode, self.without)?;
        for layer in 0..about.layers {
            progress(&stage, layer as u64, about.layers as u64);
            if first {
                let (before, own) = self.layers.split_at_mut(net);
                let digits = named;
                let first = before.first().map(|layers| (self.names[0], &layers[layer]));
                let mut maker = Maker { b, net, layer, digits, first, out };
                own[0].push(run.first_matrices(self.fold, &mut maker)?);
            }
            run.predict_layer(layer, &self.layers[net][layer], self.fold, feedback, out, mode)?;
            if layer + 1 < about.layers {
                let (before, own) = self.layers.split_at_mut(net);
                if first {
                    let first = before.first().map(|layers| (self.names[0], &layers[layer]));
                    let mut maker = Maker { b, net, layer, digits: named, first, out };
                    run.first_rest(self.fold, &mut own[0][layer], &mut maker)?;
                } else {
                    run.rest(layer, &own[0][layer]);
                }
            }
            run.pricer.end_layer(feedback);
        }
        run.pricer.tables.save(out, mode);
        Ok(())
    }
}

fn with_bias(
    m: &Matrix,
    digits: Digits,
    exponent: impl Fn(usize) -> i32 + Sync,
    c: Option<&Compensation>,
) -> Weights {
    // Two digits leave nothing worth compensating.
    let c = c.filter(|_| digits == Digits::One);
    let mut w = weights(&m.w, m.inp, digits, &exponent, c);
    w.bias =
        m.bias.as_ref().map(|b| b.iter().enumerate().map(|(o, v)| fixed(*v as f64, exponent(o))).collect());
    w
}

impl<'a, B: Backend> Pass<'a, B> {
    fn new(
        b: &'a B,
        about: &'a Description,
        steps: &'a [u64],
        sequences: &'a [Sequence],
        table: &Table,
        mode: usize,
        without: Ablation,
    ) -> Result<Self, Error> {
        let mut states = Vec::new();
        for s in sequences {
            let mut state = State::new(about, &about.modes[mode], steps);
            state.begin(0, b.upload(table.rows(&s.ids)), s.ids.len());
            states.push(state);
        }
        let net = about.modes[mode].net.unwrap_or(0);
        Ok(Pass { b, about, net, sequences, states, pricer: Pricer::new(about, sequences, without)? })
    }

    /// The K and V projections of a layer.
    fn first_matrices(&self, fold: &Fold<'_>, maker: &mut Maker<'_, B>) -> Result<NetLayer<B>, Error> {
        let (net, layer) = (&self.about.nets[self.net], maker.layer);
        let ([key, value], e) = (self.about.exponents[layer], net.layers[layer]);
        let width = self.about.kv_heads * self.about.head_dim;
        let kv = maker.matrix(
            "kv",
            |d| d.weights.kv,
            |l| Some(l.kv.clone()),
            |digits| {
                let c = if digits == Digits::One { self.stream_moments() } else { None };
                Ok(with_bias(
                    &fold.kv(layer)?,
                    digits,
                    |o| if o < width { e.raw_key } else { value },
                    c.as_ref(),
                ))
            },
        )?;
        let key_norm = net.qk_norm.then(|| fold.head_norm(layer, "k_norm", key - e.raw_key)).transpose()?;
        if let Some(norm) = &key_norm {
            maker.norm("key_norm", norm);
        }
        Ok(NetLayer { kv, key_norm, rest: None })
    }

    /// Predicts and observes all planes of a layer in every sequence, fitting regressions, prices and gains, then corrects the hidden states.
    fn predict_layer(
        &mut self,
        layer: usize,
        weights_of: &NetLayer<B>,
        fold: &Fold<'_>,
        feedback: bool,
        out: &mut ProfileWriter,
        mode: usize,
    ) -> Result<(), Error> {
        let b = self.b;
        self.states.iter_mut().for_each(|s| s.begin_layer(b, layer, weights_of));
        let mut begun: Vec<_> = self.states.iter_mut().map(State::parts).collect();
        let regress = crate::planes::fit(b, self.about, layer, &mut begun, &mut self.pricer, feedback)?;
        for (j, w) in regress.iter().enumerate() {
            out.weights(&format!("mode.{mode}.layers.{layer}.regress.{j}"), w);
        }
        if feedback && layer + 1 < self.about.layers {
            for (w, what) in self.gains(layer, fold)?.iter().zip(["gain.key", "gain.value"]) {
                out.weights(&format!("mode.{mode}.layers.{layer}.{what}"), w);
            }
        }
        Ok(())
    }

    /// Fits and applies the correction of the residual stream by a layer's innovations.
    fn gains(&mut self, layer: usize, fold: &Fold<'_>) -> Result<[Weights; 2], Error> {
        let (b, about) = (self.b, self.about);
        let (width, net) = (about.kv_heads * about.head_dim, &about.nets[self.net]);
        let mut regression = Regression::new(2 * width, net.hidden);
        for (state, sequence) in self.states.iter().zip(self.sequences) {
            let [key, value] = [Part::Key, Part::Value]
                .map(|p| reals(&b.download(state.layer.innovation(p)), about.exponents[layer][p as usize]));
            let x = key
                .chunks_exact(width)
                .zip(value.chunks_exact(width))
                .flat_map(|(k, v)| [k, v].concat())
                .collect();
            let now = reals(&b.download(state.hidden()), net.hidden_exponent);
            let mut y = fold.rotate(&sequence.hidden(layer));
            for ((y, now), rms) in y
                .chunks_exact_mut(net.hidden)
                .zip(now.chunks_exact(net.hidden))
                .zip(&b.download_scales(state.rms()))
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

    /// Second moments of the normalised residual stream.
    fn stream_moments(&self) -> Option<Compensation> {
        let net = &self.about.nets[self.net];
        self.moments(net.hidden, |s, _| {
            normalised(reals(&self.b.download(s.hidden()), net.hidden_exponent), net.hidden)
        })
    }

    /// Attention and MLP of a layer in every sequence.
    fn rest(&mut self, layer: usize, weights_of: &NetLayer<B>) {
        for state in &mut self.states {
            if let Some(rest) = &weights_of.rest {
                state.rest(self.b, layer, rest);
            }
            state.forget(layer);
        }
    }

    /// The same while rounding the weights on the way.
    fn first_rest(
        &mut self,
        fold: &Fold<'_>,
        weights_of: &mut NetLayer<B>,
        maker: &mut Maker<'_, B>,
    ) -> Result<(), Error> {
        let (b, about, layer) = (self.b, self.about, maker.layer);
        let net = &about.nets[self.net];
        let e = net.layers[layer];
        let taken =
            |l: &NetLayer<B>, pick: fn(&Rest<B>) -> &Arc<B::Matrix>| l.rest.as_ref().map(|r| pick(r).clone());

        let q = maker.matrix(
            "q",
            |d| d.weights.q,
            |l| taken(l, |r| &r.q),
            |digits| Ok(with_bias(&fold.q(layer)?, digits, |_| e.raw_query, self.stream_moments().as_ref())),
        )?;
        let query_norm =
            net.qk_norm.then(|| fold.head_norm(layer, "q_norm", e.query - e.raw_query)).transpose()?;
        let mixed: Vec<B::Ints> =
            self.states.iter_mut().map(|s| s.attend(b, layer, &q, query_norm.as_deref())).collect();
        let o = maker.matrix(
            "o",
            |d| d.weights.o,
            |l| taken(l, |r| &r.o),
            |digits| {
                let c = self
                    .moments(net.heads * about.head_dim, |_, s| reals(&b.download(&mixed[s]), e.attention));
                Ok(with_bias(&fold.o(layer)?, digits, |_| net.hidden_exponent, c.as_ref()))
            },
        )?;
        self.states.iter_mut().zip(&mixed).for_each(|(s, m)| s.output(b, layer, m, &o));
        drop(mixed);

        let gate_up = maker.matrix(
            "gate_up",
            |d| d.weights.gate_up,
            |l| taken(l, |r| &r.gate_up),
            |digits| {
                let to = |o: usize| if o < net.ffn { e.gate } else { e.up };
                Ok(with_bias(&fold.gate_up(layer)?, digits, to, self.stream_moments().as_ref()))
            },
        )?;
        let act: Vec<B::Ints> =
            self.states.iter().map(|s| b.silu(&s.gate_up(b, &gate_up), s.silu(layer))).collect();
        let down = maker.matrix(
            "down",
            |d| d.weights.down,
            |l| taken(l, |r| &r.down),
            |digits| {
                let c = self.moments(net.ffn, |_, s| {
                    let mut x = reals(&b.download(&act[s]), e.act);
                    hadamard_real(&mut x, net.hadamard_down);
                    x
                });
                let w = fold.down(layer, net.hadamard_down)?;
                Ok(with_bias(&w, digits, |_| net.hidden_exponent, c.as_ref()))
            },
        )?;
        self.states.iter_mut().zip(&act).for_each(|(s, a)| {
            let rows = b.quantise(a, &s.down_digits(layer));
            s.down(b, &rows, &down);
        });
        if let Some(norm) = &query_norm {
            maker.norm("query_norm", norm);
        }
        self.states.iter_mut().for_each(|s| s.forget(layer));
        weights_of.rest = Some(Rest { q, query_norm, o, gate_up, down });
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
