//! Scale indices of a plane, a row of 32 scalars at a time.

use speckv_predictor::core::PlaneModel;
use speckv_predictor::core::limits::{LANES, SCALES};

/// Goes through a plane. Rows need not end where tokens do.
pub(super) struct Scales<'a> {
    channels: &'a [i16],
    tokens: &'a [i16],
    token: usize,
    channel: usize,
    row: [i16; LANES],
}

impl<'a> Scales<'a> {
    pub(super) fn new(model: &PlaneModel<'a>) -> Self {
        Scales {
            channels: model.channel_scale,
            tokens: model.token_scale,
            token: 0,
            channel: 0,
            row: [0; LANES],
        }
    }

    /// Of the next row the channels' indices and the token's, whose sums are to be clamped to 0..=479. Past the plane's end anything.
    #[inline(always)]
    pub(super) fn row(&mut self) -> (&[i16; LANES], i16) {
        let whole = self.channels.get(self.channel..).and_then(|c| c.first_chunk::<LANES>());
        if let Some(channels) = whole {
            let token = self.tokens[self.token];
            self.channel += LANES;
            self.wrap();
            return (channels, token);
        }
        self.several();
        (&self.row, 0)
    }

    /// A row of several tokens, or the last.
    #[inline(never)]
    fn several(&mut self) {
        for lane in 0..LANES {
            let Some(&token) = self.tokens.get(self.token) else { break };
            let sum = i32::from(self.channels[self.channel]) + i32::from(token);
            self.row[lane] = sum.clamp(0, SCALES - 1) as i16;
            self.channel += 1;
            self.wrap();
        }
    }

    #[inline(always)]
    fn wrap(&mut self) {
        if self.channel == self.channels.len() {
            (self.token, self.channel) = (self.token + 1, 0);
        }
    }
}
