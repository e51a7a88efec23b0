//! The closed loop inside one layer: each coded plane improves the predictions of those after it (numerics.md, section 9).

use alloc::vec::Vec;

use speckv_codec_core::Part;

use crate::backend::{Backend, Keep, Quantise, Rotary, Seen, Store};
use crate::data::Digits;
use crate::error::Error;
use crate::profile::{Description, ProfileFile};

/// One layer of a run: predictions, innovations and true values of its planes. Keys are kept before RoPE where they are summed up.
pub struct Layer<'a, B: Backend> {
    about: &'a Description,
    steps: &'a [u64],
    residual: Digits,
    closed: bool,
    start: usize,
    tokens: usize,
    prediction: Option<B::Ints>,
    innovation: [Option<B::Ints>; 2],
    value: [Option<B::Ints>; 2],
}

impl<'a, B: Backend> Layer<'a, B> {
    /// Of no run yet. `residual`: digits of innovations; `closed`: whether what planes were is learnt at all.
    pub fn new(about: &'a Description, steps: &'a [u64], residual: Digits, closed: bool) -> Self {
        Layer {
            about,
            steps,
            residual,
            closed,
            start: 0,
            tokens: 0,
            prediction: None,
            innovation: [None, None],
            value: [None, None],
        }
    }

    /// Starts a run of `tokens` tokens at position `start`.
    pub fn begin(&mut self, start: usize, tokens: usize) {
        (self.start, self.tokens) = (start, tokens);
    }

    /// Tokens of the run.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Position of the run's first token.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Columns of a part: all heads.
    pub fn width(&self) -> usize {
        self.about.kv_heads * self.about.head_dim
    }

    /// The rotation of the run's positions, or back.
    pub fn rotary(&self, inverse: bool) -> Rotary<'a> {
        Rotary { head_dim: self.about.head_dim, steps: self.steps, start: self.start as u64, inverse }
    }

    /// First column of a plane among the layer's predictions.
    pub fn column(&self, part: Part, head: usize) -> usize {
        part as usize * self.width() + head * self.about.head_dim
    }

    /// Starts a layer from first predictions, `[tokens, 2 * kv_heads * head_dim]`, keys before RoPE.
    pub fn begin_layer(&mut self, b: &B, prediction: B::Ints) {
        let (tokens, width) = (self.tokens, self.width());
        let old = self.innovation.iter_mut().chain(&mut self.value).chain([&mut self.prediction]);
        old.filter_map(Option::take).for_each(|x| b.reuse(x));
        let room = || self.closed.then(|| b.room(tokens, width));
        (self.innovation, self.value) = ([room(), room()], [room(), room()]);
        self.prediction = Some(prediction);
    }

    /// The layer's predictions so far.
    pub fn prediction(&self) -> &B::Ints {
        self.prediction.as_ref().expect("a layer has begun")
    }

    /// The layer's innovations so far of a part, keys before RoPE. In a closed loop only.
    pub fn innovation(&self, part: Part) -> &B::Ints {
        self.innovation[part as usize].as_ref().expect("a layer has begun")
    }

    /// Takes the layer's true values of both parts, keys as cached (after RoPE). In a closed loop only.
    pub fn take_values(&mut self) -> [B::Ints; 2] {
        [0, 1].map(|p| self.value[p].take().expect("a layer has begun"))
    }

    /// The prediction of a plane, keys after RoPE.
    pub fn predict(&self, b: &B, part: Part, head: usize) -> B::Ints {
        let at = self.column(part, head);
        let columns = at..at + self.about.head_dim;
        match part {
            Part::Key => b.rope(self.prediction(), columns, &self.rotary(false)),
            Part::Value => b.columns(self.prediction(), columns),
        }
    }

    /// Learns a plane; returns the log-energy of its innovations and, if asked, the innovations (keys before RoPE) as digits, for
    /// [`Layer::regress`]. In an open loop nothing is kept and there are no digits.
    pub fn observe(
        &mut self,
        b: &B,
        (layer, part, head): (usize, Part, usize),
        seen: &Seen<'_, B>,
        digits: bool,
    ) -> (B::Ints, Option<B::Rows>) {
        let (hd, exponent) = (self.about.head_dim, self.about.exponents[layer][part as usize]);
        let back = (part == Part::Key).then(|| self.rotary(true));
        let p = part as usize;
        let keep = match (&mut self.innovation[p], &mut self.value[p]) {
            (Some(innovation), Some(value)) => Some(Keep {
                innovation,
                value,
                column: head * hd,
                back,
                digits: digits.then(|| Quantise::rows(hd, self.residual, exponent)),
            }),
            _ => None,
        };
        b.learn(seen, keep)
    }

    /// Adds a plane's innovations, through `matrix`, to the layer's predictions from `column` on.
    pub fn regress(&mut self, b: &B, innovation: &B::Rows, column: usize, matrix: &B::Matrix) {
        let prediction = self.prediction.as_mut().expect("a layer has begun");
        b.gemm(innovation, matrix, None, Store { column, add: true }, prediction);
    }

    /// Learns a plane and improves the predictions of those after it, in a closed loop; returns the log-energy of its innovations.
    pub fn learn(
        &mut self,
        b: &B,
        (layer, part, head): (usize, Part, usize),
        seen: &Seen<'_, B>,
        regress: &Regress<B>,
    ) -> B::Ints {
        let matrix = regress.get(part, head);
        let (energy, rows) = self.observe(b, (layer, part, head), seen, matrix.is_some());
        if let (Some(rows), Some(matrix)) = (rows, matrix) {
            let column = self.column(part, head) + self.about.head_dim;
            self.regress(b, &rows, column, matrix);
            b.reuse_rows(rows);
        }
        energy
    }
}

/// For each plane of a layer but the last: from its innovations to all later planes, `[later * head_dim, head_dim]`.
pub struct Regress<B: Backend>(Vec<B::Matrix>);

impl<B: Backend> Regress<B> {
    /// The regression from a plane to those after it; none after the last, or in an open loop.
    pub fn get(&self, part: Part, head: usize) -> Option<&B::Matrix> {
        let heads = self.0.len().div_ceil(2);
        self.0.get(part as usize * heads + head)
    }

    /// Loads those of all layers of a mode.
    pub fn load(b: &B, file: &ProfileFile<'_>, mode: usize) -> Result<Vec<Self>, Error> {
        let d = &file.description;
        let planes = if d.modes[mode].feedback { 2 * d.kv_heads } else { 1 };
        let one = |l: usize, j: usize| {
            let name = file.mode_tensor(mode, l, &alloc::format!("regress.{j}"));
            b.load(file.weights(&name, (planes - 1 - j) * d.head_dim, d.head_dim)?)
        };
        (0..d.layers)
            .map(|l| (0..planes - 1).map(|j| one(l, j)).collect::<Result<_, _>>().map(Regress))
            .collect()
    }
}
