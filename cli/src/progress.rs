//! Progress bars: only on a terminal, and only for work of more than a second.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use speckv_predictor::codec::RUN_TOKENS;

/// Work that is shorter needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar that appears once the work has taken longer than a second.
pub struct Bar {
    bar: Option<ProgressBar>,
    since: Instant,
    shown: bool,
}

impl Bar {
    /// Of `total` steps.
    pub fn new(what: &str, total: u64, wanted: bool) -> Self {
        let bar = (wanted && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
            if let Ok(style) = ProgressStyle::with_template("{msg:>12} [{bar:32}] {percent:>3}% {eta}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(what.to_owned());
            bar
        });
        Bar { bar, since: Instant::now(), shown: false }
    }

    /// `done` of all steps are done.
    pub fn set(&mut self, done: u64) {
        let Some(bar) = &self.bar else { return };
        if !self.shown && self.since.elapsed() > PATIENCE {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
        bar.set_position(done);
    }

    /// Goes on to another stage.
    pub fn stage(&mut self, what: &str, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
            bar.set_length(total);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Steps of coding a cache, counted in tokens times layers; for bars only.
pub struct Coding {
    bar: Bar,
    tokens: u64,
    layers: u64,
}

impl Coding {
    /// Of a cache of `tokens` tokens from `first` on.
    pub fn new(bar: Bar, layers: usize, tokens: usize) -> Self {
        Coding { bar, tokens: tokens as u64, layers: layers as u64 }
    }

    /// Told after each layer of a run that starts at `position`; how many tokens a run has is the codec's affair, so
    /// the bar of a long cache takes the usual length.
    pub fn layer(&mut self, position: usize, layer: usize) {
        let run = self.tokens.saturating_sub(position as u64).min(RUN_TOKENS as u64);
        self.bar
            .set((position as u64 * self.layers + run * (layer as u64 + 1)).min(self.tokens * self.layers));
    }
}
