//! Runs a target model and yields its KV cache; reads and writes cache files.
//!
//! * [`model`] reads a target: a Hugging Face folder or a GGUF file.
//! * [`target`] runs it over a prompt, in the arithmetic of a bf16 model on a GPU, and keeps its keys and values.
//! * [`cache`] is such a KV cache in memory and in a file.
//!
//! This crate runs offline, in front of the codec, and so may use floating point. Nothing it computes has to be
//! repeated bit for bit by a decoder: the cache it yields is simply the data to be coded.

pub mod cache;
pub mod error;
pub mod model;
pub mod target;

pub use cache::Cache;
pub use error::{Error, Result};
pub use model::{ModelConfig, ModelSource};
pub use speckv_codec_core::ElementFormat;
pub use target::{Arithmetic, CacheMode, Run, RunOptions, Target};
