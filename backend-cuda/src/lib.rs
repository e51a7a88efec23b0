//! speckv's integer operations on NVIDIA GPUs: the cache, the predictor and the coder stay on the device, and every answer is bit for bit
//! that of the portable definition.
//!
//! With the feature `cuda`. Nothing of CUDA is needed to build: kernels are committed as PTX (`ci/ptx.sh` makes them with Debian's clang), and the
//! driver is looked for when `CudaBackend::open` is called. Cards of compute capability 8.0 and later; those of 9.0 have products of their own.
#![cfg_attr(not(feature = "cuda"), allow(unused))]

#[cfg(feature = "cuda")]
mod attention;
#[cfg(feature = "cuda")]
mod backend;
#[cfg(feature = "cuda")]
mod buffer;
#[cfg(feature = "cuda")]
mod coding;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(feature = "cuda")]
mod error;
#[cfg(feature = "cuda")]
mod hashing;
#[cfg(feature = "cuda")]
mod kernels;
#[cfg(feature = "cuda")]
mod payload;
#[cfg(feature = "cuda")]
mod product;
#[cfg(feature = "cuda")]
mod quantise;
#[cfg(feature = "cuda")]
mod regress;
#[cfg(feature = "cuda")]
mod resident;
#[cfg(feature = "cuda")]
mod staging;
#[cfg(feature = "cuda")]
mod tables;

#[cfg(feature = "cuda")]
pub use backend::CudaBackend;
#[cfg(feature = "cuda")]
pub use buffer::{Codes, Ints, Matrix, Rows, Scales};
#[cfg(feature = "cuda")]
pub use coding::{Decoder, Encoder};
#[cfg(feature = "cuda")]
pub use error::CudaError;
#[cfg(feature = "cuda")]
pub use payload::{Payload, Payloads};
#[cfg(feature = "cuda")]
pub use resident::{DeviceBytes, Packed, Pages, Resident, Strided};
