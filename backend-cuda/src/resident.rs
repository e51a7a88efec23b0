//! Caches that already lie in device memory: coded from there and restored to there. Codes never cross the bus, compressed bytes do.
//!
//! Pointers belong to the device's primary context, the one that the runtime API, PyTorch and vLLM use. A call is ordered after the work that the caller's
//! stream holds when it is made, and that stream waits for what the call has enqueued; other streams and the device are never waited for. The host waits for
//! the backend's own stream where it must know something: the lengths of a run's chunks, and whether what was decoded is good.
//! (The backend's stream is a non-blocking one: nothing is ordered with it but the stream that a call names, 0 being the legacy default one.)

use std::ffi::c_void;
use std::ops::Range;
use std::rc::Rc;

use speckv_predictor::Error;
use speckv_predictor::codec::{
    CacheView, Known, LoadedMode, Options, Restore, compress_codes, decompress_codes, parse, run_tokens,
};
use speckv_predictor::core::{ElementFormat, Geometry, Limits, Part};

use crate::backend::CudaBackend;
use crate::buffer::{Buffer, Codes};
use crate::kernels;

/// Where the scalars of a layer's keys or values lie in device memory. Token `t`, head `h`, column `c` is element
/// `t * token_stride + h * head_stride + c` from `at`: two bytes each for 16-bit formats, one for 8-bit ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided {
    /// Device address of the first element; a multiple of an element's size.
    pub at: u64,
    /// Elements from a token to the next.
    pub token_stride: usize,
    /// Elements from a head to the next.
    pub head_stride: usize,
    /// Pages, where tokens do not follow each other.
    pub pages: Option<Pages>,
}

/// A page table: token `t` is token `t % tokens` of page `table[t / tokens]`, whose elements begin `page * stride` from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Device address of the pages' numbers, u32 (or non-negative i32).
    pub table: u64,
    /// Tokens of a page, not 0.
    pub tokens: u32,
    /// Elements from a page to the next.
    pub stride: usize,
}

impl Strided {
    /// `[tokens, heads, head_dim]` without gaps.
    pub fn tokens_first(at: u64, geometry: Geometry) -> Strided {
        let hd = geometry.head_dim;
        Strided { at, token_stride: geometry.kv_heads * hd, head_stride: hd, pages: None }
    }

    /// `[heads, tokens, head_dim]` without gaps.
    pub fn heads_first(at: u64, geometry: Geometry, tokens: usize) -> Strided {
        let hd = geometry.head_dim;
        Strided { at, token_stride: hd, head_stride: tokens * hd, pages: None }
    }

    /// Pages of `[page tokens, heads, head_dim]`.
    pub fn paged(at: u64, geometry: Geometry, table: u64, tokens: u32) -> Strided {
        let stride = geometry.kv_heads * geometry.head_dim * tokens as usize;
        Strided { pages: Some(Pages { table, tokens, stride }), ..Strided::tokens_first(at, geometry) }
    }

    /// That the kernels can read there: what they cannot would end the device's context for the whole process.
    fn check(&self, format: ElementFormat) -> Result<(), String> {
        let bytes = u64::from(format.width() / 8);
        if !self.at.is_multiple_of(bytes) {
            return Err(format!("expected an address that is a multiple of {bytes}, found {:#x}", self.at));
        }
        match self.pages {
            Some(Pages { tokens: 0, .. }) => Err("expected pages of at least one token, found 0".into()),
            Some(Pages { table, .. }) if !table.is_multiple_of(4) => {
                Err(format!("expected a page table at a multiple of 4, found {table:#x}"))
            }
            _ => Ok(()),
        }
    }

    fn raw(&self, format: ElementFormat) -> kernels::Strided {
        let pages = self.pages.unwrap_or(Pages { table: 0, tokens: 1, stride: 0 });
        kernels::Strided {
            base: self.at,
            pages: pages.table,
            page_stride: pages.stride as u64,
            token_stride: self.token_stride as u64,
            head_stride: self.head_stride as u64,
            page_tokens: pages.tokens,
            width: format.width(),
        }
    }
}

/// A sequence's cache in device memory.
pub struct Resident<'a> {
    /// Format of its elements.
    pub format: ElementFormat,
    /// Layers, heads, columns.
    pub geometry: Geometry,
    /// Tokens.
    pub tokens: usize,
    /// Scales as f32 bits, order layer, part, head; empty for 16-bit formats.
    pub scales: Vec<u32>,
    /// One id a token, if known.
    pub ids: Option<&'a [u32]>,
    /// Where keys or values of a layer lie, from token 0 on.
    pub planes: &'a dyn Fn(usize, Part) -> Strided,
}

impl Resident<'_> {
    /// What the host can tell is wrong, before a kernel is sent there.
    fn check(&self) -> Result<(), Error> {
        if let Some(ids) = self.ids.filter(|ids| ids.len() != self.tokens) {
            let (tokens, found) = (self.tokens, ids.len());
            return Err(Error::Input(format!("expected {tokens} token ids, one a token, found {found}")));
        }
        for layer in 0..self.geometry.layers {
            for part in [Part::Key, Part::Value] {
                (self.planes)(layer, part)
                    .check(self.format)
                    .map_err(|what| Error::Input(format!("layer {layer}, {part:?}: {what}")))?;
            }
        }
        Ok(())
    }
}

/// A compressed stream.
#[derive(Clone, Copy, Debug)]
pub enum Packed<'a> {
    /// In host memory.
    Host(&'a [u8]),
    /// In device memory: address, bytes. It is brought to the host first, since a stream is checked there.
    Device(u64, usize),
}

/// What is asked of a sequence's restored planes: to go where the caller wants them.
struct ToDevice<'a> {
    to: &'a Resident<'a>,
    first: usize,
}

impl Restore<CudaBackend> for ToDevice<'_> {
    fn plane(&mut self, b: &CudaBackend, at: (usize, Part, usize), first: usize, codes: Codes) {
        b.move_plane(&kernels::SCATTER, self.to, at, self.first + first, &codes);
    }
}

impl CudaBackend {
    /// Compresses caches, each with a fresh session of `mode`: the streams that [`compress`](speckv_predictor::codec::compress) gives for the same codes, or
    /// what was wrong with a cache. `stream` is the caller's (`CUstream`, 0 for the legacy default one).
    ///
    /// # Safety
    /// `stream` is a stream of the device's primary context, and not being captured into a graph. Every address that a cache's `planes` implies for tokens `0..tokens`, and its page table, may be
    /// read by work ordered after `stream`'s until the call has returned.
    pub unsafe fn compress_resident(
        &self,
        mode: &LoadedMode<'_, CudaBackend>,
        caches: &[Resident<'_>],
        options: Options,
        stream: u64,
    ) -> Vec<Result<Vec<u8>, Error>> {
        self.device.after(stream);
        let each = caches.iter().map(|cache| {
            cache.check()?;
            let codes = |layer, part, head, tokens: Range<usize>| {
                let count = tokens.len() * cache.geometry.head_dim;
                let codes = Codes { count, buffer: Rc::new(self.buffer(2 * count)) };
                self.move_plane(&kernels::GATHER, cache, (layer, part, head), tokens.start, &codes);
                codes
            };
            let view = CacheView {
                format: cache.format,
                geometry: cache.geometry,
                tokens: cache.tokens,
                scales: cache.scales.clone(),
                ids: cache.ids,
                codes: &codes,
            };
            compress_codes(self, mode, &view, options, &mut |_, _| {})
        });
        let all = each.collect();
        self.leave(stream, all)
    }

    /// Restores streams to where `to` says, each in a session of its own; returns the token ids, if known. A stream that does not start at token 0 goes to
    /// the tokens it covers, and those before it are read from there, if the predictor must know them. Nothing that a failed one has written may be used.
    ///
    /// # Safety
    /// As [`compress_resident`](Self::compress_resident), and what a stream covers may be written too; a [`Packed::Device`] may be read.
    pub unsafe fn decompress_resident(
        &self,
        mode: &LoadedMode<'_, CudaBackend>,
        streams: &[(Packed<'_>, Resident<'_>)],
        limits: &Limits,
        stream: u64,
    ) -> Vec<Result<Vec<u32>, Error>> {
        self.device.after(stream);
        let each = streams.iter().map(|(packed, to)| {
            let fetched;
            let bytes = match *packed {
                Packed::Host(bytes) => bytes,
                Packed::Device(at, length) => {
                    let mut host = Vec::new();
                    host.try_reserve_exact(length).map_err(|_| {
                        Error::Input(format!(
                            "a stream of {length} bytes in device memory does not fit into the host's"
                        ))
                    })?;
                    host.resize(length, 0u8);
                    // SAFETY: the caller's promise; both have so many bytes.
                    unsafe { self.device.to_host(host.as_mut_ptr().cast::<c_void>(), at, length) };
                    self.device.status()?;
                    fetched = host;
                    &fetched
                }
            };
            self.restore(mode, &parse(bytes, limits)?, to)
        });
        let all = each.collect();
        self.leave(stream, all)
    }

    /// The end of a call: the caller's stream waits for what was enqueued. After an error it may still be at work on the caller's memory, which the
    /// caller takes back when the call returns, so the host waits for it.
    fn leave<T>(&self, stream: u64, all: Vec<Result<T, Error>>) -> Vec<Result<T, Error>> {
        self.device.before(stream);
        if all.iter().any(Result::is_err) {
            // What failed is among the results.
            let _ = self.device.synchronise();
        }
        all
    }

    fn restore(
        &self,
        mode: &LoadedMode<'_, CudaBackend>,
        stream: &speckv_predictor::core::Stream<'_>,
        to: &Resident<'_>,
    ) -> Result<Vec<u32>, Error> {
        to.check()?;
        let header = stream.header();
        let first = header.first_token as usize;
        let end = header.first_token.saturating_add(header.tokens);
        if header.geometry != to.geometry || header.format != to.format || end > to.tokens as u64 {
            return Err(Error::Mismatch(format!(
                "a {} stream of tokens {first}..{end}, {:?}, does not go into a {} cache of {} tokens, {:?}",
                header.format.name(),
                header.geometry,
                to.format.name(),
                to.tokens,
                to.geometry
            )));
        }
        let scales = header.scales.iter().zip(&to.scales);
        if header.scales.len() != to.scales.len() || scales.clone().any(|(a, b)| a != b) {
            let at = scales.take_while(|(a, b)| a == b).count();
            return Err(Error::Mismatch(format!(
                "the stream has {} scales, the cache {}; they differ from number {at} on, so its codes would mean other values there",
                header.scales.len(),
                to.scales.len()
            )));
        }
        let prefix = |layer, part, head, tokens: Range<usize>| {
            let count = tokens.len() * to.geometry.head_dim;
            let codes = Codes { count, buffer: Rc::new(self.buffer(2 * count)) };
            self.move_plane(&kernels::GATHER, to, (layer, part, head), tokens.start, &codes);
            codes
        };
        let ids = to.ids.and_then(|ids| ids.get(first..end as usize));
        let known = Known { ids, prefix: Some(&prefix) };
        decompress_codes(self, mode, stream, known, &mut ToDevice { to, first }, &mut |_, _| {})
    }

    /// Writes bytes (a compressed stream, say) to device memory, ordered after and before `stream`'s work as a call is.
    ///
    /// The host waits until they are there: page-locked memory is read while the call runs.
    ///
    /// # Errors
    /// What failed first.
    ///
    /// # Safety
    /// `stream` is a stream of the device's primary context, and `bytes.len()` bytes from `at` on may be written.
    pub unsafe fn write(&self, bytes: &[u8], at: u64, stream: u64) -> Result<(), Error> {
        self.device.after(stream);
        // SAFETY: the caller's promise.
        unsafe { self.device.to_device(at, bytes.as_ptr().cast::<c_void>(), bytes.len()) };
        self.device.before(stream);
        Ok(self.device.synchronise()?)
    }

    /// Between a plane of a cache and codes, from token `first` on.
    fn move_plane(
        &self,
        kernel: &'static kernels::Kernel,
        cache: &Resident<'_>,
        (layer, part, head): (usize, Part, usize),
        first: usize,
        codes: &Codes,
    ) {
        let strided = (cache.planes)(layer, part).raw(cache.format);
        let (first, head, cols) = (first as u64, head as u32, cache.geometry.head_dim as u32);
        let count = codes.count as u64;
        let p = crate::backend::params!(strided, first, head, cols, count, codes.buffer.at);
        // SAFETY: the kernel's parameters; the callers of the public functions vouch for the plane, and there is room for its codes.
        unsafe { self.over(kernel, codes.count, p) };
    }

    /// Most device memory, beside the loaded mode, that compressing or restoring a cache of `tokens` tokens asks for: of a run, codes and symbols, room for words and what
    /// the predictor works on; of all tokens, what the predictor attends to. Sequences are coded one after the other, so more of them need no more.
    /// It comes from the device's default memory pool, and goes back there.
    pub fn scratch_bytes(
        mode: &LoadedMode<'_, CudaBackend>,
        format: ElementFormat,
        geometry: Geometry,
        tokens: usize,
        options: Options,
    ) -> u64 {
        let run = run_tokens(geometry, options.chunk_tokens as usize).min(tokens) as u64;
        let scalars = run.saturating_mul(geometry.scalars_per_token());
        let (columns, attended) = mode.working_columns();
        // Symbols 8 and codes 2 bytes a scalar; twice the bound of the words, and once more where they are put together.
        let coding = scalars.saturating_mul(10 + u64::from(format.width()).div_ceil(8) * 3);
        // Integers of 4 bytes, their digits, and one more of each while an operation makes the next.
        let working = run.next_multiple_of(128).saturating_mul(columns as u64).saturating_mul(24);
        // Digits of keys and values, twice while room for them grows.
        let all = (tokens as u64).next_multiple_of(128).saturating_mul(attended as u64).saturating_mul(8);
        coding.saturating_add(working).saturating_add(all).saturating_add(64 << 20)
    }

    /// Most bytes that have been in use of the device's default memory pool since the last call with `reset`: of the whole process.
    ///
    /// # Errors
    /// What CUDA answered.
    pub fn peak_bytes(&self, reset: bool) -> Result<u64, Error> {
        Ok(self.device.peak(reset)?)
    }
}

/// Device memory of the backend's own, for callers without an allocator.
pub struct DeviceBytes {
    buffer: Buffer,
}

impl DeviceBytes {
    /// `bytes` zeros.
    ///
    /// # Errors
    /// Out of memory, say.
    pub fn zeros(b: &CudaBackend, bytes: usize) -> Result<DeviceBytes, Error> {
        let buffer = Buffer::filled(&b.device, bytes, 0);
        b.device.synchronise()?;
        Ok(DeviceBytes { buffer })
    }

    /// A copy of host memory.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn of(b: &CudaBackend, bytes: &[u8]) -> Result<DeviceBytes, Error> {
        let buffer = Buffer::from(&b.device, bytes);
        b.device.synchronise()?;
        Ok(DeviceBytes { buffer })
    }

    /// Its device address, a multiple of 256.
    pub fn at(&self) -> u64 {
        self.buffer.at
    }

    /// Back to the host.
    ///
    /// # Errors
    /// What failed first.
    pub fn read(&self, b: &CudaBackend, bytes: usize) -> Result<Vec<u8>, Error> {
        let found = self.buffer.read(bytes);
        b.device.status()?;
        Ok(found)
    }
}
