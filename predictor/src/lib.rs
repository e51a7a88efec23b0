//! The seams of speckv and the algorithms over them: [`Backend`] (integer operations), [`Predict`] (predict a plane, observe its truth),
//! their portable definition, profiles, and the lock-step [`session`] that turns caches into streams.
//!
//! Law: `docs/numerics.md`. Integers only: no float decides a bit.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic, clippy::disallowed_types)]

extern crate alloc;

pub mod backend;
#[cfg(feature = "shadow")]
pub mod both;
pub mod chain;
pub mod codec;
pub mod coding;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod data;
pub mod draft;
pub mod error;
pub mod fixed;
pub mod layer;
mod loaded;
pub mod portable;
pub mod predict;
pub mod profile;
#[cfg(feature = "conformance")]
pub mod random;
pub mod session;
mod stat;
#[cfg(feature = "conformance")]
pub mod synthetic;
pub mod tables;
pub mod work;

pub use backend::Backend;
pub use error::Error;
pub use portable::Portable;
pub use predict::Predict;
pub use speckv_codec_core as core;
pub use stat::Static;
