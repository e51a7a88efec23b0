//! The end of encoding: lanes of all chunks, and their payloads with checksums, made on the device and brought to the host if wanted.

use speckv_predictor::Error;
use speckv_predictor::core::Chunk;
use speckv_predictor::core::limits::{LANES, words_bound};

use crate::backend::{CudaBackend, params};
use crate::buffer::Buffer;
use crate::coding::{Encoder, plane_count};
use crate::kernels::{self, Piece, PlaneSymbols};

/// Most chunks that a block encodes.
const ENCODE_WARPS: usize = 4;
/// Threads of a block that copies words, and words of each.
const COPY_THREADS: u32 = 256;
const COPIED: u64 = 64;
/// Warps of a block that hashes.
const HASH_WARPS: usize = 4;

/// Payloads of chunks in device memory, at multiples of 16 bytes: complete when they are handed out, freed with this. Whoever reads them there on a
/// stream of their own waits for that before.
pub struct Payloads {
    buffer: Buffer,
    bytes: usize,
    each: Vec<Payload>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Bytes from the first payload's start to its own.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// XXH3-64 of the payload.
    pub checksum: u64,
    /// Checksum of the values that decoding restores.
    pub values_checksum: u64,
}

impl Payloads {
    /// Device address of the first one.
    pub fn at(&self) -> u64 {
        self.buffer.at
    }

    /// The payloads in order of chunks.
    pub fn each(&self) -> &[Payload] {
        &self.each
    }

    /// Brings them to the host.
    ///
    /// # Errors
    /// What failed first, or the host's memory does not suffice.
    pub fn download(&self) -> Result<Vec<Chunk>, Error> {
        let mut chunks = Vec::with_capacity(self.each.len());
        for p in &self.each {
            let mut payload = Vec::new();
            payload.try_reserve_exact(p.bytes as usize).map_err(|_| {
                Error::Backend(format!("a chunk of {} bytes does not fit into the host's memory", p.bytes))
            })?;
            chunks.push(Chunk { payload, payload_checksum: p.checksum, values_checksum: p.values_checksum });
        }
        let (mut next, mut start) = (0, 0);
        self.buffer.device().fetch(self.buffer.at, self.bytes, |piece| {
            let end = start + piece.len() as u64;
            while let Some(p) = self.each.get(next).filter(|p| p.offset < end) {
                let (from, to) = (p.offset.max(start), (p.offset + p.bytes).min(end));
                chunks[next]
                    .payload
                    .extend_from_slice(&piece[(from - start) as usize..(to - start) as usize]);
                if p.offset + p.bytes > end {
                    break;
                }
                next += 1;
            }
            start = end;
        })?;
        Ok(chunks)
    }
}

impl CudaBackend {
    /// Ends encoding as [`finish_chunks`](speckv_predictor::Backend::finish_chunks) does, and leaves the payloads on the device.
    ///
    /// # Errors
    /// As there.
    pub fn finish_resident(&self, encoder: Encoder) -> Result<Payloads, Error> {
        encoder.check_codes(self)?;
        let nothing = || Payloads { buffer: self.buffer(0), bytes: 0, each: Vec::new() };
        let Some((_, first)) = encoder.chunks.first() else { return Ok(nothing()) };
        let (expected, width) = (first.planes(), first.format().width());
        if encoder.planes.is_empty() || encoder.planes.len() != expected {
            return Err(plane_count(expected.max(1), encoder.planes.len()).into());
        }
        let (_room, chunks) = self.run_lanes(&encoder);

        let (mut ids, mut ids_at) = (Vec::new(), vec![0]);
        for (_, encoder) in &encoder.chunks {
            ids.extend(Chunk::id_bytes(encoder.token_ids()));
            ids_at.push(ids.len() as u64);
        }
        let count = encoder.chunks.len();
        let (ids, ids_at) = (Buffer::from(&self.device, &ids), Buffer::from(&self.device, &ids_at));
        let (pieces, sums) = (self.buffer(16 * (count + 1)), self.buffer(8 * count));
        let mut k = kernels::Payloads {
            chunks: chunks.at,
            cost: encoder.costs.at,
            ids: ids.at,
            ids_at: ids_at.at,
            pieces: pieces.at,
            out: 0,
            sums: sums.at,
            planes: encoder.planes.len() as u32,
            width,
            count: count as u32,
        };
        // SAFETY: the kernel's parameter; one block, a place a chunk and one more.
        unsafe { self.device.launch(&kernels::PLACES, (1, 1, 1), 1024, 0, params!(k)) };
        let mut places: Vec<Piece> = pieces.read(count + 1);
        self.device.status()?;
        let end = places.pop().unwrap_or_default();
        if end.bytes != 0 {
            return Err(Error::Backend("CUDA: a chunk took more than its bound; please report it".into()));
        }
        if let Some(p) = places.iter().find(|p| p.bytes > u64::from(u32::MAX)) {
            let bytes = p.bytes;
            return Err(Error::Backend(format!(
                "CUDA: expected chunks of less than 4 GiB, found {bytes} bytes: use shorter ones"
            )));
        }
        let out = self.buffer(end.at as usize);
        k.out = out.at;
        let longest = places.iter().map(|p| p.bytes / 2).max().unwrap_or(0);
        let slices = longest.div_ceil(u64::from(COPY_THREADS) * COPIED).clamp(1, 1 << 15) as u32;
        let grid = (count, slices as usize, 1);
        // SAFETY: the kernel's parameters; every payload has the room that was asked for.
        unsafe { self.device.launch(&kernels::PAYLOADS, grid, COPY_THREADS, 0, params!(k, slices)) };
        let grid = (count.div_ceil(HASH_WARPS), 1, 1);
        // SAFETY: the kernel's parameter; a checksum a payload.
        unsafe { self.device.launch(&kernels::HASH_PAYLOADS, grid, 32 * HASH_WARPS as u32, 0, params!(k)) };
        let sums: Vec<u64> = sums.read(count);
        let values = encoder.hashes.finish(self)?;
        let each = places.iter().zip(sums).zip(values).map(|((p, checksum), values_checksum)| Payload {
            offset: p.at,
            bytes: p.bytes,
            checksum,
            values_checksum,
        });
        Ok(Payloads { buffer: out, bytes: end.at as usize, each: each.collect() })
    }

    /// Runs the lanes of every chunk: room for words, which are in it, and what became of each chunk (`EncodeChunk` of the kernels).
    fn run_lanes(&self, encoder: &Encoder) -> (Buffer, Buffer) {
        let (cols, planes, all) = (encoder.planes[0].cols, encoder.planes.len(), encoder.chunks.len());
        let mut bounds = vec![0];
        for (rows, chunk) in &encoder.chunks {
            let bound = words_bound(chunk.format(), (rows.len() * cols * planes) as u64);
            bounds.push(bounds[bounds.len() - 1] + bound);
        }
        // Room for twice what a chunk may take: rounding of states adds less than a bit to the least that a scalar costs.
        let room = self.buffer(4 * bounds[all] as usize);
        let (bounds, chunks) =
            (Buffer::from(&self.device, &bounds), self.buffer(all * kernels::ENCODE_CHUNK));
        let symbols: Vec<u64> = encoder
            .planes
            .iter()
            .enumerate()
            .map(|(i, plane)| PlaneSymbols {
                symbols: plane.symbols.at,
                codes: plane.codes.buffer.at,
                cost: encoder.costs.at + 8 * (i * all) as u64,
            })
            .flat_map(|p| [p.symbols, p.codes, p.cost])
            .collect();
        let symbols = Buffer::from(&self.device, &symbols);
        let k = kernels::Encode {
            chunks: chunks.at,
            rows: encoder.rows.at,
            bounds: bounds.at,
            room: room.at,
            planes: symbols.at,
            cols: cols as u32,
            count: planes as u32,
            width: encoder.chunks[0].1.format().width(),
            all: all as u32,
        };
        let warps = all.div_ceil(self.device.multiprocessors as usize).clamp(1, ENCODE_WARPS);
        let (grid, threads) = ((all.div_ceil(warps), 1, 1), (warps * LANES) as u32);
        // SAFETY: the kernel's parameter; chunks lie within the planes, words have the room they say.
        unsafe { self.device.launch(&kernels::ENCODE, grid, threads, 0, params!(k)) };
        (room, chunks)
    }
}
