//! Fixed inputs compress to the committed sizes, on the path that `SPECKV_CPU` names or the best one.

use speckv_backend_cpu::CpuBackend;
use speckv_benches::{caches, sizes};

#[test]
fn sizes_are_the_committed_ones() {
    let path = caches::repository(sizes::FILE);
    let committed = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let rows = sizes::rows(&CpuBackend::from_env().expect("a path of this CPU"));
    if let Err(difference) = sizes::compare(&committed, &rows) {
        panic!("\n{difference}");
    }
}
