//! The profile: all that a side needs to predict a target's cache. A safetensors file of integer tensors and one JSON description.

mod cost;
mod describe;
mod embed;
mod file;

pub use describe::{
    Description, Embedding, Kind, LayerExponents, Mode, NamedDigits, Net, NetDigits, PRECISIONS,
    PROFILE_VERSION, Precision,
};
pub use embed::Embedded;
pub use file::{ProfileFile, ProfileWriter};
