//! Large results on their way to the host: the device fills one page-locked buffer while the host empties another.

use std::ffi::c_void;
use std::ptr;

use cust::sys;

use crate::device::{Device, check};
use crate::error::CudaError;

/// Bytes of a buffer.
pub(crate) const STAGE: usize = 4 << 20;

/// Two page-locked buffers, and an event for each that says it is full.
pub(crate) struct Staging {
    halves: [*mut c_void; 2],
    events: [sys::CUevent; 2],
}

impl Staging {
    /// In the current context, in which it must be dropped too.
    fn new() -> Result<Staging, CudaError> {
        let mut staging = Staging { halves: [ptr::null_mut(); 2], events: [ptr::null_mut(); 2] };
        let flags = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
        for (half, event) in staging.halves.iter_mut().zip(&mut staging.events) {
            // SAFETY: both may be written.
            unsafe {
                check("allocating page-locked memory", sys::cuMemHostAlloc(half, STAGE, 0))?;
                check("making an event", sys::cuEventCreate(event, flags))?;
            }
        }
        Ok(staging)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nothing is being copied: `fetch` waits for all it has enqueued, and a device's end waits for its stream.
        unsafe {
            for event in self.events.into_iter().filter(|e| !e.is_null()) {
                sys::cuEventDestroy_v2(event);
            }
            for half in self.halves.into_iter().filter(|h| !h.is_null()) {
                sys::cuMemFreeHost(half);
            }
        }
    }
}

impl Device {
    /// Hands `bytes` bytes from `at` on to `sink`, piece by piece in order, after all work enqueued before.
    ///
    /// # Errors
    /// What failed first; it is kept as every failure is.
    pub(crate) fn fetch(&self, at: u64, bytes: usize, sink: impl FnMut(&[u8])) -> Result<(), CudaError> {
        self.status()?;
        self.fetch_pieces(at, bytes, sink).inspect_err(|error| self.keep(error))
    }

    fn fetch_pieces(&self, at: u64, bytes: usize, mut sink: impl FnMut(&[u8])) -> Result<(), CudaError> {
        let (stream, count) = (self.raw(), bytes.div_ceil(STAGE));
        let mut staging = self.staging.borrow_mut();
        let staging = match &mut *staging {
            Some(staging) => staging,
            none => none.insert(Staging::new()?),
        };
        let length = |i: usize| STAGE.min(bytes - i * STAGE);
        let copy = |i: usize| {
            // SAFETY: a half has room for a piece, and was emptied when its event had come; the callers' buffers are as long as they say.
            unsafe {
                let from = at + (i * STAGE) as u64;
                let code = sys::cuMemcpyDtoHAsync_v2(staging.halves[i % 2], from, length(i), stream);
                check("copying from the device", code)?;
                check("recording an event", sys::cuEventRecord(staging.events[i % 2], stream))
            }
        };
        (0..count.min(2)).try_for_each(copy)?;
        for i in 0..count {
            // SAFETY: the event was recorded after the copy, so the half holds the piece, and nothing writes to it before the next `copy`.
            let piece = unsafe {
                check("waiting for the device", sys::cuEventSynchronize(staging.events[i % 2]))?;
                std::slice::from_raw_parts(staging.halves[i % 2].cast::<u8>(), length(i))
            };
            sink(piece);
            if i + 2 < count {
                copy(i + 2)?;
            }
        }
        Ok(())
    }
}
