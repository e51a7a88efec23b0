//! Weights, packed and scaled as a path likes them.

use rayon::prelude::*;
use speckv_predictor::data::{Digits, MAX_INPUTS, Weights};
use speckv_predictor::error::Error;
use speckv_predictor::fixed::Scale;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::kernel::Line8;
use crate::kernel::{Kernel, Line, Line16};
use crate::panels::Panels;
use crate::vector::{Columns, NEVER};

/// Scales of columns as numbers, padded to whole panels.
#[derive(Clone, Debug)]
pub(crate) struct Scales {
    m: Vec<i32>,
    e: Vec<i32>,
    bias: Option<Vec<i32>>,
    top: i32,
}

impl Scales {
    /// From scales and a bias, padded to a multiple of `to`.
    pub(crate) fn new(
        scales: impl ExactSizeIterator<Item = Scale>,
        bias: Option<&[i32]>,
        to: usize,
    ) -> Scales {
        let size = scales.len().next_multiple_of(to);
        let (mut m, mut e) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for s in scales {
            m.push(s.m as i32);
            e.push(if s.m == 0 { NEVER } else { s.e as i32 });
        }
        m.resize(size, 0);
        e.resize(size, NEVER);
        let top = e.iter().copied().max().unwrap_or(NEVER);
        let bias = bias.map(|b| b.iter().copied().chain(std::iter::repeat(0)).take(size).collect());
        Scales { m, e, bias, top }
    }

    /// From column `at` on.
    pub(crate) fn from(&self, at: usize) -> Columns<'_> {
        Columns {
            m: &self.m[at..],
            e: &self.e[at..],
            top: self.top,
            bias: self.bias.as_ref().map(|b| &b[at..]),
        }
    }
}

/// Weights as one path likes them.
#[derive(Clone, Debug)]
pub struct Matrix {
    panels: Packed,
    pub(crate) scales: Scales,
    pub(crate) out: usize,
    pub(crate) inp: usize,
    pub(crate) digits: Digits,
}

/// Panels of either kind of line.
#[derive(Clone, Debug)]
pub(crate) enum Packed {
    /// int8 digits.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Bytes(Panels<Line8>),
    /// Digits in 16 bits.
    Pairs(Panels<Line16>),
}

/// Which of a matrix's packings a line type is in.
pub(crate) trait PackedLine: Line {
    /// Wraps panels.
    fn pack(panels: Panels<Self>) -> Packed;
    /// The panels, which must have been packed by the same path.
    fn of(matrix: &Matrix) -> &Panels<Self>;
}

macro_rules! packed_line {
    ($line:ty, $variant:ident) => {
        impl PackedLine for $line {
            fn pack(panels: Panels<$line>) -> Packed {
                Packed::$variant(panels)
            }

            fn of(matrix: &Matrix) -> &Panels<$line> {
                match &matrix.panels {
                    Packed::$variant(p) => p,
                    #[allow(unreachable_patterns)]
                    _ => panic!("weights were packed for another path"),
                }
            }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
packed_line!(Line8, Bytes);
packed_line!(Line16, Pairs);

/// Packs weights for a kernel.
pub(crate) fn load<K: Kernel<Line: PackedLine>>(_: K, w: Weights) -> Result<Matrix, Error> {
    if w.inp > MAX_INPUTS {
        return Err(Error::Backend(format!("a matrix of {} inputs (at most {MAX_INPUTS})", w.inp)));
    }
    if w.values.len() != w.out * w.inp
        || w.scales.len() != w.out
        || w.bias.as_ref().is_some_and(|b| b.len() != w.out)
    {
        return Err(Error::Backend(format!(
            "a matrix of {} x {} with {} weights, {} scales and {} biases",
            w.out,
            w.inp,
            w.values.len(),
            w.scales.len(),
            w.bias.as_ref().map_or(0, Vec::len)
        )));
    }
    let levels = w.digits.levels();
    if let Some(v) = w.values.par_iter().find_any(|v| (**v as i32).abs() > levels) {
        return Err(Error::Backend(format!("a weight of {v} where {levels} is the largest")));
    }
    let row = |o: usize| &w.values[o * w.inp..(o + 1) * w.inp];
    let panels = Panels::of_outputs::<K>(w.out, w.inp, w.digits, row);
    Ok(Matrix {
        panels: K::Line::pack(panels),
        scales: Scales::new(w.scales.iter().copied(), w.bias.as_deref(), K::NR),
        out: w.out,
        inp: w.inp,
        digits: w.digits,
    })
}
