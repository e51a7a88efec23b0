//! The backends that must agree.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use rayon::ThreadPoolBuilder;
use speckv_backend_cpu::{CpuBackend, Path};
use speckv_predictor::Portable;

/// The definition.
pub static PORTABLE: LazyLock<Portable> = LazyLock::new(Portable::new);

/// Every path that this machine can run, by its place in [`Path::ALL`].
static PATHS: LazyLock<Vec<Option<CpuBackend>>> = LazyLock::new(|| {
    // On the thread that runs the target, so that a stack or a crash is that of one input.
    let pool = ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().expect("no pool was there before");
    let paths: Vec<_> = Path::ALL.into_iter().map(|path| CpuBackend::forced(path).ok()).collect();
    let names: Vec<_> = paths.iter().flatten().map(|b| b.path().name()).collect();
    eprintln!("paths: portable, {}", names.join(", "));
    paths
});

/// All available paths.
pub fn paths() -> impl Iterator<Item = &'static CpuBackend> {
    PATHS.iter().flatten()
}

/// The path that an input names, if this machine can run it: the same input names the same path everywhere.
pub fn chosen(input: &mut Unstructured<'_>) -> Result<Option<&'static CpuBackend>> {
    Ok(input.choose(&PATHS)?.as_ref())
}
