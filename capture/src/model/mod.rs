//! Reading target models: shape, weights and tokenizer, from a Hugging Face folder or a GGUF file.

mod config;
mod folder;
mod gguf;
mod gguf_header;
mod gguf_tokenizer;
mod hf_config;
mod rope;
mod source;

pub use candle_core::Tensor;
pub use config::{Family, ModelConfig};
pub use rope::{Rope, RopeScaling};
pub use source::ModelSource;
pub use tokenizers::Tokenizer;
