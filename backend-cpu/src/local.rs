//! What a thread works in, call after call: memory that is neither cleared in between nor handed back, unless for more. Blocks of rows are cut
//! so that it stays within a few megabytes at the sizes of real models.

use std::cell::RefCell;

use speckv_predictor::fixed::Scale;

use crate::aligned::Aligned;

/// A thread's buffers. Whoever takes some of one writes it before reading.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// Digits of left operands.
    pub left: Lefts,
    /// Quantised values.
    pub words: Aligned<i16>,
    /// One a row.
    pub scales: Vec<Scale>,
    /// Sums of products as kernels leave them.
    pub acc: Aligned<i32>,
    /// Products, or a plane's true values.
    pub values: Aligned<i32>,
    /// What is made of products, row by row, or a plane's innovations.
    pub act: Aligned<i32>,
    /// Of a row, twice.
    pub spare: Aligned<i32>,
}

/// Two planes of digits, as each kind of kernel takes them.
#[derive(Debug, Default)]
pub(crate) struct Lefts {
    #[cfg(target_arch = "x86_64")]
    pub unsigned: [Aligned<u8>; 2],
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub bytes: [Aligned<i8>; 2],
    pub words: [Aligned<i16>; 2],
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::default();
}

/// Runs `f`, which must not wait for other threads: they might hand this one work that is done here too.
pub(crate) fn with<T>(f: impl FnOnce(&mut Local) -> T) -> T {
    LOCAL.with_borrow_mut(f)
}
