//! Which backend computes.

use speckv_backend_cpu::CpuBackend;

use crate::error::{Error, Result};

/// The backend in use.
pub type Active = CpuBackend;

/// Chosen once per command. A path that the environment names and this machine lacks is the caller's mistake.
pub fn open() -> Result<Active> {
    CpuBackend::from_env().map_err(|e| Error::usage(e.to_string()))
}
