//! The speckv stream: element formats, probability model, 32-lane rANS, chunks and container.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod element;
pub use element::ElementFormat;
