//! The element formats of a cache and the order of their codes.

/// The number format of one cache scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementFormat {
    /// bfloat16: 8 exponent bits, 7 mantissa bits.
    Bf16,
    /// IEEE binary16: 5 exponent bits, 10 mantissa bits.
    F16,
    /// OCP FP8 E4M3 (finite, NaN at 0x7F and 0xFF, no infinities).
    E4m3,
    /// OCP FP8 E5M2 (IEEE-like, with infinities and NaNs).
    E5m2,
}
