//! What the fuzz targets share: how bytes become inputs, which backends there are, how much memory was taken.
//!
//! The targets are in `fuzz_targets`, one property each; `README.md` lists them.

pub mod backends;
pub mod file;
pub mod gguf;
pub mod input;
pub mod memory;
pub mod mistakes;
pub mod profile;
pub mod tensors;

/// Panics unless a message is one line.
pub fn one_line(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "expected one line, found {text:?}");
}
