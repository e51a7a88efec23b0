//! The speckv stream: element formats, probability model, 32-lane rANS, chunks and container.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::float_arithmetic, clippy::disallowed_types)]
extern crate alloc;

pub mod bits;
pub mod bytes;
pub mod checksum;
pub mod chunk;
pub mod element;
pub mod error;
pub mod grid;
pub mod header;
pub mod lanes;
pub mod limits;
pub mod model;
pub mod plane;
pub mod shape;
pub mod stream;

pub use chunk::{Chunk, ChunkDecoder, ChunkEncoder, PlaneMode};
pub use element::ElementFormat;
pub use error::{Checksum, Error, Result, Rule};
pub use header::{Geometry, Header, Name, Part, PredictorKind};
pub use lanes::{LaneEncoder, Lanes, Symbol};
pub use limits::{Limits, payload_bound};
pub use plane::PlaneModel;
pub use shape::Shape;
pub use stream::{ChunkRef, Front, Stream, write_front, write_stream};
