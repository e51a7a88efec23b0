//! Which backend computes.

use speckv_backend_cpu::{CpuBackend, Path};
#[cfg(feature = "cuda")]
use speckv_backend_cuda::CudaBackend;
#[cfg(feature = "shadow")]
use speckv_predictor::{Portable, both::Both};

use crate::error::{Error, Result};
use crate::output::Output;

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

/// What computes, as commands are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The fastest path of this CPU (SPECKV_CPU forces one)
    #[default]
    Cpu,
    /// The first CUDA device
    Cuda,
    /// CUDA if there is a device, else the CPU
    Auto,
}

/// An open backend.
#[allow(clippy::large_enum_variant)] // one a command
pub enum Chosen {
    /// A CPU path.
    Cpu(Active),
    /// A CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(CudaBackend),
}

/// Opens what was asked for. Where `auto` finds no CUDA, it says why.
pub fn choose(device: Device, output: &Output) -> Result<Chosen> {
    if device == Device::Cpu {
        return open().map(Chosen::Cpu);
    }
    match cuda() {
        Ok(chosen) => Ok(chosen),
        Err(why) if device == Device::Auto => {
            output.note(format!("{why}; computing on the CPU"));
            open().map(Chosen::Cpu)
        }
        Err(why) => Err(Error::usage(format!(
            "--backend cuda: {why}; expected a CUDA device, or --backend cpu or auto"
        ))),
    }
}

#[cfg(feature = "cuda")]
fn cuda() -> std::result::Result<Chosen, String> {
    CudaBackend::open(0).map(Chosen::Cuda).map_err(|e| e.to_string())
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> std::result::Result<Chosen, String> {
    Err("this program was built without CUDA (feature `cuda`)".into())
}

/// Opens a backend and runs the expression on it, whichever it is.
macro_rules! on_backend {
    ($device:expr, $output:expr, |$b:ident| $body:expr) => {
        match $crate::backend::choose($device, $output)? {
            $crate::backend::Chosen::Cpu($b) => $body,
            #[cfg(feature = "cuda")]
            $crate::backend::Chosen::Cuda($b) => $body,
        }
    };
}
pub(crate) use on_backend;

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
