//! Runs a target model and yields its KV cache; reads and writes cache files.
//!
//! * `model` reads a target: a Hugging Face folder or a GGUF file.
//! * `target` runs it over a prompt, in the arithmetic of a bf16 model on a GPU, and keeps its keys and values.
//! * [`cache`] is such a KV cache in memory and in a file.
//!
//! This crate runs offline, in front of the codec, and so may use floating point. Nothing it computes has to be
//! repeated bit for bit by a decoder: the cache it yields is simply the data to be coded.
//!
//! Models and targets are behind the default feature `models`; without it only cache files are left.

pub mod cache;
pub mod error;
mod map;
#[cfg(feature = "models")]
pub mod model;
#[cfg(feature = "models")]
pub mod target;

pub use cache::Cache;
pub use error::{Error, Result};
pub(crate) use map::map_file;
#[cfg(feature = "models")]
pub use model::{ModelConfig, ModelSource};
pub use speckv_codec_core::ElementFormat;
#[cfg(feature = "models")]
pub use target::{Arithmetic, CacheMode, Run, RunOptions, Target};
