//! Which backend computes.

use speckv_backend_cpu::{CpuBackend, Path};
#[cfg(feature = "shadow")]
use speckv_predictor::{Portable, both::Both};

use crate::error::{Error, Result};

/// The backend in use.
#[cfg(not(feature = "shadow"))]
pub type Active = CpuBackend;
/// The backend in use: the definition beside what is fast. The first difference is an error, and nothing is written.
#[cfg(feature = "shadow")]
pub type Active = Both<Portable, CpuBackend>;

/// Chosen once per command. A path that the environment names and this machine lacks is the caller's mistake.
pub fn open() -> Result<Active> {
    let cpu = CpuBackend::from_env().map_err(|e| Error::usage(e.to_string()))?;
    #[cfg(feature = "shadow")]
    let cpu = Both::new(Portable::new(), cpu);
    Ok(cpu)
}

/// The name of the definition, beside those of CPU paths.
pub const PORTABLE: &str = "portable";

/// A CPU path by its name; none for the definition.
pub fn named(name: &str) -> Result<Option<CpuBackend>> {
    if name == PORTABLE {
        return Ok(None);
    }
    let path = Path::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Path::ALL.iter().map(|p| p.name()).collect();
        Error::usage(format!("`{name}`: expected {PORTABLE} or a CPU path ({})", names.join(", ")))
    })?;
    CpuBackend::forced(path).map(Some).map_err(|e| Error::usage(e.to_string()))
}
