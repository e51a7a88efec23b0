//! `Draft`: the target's own layers in integers, in closed loop with the true cache (numerics.md, section 9).

mod net;
mod state;

pub use net::{Feedback, LoadedNet, NetLayer, Rest};
pub use state::State;

use speckv_codec_core::Part;

use crate::backend::{Backend, Truth};
use crate::data::Ints;
use crate::error::Error;
use crate::fixed::Scale;
use crate::predict::Predict;
use crate::profile::ProfileFile;

/// The draft predictor over a loaded network.
pub struct Draft<'a, B: Backend> {
    file: &'a ProfileFile<'a>,
    index: usize,
    embedding: alloc::vec::Vec<Scale>,
    net: &'a LoadedNet<B>,
    feedback: &'a [Feedback<B>],
    state: State<'a, B>,
}

impl<'a, B: Backend> Draft<'a, B> {
    /// A predictor for the network `index` of a profile, with the feedback of a mode.
    pub fn new(
        file: &'a ProfileFile<'a>,
        index: usize,
        residual: crate::data::Digits,
        net: &'a LoadedNet<B>,
        feedback: &'a [Feedback<B>],
        steps: &'a [u64],
    ) -> Result<Self, Error> {
        let about = &file.description.nets[index];
        let embedding = file.scales(&alloc::format!("net.{index}.embed"), about.vocab)?;
        Ok(Draft {
            file,
            index,
            embedding,
            net,
            feedback,
            state: State::new(&file.description, index, residual, steps),
        })
    }
}

impl<B: Backend> Predict<B> for Draft<'_, B> {
    fn begin(&mut self, b: &B, start: usize, tokens: usize, ids: &[u32]) -> Result<(), Error> {
        if ids.len() != tokens {
            return Err(Error::Input(alloc::format!(
                "the draft predictor needs one token id a token: {tokens} tokens, {} ids",
                ids.len()
            )));
        }
        let about = &self.file.description.nets[self.index];
        let name = alloc::format!("net.{}.embed", self.index);
        let data = self.file.gather(&name, about.vocab, about.hidden, &self.embedding, ids)?;
        self.state.begin(start, b.upload(Ints { rows: tokens, cols: about.hidden, data }), tokens);
        Ok(())
    }

    fn begin_layer(&mut self, b: &B, layer: usize) -> Result<(), Error> {
        self.state.begin_layer(b, layer, &self.net.layers[layer]);
        Ok(())
    }

    fn predict(&mut self, b: &B, layer: usize, part: Part, head: usize) -> B::Ints {
        self.state.predict(b, layer, part, head)
    }

    fn observe(&mut self, b: &B, layer: usize, part: Part, head: usize, seen: Truth<B::Ints>) {
        let rows = self.state.observe(b, layer, part, head, seen);
        if let Some(matrix) = self.feedback[layer].regress(part, head) {
            let column = self.state.column(part, head) + self.file.description.head_dim;
            self.state.regress(b, &rows, column, matrix);
        }
    }

    fn end_layer(&mut self, b: &B, layer: usize) -> Result<(), Error> {
        let (about, next) = (&self.feedback[layer], &self.net.layers[layer].rest);
        let Some(rest) = next else { return Ok(()) };
        for part in [Part::Key, Part::Value] {
            self.state.correct(b, layer, part, &about.gain[part as usize]);
        }
        self.state.rest(b, layer, rest);
        Ok(())
    }

    fn past(&mut self, b: &B, layer: usize, key: B::Ints, value: B::Ints) {
        self.state.past(b, layer, key, value);
    }

    fn powers(&self) -> Option<[&B::Ints; 2]> {
        self.state.powers()
    }

    fn needs_ids(&self) -> bool {
        true
    }
}
