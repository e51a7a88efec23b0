//! The golden streams of predictors on every CPU path: old bytes to values and back, bad ones by the definition's own words.

use speckv_backend_cpu::{CpuBackend, Path};

#[path = "../../predictor/tests/common/vectors.rs"]
mod vectors;

#[test]
fn every_path_reads_writes_and_refuses_the_golden_streams() {
    let forced = std::env::var("SPECKV_CPU").ok().map(|_| CpuBackend::from_env().expect("the forced path"));
    let paths: Vec<CpuBackend> = match forced {
        Some(one) => vec![one],
        None => Path::ALL.into_iter().filter_map(|p| CpuBackend::forced(p).ok()).collect(),
    };
    assert!(!paths.is_empty());
    for path in &paths {
        let [accepted, rejected] = vectors::check(path);
        assert!(accepted >= 39 && rejected >= 27, "{accepted} {rejected}");
    }
}
