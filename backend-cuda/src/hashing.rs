//! Checksums of planes, on the device.

use std::ffi::c_void;
use std::ops::Range;
use std::rc::Rc;

use speckv_predictor::Error;
use speckv_predictor::core::ElementFormat;
use speckv_predictor::core::checksum::ValuesChecksum;

use crate::backend::CudaBackend;
use crate::buffer::{Buffer, Codes};
use crate::kernels::{self, HASHED, Hash};

/// Warps of a block, each with a chunk of a plane.
const WARPS: usize = 8;

/// Planes are hashed some at a time; until then their codes stay.
pub(crate) struct Hashes {
    /// First row and number of rows of each chunk.
    rows: Rc<Buffer>,
    chunks: usize,
    /// `[plane][chunk]`.
    out: Buffer,
    done: usize,
    waiting: Vec<(Codes, usize)>,
    width: u32,
}

impl Hashes {
    /// Of no planes yet, of `planes` at most.
    pub(crate) fn new(b: &CudaBackend, chunks: impl Iterator<Item = Range<usize>>, planes: usize) -> Hashes {
        let rows: Vec<u64> = chunks.flat_map(|r| [r.start as u64, r.len() as u64]).collect();
        let chunks = rows.len() / 2;
        Hashes {
            rows: Rc::new(Buffer::from(&b.device, &rows)),
            chunks,
            out: b.buffer(planes * chunks * 8),
            done: 0,
            waiting: Vec::new(),
            width: 0,
        }
    }

    /// First row and number of rows of each chunk.
    pub(crate) fn rows(&self) -> Rc<Buffer> {
        self.rows.clone()
    }

    /// The next plane. Its chunks' rows are within it.
    pub(crate) fn push(&mut self, b: &CudaBackend, format: ElementFormat, codes: &Codes, cols: usize) {
        self.width = format.width();
        self.waiting.push((codes.clone(), cols));
        if self.waiting.len() == HASHED {
            self.flush(b);
        }
    }

    fn flush(&mut self, b: &CudaBackend) {
        let mut k = Hash {
            codes: [0; HASHED],
            cols: [0; HASHED],
            rows: self.rows.at,
            out: self.out.at + 8 * (self.done * self.chunks) as u64,
            planes: self.waiting.len() as u32,
            chunks: self.chunks as u32,
            width: self.width,
        };
        for (i, (codes, cols)) in self.waiting.iter().enumerate() {
            (k.codes[i], k.cols[i]) = (codes.buffer.at, *cols as u32);
        }
        let warps = self.waiting.len() * self.chunks;
        let params = &mut [(&raw const k).cast_mut().cast::<c_void>()];
        let grid = (warps.div_ceil(WARPS), 1, 1);
        // SAFETY: the kernel's one parameter; chunks lie within the planes, and there is room for every checksum.
        unsafe { b.device.launch(&kernels::HASH, grid, 32 * WARPS as u32, 0, params) };
        self.done += self.waiting.len();
        self.waiting.clear();
    }

    /// The checksum of each chunk's values.
    pub(crate) fn finish(mut self, b: &CudaBackend) -> Result<Vec<u64>, Error> {
        self.flush(b);
        let all: Vec<u64> = self.out.read(self.done * self.chunks);
        b.device.status()?;
        let of = |chunk: usize| {
            let mut values = ValuesChecksum::new();
            all.iter().skip(chunk).step_by(self.chunks.max(1)).for_each(|plane| values.push(*plane));
            values.value()
        };
        Ok((0..self.chunks).map(of).collect())
    }
}
