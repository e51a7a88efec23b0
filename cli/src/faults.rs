//! What the operating system does to a program in the middle of its work, told in one line.
//!
//! Inputs are mapped. If somebody cuts a mapped file short, the next look at what is gone raises SIGBUS: without this module the program would die
//! without a word. Output files are written from memory, under another name, so none is half there.

use std::sync::atomic::{AtomicBool, Ordering};

static JSON: AtomicBool = AtomicBool::new(false);

/// Has SIGBUS end the program as any failed input does: one line (and with `json` an object on stdout), exit code 1.
pub fn watch(json: bool) {
    JSON.store(json, Ordering::Relaxed);
    #[cfg(unix)]
    unix::install();
}

#[cfg(unix)]
mod unix {
    use super::{JSON, Ordering};
    use crate::error::Code;

    const LINE: &[u8] = b"error: an input file was cut short while it was read; nothing was written\n";
    const OBJECT: &[u8] =
        b"{\"error\":\"an input file was cut short while it was read; nothing was written\",\"exit\":1}\n";

    pub fn install() {
        let handler = told as extern "C" fn(libc::c_int);
        // SAFETY: a zeroed `sigaction` is one without flags and with an empty mask; `told` keeps to what a handler may do.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    }

    extern "C" fn told(_: libc::c_int) {
        // SAFETY: `write` and `_exit` may be called in a handler, and the bytes are constants.
        unsafe {
            libc::write(2, LINE.as_ptr().cast(), LINE.len());
            if JSON.load(Ordering::Relaxed) {
                libc::write(1, OBJECT.as_ptr().cast(), OBJECT.len());
            }
            libc::_exit(Code::Internal as libc::c_int);
        }
    }
}
