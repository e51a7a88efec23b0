//! Chunks on the device: planes are priced, encoded and decoded there, one warp a chunk; errors come in the order in which the definition finds them.

use std::ffi::c_void;
use std::rc::Rc;

use speckv_predictor::Error;
use speckv_predictor::backend::{Pricing, Unit};
use speckv_predictor::core::limits::{EXPONENT_LIMIT, LANES};
use speckv_predictor::core::{
    ChunkDecoder, ElementFormat, Error as CoreError, Lanes, PlaneMode, Rule, Symbol,
};
use speckv_predictor::data::{ChunkDecoders, ChunkEncoders};

use crate::backend::CudaBackend;
use crate::buffer::{Buffer, Codes, Ints};
use crate::hashing::Hashes;
use crate::kernels::{self, DecodeChunk, Format, Kernel};
use crate::tables;

/// Threads of a block that prices, and such blocks of a multiprocessor at most.
const PRICE_THREADS: usize = 512;
const BLOCKS: usize = 3;
/// Pieces of chunks that a block prices, at least, where there are so many scalars.
const PIECES: usize = 8;
/// Most scalars of a piece: their costs fit 32 bits.
const LONGEST_PIECE: usize = 1 << 20;
/// Threads of a block that decodes.
const DECODE_THREADS: usize = 384;

/// `floor(256 * log2(1 + i / 256))` as symbols' costs have it.
pub(crate) fn cost_table() -> Vec<u8> {
    // The cost of 256 + i slots of 65536 is 8 octaves less that logarithm.
    (0..256).map(|i| (8 * 256 - Symbol { freq: 256 + i, ..Symbol::default() }.cost()) as u8).collect()
}

pub(crate) fn format(f: ElementFormat) -> Format {
    Format { w: f.width() as i32, mb: f.mantissa_bits() as i32, bias: f.bias() }
}

/// The kernels of a format that price and decode.
fn kernels_of(f: ElementFormat) -> [&'static Kernel; 2] {
    match f {
        ElementFormat::Bf16 => [&kernels::PRICE_BF16, &kernels::DECODE_BF16],
        ElementFormat::F16 => [&kernels::PRICE_F16, &kernels::DECODE_F16],
        ElementFormat::E4m3 => [&kernels::PRICE_E4M3, &kernels::DECODE_E4M3],
        ElementFormat::E5m2 => [&kernels::PRICE_E5M2, &kernels::DECODE_E5M2],
    }
}

/// A plane's pricing as kernels read it, without tables, and the channel scales that it points to.
pub(crate) fn pricing(
    b: &CudaBackend,
    p: &Pricing,
    mu: &Ints,
    token: &Ints,
) -> (Rc<Buffer>, kernels::Pricing) {
    let shift = p.unit.index_shift(&b.host);
    let channel: Vec<i16> = p.channel.iter().map(|c| c.wrapping_add(shift)).collect();
    let channel = b.small(&channel);
    let raw = kernels::Pricing {
        mu: mu.at(),
        token: token.at(),
        channel: channel.at,
        shape: 0,
        grid: 0,
        format: format(p.format),
        exponent: p.unit.code_exponent(p.exponent),
        cols: mu.cols as u32,
        escape: p.shape.escape().into(),
        unit_recip: if p.unit.m == Unit::ONE.m { 0 } else { ((1i64 << 54) / i64::from(p.unit.m)) as i32 },
    };
    (channel, raw)
}

/// The same with tables, for a plane that [`check_model`] has passed.
fn priced(b: &CudaBackend, p: &Pricing, mu: &Ints, token: &Ints) -> ([Rc<Buffer>; 3], kernels::Pricing) {
    let (channel, mut raw) = pricing(b, p, mu, token);
    let shape = b.prices.shape(&b.device, p.shape);
    let grid = b.prices.grid(&b.device, p.format, raw.exponent);
    (raw.shape, raw.grid) = (shape.at, grid.at);
    ([channel, shape, grid], raw)
}

/// What the definition checks of a plane before it looks at any value, for the chunk with rows `rows`.
fn check_model(p: &Pricing, mu: &Ints, rows: usize) -> Result<(), CoreError> {
    let (scalars, found) = (p.channel.len() * rows, rows * mu.cols);
    if found != scalars || found == 0 {
        return Err(CoreError::Argument {
            rule: Rule::ModelSize,
            expected: scalars as i64,
            found: found as i64,
        });
    }
    let exponent = p.unit.code_exponent(p.exponent);
    if exponent.abs() > EXPONENT_LIMIT {
        let expected = i64::from(EXPONENT_LIMIT * exponent.signum());
        return Err(CoreError::Argument { rule: Rule::Exponent, expected, found: exponent.into() });
    }
    Ok(())
}

fn check_format(expected: ElementFormat, found: ElementFormat) -> Result<(), CoreError> {
    if expected == found {
        return Ok(());
    }
    Err(CoreError::Argument {
        rule: Rule::ModelFormat,
        expected: expected.id().into(),
        found: found.id().into(),
    })
}

pub(crate) fn plane_count(expected: usize, found: usize) -> CoreError {
    CoreError::Argument { rule: Rule::PlaneCount, expected: expected as i64, found: found as i64 }
}

pub(crate) struct EncodedPlane {
    pub(crate) symbols: Buffer,
    pub(crate) codes: Codes,
    pub(crate) cols: usize,
}

/// The encoders of a run's chunks: their planes' symbols and costs, on the device until the end.
pub struct Encoder {
    pub(crate) chunks: ChunkEncoders,
    pub(crate) planes: Vec<EncodedPlane>,
    /// `[plane][chunk]`.
    pub(crate) costs: Buffer,
    /// `[plane][chunk]`: the first scalar whose code is too wide.
    bad: Buffer,
    /// First row and number of rows of each chunk.
    pub(crate) rows: Rc<Buffer>,
    pub(crate) hashes: Hashes,
}

impl Encoder {
    pub(crate) fn new(b: &CudaBackend, chunks: ChunkEncoders) -> Encoder {
        let planes = chunks.first().map_or(0, |(_, e)| e.planes());
        let cells = planes * chunks.len();
        let hashes = Hashes::new(b, chunks.iter().map(|(rows, _)| rows.clone()), planes);
        Encoder {
            planes: Vec::new(),
            costs: Buffer::filled(&b.device, cells * 8, 0),
            bad: Buffer::filled(&b.device, cells * 4, 0xFF),
            rows: hashes.rows(),
            hashes,
            chunks,
        }
    }

    /// Codes that were too wide, found by the device.
    pub(crate) fn check_codes(&self, b: &CudaBackend) -> Result<(), Error> {
        if self.chunks.first().is_none_or(|(_, e)| e.format().width() != 8) {
            return Ok(());
        }
        let bad: Vec<u32> = self.bad.read(self.planes.len() * self.chunks.len());
        b.device.status()?;
        let Some(first) = bad.iter().position(|at| *at != u32::MAX) else { return Ok(()) };
        let plane = &self.planes[first / self.chunks.len()];
        let start = self.chunks[first % self.chunks.len()].0.start * plane.cols;
        let codes: Vec<u16> = plane.codes.buffer.read(plane.codes.count);
        b.device.status()?;
        let found = codes[start + bad[first] as usize].into();
        Err(CoreError::Argument { rule: Rule::Code, expected: 0xFF, found }.into())
    }

    /// An error of this call, unless an earlier plane has one.
    fn refuse(&self, b: &CudaBackend, error: CoreError) -> Result<(), Error> {
        self.check_codes(b)?;
        Err(error.into())
    }

    pub(crate) fn plane(
        &mut self,
        b: &CudaBackend,
        p: &Pricing,
        mu: &Ints,
        token: &Ints,
        codes: &Codes,
    ) -> Result<(), Error> {
        b.device.status()?;
        assert!(codes.count == mu.rows * mu.cols && token.rows == mu.rows, "a code a mean, a scale a row");
        assert!(self.chunks.iter().all(|(rows, _)| rows.end <= mu.rows), "chunks within the plane");
        for (rows, encoder) in &self.chunks {
            let scalars = rows.len() * mu.cols;
            let first = self.planes.first().map_or(scalars, |plane| rows.len() * plane.cols);
            let sized = |expected: usize, found: usize| match expected == found {
                true => Ok(()),
                false => Err(CoreError::Argument {
                    rule: Rule::PlaneSize,
                    expected: expected as i64,
                    found: found as i64,
                }),
            };
            let ids = encoder.token_ids();
            let checked = check_format(encoder.format(), p.format)
                .and_then(|()| check_model(p, mu, rows.len()))
                .and_then(|()| match self.planes.len() >= encoder.planes() {
                    true => Err(plane_count(encoder.planes(), self.planes.len() + 1)),
                    false => sized(first, scalars),
                })
                .and_then(|()| match ids {
                    Some(ids) if ids.is_empty() || !scalars.is_multiple_of(ids.len()) => {
                        let (expected, found) = (ids.len() as i64, scalars as i64);
                        Err(CoreError::Argument { rule: Rule::TokenIds, expected, found })
                    }
                    _ => Ok(()),
                });
            if let Err(error) = checked {
                return self.refuse(b, error);
            }
        }
        let symbols = b.buffer(mu.rows * mu.cols * size_of::<Symbol>());
        let (_keep, pricing) = priced(b, p, mu, token);
        let cell = self.planes.len() * self.chunks.len();
        // Blocks hold tables, so they are no more than run at once, and take some pieces of chunks each.
        let longest = self.chunks.iter().map(|(rows, _)| rows.len()).max().unwrap_or(0) * mu.cols;
        let shared = tables::shared_bytes(p.format);
        let blocks = b.device.blocks(shared, BLOCKS) * b.device.multiprocessors as usize;
        let wanted = (PIECES * blocks).div_ceil(self.chunks.len().max(1));
        let piece = longest.div_ceil(wanted).next_multiple_of(PRICE_THREADS).min(LONGEST_PIECE);
        let pieces = longest.div_ceil(piece.max(1));
        let k = kernels::Price {
            p: pricing,
            codes: codes.buffer.at,
            symbols: symbols.at,
            cost: self.costs.at + 8 * cell as u64,
            bad: self.bad.at + 4 * cell as u64,
            log2: b.cost.at,
            rows: self.rows.at,
            chunks: self.chunks.len() as u32,
            pieces: pieces as u32,
            piece: piece as u32,
        };
        let grid = ((self.chunks.len() * pieces).min(blocks), 1, 1);
        let params = &mut [(&raw const k).cast_mut().cast::<c_void>()];
        let [kernel, _] = kernels_of(p.format);
        // SAFETY: the kernel's one parameter; symbols and codes have an entry a scalar.
        unsafe { b.device.launch(kernel, grid, PRICE_THREADS as u32, shared, params) };
        self.hashes.push(b, p.format, codes, mu.cols);
        self.planes.push(EncodedPlane { symbols, codes: codes.clone(), cols: mu.cols });
        Ok(())
    }

    pub(crate) fn cost(&self, b: &CudaBackend) -> Result<u64, Error> {
        self.check_codes(b)?;
        let costs = self.costs.read::<u64>(self.planes.len() * self.chunks.len());
        b.device.status()?;
        // A plane that costs more than its codes is stored raw.
        let stored = costs.iter().enumerate().map(|(i, cost)| {
            let (rows, encoder) = &self.chunks[i % self.chunks.len()];
            let scalars = rows.len() * self.planes[i / self.chunks.len()].cols;
            ((scalars as u64 * u64::from(encoder.format().width())) << 8).min(*cost)
        });
        Ok(stored.sum())
    }
}

/// The decoders of a run's chunks: lanes and words on the device.
pub struct Decoder<'s> {
    chunks: ChunkDecoders<'s>,
    state: Buffer,
    _words: Buffer,
    /// `[plane][chunk]`.
    modes: Buffer,
    planes: usize,
    hashes: Hashes,
}

impl<'s> Decoder<'s> {
    pub(crate) fn new(b: &CudaBackend, chunks: ChunkDecoders<'s>) -> Decoder<'s> {
        let words = b.buffer(chunks.iter().map(|(_, d)| d.lanes().words.len()).sum());
        // SAFETY: there is room for all of them. What fails is kept.
        let _ = unsafe { b.device.send(words.at, chunks.iter().map(|(_, d)| d.lanes().words)) };
        let (mut at, mut state) = (words.at, Vec::new());
        for (rows, decoder) in &chunks {
            let lanes = decoder.lanes();
            let fixed = [at, rows.start as u64, rows.len() as u64, lanes.words.len() as u64, lanes.at as u64];
            fixed.iter().for_each(|v| state.extend(v.to_le_bytes()));
            lanes.states.iter().chain(&[0, 0]).for_each(|v| state.extend(v.to_le_bytes()));
            state.extend([0; 16]);
            at += lanes.words.len() as u64;
        }
        let planes = chunks.first().map_or(0, |(_, d)| d.planes());
        let mode = |plane, d: &ChunkDecoder<'_>| u8::from(d.mode_of(plane) == Some(PlaneMode::Raw));
        let modes: Vec<u8> = (0..planes).flat_map(|p| chunks.iter().map(move |(_, d)| mode(p, d))).collect();
        Decoder {
            state: Buffer::from(&b.device, &state),
            _words: words,
            modes: Buffer::from(&b.device, &modes),
            planes: 0,
            hashes: Hashes::new(b, chunks.iter().map(|(rows, _)| rows.clone()), planes),
            chunks,
        }
    }

    /// The chunks as they stand, unless one has failed: the first error in order of planes, then chunks.
    fn check(&self, b: &CudaBackend) -> Result<Vec<DecodeChunk>, Error> {
        let blank = DecodeChunk {
            words: 0,
            first: 0,
            count: 0,
            bytes: 0,
            at: 0,
            states: [0; LANES],
            failed: 0,
            plane: 0,
            found: 0,
            offset: 0,
        };
        // SAFETY: descriptions were written there, without padding, and any bytes are one.
        let all = unsafe { self.state.read_structs(&vec![blank; self.chunks.len()]) };
        b.device.status()?;
        let failed = all.iter().zip(&self.chunks).filter(|(c, _)| c.failed != 0).min_by_key(|(c, _)| c.plane);
        let Some((c, (_, decoder))) = failed else { return Ok(all) };
        let error = match c.failed {
            1 => CoreError::Malformed { rule: Rule::ZoneMagnitude, found: c.found, offset: c.offset },
            _ => CoreError::Truncated { offset: c.offset, needed: c.found, found: 0 },
        };
        Err(decoder.in_payload(error).into())
    }

    pub(crate) fn plane(
        &mut self,
        b: &CudaBackend,
        p: &Pricing,
        mu: &Ints,
        token: &Ints,
    ) -> Result<Codes, Error> {
        b.device.status()?;
        assert!(token.rows == mu.rows, "a scale a row");
        assert!(self.chunks.iter().all(|(rows, _)| rows.end <= mu.rows), "chunks within the plane");
        for (rows, decoder) in &self.chunks {
            let checked =
                check_format(decoder.format(), p.format).and_then(|()| check_model(p, mu, rows.len()));
            let checked = checked.and_then(|()| match self.planes >= decoder.planes() {
                true => Err(plane_count(decoder.planes(), self.planes + 1)),
                false => Ok(()),
            });
            if let Err(error) = checked {
                self.check(b)?;
                return Err(error.into());
            }
        }
        let codes = Codes { count: mu.rows * mu.cols, buffer: Rc::new(b.buffer(mu.rows * mu.cols * 2)) };
        let (_keep, pricing) = priced(b, p, mu, token);
        // Few chunks are spread over the card; a block's other warps help with the tables.
        let warps =
            self.chunks.len().div_ceil(b.device.multiprocessors as usize).clamp(1, DECODE_THREADS / 32);
        let k = kernels::Decode {
            p: pricing,
            codes: codes.buffer.at,
            chunks: self.state.at,
            modes: self.modes.at + (self.planes * self.chunks.len()) as u64,
            plane: self.planes as u32,
            count: self.chunks.len() as u32,
            warps: warps as u32,
        };
        let params = &mut [(&raw const k).cast_mut().cast::<c_void>()];
        let [_, kernel] = kernels_of(p.format);
        let grid = (self.chunks.len().div_ceil(warps), 1, 1);
        // SAFETY: the kernel's one parameter; chunks lie within the plane, their words within the buffer.
        unsafe {
            b.device.launch(kernel, grid, DECODE_THREADS as u32, tables::shared_bytes(p.format), params)
        };
        self.hashes.push(b, p.format, &codes, mu.cols);
        self.planes += 1;
        Ok(codes)
    }

    pub(crate) fn finish(self, b: &CudaBackend, expected: &[u64]) -> Result<(), Error> {
        let states = self.check(b)?;
        let found = self.hashes.finish(b)?;
        for ((((_, decoder), state), found), expected) in
            self.chunks.into_iter().zip(states).zip(found).zip(expected)
        {
            if self.planes != decoder.planes() {
                return Err(plane_count(decoder.planes(), self.planes).into());
            }
            let words = decoder.lanes().words;
            let lanes = Lanes { states: state.states, words, at: state.at as usize };
            decoder.finish_elsewhere(&lanes, found, *expected)?;
        }
        Ok(())
    }
}
