//! All prices of one plane, and the loops that price and decode it: the portable definition that backends repeat.

use alloc::vec::Vec;

use crate::element::ElementFormat;
use crate::lanes::{Lanes, Symbol};
use crate::limits::{EXPONENT_LIMIT, FIXED_LIMIT, LANES, SCALES};
use crate::model::{Found, ScalarModel};
use crate::shape::Shape;
use crate::{Error, Result, Rule};

/// The model of one plane: tokens x head_dim scalars, row-major.
#[derive(Clone, Copy, Debug)]
pub struct PlaneModel<'a> {
    /// Element format of the codes.
    pub format: ElementFormat,
    /// Fixed-point numbers of the plane count units of `2^-exponent`; -120..=120.
    pub exponent: i32,
    /// Means in units, each below 2^30 in magnitude; `tokens * head_dim` of them.
    pub mu: &'a [i32],
    /// Scale index of each channel; `head_dim` of them.
    pub channel_scale: &'a [i16],
    /// Added to the scale index of every channel of a token; `tokens` of them. The sum is clamped to 0..=479.
    pub token_scale: &'a [i16],
    /// Distribution of the residual divided by its scale.
    pub shape: &'a Shape,
}

impl PlaneModel<'_> {
    /// Scalars of the plane.
    pub fn scalars(&self) -> usize {
        self.mu.len()
    }

    /// Scale index of a (token, channel), 0..=479.
    #[inline(always)]
    pub fn scale(&self, token: usize, channel: usize) -> i32 {
        clamp_scale(self.channel_scale[channel], self.token_scale[token])
    }

    /// Checks sizes and ranges, with `codes` scalars to code.
    ///
    /// # Errors
    /// [`Error::Argument`] with [`Rule::ModelSize`], [`Rule::Exponent`] or [`Rule::Mean`].
    pub fn check(&self, codes: usize) -> Result<()> {
        let scalars = self.channel_scale.len() * self.token_scale.len();
        for found in [self.mu.len(), codes] {
            if found != scalars || found == 0 {
                let (expected, found) = (scalars as i64, found as i64);
                return Err(Error::Argument { rule: Rule::ModelSize, expected, found });
            }
        }
        if self.exponent.abs() > EXPONENT_LIMIT {
            let expected = (EXPONENT_LIMIT * self.exponent.signum()).into();
            return Err(Error::Argument { rule: Rule::Exponent, expected, found: self.exponent.into() });
        }
        // All at once first: a search that may stop at any mean is several times slower.
        let bits = self.mu.iter().fold(0, |bits, mu| bits | mu.unsigned_abs());
        if bits < FIXED_LIMIT as u32 {
            return Ok(());
        }
        let wrong = self.mu.iter().find(|mu| mu.unsigned_abs() >= FIXED_LIMIT as u32);
        let found = wrong.map_or(0, |&mu| mu.into());
        let expected = i64::from(FIXED_LIMIT - 1) * i64::signum(found);
        Err(Error::Argument { rule: Rule::Mean, expected, found })
    }

    /// Checks sizes and ranges, with these codes to price.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`Rule::Code`] for a code wider than the format.
    pub fn check_with(&self, codes: &[u16]) -> Result<()> {
        self.check(codes.len())?;
        check_codes(self.format, codes)
    }

    /// Prices a plane: appends one symbol per code to `out` and returns their cost in 1/256 bit.
    ///
    /// # Errors
    /// Those of [`check_with`](Self::check_with). `out` is then as before.
    pub fn price(&self, codes: &[u16], out: &mut Vec<Symbol>) -> Result<u64> {
        self.check_with(codes)?;
        out.reserve(codes.len());
        // The format's constants fold into each copy of the loop.
        Ok(match self.format {
            ElementFormat::Bf16 => self.price_as(ElementFormat::Bf16, codes, out),
            ElementFormat::F16 => self.price_as(ElementFormat::F16, codes, out),
            ElementFormat::E4m3 => self.price_as(ElementFormat::E4m3, codes, out),
            ElementFormat::E5m2 => self.price_as(ElementFormat::E5m2, codes, out),
        })
    }

    #[inline(always)]
    fn price_as(&self, format: ElementFormat, codes: &[u16], out: &mut Vec<Symbol>) -> u64 {
        let mut cost = 0;
        let width = self.channel_scale.len();
        for ((codes, means), &token) in codes.chunks(width).zip(self.mu.chunks(width)).zip(self.token_scale) {
            for ((&code, &mu), &channel) in codes.iter().zip(means).zip(self.channel_scale) {
                let model =
                    ScalarModel::new(format, self.exponent, self.shape, mu, clamp_scale(channel, token));
                let symbol = model.symbol(code);
                cost += u64::from(symbol.cost());
                out.push(symbol);
            }
        }
        cost
    }

    /// Decodes a coded plane from the lanes.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`Error::Truncated`] if the words end first; [`Rule::ZoneMagnitude`]. What `out`
    /// holds after an error means nothing.
    pub fn decode(&self, lanes: &mut Lanes<'_>, out: &mut [u16]) -> Result<()> {
        self.check(out.len())?;
        match self.format {
            ElementFormat::Bf16 => self.decode_as(ElementFormat::Bf16, lanes, out),
            ElementFormat::F16 => self.decode_as(ElementFormat::F16, lanes, out),
            ElementFormat::E4m3 => self.decode_as(ElementFormat::E4m3, lanes, out),
            ElementFormat::E5m2 => self.decode_as(ElementFormat::E5m2, lanes, out),
        }
    }

    #[inline(always)]
    fn decode_as(&self, format: ElementFormat, lanes: &mut Lanes<'_>, out: &mut [u16]) -> Result<()> {
        let width = self.channel_scale.len();
        let (mut token, mut channel) = (0, 0);
        for (codes, means) in out.chunks_mut(LANES).zip(self.mu.chunks(LANES)) {
            let mut pending = [Pending::default(); LANES];
            let mut any_raw = 0;
            for (lane, &mu) in means.iter().enumerate() {
                let q = clamp_scale(self.channel_scale[channel], self.token_scale[token]);
                channel += 1;
                if channel == width {
                    (token, channel) = (token + 1, 0);
                }
                let model = ScalarModel::new(format, self.exponent, self.shape, mu, q);
                let found = model.find(lanes.states[lane] & 0xFFFF);
                lanes.advance(lane, found.start, found.freq);
                pending[lane] = Pending::of(&found);
                any_raw |= pending[lane].raw_bits;
            }
            for (lane, (code, pending)) in codes.iter_mut().zip(&pending).enumerate() {
                let raw = if any_raw != 0 && pending.raw_bits != 0 {
                    lanes.take_raw(lane, pending.raw_bits) as i32
                } else {
                    0
                };
                if raw >= pending.raw_end {
                    let (found, offset) = (raw as u64, lanes.at as u64);
                    return Err(Error::Malformed { rule: Rule::ZoneMagnitude, found, offset });
                }
                // Cells and zones of non-negative ranks count up from their first rank, a negative zone down from -1.
                *code = if pending.escape {
                    raw as u16
                } else {
                    format.code(pending.origin + (raw ^ pending.flip))
                };
            }
        }
        lanes.check()
    }
}

/// A scalar between its symbol and its raw bits.
#[derive(Clone, Copy, Default)]
struct Pending {
    /// Rank at raw value 0.
    origin: i32,
    /// -1 turns a raw value `r` into `-1 - r`.
    flip: i32,
    raw_bits: u32,
    /// Raw values must be below this.
    raw_end: i32,
    escape: bool,
}

impl Pending {
    #[inline(always)]
    fn of(found: &Found) -> Self {
        let cell = &found.cell;
        let Some(number) = found.number else {
            return Self { origin: 0, flip: 0, raw_bits: cell.raw_bits, raw_end: 1 << 16, escape: true };
        };
        let (origin, flip) = if cell.zone { (0, number >> 31) } else { (cell.first_rank, 0) };
        Self { origin, flip, raw_bits: cell.raw_bits, raw_end: cell.ranks, escape: false }
    }
}

#[inline(always)]
fn clamp_scale(channel: i16, token: i16) -> i32 {
    (i32::from(channel) + i32::from(token)).clamp(0, SCALES - 1)
}

/// Checks that every code fits the format.
pub(crate) fn check_codes(format: ElementFormat, codes: &[u16]) -> Result<()> {
    if format.width() == 8 && codes.iter().fold(0, |bits, code| bits | code) > 0xFF {
        let wrong = codes.iter().find(|&&code| code > 0xFF);
        let found = wrong.map_or(0, |&code| code.into());
        return Err(Error::Argument { rule: Rule::Code, expected: 0xFF, found });
    }
    Ok(())
}
