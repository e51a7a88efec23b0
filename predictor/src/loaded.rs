//! One mode of a profile, ready to predict.

use alloc::boxed::Box;
use alloc::vec::Vec;

use speckv_codec_core::ElementFormat;

use crate::backend::Backend;
use crate::chain::{Chain, LoadedChain};
use crate::coding::CodingTables;
use crate::draft::{Draft, Feedback, LoadedNet};
use crate::error::Error;
use crate::predict::{Before, Predict, Units};
use crate::profile::{Embedded, Kind, Mode, ProfileFile};
use crate::session::Session;
use crate::stat::Static;

/// A mode of a profile, its weights packed for a backend.
pub struct LoadedMode<'a, B: Backend> {
    pub(crate) file: &'a ProfileFile<'a>,
    mode: usize,
    tables: CodingTables,
    steps: Vec<u64>,
    weights: Loaded<B>,
}

/// The weights of a predictor.
enum Loaded<B: Backend> {
    /// Means, `[layer][part]`.
    Static(Vec<[Vec<i32>; 2]>),
    Chain(LoadedChain<B>, Option<Embedded<B>>),
    Draft(LoadedNet<B>, Feedback<B>, Embedded<B>),
}

impl<'a, B: Backend> LoadedMode<'a, B> {
    /// Loads what predictor `kind` in `precision` needs for caches of `format`.
    pub fn load(
        b: &B,
        file: &'a ProfileFile<'a>,
        kind: Kind,
        precision: &str,
        format: ElementFormat,
    ) -> Result<Self, Error> {
        let d = &file.description;
        let mode = d.mode(kind, precision, format)?;
        let about = &d.modes[mode];
        let weights = match (kind, about.net) {
            (Kind::Draft, Some(n)) => Loaded::Draft(
                LoadedNet::load(b, file, n)?,
                Feedback::load(b, file, mode, n)?,
                file.embedding(b)?,
            ),
            (Kind::Chain, _) => {
                let embedding = about.ids.then(|| file.embedding(b)).transpose()?;
                Loaded::Chain(LoadedChain::load(b, file, mode)?, embedding)
            }
            _ => {
                let width = d.kv_heads * d.head_dim;
                let all = file.values(&alloc::format!("mode.{mode}.mean"), &[d.layers, 2, width])?;
                let pair = |m: &[i32]| [m[..width].to_vec(), m[width..].to_vec()];
                Loaded::Static(all.chunks_exact(2 * width).map(pair).collect())
            }
        };
        Ok(LoadedMode {
            file,
            mode,
            tables: CodingTables::load(file, mode)?,
            steps: file.u64s("rope.steps", &[d.head_dim / 2])?,
            weights,
        })
    }

    pub(crate) fn about(&self) -> &Mode {
        &self.file.description.modes[self.mode]
    }

    fn predictor(&self) -> Box<dyn Predict<B> + '_> {
        let (file, mode, steps) = (self.file, self.mode, &self.steps);
        match &self.weights {
            Loaded::Draft(net, feedback, embedding) => {
                Box::new(Draft::new(file, mode, embedding, net, feedback, steps))
            }
            Loaded::Chain(weights, embedding) => {
                Box::new(Chain::new(file, mode, weights, embedding.as_ref(), steps))
            }
            Loaded::Static(means) => {
                Box::new(Static::new(means.clone(), file.description.head_dim, steps.clone()))
            }
        }
    }

    /// A session at position 0 for caches with these scales (f32 bits, order layer, part, head; empty for 16-bit formats).
    pub fn session<'s>(
        &'s self,
        b: &'s B,
        format: ElementFormat,
        scales: &[u32],
    ) -> Result<Session<'s, B>, Error> {
        let d = &self.file.description;
        let units = if scales.is_empty() {
            Units::one()
        } else {
            Units::from_scales(scales, scales.len() / (2 * d.layers), d.kv_heads)?
        };
        Ok(Session::new(b, self.predictor(), &self.tables, &d.exponents, d.geometry(), format, units))
    }

    /// Columns that a layer works on, token by token, and whether the predictor keeps keys and values of all layers.
    pub(crate) fn columns(&self) -> (usize, bool) {
        let (d, about) = (&self.file.description, self.about());
        let kv = 2 * d.kv_heads * d.head_dim;
        let embedded = d.embedding.as_ref().filter(|_| about.ids).map_or(0, |e| e.width);
        let net = about.net.map(|n| &d.nets[n]);
        let inner = net.map_or(0, |n| n.hidden + n.heads * d.head_dim + 2 * n.ffn);
        (kv * (2 + about.depth) + embedded + inner + 6 * d.kv_heads, net.is_some())
    }

    /// For each token of a run, the columns that a layer of the predictor works on; for each token of all, the scalars that it keeps to attend to.
    pub fn working_columns(&self) -> (usize, usize) {
        let ((columns, attends), g) = (self.columns(), self.file.description.geometry());
        (columns, if attends { g.planes() * g.head_dim } else { 0 })
    }

    /// Whether the predictor needs token ids.
    pub fn needs_ids(&self) -> bool {
        self.about().ids
    }

    /// What the predictor must know of the tokens before a run.
    pub fn before(&self) -> Before {
        self.predictor().before()
    }
}
