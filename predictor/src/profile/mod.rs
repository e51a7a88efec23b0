//! The profile: all that a side needs to predict a target's cache. A safetensors file of integer tensors and one JSON description.

mod describe;
mod file;

pub use describe::{
    Description, Kind, LayerExponents, Mode, NamedDigits, Net, NetDigits, PRECISIONS, Precision,
};
pub use file::{ProfileFile, ProfileWriter};
