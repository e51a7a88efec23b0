//! Benchmarks of speckv against what people use, and the sizes that must not change unnoticed.
//!
//! * `cargo bench -p speckv-benches --bench coder`: symbols a second of the entropy coder, every CPU path, beside `constriction`.
//! * `cargo bench -p speckv-benches --bench rivals`: bytes and speed on real caches beside zstd, lz4 and pco.
//! * `cargo bench -p speckv-benches --bench threads`: the same of speckv on one thread and on more.
//! * `cargo bench -p speckv-benches --bench predictor`: predictors alone, and whole caches through them, at the shapes of a model of 135M parameters.
//! * `cargo test -p speckv-benches --release`: the sizes of fixed inputs against `results/sizes.csv` (see [`sizes`]).
//!
//! `SPECKV_BENCH_SAVE=1` before a `cargo bench` writes its table to `results/` ([`report`]). `smollm2.py` measures compression of a larger model's caches.

pub mod caches;
pub mod drawn;
pub mod normals;
pub mod ours;
pub mod planes;
pub mod random;
pub mod report;
pub mod rivals;
pub mod sizes;
