//! One mode being fitted: pricing tables filled plane by plane, from predictions of all sequences.

use speckv_codec_core::{Geometry, Part, Shape};
use speckv_predictor::Backend;
use speckv_predictor::backend::{Pricing, Rotary, Seen};
use speckv_predictor::coding::CodingTables;
use speckv_predictor::predict::{Energies, TOKEN_FEATURES, Units};
use speckv_predictor::profile::Description;

use crate::Error;
use crate::corpus::{Sequence, scale_bits};
use crate::plane::{PlaneSample, fit};
use crate::planes::reals;
use crate::shape::ShapeFit;

/// Cells of a (layer, part) that its shape is fitted to, about.
const SHAPE_SAMPLE: usize = 120_000;

/// What to leave out of pricing, to see what it buys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ablation {
    /// No scale per token: the channel's alone.
    pub token_scale: bool,
    /// Student's t with four degrees of freedom everywhere, the law that scales are fitted under, instead of fitted shapes.
    pub shapes: bool,
}

/// Tables under construction, with the energies of every sequence.
pub struct Pricer<'a, B: Backend> {
    /// The tables.
    pub tables: CodingTables,
    sequences: &'a [Sequence],
    exponents: Vec<[i32; 2]>,
    units: Vec<Units>,
    energies: Vec<Energies<B>>,
    shapes: ShapeFit,
    geometry: Geometry,
    without: Ablation,
}

impl<'a, B: Backend> Pricer<'a, B> {
    /// Neutral tables.
    pub fn new(about: &Description, sequences: &'a [Sequence], without: Ablation) -> Result<Self, Error> {
        let g = about.geometry();
        let units = |s: &Sequence| {
            let bits = scale_bits(&s.cache);
            match bits.len() {
                0 => Ok(Units::one()),
                n => Units::from_scales(&bits, n / (2 * g.layers), g.kv_heads),
            }
        };
        Ok(Pricer {
            tables: CodingTables::new(g, Shape::gaussian()),
            sequences,
            exponents: about.exponents.clone(),
            units: sequences.iter().map(units).collect::<Result<_, _>>()?,
            energies: sequences.iter().map(|_| Energies::default()).collect(),
            shapes: ShapeFit::default(),
            geometry: g,
            without,
        })
    }

    /// Fits one plane to its predictions in every sequence, then lets `learn` see its truth under that fit, sequence by sequence, and keeps the
    /// log-energies that it returns.
    pub fn plane(
        &mut self,
        b: &B,
        (layer, part, head): (usize, Part, usize),
        means: &[B::Ints],
        powers: &[Option<[&B::Ints; 2]>],
        mut learn: impl FnMut(usize, &Seen<'_, B>) -> B::Ints,
    ) {
        let hd = self.geometry.head_dim;
        let total: usize = self.sequences.iter().map(|s| s.cache.tokens).sum();
        let stride = PlaneSample::stride(total);
        let codes: Vec<Vec<u16>> = self.sequences.iter().map(|s| s.codes(layer, part, head)).collect();
        let mut sample = PlaneSample::default();
        let empty = [];
        let shape = Shape::gaussian();
        let pricing = |s: usize, channel| Pricing {
            format: self.sequences[s].cache.format,
            unit: self.units[s].get(layer, part, head),
            exponent: self.exponents[layer][part as usize],
            channel,
            shape: &shape,
        };
        for (s, sequence) in self.sequences.iter().enumerate() {
            let mu = b.download(&means[s]);
            let features: Vec<(Vec<i32>, usize)> = self.energies[s]
                .features(part, powers[s])
                .into_iter()
                .map(|(f, i)| (b.download(f).data, i))
                .collect();
            // A phase that differs from sequence to sequence, so that all positions are seen.
            for t in (s % stride..sequence.cache.tokens).step_by(stride) {
                let mut sums = [0.0; TOKEN_FEATURES];
                let features = features.iter().filter(|_| !self.without.token_scale);
                features.for_each(|(f, i)| sums[*i] += f[t] as f64 / 4096.0);
                sample.push(&pricing(s, &empty), mu.row(t), &codes[s][t * hd..(t + 1) * hd], sums);
            }
        }
        let fitted = fit(&sample, hd);
        let per_plane = SHAPE_SAMPLE / self.geometry.kv_heads;
        self.shapes.add(&sample, &fitted, (sample.features.len() * hd).div_ceil(per_plane).max(1));
        self.tables.channel_mut(layer, part, head).copy_from_slice(&fitted.channel);
        self.tables.token_mut(layer, part, head).copy_from_slice(&fitted.token);
        for (s, codes) in codes.into_iter().enumerate() {
            let rows = self.sequences[s].cache.tokens;
            let token =
                &self.energies[s].scale(b, rows, part, powers[s], self.tables.token(layer, part, head));
            let pricing = &pricing(s, self.tables.channel(layer, part, head));
            let seen = Seen { pricing, mu: &means[s], token, codes: &b.upload_codes(codes) };
            let energy = learn(s, &seen);
            self.energies[s].push(part, energy);
        }
        if head + 1 == self.geometry.kv_heads {
            let mut shape = std::mem::take(&mut self.shapes).fit();
            if self.without.shapes {
                let law = *ShapeFit::default().fit().knots();
                shape = Shape::new(law, shape.escape()).unwrap_or(shape);
            }
            self.tables.shapes[2 * layer + part as usize] = shape;
        }
    }

    /// Ends a layer; with `learns` its energies tell the next layer something (see [`speckv_predictor::Predict::learns`]).
    pub fn end_layer(&mut self, learns: bool) {
        self.energies.iter_mut().for_each(if learns { Energies::end_layer } else { Energies::clear });
    }

    /// True values of a plane in a sequence as reals, keys rotated by `back`.
    pub fn truth(
        &self,
        b: &B,
        sequence: usize,
        (layer, part, head): (usize, Part, usize),
        back: &Rotary,
    ) -> Vec<f32> {
        let mut x = self.values(b, sequence, (layer, part, head));
        if part == Part::Key {
            x = b.rope(&x, 0..self.geometry.head_dim, back);
        }
        reals(&b.download(&x), self.exponents[layer][part as usize])
    }

    /// True values of a plane in a sequence.
    pub fn values(&self, b: &B, sequence: usize, (layer, part, head): (usize, Part, usize)) -> B::Ints {
        let s = &self.sequences[sequence];
        let unit = self.units[sequence].get(layer, part, head);
        let exponent = self.exponents[layer][part as usize];
        let codes = b.upload_codes(s.codes(layer, part, head));
        b.values(&codes, self.geometry.head_dim, s.cache.format, unit, exponent)
    }
}
