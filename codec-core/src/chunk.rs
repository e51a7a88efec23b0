//! A chunk: the planes of a run of tokens, coded as one blob (sections 4, 5 and 8 of the format).

use alloc::vec::Vec;

use crate::bits;
use crate::bytes::Reader;
use crate::checksum::{ValuesChecksum, plane_checksum, xxh3};
use crate::element::ElementFormat;
use crate::lanes::{LaneEncoder, Lanes, Symbol};
use crate::limits::{LANES, STATE_LOW, words_bound};
use crate::plane::{PlaneModel, check_codes};
use crate::{Checksum, Error, Result, Rule};

/// How a plane is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaneMode {
    /// By the symbols of its model.
    Coded,
    /// As codes, without a model.
    Raw,
}

/// A finished chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The payload as it stands in a stream.
    pub payload: Vec<u8>,
    /// XXH3-64 of the payload.
    pub payload_checksum: u64,
    /// Checksum of the values that decoding restores.
    pub values_checksum: u64,
}

impl Chunk {
    /// Puts a chunk together from what a coder made of its planes: how each is stored, the token ids if the stream carries them, the lanes' states
    /// and the words in decoding order, and the checksum of the values. [`ChunkEncoder`] ends with this; so do coders that work elsewhere.
    pub fn assemble(
        modes: impl Iterator<Item = PlaneMode>,
        token_ids: Option<&[u32]>,
        states: &[u32; LANES],
        words: &[u16],
        values_checksum: u64,
    ) -> Self {
        let mut payload = Vec::with_capacity(512 + 2 * words.len());
        bits::pack(modes.map(|mode| (mode == PlaneMode::Raw).into()), 1, &mut payload);
        payload.extend(Self::id_bytes(token_ids));
        payload.extend(states.iter().flat_map(|state| state.to_le_bytes()));
        let head = payload.len();
        payload.resize(head + 2 * words.len(), 0);
        for (bytes, word) in payload[head..].chunks_exact_mut(2).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self { payload_checksum: xxh3(&payload), values_checksum, payload }
    }

    /// What token ids take of a payload: their width and they themselves, or nothing if the stream does not carry them.
    pub fn id_bytes(token_ids: Option<&[u32]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(ids) = token_ids {
            let width = id_bits(ids.iter().copied());
            bytes.push(width as u8);
            bits::pack(ids.iter().copied(), width, &mut bytes);
        }
        bytes
    }
}

/// Encodes the planes of one chunk, given in plane order (layer, part, head).
///
/// The coder runs backwards, so planes are kept until [`finish`](Self::finish): 10 bytes a scalar.
#[derive(Clone, Debug)]
pub struct ChunkEncoder {
    format: ElementFormat,
    planes_expected: usize,
    token_ids: Option<Vec<u32>>,
    planes: Vec<PendingPlane>,
    cost: u64,
    values: ValuesChecksum,
    scratch: Vec<u8>,
}

#[derive(Clone, Debug)]
struct PendingPlane {
    /// Empty for a raw plane.
    symbols: Vec<Symbol>,
    codes: Vec<u16>,
}

impl ChunkEncoder {
    /// A chunk of `planes_expected` planes (`layers * 2 * kv_heads`), with its token ids if the stream carries them.
    pub fn new(format: ElementFormat, planes_expected: usize, token_ids: Option<&[u32]>) -> Self {
        Self {
            format,
            planes_expected,
            token_ids: token_ids.map(<[u32]>::to_vec),
            planes: Vec::new(),
            cost: 0,
            values: ValuesChecksum::new(),
            scratch: Vec::new(),
        }
    }

    /// Element format of the planes.
    pub fn format(&self) -> ElementFormat {
        self.format
    }

    /// Number of planes that the chunk will have.
    pub fn planes(&self) -> usize {
        self.planes_expected
    }

    /// The token ids that go into the chunk.
    pub fn token_ids(&self) -> Option<&[u32]> {
        self.token_ids.as_deref()
    }

    /// What the planes so far cost in 1/256 bit: their symbols' costs, or the width of their codes where they are stored raw. The chunk takes so much,
    /// and beside it its fixed parts and what rounding the states adds (see `docs/format.md`, sections 6 and 8).
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Adds the next plane as priced by its model: `symbols` and their `cost` as [`PlaneModel::price`] gives them. Stores
    /// it raw if that is not dearer.
    ///
    /// # Errors
    /// [`Rule::PlaneCount`], [`Rule::PlaneSize`] (the symbols, or another plane, or the token ids ask for another size) or
    /// [`Rule::Code`].
    pub fn push_symbols(&mut self, symbols: Vec<Symbol>, cost: u64, codes: &[u16]) -> Result<()> {
        check_size(symbols.len(), codes.len())?;
        let raw = self.raw_cost(codes);
        self.push(if cost >= raw { Vec::new() } else { symbols }, cost.min(raw), codes)
    }

    /// Adds the next plane without a model.
    ///
    /// # Errors
    /// [`Rule::PlaneCount`], [`Rule::PlaneSize`] or [`Rule::Code`].
    pub fn push_raw(&mut self, codes: &[u16]) -> Result<()> {
        self.push(Vec::new(), self.raw_cost(codes), codes)
    }

    /// Prices and adds the next plane.
    ///
    /// # Errors
    /// Those of [`PlaneModel::price`] and [`push_symbols`](Self::push_symbols), and [`Rule::ModelFormat`].
    pub fn push_plane(&mut self, model: &PlaneModel<'_>, codes: &[u16]) -> Result<()> {
        check_format(self.format, model.format)?;
        let mut symbols = Vec::new();
        let cost = model.price(codes, &mut symbols)?;
        self.push_symbols(symbols, cost, codes)
    }

    fn raw_cost(&self, codes: &[u16]) -> u64 {
        (codes.len() as u64 * u64::from(self.format.width())) << 8
    }

    fn push(&mut self, symbols: Vec<Symbol>, cost: u64, codes: &[u16]) -> Result<()> {
        if self.planes.len() >= self.planes_expected {
            return Err(plane_count(self.planes_expected, self.planes.len() + 1));
        }
        let expected = self.planes.first().map_or(codes.len().max(1), |plane| plane.codes.len());
        check_size(expected, codes.len())?;
        if let Some(ids) = &self.token_ids
            && (ids.is_empty() || !codes.len().is_multiple_of(ids.len()))
        {
            let (expected, found) = (ids.len() as i64, codes.len() as i64);
            return Err(Error::Argument { rule: Rule::TokenIds, expected, found });
        }
        check_codes(self.format, codes)?;
        debug_assert!(symbols.iter().all(Symbol::is_valid));
        self.values.push(plane_checksum(self.format, codes, &mut self.scratch));
        self.planes.push(PendingPlane { symbols, codes: codes.to_vec() });
        self.cost += cost;
        Ok(())
    }

    /// Encodes the chunk.
    ///
    /// # Errors
    /// [`Rule::PlaneCount`] if planes are missing.
    pub fn finish(self) -> Result<Chunk> {
        self.finish_with(LaneEncoder::push_symbols)
    }

    /// Encodes the chunk with a loop of the caller's: `push` is called for every coded plane, the last first, and must do exactly what
    /// [`LaneEncoder::push_symbols`] does. Raw planes are encoded here.
    ///
    /// # Errors
    /// Those of [`finish`](Self::finish).
    pub fn finish_with(mut self, mut push: impl FnMut(&mut LaneEncoder, &[Symbol])) -> Result<Chunk> {
        if self.planes.is_empty() || self.planes.len() != self.planes_expected {
            return Err(plane_count(self.planes_expected.max(1), self.planes.len()));
        }
        let scalars = self.planes.iter().map(|plane| plane.codes.len() as u64).sum();
        let (mut states, mut words) = self.encode(&mut push);
        if words.len() as u64 > words_bound(self.format, scalars) {
            // Rounding of the states can add a fraction of a bit per scalar to the cost where data conspire.
            for plane in &mut self.planes {
                plane.symbols = Vec::new();
            }
            (states, words) = self.encode(&mut push);
        }
        let modes = self.planes.iter().map(|plane| match plane.symbols.is_empty() {
            true => PlaneMode::Raw,
            false => PlaneMode::Coded,
        });
        Ok(Chunk::assemble(modes, self.token_ids.as_deref(), &states, &words, self.values.value()))
    }

    fn encode(&self, push: &mut impl FnMut(&mut LaneEncoder, &[Symbol])) -> ([u32; LANES], Vec<u16>) {
        let mut lanes = LaneEncoder::new();
        for plane in self.planes.iter().rev() {
            if plane.symbols.is_empty() {
                lanes.push_raw(&plane.codes, self.format.width());
            } else {
                push(&mut lanes, &plane.symbols);
            }
        }
        lanes.finish()
    }
}

/// The fewest bits that hold every id, 1..=32.
fn id_bits(ids: impl Iterator<Item = u32>) -> u32 {
    32 - (ids.fold(1, |all, id| all | id)).leading_zeros()
}

/// Decodes the planes of one chunk, in plane order.
#[derive(Clone, Debug)]
pub struct ChunkDecoder<'a> {
    format: ElementFormat,
    planes: usize,
    tokens: usize,
    /// Planes done.
    done: usize,
    modes: &'a [u8],
    token_ids: Option<Vec<u32>>,
    lanes: Lanes<'a>,
    /// Offset of the words in the payload, for errors.
    words_at: u64,
    values: ValuesChecksum,
    scratch: Vec<u8>,
}

impl<'a> ChunkDecoder<'a> {
    /// Reads the fixed parts of a payload of `planes` planes of `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::Truncated`] if the payload is shorter than its fixed parts; [`Rule::Padding`], [`Rule::IdBits`],
    /// [`Rule::State`], [`Rule::OddWords`]; [`Rule::PlaneCount`] or [`Rule::Tokens`] if `planes` or `tokens` is 0.
    pub fn new(
        format: ElementFormat,
        planes: usize,
        tokens: usize,
        ids_present: bool,
        payload: &'a [u8],
    ) -> Result<Self> {
        if planes == 0 {
            return Err(plane_count(1, 0));
        }
        if tokens == 0 {
            return Err(Error::Argument { rule: Rule::Tokens, expected: 1, found: 0 });
        }
        let mut reader = Reader::new(payload);
        let modes = take_packed(&mut reader, planes, 1)?;
        let token_ids = if ids_present { Some(read_ids(&mut reader, tokens)?) } else { None };
        let mut states = [0; LANES];
        for state in &mut states {
            let offset = reader.offset() as u64;
            *state = reader.u32()?;
            if *state < STATE_LOW {
                return Err(Error::Malformed { rule: Rule::State, found: (*state).into(), offset });
            }
        }
        let words_at = reader.offset() as u64;
        let words = reader.rest();
        if !words.len().is_multiple_of(2) {
            let (found, offset) = (words.len() as u64, words_at);
            return Err(Error::Malformed { rule: Rule::OddWords, found, offset });
        }
        let lanes = Lanes::new(states, words);
        let (values, scratch) = (ValuesChecksum::new(), Vec::new());
        Ok(Self { format, planes, tokens, done: 0, modes, token_ids, lanes, words_at, values, scratch })
    }

    /// The chunk's token ids, if its stream carries them.
    pub fn token_ids(&self) -> Option<&[u32]> {
        self.token_ids.as_deref()
    }

    /// How the next plane is stored; `None` after the last.
    pub fn mode(&self) -> Option<PlaneMode> {
        self.mode_of(self.done)
    }

    /// How a plane is stored; `None` after the last.
    pub fn mode_of(&self, plane: usize) -> Option<PlaneMode> {
        if plane >= self.planes {
            return None;
        }
        Some(if bits::get(self.modes, 1, plane) != 0 { PlaneMode::Raw } else { PlaneMode::Coded })
    }

    /// Element format of the planes.
    pub fn format(&self) -> ElementFormat {
        self.format
    }

    /// Number of planes in the chunk.
    pub fn planes(&self) -> usize {
        self.planes
    }

    /// An error that counts bytes from the first word, as one that counts them from the start of the payload.
    pub fn in_payload(&self, error: Error) -> Error {
        shift(error, self.words_at)
    }

    /// [`finish`](Self::finish) for planes decoded elsewhere: `lanes` as they stand after the last plane, `found` the checksum of the values.
    ///
    /// # Errors
    /// [`Rule::WordsLeft`], [`Rule::FinalState`], [`Error::Truncated`] or [`Error::Damaged`].
    pub fn finish_elsewhere(self, lanes: &Lanes<'_>, found: u64, expected: u64) -> Result<()> {
        lanes.check_end().map_err(|error| self.in_payload(error))?;
        if found == expected {
            return Ok(());
        }
        Err(Error::Damaged { checksum: Checksum::Values, expected, found })
    }

    /// The lanes as they stand.
    pub fn lanes(&self) -> &Lanes<'a> {
        &self.lanes
    }

    /// Decodes the next plane into `out`, `tokens * head_dim` codes. The model of a raw plane only says its size.
    ///
    /// # Errors
    /// [`Error::Truncated`] or [`Error::Malformed`] for a bad payload; [`Rule::PlaneCount`], [`Rule::PlaneSize`],
    /// [`Rule::ModelFormat`] and the rules of [`PlaneModel::check`] for a bad call. The decoder is of no use after one.
    pub fn next_plane(&mut self, model: &PlaneModel<'_>, out: &mut [u16]) -> Result<()> {
        check_format(self.format, model.format)?;
        model.check(out.len())?;
        check_size(self.tokens, model.token_scale.len())?;
        self.next_plane_with(out, |lanes, out| model.decode(lanes, out))
    }

    /// Decodes the next plane with a loop of the caller's: `decode` is called for a coded plane and must do exactly what
    /// [`PlaneModel::decode`] does. Raw planes are decoded here.
    ///
    /// # Errors
    /// Those of `decode`, and those of [`next_plane`](Self::next_plane).
    pub fn next_plane_with(
        &mut self,
        out: &mut [u16],
        decode: impl FnOnce(&mut Lanes<'a>, &mut [u16]) -> Result<()>,
    ) -> Result<()> {
        let Some(mode) = self.mode() else { return Err(plane_count(self.planes, self.done + 1)) };
        if out.is_empty() || !out.len().is_multiple_of(self.tokens) {
            check_size(self.tokens, out.len())?;
        }
        let decoded = match mode {
            PlaneMode::Coded => decode(&mut self.lanes, out),
            PlaneMode::Raw => self.lanes.decode_raw(self.format.width(), out),
        };
        decoded.map_err(|error| shift(error, self.words_at))?;
        self.done += 1;
        self.values.push(plane_checksum(self.format, out, &mut self.scratch));
        Ok(())
    }

    /// Checks that the chunk ended as it must and restored the right values.
    ///
    /// # Errors
    /// [`Rule::PlaneCount`] if planes were not decoded; [`Rule::WordsLeft`], [`Rule::FinalState`]; [`Error::Damaged`] if the
    /// values are not those that were encoded.
    pub fn finish(self, expected: u64) -> Result<()> {
        if self.done != self.planes {
            return Err(plane_count(self.planes, self.done));
        }
        let (lanes, found) = (self.lanes.clone(), self.values.value());
        self.finish_elsewhere(&lanes, found, expected)
    }
}

/// Takes `count` packed values of `bits` bits and checks their padding.
fn take_packed<'a>(reader: &mut Reader<'a>, count: usize, bits: u32) -> Result<&'a [u8]> {
    let packed = reader.take(bits::packed_len(count as u64, bits))?;
    match bits::padding(packed, bits, count as u64) {
        0 => Ok(packed),
        found => {
            let offset = reader.offset() as u64 - 1;
            Err(Error::Malformed { rule: Rule::Padding, found: found.into(), offset })
        }
    }
}

fn read_ids(reader: &mut Reader<'_>, tokens: usize) -> Result<Vec<u32>> {
    let offset = reader.offset() as u64;
    let width = reader.u8()?;
    let malformed = Error::Malformed { rule: Rule::IdBits, found: width.into(), offset };
    if !(1..=32).contains(&width) {
        return Err(malformed);
    }
    let packed = take_packed(reader, tokens, width.into())?;
    // The bytes are there, so the allocation is earned.
    let ids: Vec<u32> = (0..tokens).map(|index| bits::get(packed, width.into(), index)).collect();
    // One way to write them, so that a chunk has one payload.
    if id_bits(ids.iter().copied()) != u32::from(width) { Err(malformed) } else { Ok(ids) }
}

/// Errors of lanes count bytes from the first word, those of a chunk from the start of the payload.
fn shift(error: Error, by: u64) -> Error {
    match error {
        Error::Truncated { offset, needed, found } => Error::Truncated { offset: offset + by, needed, found },
        Error::Malformed { rule, found, offset } => Error::Malformed { rule, found, offset: offset + by },
        other => other,
    }
}

fn plane_count(expected: usize, found: usize) -> Error {
    Error::Argument { rule: Rule::PlaneCount, expected: expected as i64, found: found as i64 }
}

fn check_size(expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Argument { rule: Rule::PlaneSize, expected: expected as i64, found: found as i64 })
}

fn check_format(expected: ElementFormat, found: ElementFormat) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Argument { rule: Rule::ModelFormat, expected: expected.id().into(), found: found.id().into() })
}
