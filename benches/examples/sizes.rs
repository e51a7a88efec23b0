//! Writes `benches/results/sizes.csv` anew. Look at the diff before it is committed.

use speckv_backend_cpu::CpuBackend;
use speckv_benches::{caches, sizes};

fn main() {
    let rows = sizes::rows(&CpuBackend::from_env().expect("a path of this CPU"));
    let path = caches::repository(sizes::FILE);
    std::fs::write(&path, sizes::csv(&rows)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    println!("{} sizes written to {}", rows.len(), path.display());
}
