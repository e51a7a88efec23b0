//! What CUDA answered, and to which operation.

use std::fmt;

/// A failed operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CudaError {
    /// No driver library on this machine.
    NoDriver,
    /// The driver is there, but no device that it can use.
    NoDevice,
    /// The card's compute capability (major, minor) is below 8.0.
    OldDevice(i32, i32),
    /// The driver's version is below CUDA 11.2, in CUDA's counting (11020).
    OldDriver(i32),
    /// A call failed: what was attempted, and CUDA's code. Work is asynchronous: the cause may be an operation before it.
    Call {
        /// The operation.
        operation: &'static str,
        /// CUDA's code.
        code: u32,
        /// What the driver says of it.
        text: String,
    },
}

impl CudaError {
    /// Whether the device's memory was exhausted: another backend may be opened when there is some. Most other failures end the device's context.
    pub fn out_of_memory(&self) -> bool {
        matches!(self, CudaError::Call { code: 2, .. })
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CudaError::NoDriver => f.write_str("CUDA: no driver (libcuda.so.1) on this machine"),
            CudaError::NoDevice => f.write_str("CUDA: the driver finds no device"),
            CudaError::OldDevice(major, minor) => {
                write!(f, "CUDA: compute capability 8.0 or more is needed, the device has {major}.{minor}")
            }
            CudaError::OldDriver(version) => {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                write!(f, "CUDA: a driver for CUDA 11.2 or later is needed, this one is for {major}.{minor}")
            }
            CudaError::Call { operation, code, text } => {
                write!(f, "CUDA: {operation}, or work before it, failed with code {code}: {text}")
            }
        }
    }
}

impl std::error::Error for CudaError {}

impl From<CudaError> for speckv_predictor::Error {
    fn from(e: CudaError) -> Self {
        speckv_predictor::Error::Backend(e.to_string())
    }
}
