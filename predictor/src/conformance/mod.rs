//! What every [`Backend`] must do: give the bits of [`Portable`], on random inputs and at the ends of every stated range.
//!
//! A backend joins with one line, [`run`], or gets one `#[test]` for each property by
//! [`conformance_tests!`](crate::conformance_tests):
//!
//! ```text
//! speckv_predictor::conformance_tests!(MyBackend::new());
//! ```
//!
//! Inputs come from a small generator in here; a failure names the operation, the case and its seed, and the first value that differs.

mod attention;
mod coding;
mod heads;
mod inputs;
mod product;
mod rows;
mod streams;

use alloc::string::String;
use core::fmt::Debug;

use crate::backend::Backend;
use crate::data::Ints;
use crate::portable::Portable;

pub use crate::random::Random;
pub use attention::attention;
pub use coding::{decode_damaged, encode_and_decode, learn, observe, reject, values};
pub use heads::heads;
pub use inputs::Pattern;
pub use product::{feed_forward, gemm, load_all_sizes, regress};
pub use rows::{
    activate, add, append, columns, head_norm, lookup, power, put, quantise, repeat, rms, rope, silu,
    token_scale, transfer,
};
pub use streams::streams;

/// Checks every property; panics at the first difference.
pub fn run<B: Backend>(backend: &B) {
    macro_rules! all {
        (() $($property:ident)*) => {
            $($property(backend);)*
        };
    }
    crate::conformance_properties!(all, ());
}

/// `gemm`, `quantise` and `attention` at the sizes of real models, where backends have loops of their own: not among the properties, since the
/// definition takes seconds.
pub fn large<B: Backend>(backend: &B) {
    product::large(backend);
    attention::large(backend);
}

/// Calls the named macro with its argument and the names of all properties.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_properties {
    ($then:ident, $argument:tt) => {
        $then! {
            $argument
            transfer repeat lookup quantise rms gemm load_all_sizes regress feed_forward head_norm heads rope columns add put silu activate append attention
            power token_scale encode_and_decode decode_damaged reject observe learn values
        }
    };
}

/// One `#[test]` for each property of a backend, built anew by the expression in each.
#[macro_export]
macro_rules! conformance_tests {
    ($backend:expr) => {
        use $crate::conformance_each as speckv_conformance_each;
        $crate::conformance_properties!(speckv_conformance_each, ($backend));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_each {
    (($backend:expr) $($property:ident)*) => {
        $(#[test]
        fn $property() {
            $crate::conformance::$property(&$backend);
        })*
    };
}

/// One comparison: who, what and which seed.
pub(crate) struct Case<'a> {
    backend: &'a str,
    what: String,
    seed: u64,
}

impl<'a> Case<'a> {
    pub(crate) fn new<B: Backend>(backend: &'a B, what: String, seed: u64) -> Case<'a> {
        Case { backend: backend.name(), what, seed }
    }

    /// Panics unless two matrices are equal.
    pub(crate) fn same(&self, found: &Ints, expected: &Ints) {
        let Case { backend, what, seed } = self;
        assert_eq!(
            (found.rows, found.cols, found.data.len()),
            (expected.rows, expected.cols, expected.data.len()),
            "{backend}: {what}, seed {seed}: shape"
        );
        if let Some(i) = (0..found.data.len()).find(|i| found.data[*i] != expected.data[*i]) {
            let differ = found.data.iter().zip(&expected.data).filter(|(a, b)| a != b).count();
            panic!(
                "{backend}: {what}, seed {seed}: row {} column {}: found {}, expected {} ({differ} of {} differ)",
                i / found.cols,
                i % found.cols,
                found.data[i],
                expected.data[i],
                found.data.len()
            );
        }
    }

    /// Panics unless two answers are equal.
    pub(crate) fn equal<T: PartialEq + Debug>(&self, found: &T, expected: &T) {
        let Case { backend, what, seed } = self;
        assert!(found == expected, "{backend}: {what}, seed {seed}: found {found:?}, expected {expected:?}");
    }
}

/// The definition to compare with.
pub(crate) fn definition() -> Portable {
    Portable::new()
}
