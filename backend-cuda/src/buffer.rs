//! Device memory that frees itself, and what the backend keeps in it.

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;

use speckv_predictor::backend::Store;

use crate::device::Device;
use crate::product;

/// Plain values that may be copied as bytes.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding that would be read.
pub(crate) unsafe trait Plain: Copy + Default {}
// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for i8 {}
// SAFETY: integers.
unsafe impl Plain for u16 {}
// SAFETY: integers.
unsafe impl Plain for i16 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for i32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: two i16.
unsafe impl Plain for crate::kernels::RawScale {}
// SAFETY: two u64.
unsafe impl Plain for crate::kernels::Piece {}

/// Bytes on the device, freed with the last handle to them. If they could not be had, the device knows, and nothing is done with them.
#[derive(Clone)]
pub(crate) struct Buffer {
    pub(crate) at: u64,
    bytes: usize,
    memory: Rc<Memory>,
}

struct Memory {
    device: Rc<Device>,
    at: u64,
}

impl Buffer {
    pub(crate) fn new(device: &Rc<Device>, bytes: usize) -> Buffer {
        let at = device.allocate(bytes);
        Buffer { at, bytes, memory: Rc::new(Memory { device: device.clone(), at }) }
    }

    pub(crate) fn device(&self) -> &Rc<Device> {
        &self.memory.device
    }

    pub(crate) fn filled(device: &Rc<Device>, bytes: usize, value: u8) -> Buffer {
        let buffer = Buffer::new(device, bytes);
        // SAFETY: it has so many bytes.
        unsafe { device.fill(buffer.at, value, bytes) };
        buffer
    }

    pub(crate) fn from<T: Plain>(device: &Rc<Device>, values: &[T]) -> Buffer {
        let buffer = Buffer::new(device, size_of_val(values));
        // SAFETY: both have so many bytes.
        unsafe { device.to_device(buffer.at, values.as_ptr().cast::<c_void>(), size_of_val(values)) };
        buffer
    }

    /// `count` values; zeros after a failure.
    pub(crate) fn read<T: Plain>(&self, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        let bytes = size_of_val(&values[..]);
        assert!(bytes <= self.bytes, "{count} values from a buffer of {} bytes", self.bytes);
        // SAFETY: both have so many bytes, and any bytes are values.
        unsafe { self.memory.device.to_host(values.as_mut_ptr().cast::<c_void>(), self.at, bytes) };
        values
    }

    /// As many values as there are in `before`, which they replace; `before` itself after a failure.
    ///
    /// # Safety
    /// Values without padding were written at the start, and any bytes are a `T`.
    pub(crate) unsafe fn read_structs<T: Copy>(&self, before: &[T]) -> Vec<T> {
        let mut values = before.to_vec();
        let bytes = size_of_val(before);
        assert!(bytes <= self.bytes, "{} values from a buffer of {} bytes", before.len(), self.bytes);
        // SAFETY: both have so many bytes; the caller's promise.
        unsafe { self.memory.device.to_host(values.as_mut_ptr().cast::<c_void>(), self.at, bytes) };
        values
    }

    /// Copies `bytes` bytes of `from` to an offset.
    pub(crate) fn copy(&mut self, offset: usize, from: &Buffer, bytes: usize) {
        assert!(offset + bytes <= self.bytes && bytes <= from.bytes, "a copy past the end");
        // SAFETY: both have so many bytes, and they are two buffers.
        unsafe { self.memory.device.within(self.at + offset as u64, from.at, bytes) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the last handle is gone, and the stream runs what was enqueued before.
        unsafe { self.device.free(self.at) };
    }
}

/// A matrix of fixed-point values on the device. Small products may wait to be added: a layer's prediction is read plane by plane, and what was
/// added to it by then is added while it is read (src/regress.rs).
pub struct Ints {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    buffer: Buffer,
    waiting: RefCell<Vec<Term>>,
}

impl Ints {
    pub(crate) fn new(rows: usize, cols: usize, buffer: Buffer) -> Ints {
        Ints { rows, cols, buffer, waiting: RefCell::default() }
    }

    /// Where the values are, when all that was added to them is.
    pub(crate) fn at(&self) -> u64 {
        for Term { rows, matrix, store } in self.waiting.take() {
            product::launch(&rows, &matrix, None, store, self.buffer.at, [self.rows, self.cols]);
        }
        self.buffer.at
    }

    /// Where the values are, and what waits to be added to them, in order.
    pub(crate) fn apart(&self) -> (u64, std::cell::Ref<'_, Vec<Term>>) {
        (self.buffer.at, self.waiting.borrow())
    }

    /// Adds a product later.
    pub(crate) fn wait(&self, term: Term) {
        self.waiting.borrow_mut().push(term);
    }

    pub(crate) fn read(&self) -> Vec<i32> {
        self.at();
        self.buffer.read(self.rows * self.cols)
    }
}

/// A product that waits to be added.
pub(crate) struct Term {
    pub(crate) rows: Rows,
    pub(crate) matrix: Matrix,
    pub(crate) store: Store,
}

/// Row scales on the device.
pub struct Scales {
    pub(crate) count: usize,
    pub(crate) buffer: Buffer,
}

/// The codes of a plane on the device.
#[derive(Clone)]
pub struct Codes {
    pub(crate) count: usize,
    pub(crate) buffer: Rc<Buffer>,
}

/// Quantised rows on the device: one byte a digit, rows padded to 128 bytes and their number to 128.
#[derive(Clone)]
pub struct Rows {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) group: usize,
    pub(crate) digits: speckv_predictor::data::Digits,
    pub(crate) wide: usize,
    /// Rows that there is room for.
    pub(crate) capacity: usize,
    pub(crate) lo: Buffer,
    pub(crate) hi: Option<Buffer>,
    pub(crate) scales: Buffer,
}

/// Weights on the device.
#[derive(Clone)]
pub struct Matrix {
    pub(crate) out: usize,
    pub(crate) inp: usize,
    pub(crate) digits: speckv_predictor::data::Digits,
    pub(crate) lo: Buffer,
    pub(crate) hi: Option<Buffer>,
    pub(crate) scales: Buffer,
    pub(crate) bias: Option<Buffer>,
}

/// Bytes of a row of digits: kernels read whole steps.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(128)
}

impl Rows {
    /// Bytes of a row of `lo`.
    pub(crate) fn ld(&self) -> usize {
        padded(self.cols)
    }

    /// Bytes of a row of `hi`.
    pub(crate) fn hi_ld(&self) -> usize {
        if self.digits == speckv_predictor::data::Digits::Two { self.ld() } else { 64 }
    }

    /// Scales of a row.
    pub(crate) fn groups(&self) -> usize {
        self.cols / self.group
    }
}
