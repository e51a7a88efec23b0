//! 32 lanes of rANS (section 4 of the format): the portable definition.
//!
//! Scalar `i` of a plane belongs to lane `i mod 32`. A decoder takes a row of 32 scalars in two steps, first every
//! lane's symbol and then every lane's raw bits, each in ascending lane order; an encoder does exactly the opposite, from
//! the last plane to the first. The lanes run on from plane to plane of a chunk: starting and flushing 32 states costs
//! about 96 bytes, which a chunk can afford and a plane cannot.

use alloc::vec::Vec;

use crate::limits::{LANES, STATE_LOW};
use crate::{Error, Result, Rule};

/// One coded scalar, ready for the coder: an interval of the 65536 slots and the raw bits that follow it.
///
/// Eight bytes without padding, so that devices may write it directly. An escape is an interval like any other, with
/// the whole code as raw bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Symbol {
    /// First slot.
    pub start: u16,
    /// Number of slots, 1..=65535; `start + freq <= 65536`.
    pub freq: u16,
    /// The raw bits, below `2^raw_bits`.
    pub raw: u16,
    /// Number of raw bits, 0..=16.
    pub raw_bits: u16,
}

const _: () = assert!(size_of::<Symbol>() == 8 && align_of::<Symbol>() == 2);

/// `floor(256 * log2(1 + i / 256))`.
const LOG2: [u8; 256] = log2_table();

const fn log2_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        // Bit by bit: squaring doubles the logarithm. 2^62 stands for 1; eight squarings lose far less than a unit.
        let mut x = (256 + i as u128) << 54;
        let mut log = 0u8;
        let mut bit = 0;
        while bit < 8 {
            x = (x * x) >> 62;
            log <<= 1;
            if x >= 1 << 63 {
                x >>= 1;
                log |= 1;
            }
            bit += 1;
        }
        table[i] = log;
        i += 1;
    }
    table
}

impl Symbol {
    /// What the symbol costs, in 1/256 bit, rounded up (at most 2/256 above the exact value): up to 32 bits.
    #[inline(always)]
    pub const fn cost(&self) -> u32 {
        let freq = self.freq as u32;
        let octave = (freq | 1).ilog2();
        let fraction = ((freq << 8) >> octave) & 255;
        ((16 - octave + self.raw_bits as u32) << 8) - LOG2[fraction as usize] as u32
    }

    /// Whether the coder can take it.
    pub const fn is_valid(&self) -> bool {
        self.freq > 0
            && self.start as u32 + self.freq as u32 <= 1 << 16
            && self.raw_bits <= 16
            && (self.raw as u32) < 1 << self.raw_bits
    }
}

/// The encoding side. Planes, rows and lanes go in backwards; words come out backwards and are turned round at the end.
/// Plain data, so that a backend can carry the same states through its own loop.
#[derive(Clone, Debug)]
pub struct LaneEncoder {
    /// Each in `2^16..2^32` between operations.
    pub states: [u32; LANES],
    /// Last word first.
    pub words: Vec<u16>,
}

impl Default for LaneEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl LaneEncoder {
    /// Lanes at rest.
    pub fn new() -> Self {
        Self { states: [STATE_LOW; LANES], words: Vec::new() }
    }

    /// Encodes one plane's symbols (all valid), which the decoder reads *before* everything encoded so far.
    pub fn push_symbols(&mut self, symbols: &[Symbol]) {
        self.words.reserve(symbols.len() / 4);
        for row in symbols.chunks(LANES).rev() {
            for (state, symbol) in self.states[..row.len()].iter_mut().zip(row).rev() {
                if symbol.raw_bits > 0 {
                    push_raw(state, &mut self.words, symbol.raw, symbol.raw_bits.into());
                }
            }
            for (state, symbol) in self.states[..row.len()].iter_mut().zip(row).rev() {
                let freq = u32::from(symbol.freq);
                let mut x = *state;
                if x >= freq << 16 {
                    self.words.push(x as u16);
                    x >>= 16;
                }
                // freq <= x < freq * 2^16, so the quotient is 1..2^16 and the state ends in 2^16..2^32.
                *state = ((x / freq) << 16) + x % freq + u32::from(symbol.start);
            }
        }
    }

    /// Encodes one raw plane of codes of `width` bits (8 or 16), which the decoder reads before everything so far.
    pub fn push_raw(&mut self, codes: &[u16], width: u32) {
        self.words.reserve(codes.len() * width as usize / 16 + LANES);
        for row in codes.chunks(LANES).rev() {
            for (state, &code) in self.states[..row.len()].iter_mut().zip(row).rev() {
                push_raw(state, &mut self.words, code, width);
            }
        }
    }

    /// The final states, and the words in decoding order.
    pub fn finish(mut self) -> ([u32; LANES], Vec<u16>) {
        self.words.reverse();
        (self.states, self.words)
    }
}

#[inline(always)]
fn push_raw(state: &mut u32, words: &mut Vec<u16>, raw: u16, bits: u32) {
    let mut x = *state;
    // 1 <= bits <= 16: afterwards x < 2^(32-bits).
    if x >> (32 - bits) != 0 {
        words.push(x as u16);
        x >>= 16;
    }
    *state = x << bits | u32::from(raw);
}

/// The decoding side: plain data, so that a backend can carry the same states through its own loop.
#[derive(Clone, Debug)]
pub struct Lanes<'a> {
    /// Each at least `2^16` between operations.
    pub states: [u32; LANES],
    /// The words, two bytes each, little-endian.
    pub words: &'a [u8],
    /// Byte offset of the next word in `words`. May run past the end (words read there are 0) until [`check`](Self::check).
    pub at: usize,
}

impl<'a> Lanes<'a> {
    /// Lanes at the start of a chunk.
    pub const fn new(states: [u32; LANES], words: &'a [u8]) -> Self {
        Self { states, words, at: 0 }
    }

    /// The next word; 0 past the end.
    #[inline(always)]
    fn word(&mut self) -> u32 {
        let word = match self.words.get(self.at..) {
            Some([low, high, ..]) => u32::from(*low) | u32::from(*high) << 8,
            _ => 0,
        };
        self.at += 2;
        word
    }

    /// Consumes the interval that holds the lane's slot. `1 <= freq`, `start <= slot < start + freq`.
    #[inline(always)]
    pub fn advance(&mut self, lane: usize, start: u32, freq: u32) {
        let x = self.states[lane];
        // freq <= 65535 and x >> 16 <= 65535: below 2^32; at least freq * 1 >= 1.
        let x = freq * (x >> 16) + (x & 0xFFFF) - start;
        self.states[lane] = if x < STATE_LOW { x << 16 | self.word() } else { x };
    }

    /// Takes `bits` (1..=16) raw bits from a lane.
    #[inline(always)]
    pub fn take_raw(&mut self, lane: usize, bits: u32) -> u32 {
        let x = self.states[lane];
        let raw = x & ((1 << bits) - 1);
        let x = x >> bits;
        // The state was at least 2^16, so x >= 1 and the result is at least 2^16 again.
        self.states[lane] = if x < STATE_LOW { x << 16 | self.word() } else { x };
        raw
    }

    /// Decodes a raw plane of codes of `width` bits (8 or 16).
    ///
    /// # Errors
    /// [`Error::Truncated`] if the words end first.
    pub fn decode_raw(&mut self, width: u32, out: &mut [u16]) -> Result<()> {
        for row in out.chunks_mut(LANES) {
            for (lane, code) in row.iter_mut().enumerate() {
                *code = self.take_raw(lane, width) as u16;
            }
        }
        self.check()
    }

    /// Whether all words read so far were there.
    ///
    /// # Errors
    /// [`Error::Truncated`] if not.
    pub fn check(&self) -> Result<()> {
        if self.at <= self.words.len() {
            return Ok(());
        }
        let offset = self.words.len() as u64;
        Err(Error::Truncated { offset, needed: self.at as u64 - offset, found: 0 })
    }

    /// Checks that the lanes are at rest and every word was read, as they must be after the last plane.
    ///
    /// # Errors
    /// [`Rule::WordsLeft`] or [`Rule::FinalState`]; offsets count from the first word.
    pub fn check_end(&self) -> Result<()> {
        self.check()?;
        let (offset, left) = (self.at as u64, (self.words.len() - self.at) as u64);
        if left != 0 {
            return Err(Error::Malformed { rule: Rule::WordsLeft, found: left / 2, offset });
        }
        match self.states.iter().find(|&&state| state != STATE_LOW) {
            Some(&state) => Err(Error::Malformed { rule: Rule::FinalState, found: state.into(), offset }),
            None => Ok(()),
        }
    }
}
