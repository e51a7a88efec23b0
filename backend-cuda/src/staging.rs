//! Large data on its way between host and device: one page-locked buffer is copied while the host fills or empties another.

use std::cell::RefMut;
use std::ffi::c_void;
use std::ptr;

use cust::sys;

use crate::device::{Device, check};
use crate::error::CudaError;

/// Bytes of a buffer.
pub(crate) const STAGE: usize = 4 << 20;

/// Two page-locked buffers, and an event for each that says its last copy is done.
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
        // SAFETY: made by `new`, and nothing is being copied: a device's end waits for its stream first.
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

    /// Copies pieces to the device, one behind the other from `to` on. They may be changed afterwards.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    ///
    /// # Safety
    /// There is room for all of them.
    pub(crate) unsafe fn send<'a>(
        &self,
        to: u64,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), CudaError> {
        self.status()?;
        // SAFETY: the caller's promise.
        unsafe { self.send_pieces(to, pieces) }.inspect_err(|error| self.keep(error))
    }

    fn staging(&self) -> Result<RefMut<'_, Staging>, CudaError> {
        let mut staging = self.staging.borrow_mut();
        if staging.is_none() {
            *staging = Some(Staging::new()?);
        }
        Ok(RefMut::map(staging, |s| s.as_mut().expect("made above")))
    }

    unsafe fn send_pieces<'a>(
        &self,
        mut to: u64,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), CudaError> {
        let stream = self.raw();
        let staging = self.staging()?;
        let free = |half: usize| {
            // SAFETY: an event of the device's.
            let code = unsafe { sys::cuEventSynchronize(staging.events[half]) };
            check("waiting for the device", code)
        };
        let flush = |half: usize, to: u64, held: usize| {
            // SAFETY: the half holds so many bytes, and the callers' buffer has room for them.
            unsafe {
                let code = sys::cuMemcpyHtoDAsync_v2(to, staging.halves[half], held, stream);
                check("copying to the device", code)?;
                check("recording an event", sys::cuEventRecord(staging.events[half], stream))
            }
        };
        let (mut half, mut held) = (0, 0);
        free(half)?;
        for mut piece in pieces {
            while !piece.is_empty() {
                let more = piece.len().min(STAGE - held);
                // SAFETY: the half has room for `more` bytes from `held` on, and no copy reads it.
                unsafe {
                    let place = staging.halves[half].cast::<u8>().add(held);
                    ptr::copy_nonoverlapping(piece.as_ptr(), place, more);
                }
                (held, piece) = (held + more, &piece[more..]);
                if held == STAGE {
                    flush(half, to, held)?;
                    (to, held, half) = (to + STAGE as u64, 0, 1 - half);
                    free(half)?;
                }
            }
        }
        if held > 0 { flush(half, to, held) } else { Ok(()) }
    }

    fn fetch_pieces(&self, at: u64, bytes: usize, mut sink: impl FnMut(&[u8])) -> Result<(), CudaError> {
        let (stream, count) = (self.raw(), bytes.div_ceil(STAGE));
        let staging = self.staging()?;
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
