//! The suite on a device: every operation, and whole streams. Ignored unless asked for, since most machines have no device: `ci/gpu.sh` asks.

use speckv_backend_cuda::CudaBackend;
use speckv_predictor::Backend;
use speckv_predictor::conformance as suite;

macro_rules! on_device {
    (() $($property:ident)*) => {
        $(#[test]
        #[ignore = "needs a CUDA device"]
        fn $property() {
            let b = CudaBackend::open(0).expect("a CUDA device");
            suite::$property(&b);
            b.status().expect("no failure that was not told");
        })*
    };
}
speckv_predictor::conformance_properties!(on_device, ());

/// The products, rows and attention that only large shapes reach.
#[test]
#[ignore = "needs a CUDA device"]
fn large() {
    suite::large(&CudaBackend::open(0).expect("a CUDA device"));
}

#[test]
#[ignore = "needs a CUDA device"]
fn streams() {
    let b = CudaBackend::open(0).expect("a CUDA device");
    assert_eq!(suite::streams(&b), 32);
}
