//! speckv on NVIDIA GPUs. Empty so far: see the README beside this crate.
