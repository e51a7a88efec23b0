//! Benchmarks of speckv: `cargo bench -p speckv-benches` for the parts, `smollm2.py` for compression of a real model's cache.
