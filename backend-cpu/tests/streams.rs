//! Whole streams: every path and thread count writes the bytes that the portable backend writes, and reads them.

use speckv_backend_cpu::{CpuBackend, Path};
use speckv_predictor::conformance::streams;

#[test]
fn every_path_writes_and_reads_the_portable_bytes() {
    let forced = std::env::var("SPECKV_CPU").ok().map(|_| CpuBackend::from_env().expect("the forced path"));
    let paths: Vec<CpuBackend> = match forced {
        Some(one) => vec![one],
        None => Path::ALL.into_iter().filter_map(|p| CpuBackend::forced(p).ok()).collect(),
    };
    assert!(!paths.is_empty());
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for b in &paths {
            assert_eq!(pool.install(|| streams(b)), 32, "{} with {threads} threads", b.path());
        }
    }
}
