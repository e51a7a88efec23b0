//! The golden streams of predictors on a device: old bytes to values and back, bad ones by the definition's own words. Ignored unless asked for.

use speckv_backend_cuda::CudaBackend;

#[path = "../../predictor/tests/common/vectors.rs"]
mod vectors;

#[test]
#[ignore = "needs a CUDA device"]
fn a_device_reads_writes_and_refuses_the_golden_streams() {
    let [accepted, rejected] = vectors::check(&CudaBackend::open(0).expect("a CUDA device"));
    assert!(accepted >= 39 && rejected >= 27, "{accepted} {rejected}");
}
