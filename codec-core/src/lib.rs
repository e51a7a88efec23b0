//! The speckv stream: element formats, probability model, 32-lane rANS, chunks and container.
//!
//! This crate is the portable definition of `docs/format.md`: integers only, no `std`, no `unsafe`, and no idea of where
//! predictions come from. Give it a mean and a scale for every scalar of a plane, the same on both sides, and it
//! restores the exact bits; better predictions make fewer of them, nothing more.
//!
//! | to learn about | read |
//! | --- | --- |
//! | element formats, the order of codes, edges between them | [`element`] |
//! | cells: codes that share a symbol | [`grid`] |
//! | the price of a scalar and its inverse | [`model`], [`shape`] |
//! | the coder | [`lanes`] |
//! | a plane, a chunk, a stream | [`plane`], [`chunk`], [`stream`] with [`header`] |
//! | every constant | [`limits`] |
//!
//! # With a predictor of your own
//!
//! One plane of two tokens and four channels, e4m3, in a stream of its own:
//!
//! ```
//! use speckv_codec_core::*;
//!
//! // What the cache holds: 1.0, -2.0, 0.5, 1.5 and, for the second token, 1.125, -2.0, 0.5, NaN.
//! let keys: [u16; 8] = [0x38, 0xC0, 0x30, 0x3C, 0x39, 0xC0, 0x30, 0x7F];
//! // What we predict: 1.0, -2.0, 0.5, 1.5 twice, in units of 2^-10, give or take about 2^(96/16) = 64 units.
//! let mu = [1024, -2048, 512, 1536, 1024, -2048, 512, 1536];
//! let shape = Shape::gaussian();
//! let model = PlaneModel {
//!     format: ElementFormat::E4m3,
//!     exponent: 10,
//!     mu: &mu,
//!     channel_scale: &[96, 96, 80, 96],
//!     token_scale: &[0, 0],
//!     shape: &shape,
//! };
//! let values = [0x38; 8]; // We have no prediction for the other part.
//!
//! let mut encoder = ChunkEncoder::new(ElementFormat::E4m3, 2, None);
//! encoder.push_plane(&model, &keys)?;
//! encoder.push_raw(&values)?;
//! let chunk = encoder.finish()?;
//!
//! let header = Header {
//!     format: ElementFormat::E4m3,
//!     predictor: PredictorKind::External,
//!     precision: Name::new("")?,
//!     geometry: Geometry { layers: 1, kv_heads: 1, head_dim: 4 },
//!     chunk_tokens: 256,
//!     first_token: 0,
//!     tokens: 2,
//!     profile: [0; 32], // The digest of whatever your predictions depend on.
//!     token_ids: false,
//!     scales: vec![0x3F80_0000; 2], // 1.0 for K and V, as the bits of an f32.
//! };
//! let bytes = write_stream(&header, &[chunk])?;
//! assert_eq!((bytes.len(), checksum::xxh3(&bytes)), (247, 0x88AB_E74B_5937_1754));
//!
//! let stream = Stream::parse(&bytes, &Limits::default())?;
//! let chunk = stream.chunk(0)?;
//! let mut decoder = chunk.decoder(stream.header())?;
//! let mut restored = [0; 8];
//! decoder.next_plane(&model, &mut restored)?;
//! assert_eq!(restored, keys);
//! decoder.next_plane(&model, &mut restored)?; // Raw: the model only says how large the plane is.
//! assert_eq!(restored, values);
//! decoder.finish(chunk.values_checksum)?;
//! # Ok::<(), Error>(())
//! ```
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
