//! What the backend says where there is no device.

use speckv_backend_cuda::{CudaBackend, CudaError};

#[test]
fn a_device_that_is_not_there_is_an_error_that_names_it() {
    match CudaBackend::open(1 << 20) {
        Err(CudaError::NoDriver) => {
            assert_eq!(CudaError::NoDriver.to_string(), "CUDA: no driver (libcuda.so.1) on this machine");
        }
        // A driver that cannot be used here (no device, too old, of another version than the kernel's module) says so itself.
        Err(error) => assert!(error.to_string().starts_with("CUDA: "), "{error}"),
        Ok(_) => panic!("device number 1048576"),
    }
}

#[test]
fn failures_name_the_operation_and_the_code() {
    let text = "an illegal memory access was encountered".into();
    let error = CudaError::Call { operation: "decode", code: 700, text };
    assert!(!error.out_of_memory());
    assert_eq!(
        error.to_string(),
        "CUDA: decode, or work before it, failed with code 700: an illegal memory access was encountered"
    );
}
