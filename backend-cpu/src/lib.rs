//! speckv's operations on CPUs, with SIMD chosen at run time
