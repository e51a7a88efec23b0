//! `Draft`: the target's own layers in integers, in closed loop with the true cache or on their own (numerics.md, section 9).

mod net;
mod state;

pub use net::{Feedback, Gain, LoadedNet, NetLayer, Rest};
pub use state::State;

use speckv_codec_core::Part;

use crate::backend::{Backend, Seen};
use crate::error::Error;
use crate::predict::{Before, Predict};
use crate::profile::{Embedded, ProfileFile};

/// The draft predictor over a loaded network.
pub struct Draft<'a, B: Backend> {
    file: &'a ProfileFile<'a>,
    embedding: &'a Embedded<B>,
    net: &'a LoadedNet<B>,
    feedback: &'a Feedback<B>,
    state: State<'a, B>,
}

impl<'a, B: Backend> Draft<'a, B> {
    /// The predictor of a mode: its network and feedback, loaded.
    pub fn new(
        file: &'a ProfileFile<'a>,
        mode: usize,
        embedding: &'a Embedded<B>,
        net: &'a LoadedNet<B>,
        feedback: &'a Feedback<B>,
        steps: &'a [u64],
    ) -> Self {
        let state = State::new(&file.description, &file.description.modes[mode], steps);
        Draft { file, embedding, net, feedback, state }
    }
}

impl<B: Backend> Predict<B> for Draft<'_, B> {
    fn begin(&mut self, b: &B, start: usize, tokens: usize, ids: &[u32]) -> Result<(), Error> {
        let hidden = self.file.embed(b, self.embedding, tokens, ids)?;
        self.state.begin(start, hidden, tokens);
        Ok(())
    }

    fn begin_layer(&mut self, b: &B, layer: usize) -> Result<(), Error> {
        self.state.begin_layer(b, layer, &self.net.layers[layer]);
        Ok(())
    }

    fn predict(&mut self, b: &B, _: usize, part: Part, head: usize) -> B::Ints {
        self.state.layer.predict(b, part, head)
    }

    fn observe(&mut self, b: &B, layer: usize, part: Part, head: usize, seen: &Seen<'_, B>) -> B::Ints {
        self.state.layer.learn(b, (layer, part, head), seen, &self.feedback.regress[layer])
    }

    fn end_layer(&mut self, b: &B, layer: usize) -> Result<(), Error> {
        let Some(rest) = &self.net.layers[layer].rest else { return Ok(()) };
        if let Some(gain) = self.feedback.gain.get(layer) {
            self.state.correct(b, layer, Part::Key, &gain[0]);
            self.state.correct(b, layer, Part::Value, &gain[1]);
        }
        self.state.rest(b, layer, rest);
        Ok(())
    }

    fn before(&self) -> Before {
        if self.state.closed() { Before::Truth } else { Before::Predictions }
    }

    fn past(&mut self, b: &B, layer: usize, key: B::Ints, value: B::Ints) {
        self.state.past(b, layer, key, value);
    }

    fn powers(&self) -> Option<[&B::Ints; 2]> {
        self.state.powers()
    }

    fn learns(&self) -> bool {
        self.state.closed()
    }
}
