//! speckv's operations on NVIDIA GPUs
