//! The operations of [`Backend`] as launches of kernels.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ops::Range;
use std::rc::Rc;

use speckv_predictor::Error;
use speckv_predictor::backend::{
    Attention, Backend, HeadNorm, Keep, Observed, Pricing, Quantise, Rotary, Seen, Silu, Store, Truth, Unit,
};
use speckv_predictor::core::{Chunk, ElementFormat};
use speckv_predictor::data::{self, ChunkDecoders, ChunkEncoders, Digits, Weights};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::coding::Shrink;
use speckv_predictor::tables::Tables;

use crate::buffer::{Buffer, Codes, Ints, Matrix, Plain, Rows, Scales, Term, padded};
use crate::coding::{self, Decoder, Encoder};
use crate::device::Device;
use crate::error::CudaError;
use crate::kernels::{self, FEATURES, Kernel, RawScale};
use crate::product;
use crate::tables::PriceTables;

/// Threads of a block where every element is by itself.
const THREADS: usize = 256;
/// Most small tables that are kept.
const SMALL: usize = 1 << 16;

/// A CUDA device that answers as [`Portable`](speckv_predictor::Portable) does. Its work is one stream of its own; open one a thread.
pub struct CudaBackend {
    pub(crate) device: Rc<Device>,
    name: String,
    pub(crate) host: Tables,
    buffers: [Buffer; 5],
    /// `floor(256 * log2(1 + i / 256))`, which symbols' costs are made of.
    pub(crate) cost: Buffer,
    /// What prices are looked up in.
    pub(crate) prices: PriceTables,
    /// What profiles say of planes, heads and rotations, by content: the same small tables run after run.
    small: RefCell<HashMap<Vec<u8>, Rc<Buffer>>>,
}

/// Parameters of a launch.
macro_rules! params {
    ($($param:expr),* $(,)?) => { &mut [$((&raw const $param).cast_mut().cast::<std::ffi::c_void>()),*] };
}
pub(crate) use params;

/// Threads of a block that shares a row.
pub(crate) fn row_threads(cols: usize) -> u32 {
    (cols / 4).next_multiple_of(32).clamp(32, 512) as u32
}

impl CudaBackend {
    /// The device of this number.
    ///
    /// # Errors
    /// No driver, no such device, one that is too old, or what CUDA answered.
    pub fn open(ordinal: u32) -> Result<CudaBackend, CudaError> {
        let device = Rc::new(Device::open(ordinal)?);
        let host = Tables::new();
        let shrink = Shrink::new(&host);
        let tables = [&host.sine[..], &host.exp2, &host.logistic, &host.log2, shrink.factors()];
        let buffers = tables.map(|table| Buffer::from(&device, table));
        let cost = Buffer::from(&device, &coding::cost_table());
        let name = format!("cuda/{}", device.name);
        device.synchronise()?;
        let prices = PriceTables::default();
        Ok(CudaBackend { device, name, host, buffers, cost, prices, small: RefCell::default() })
    }

    /// The device's name.
    pub fn device_name(&self) -> &str {
        &self.device.name
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// What failed first.
    pub fn synchronise(&self) -> Result<(), CudaError> {
        self.device.synchronise()
    }

    pub(crate) fn tables(&self) -> kernels::Tables {
        let [sine, exp2, logistic, log2, shrink] = [0, 1, 2, 3, 4].map(|i: usize| self.buffers[i].at);
        kernels::Tables { sine, exp2, logistic, log2, shrink }
    }

    pub(crate) fn buffer(&self, bytes: usize) -> Buffer {
        Buffer::new(&self.device, bytes)
    }

    pub(crate) fn ints(&self, rows: usize, cols: usize) -> Ints {
        Ints::new(rows, cols, self.buffer(rows * cols * 4))
    }

    /// A small table, uploaded once.
    pub(crate) fn small<T: Plain>(&self, values: &[T]) -> Rc<Buffer> {
        // SAFETY: plain values have no padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        if let Some(found) = self.small.borrow().get(bytes) {
            return found.clone();
        }
        let buffer = Rc::new(Buffer::from(&self.device, values));
        if !self.device.failed() {
            // Many profiles one after the other must not fill the device; tables in use live on.
            if self.small.borrow().len() >= SMALL {
                self.small.borrow_mut().clear();
            }
            self.small.borrow_mut().insert(bytes.to_vec(), buffer.clone());
        }
        buffer
    }

    /// Enqueues a kernel over `count` elements.
    ///
    /// # Safety
    /// As [`Device::launch`].
    pub(crate) unsafe fn over(&self, kernel: &'static Kernel, count: usize, params: &mut [*mut c_void]) {
        // SAFETY: the caller's promise.
        unsafe { self.device.launch(kernel, (count.div_ceil(THREADS), 1, 1), THREADS as u32, 0, params) };
    }
}

/// Low and high digits of weights, rows padded.
fn split(w: &Weights) -> (Vec<i8>, Option<Vec<i8>>) {
    let ld = padded(w.inp);
    let mut lo = vec![0i8; padded(w.out) * ld];
    let mut hi = (w.digits == Digits::Two).then(|| lo.clone());
    for (o, row) in w.values.chunks_exact(w.inp.max(1)).enumerate() {
        for (i, v) in row.iter().enumerate() {
            let low = *v as i8;
            lo[o * ld + i] = low;
            if let Some(hi) = &mut hi {
                hi[o * ld + i] = ((i32::from(*v) - i32::from(low)) >> 8) as i8;
            }
        }
    }
    (lo, hi)
}

fn raw_scales(scales: &[Scale]) -> Vec<RawScale> {
    scales.iter().map(|s| RawScale::from(*s)).collect()
}

impl Backend for CudaBackend {
    type Ints = Ints;
    type Rows = Rows;
    type Matrix = Matrix;
    type Scales = Scales;
    type Codes = Codes;
    type Encoder = Encoder;
    type Decoder<'s> = Decoder<'s>;

    fn name(&self) -> &str {
        &self.name
    }

    fn load(&self, weights: Weights) -> Result<Matrix, Error> {
        let (lo, hi) = split(&weights);
        let matrix = Matrix {
            out: weights.out,
            inp: weights.inp,
            digits: weights.digits,
            lo: Buffer::from(&self.device, &lo),
            hi: hi.map(|hi| Buffer::from(&self.device, &hi)),
            scales: Buffer::from(&self.device, &raw_scales(&weights.scales)),
            bias: weights.bias.map(|bias| Buffer::from(&self.device, &bias)),
        };
        self.device.status()?;
        Ok(matrix)
    }

    fn upload(&self, x: data::Ints) -> Ints {
        assert_eq!(x.data.len(), x.rows * x.cols, "a value a place");
        Ints::new(x.rows, x.cols, Buffer::from(&self.device, &x.data))
    }

    fn zeros(&self, rows: usize, cols: usize) -> Ints {
        Ints::new(rows, cols, Buffer::filled(&self.device, rows * cols * 4, 0))
    }

    fn room(&self, rows: usize, cols: usize) -> Ints {
        self.ints(rows, cols)
    }

    fn repeat(&self, row: &[i32], rows: usize) -> Ints {
        let (out, table) = (self.ints(rows, row.len()), self.small(row));
        let (cols, count) = (row.len() as u32, (rows * row.len()) as u64);
        let out_at = out.at();
        // SAFETY: the kernel's parameters; an element a thread.
        unsafe { self.over(&kernels::REPEAT, count as usize, params!(table.at, cols, out_at, count)) };
        out
    }

    fn looks_up(&self) -> bool {
        true
    }

    fn lookup(&self, table: &Matrix, outputs: &[i32]) -> Option<Ints> {
        assert!(outputs.iter().all(|o| (-1..table.out as i32).contains(o)), "outputs of the table");
        let (out, ids) = (self.ints(outputs.len(), table.inp), Buffer::from(&self.device, outputs));
        let hi = table.hi.as_ref().map_or(0, |hi| hi.at);
        let (ld, cols) = (padded(table.inp) as u32, table.inp as u32);
        let out_at = out.at();
        let p = params!(table.lo.at, hi, table.scales.at, ld, cols, ids.at, out_at);
        // SAFETY: the kernel's parameters; a block a row.
        unsafe { self.device.launch(&kernels::LOOKUP, (out.rows, 1, 1), row_threads(table.inp), 0, p) };
        Some(out)
    }

    fn download(&self, x: &Ints) -> data::Ints {
        data::Ints { rows: x.rows, cols: x.cols, data: x.read() }
    }

    fn size(&self, x: &Ints) -> usize {
        x.rows * x.cols
    }

    fn upload_codes(&self, codes: Vec<u16>) -> Codes {
        Codes { count: codes.len(), buffer: Rc::new(Buffer::from(&self.device, &codes)) }
    }

    fn download_codes(&self, codes: &Codes) -> Vec<u16> {
        codes.buffer.read(codes.count)
    }

    fn count(&self, codes: &Codes) -> usize {
        codes.count
    }

    fn upload_scales(&self, scales: Vec<Scale>) -> Scales {
        Scales { count: scales.len(), buffer: Buffer::from(&self.device, &raw_scales(&scales)) }
    }

    fn download_scales(&self, scales: &Scales) -> Vec<Scale> {
        scales.buffer.read::<RawScale>(scales.count).iter().map(|s| Scale { m: s.m, e: s.e }).collect()
    }

    fn quantise(&self, x: &Ints, how: &Quantise) -> Rows {
        self.digits(x, how)
    }

    fn download_rows(&self, rows: &Rows) -> Option<data::Rows> {
        Some(rows.download())
    }

    fn rms(&self, x: &Ints, exponent: i32, eps: Scale) -> Scales {
        let out = Scales { count: x.rows, buffer: self.buffer(x.rows * 4) };
        let (cols, eps) = (x.cols as u32, RawScale::from(eps));
        let x_at = x.at();
        let out_at = out.buffer.at;
        let p = params!(x_at, cols, exponent, eps, out_at);
        // SAFETY: the kernel's parameters; buffers as it says.
        unsafe { self.device.launch(&kernels::RMS, (x.rows, 1, 1), row_threads(x.cols), 0, p) };
        out
    }

    fn gemm(&self, a: &Rows, w: &Matrix, factor: Option<&Scales>, store: Store, out: &mut Ints) {
        if self.may_wait(a, w, factor, store, out) {
            return out.wait(Term { rows: a.clone(), matrix: w.clone(), store });
        }
        product::launch(a, w, factor, store, out.at(), [out.rows, out.cols]);
    }

    fn head_norm(
        &self,
        x: &mut Ints,
        columns: Range<usize>,
        exponent: i32,
        eps: Scale,
        weight: &[(i16, i16)],
    ) {
        assert!(columns.end <= x.cols, "columns of x");
        let weight: Vec<RawScale> = weight.iter().map(|(m, e)| RawScale { m: *m, e: *e }).collect();
        let table = self.small(&weight);
        let (cols, column, dim) = (x.cols as u32, columns.start as u32, weight.len() as u32);
        let (heads, eps) = ((columns.len() / weight.len()) as u32, RawScale::from(eps));
        let x_at = x.at();
        let count = (x.rows * heads as usize) as u64;
        let p = params!(x_at, cols, column, heads, dim, exponent, eps, table.at, count);
        // SAFETY: the kernel's parameters; columns are within x.
        unsafe { self.over(&kernels::HEAD_NORM, 32 * count as usize, p) };
    }

    fn heads(
        &self,
        x: &mut Ints,
        columns: Range<usize>,
        norm: Option<&HeadNorm>,
        rotary: &Rotary,
        how: &Quantise,
    ) -> Rows {
        self.head_digits(x, columns, norm, rotary, how)
    }

    fn rope(&self, x: &Ints, columns: Range<usize>, rotary: &Rotary) -> Ints {
        assert!(
            columns.end <= x.cols && rotary.steps.len() == rotary.head_dim / 2,
            "columns of x, a step a pair"
        );
        assert!(columns.len().is_multiple_of(rotary.head_dim), "whole heads");
        if let Some(out) = self.regressed(x, columns.clone(), Some(rotary)) {
            return out;
        }
        let out = self.ints(x.rows, columns.len());
        let steps = self.small(rotary.steps);
        let p = kernels::Rope {
            x: x.at(),
            out: out.at(),
            steps: steps.at,
            sine: self.tables().sine,
            start: rotary.start,
            cols: x.cols as u32,
            column: columns.start as u32,
            width: columns.len() as u32,
            dim: rotary.head_dim as u32,
            inverse: rotary.inverse.into(),
        };
        let threads = (columns.len() / 2).next_multiple_of(32).clamp(32, 256) as u32;
        // SAFETY: the kernel's one parameter; columns are within x.
        unsafe { self.device.launch(&kernels::ROPE, (x.rows, 1, 1), threads, 0, params!(p)) };
        out
    }

    fn columns(&self, x: &Ints, columns: Range<usize>) -> Ints {
        assert!(columns.end <= x.cols, "columns of x");
        if let Some(out) = self.regressed(x, columns.clone(), None) {
            return out;
        }
        let out = self.ints(x.rows, columns.len());
        let (cols, column, width) = (x.cols as u32, columns.start as u32, columns.len() as u32);
        let count = (x.rows * columns.len()) as u64;
        let x_at = x.at();
        let out_at = out.at();
        let p = params!(x_at, cols, column, width, out_at, count);
        // SAFETY: the kernel's parameters; columns are within x.
        unsafe { self.over(&kernels::COLUMNS, count as usize, p) };
        out
    }

    fn add(&self, x: &mut Ints, column: usize, y: &Ints) {
        assert!(column + y.cols <= x.cols && y.rows <= x.rows, "a sum within x");
        let (cols, column, width) = (x.cols as u32, column as u32, y.cols as u32);
        let count = (y.rows * y.cols) as u64;
        let x_at = x.at();
        let y_at = y.at();
        let p = params!(x_at, cols, column, width, y_at, count);
        // SAFETY: the kernel's parameters; the caller's columns are within x.
        unsafe { self.over(&kernels::ADD, count as usize, p) };
    }

    fn put(&self, x: &mut Ints, column: usize, y: &Ints) {
        assert!(column + y.cols <= x.cols && y.rows <= x.rows, "columns of x");
        let (cols, column, width) = (x.cols as u32, column as u32, y.cols as u32);
        let count = (y.rows * y.cols) as u64;
        let x_at = x.at();
        let y_at = y.at();
        let p = params!(x_at, cols, column, width, y_at, count);
        // SAFETY: the kernel's parameters; the caller's columns are within x.
        unsafe { self.over(&kernels::PUT, count as usize, p) };
    }

    fn silu(&self, gate_up: &Ints, how: Silu) -> Ints {
        let out = self.ints(gate_up.rows, gate_up.cols / 2);
        let (width, count) = (out.cols as u32, (out.rows * out.cols) as u64);
        let logistic = self.tables().logistic;
        let gate_up_at = gate_up.at();
        let out_at = out.at();
        let p = params!(gate_up_at, width, how.gate, how.up, how.out, logistic, out_at, count);
        // SAFETY: the kernel's parameters; buffers as it says.
        unsafe { self.over(&kernels::SILU, count as usize, p) };
        out
    }

    fn activate(&self, gate_up: &Ints, silu: Silu, how: &Quantise) -> Rows {
        self.active_digits(gate_up, silu, how)
    }

    fn append(&self, rows: &mut Rows, more: Rows) {
        assert_eq!(
            (rows.cols, rows.group, rows.digits, rows.wide),
            (more.cols, more.group, more.digits, more.wide)
        );
        let (old, new) = (rows.rows, rows.rows + more.rows);
        let (ld, hi_ld, groups) = (rows.ld(), rows.hi_ld(), rows.groups());
        if new > rows.capacity {
            let capacity = new.max(2 * rows.capacity);
            let grow = |from: &Buffer, room: usize, used: usize| {
                let mut to = Buffer::filled(&self.device, room, 0);
                to.copy(0, from, used);
                to
            };
            rows.lo = grow(&rows.lo, padded(capacity) * ld, old * ld);
            rows.hi = rows.hi.as_ref().map(|hi| grow(hi, padded(capacity) * hi_ld, old * hi_ld));
            rows.scales = grow(&rows.scales, capacity * groups * 4, old * groups * 4);
            rows.capacity = capacity;
        }
        rows.lo.copy(old * ld, &more.lo, more.rows * ld);
        if let (Some(hi), Some(more_hi)) = (&mut rows.hi, &more.hi) {
            hi.copy(old * hi_ld, more_hi, more.rows * hi_ld);
        }
        rows.scales.copy(old * groups * 4, &more.scales, more.rows * groups * 4);
        rows.rows = new;
    }

    fn attention(&self, query: &Rows, keys: &Rows, values: &Rows, start: usize, how: &Attention) -> Ints {
        self.attend(query, keys, values, start, how)
    }

    fn power(&self, x: &Ints, columns: Range<usize>, exponent: i32) -> Ints {
        assert!(columns.end <= x.cols, "columns of x");
        let out = self.ints(x.rows, 1);
        let (cols, column, width) = (x.cols as u32, columns.start as u32, columns.len() as u32);
        let log2 = self.tables().log2;
        let x_at = x.at();
        let out_at = out.at();
        let p = params!(x_at, cols, column, width, exponent, log2, out_at);
        // SAFETY: the kernel's parameters; columns are within x.
        unsafe { self.device.launch(&kernels::POWER, (x.rows, 1, 1), row_threads(columns.len()), 0, p) };
        out
    }

    fn token_scale(&self, rows: usize, features: &[(&Ints, i32)], bias: i64) -> Ints {
        assert!(features.iter().all(|(f, _)| f.rows >= rows), "a feature a row");
        let out = self.ints(rows, 1);
        let partial = (features.len() > FEATURES).then(|| self.buffer(rows * 8));
        // No features are one empty launch.
        let launches = features.len().div_ceil(FEATURES).max(1);
        for i in 0..launches {
            let some = &features[i * FEATURES..features.len().min((i + 1) * FEATURES)];
            let mut p = kernels::TokenScale {
                feature: [0; FEATURES],
                weight: [0; FEATURES],
                bias,
                partial: partial.as_ref().map_or(0, |b| b.at),
                out: if i + 1 == launches { out.at() } else { 0 },
                count: some.len() as u32,
                rows: rows as u32,
                first: (i == 0).into(),
            };
            for (j, (feature, weight)) in some.iter().enumerate() {
                (p.feature[j], p.weight[j]) = (feature.at(), *weight);
            }
            // Small blocks: there are few rows, and each multiprocessor should have some.
            let grid = (rows.div_ceil(32), 1, 1);
            // SAFETY: the kernel's one parameter; features have a value a row.
            unsafe { self.device.launch(&kernels::TOKEN_SCALE, grid, 32, 0, params!(p)) };
        }
        out
    }

    fn encoder(&self, chunks: ChunkEncoders) -> Encoder {
        Encoder::new(self, chunks)
    }

    fn encode_plane(
        &self,
        pricing: &Pricing,
        mu: &Ints,
        token: &Ints,
        codes: &Codes,
        to: &mut Encoder,
    ) -> Result<(), Error> {
        to.plane(self, pricing, mu, token, codes)
    }

    fn cost(&self, encoder: &Encoder) -> Result<u64, Error> {
        encoder.cost(self)
    }

    fn finish_chunks(&self, encoder: Encoder) -> Result<Vec<Chunk>, Error> {
        self.finish_resident(encoder)?.download()
    }

    fn decoder<'s>(&self, chunks: ChunkDecoders<'s>) -> Decoder<'s> {
        Decoder::new(self, chunks)
    }

    fn decode_plane(
        &self,
        pricing: &Pricing,
        mu: &Ints,
        token: &Ints,
        from: &mut Decoder<'_>,
    ) -> Result<Codes, Error> {
        from.plane(self, pricing, mu, token)
    }

    fn finish_decoders(&self, decoder: Decoder<'_>, values_checksums: &[u64]) -> Result<(), Error> {
        decoder.finish(self, values_checksums)
    }

    fn observe(&self, pricing: &Pricing, mu: &Ints, token: &Ints, codes: &Codes) -> Observed<Ints> {
        assert!(codes.count == mu.rows * mu.cols && token.rows == mu.rows, "a code a mean, a scale a row");
        let truth = Truth { value: self.ints(mu.rows, mu.cols), innovation: self.ints(mu.rows, mu.cols) };
        let energy = self.ints(mu.rows, 1);
        let seen = Seen { pricing, mu, token, codes };
        let (_keep, p) = self.observing(&seen, truth.value.at(), truth.innovation.at(), &energy);
        // SAFETY: the kernel's one parameter; a warp a row.
        unsafe { self.over(&kernels::OBSERVE, mu.rows * 32, params!(p)) };
        Observed { truth, energy }
    }

    fn learn(&self, seen: &Seen<'_, Self>, keep: Option<Keep<'_, Ints>>) -> (Ints, Option<Rows>) {
        self.learnt(seen, keep)
    }

    fn values(&self, codes: &Codes, cols: usize, format: ElementFormat, unit: Unit, exponent: i32) -> Ints {
        let out = self.ints(codes.count / cols, cols);
        let (f, count) = (coding::format(format), (out.rows * cols) as u64);
        let out_at = out.at();
        let p = params!(codes.buffer.at, f, unit.m, unit.e, exponent, out_at, count);
        // SAFETY: the kernel's parameters; a value a code.
        unsafe { self.over(&kernels::VALUES, codes.count, p) };
        out
    }

    fn status(&self) -> Result<(), Error> {
        Ok(self.device.status()?)
    }

    fn wait(&self) -> Result<(), Error> {
        Ok(self.device.synchronise()?)
    }
}
