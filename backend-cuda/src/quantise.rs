//! Operations that end in digits, as launches of kernels.

use std::ops::Range;
use std::rc::Rc;

use speckv_predictor::backend::{Backend, HeadNorm, Keep, Quantise, Rotary, Seen, Silu, learn_in_steps};
use speckv_predictor::data::{self, Digits};
use speckv_predictor::fixed::Scale;

use crate::backend::{CudaBackend, params, row_threads};
use crate::buffer::{Buffer, Ints, Rows, padded};
use crate::coding;
use crate::kernels::{self, Kernel, QUANTISE_SHARED, RawScale};

/// Warps that a multiprocessor should have before one takes more than one head.
const WARPS: usize = 64;
/// Bytes of the logistic table in shared memory.
const LOGISTIC: u32 = 2052 * 4;

/// Words that a group takes in a block's memory: four are left out after every 64, for the sake of banks.
fn room(group: usize) -> u32 {
    (group + 4 * (group / 64)).next_multiple_of(4) as u32
}

/// The kernel for heads or planes of so many columns, if there is one: a warp each.
fn warp_kernel(cols: usize, kernels: [&'static Kernel; 3]) -> Option<&'static Kernel> {
    [64, 128, 256].iter().position(|c| *c == cols).map(|i| kernels[i])
}

impl Rows {
    /// Digits as the host has them.
    pub(crate) fn download(&self) -> data::Rows {
        let (ld, hi_ld, groups) = (self.ld(), self.hi_ld(), self.groups());
        let lo: Vec<i8> = self.lo.read(self.rows * ld);
        let hi: Option<Vec<i8>> = self.hi.as_ref().map(|hi| hi.read(self.rows * hi_ld));
        let high = |t: usize, i: usize| match &hi {
            Some(hi) if self.digits == Digits::Two => i16::from(hi[t * ld + i]),
            Some(hi) if i < self.wide => i16::from(hi[t * hi_ld + i]),
            _ => 0,
        };
        let value = |t: usize, i: usize| 256 * high(t, i) + i16::from(lo[t * ld + i]);
        let scales: Vec<RawScale> = self.scales.read(self.rows * groups);
        data::Rows {
            rows: self.rows,
            cols: self.cols,
            group: self.group,
            digits: self.digits,
            wide: self.wide,
            values: (0..self.rows)
                .flat_map(|t| (0..self.cols).map(move |i| (t, i)))
                .map(|(t, i)| value(t, i))
                .collect(),
            scales: scales.iter().map(|s| Scale { m: s.m, e: s.e }).collect(),
        }
    }

    /// As kernels that write them see them.
    fn raw(&self, exponent: i32, gain: Scale) -> kernels::RawDigits {
        kernels::RawDigits {
            lo: self.lo.at,
            hi: self.hi.as_ref().map_or(0, |hi| hi.at),
            scales: self.scales.at,
            ld: self.ld() as u32,
            groups: self.groups() as u32,
            two: (self.digits == Digits::Two).into(),
            exponent,
            gain: gain.into(),
            padding: 0,
        }
    }
}

impl CudaBackend {
    /// Room for rows of digits: kernels write columns behind the last too, rows behind the last are read and thrown away.
    fn rows(&self, rows: usize, cols: usize, how: &Quantise) -> Rows {
        let room = || self.buffer(padded(rows) * padded(cols));
        Rows {
            rows,
            cols,
            group: how.group,
            digits: how.digits,
            wide: how.wide,
            capacity: rows,
            lo: room(),
            hi: match (how.digits, how.wide) {
                (Digits::Two, _) => Some(room()),
                (Digits::One, 0) => None,
                // High digits of wide columns, 64 a row.
                (Digits::One, _) => Some(self.buffer(padded(rows) * 64)),
            },
            scales: self.buffer(rows * (cols / how.group) * 4),
        }
    }

    /// Parameters of `quantise` and `activate`; the scratch that they point to, where a group does not fit shared memory with `more` bytes.
    fn block_digits(
        &self,
        x: &Ints,
        rows: &Rows,
        how: &Quantise,
        more: u32,
    ) -> (Option<Buffer>, kernels::Quantise) {
        let shared = 4 * room(how.group) + more;
        let fits = shared <= QUANTISE_SHARED && self.device.has_shared(shared);
        let scratch = (!fits).then(|| self.buffer(rows.rows * rows.groups() * 4 * room(how.group) as usize));
        let p = kernels::Quantise {
            x: x.at(),
            scratch: scratch.as_ref().map_or(0, |s| s.at),
            d: rows.raw(how.exponent, how.gain),
            cols: rows.cols as u32,
            group: how.group as u32,
            hadamard: how.hadamard,
            wide: how.wide as u32,
            rows: rows.rows as u32,
            room: room(how.group),
            eps: how.norm.unwrap_or(Scale::ZERO).into(),
            norm: how.norm.is_some().into(),
            gate: 0,
            up: 0,
            out: 0,
            logistic: self.tables().logistic,
        };
        (scratch, p)
    }

    pub(crate) fn digits(&self, x: &Ints, how: &Quantise) -> Rows {
        let rows = self.rows(x.rows, x.cols, how);
        if how.norm.is_none() && how.wide == 0 && self.warp_digits(x, 0, None, None, how, &rows) {
            return rows;
        }
        let (scratch, p) = self.block_digits(x, &rows, how, 0);
        let shared = if scratch.is_some() { 0 } else { 4 * room(how.group) };
        let grid = (x.rows * rows.groups(), 1, 1);
        // SAFETY: the kernel's one parameter; buffers as it says.
        unsafe {
            self.device.launch(&kernels::QUANTISE, grid, row_threads(how.group / 4), shared, params!(p));
        }
        rows
    }

    pub(crate) fn active_digits(&self, gate_up: &Ints, silu: Silu, how: &Quantise) -> Rows {
        let cols = gate_up.cols / 2;
        if how.group != cols || how.wide > 0 || how.norm.is_some() {
            return self.digits(&self.silu(gate_up, silu), how);
        }
        let rows = self.rows(gate_up.rows, cols, how);
        let (scratch, p) = self.block_digits(gate_up, &rows, how, LOGISTIC);
        let p = kernels::Quantise { gate: silu.gate, up: silu.up, out: silu.out, ..p };
        let shared = LOGISTIC + if scratch.is_some() { 0 } else { 4 * room(cols) };
        // Blocks stay: each brings the table once.
        let blocks = gate_up.rows.min(4 * self.device.multiprocessors as usize);
        // SAFETY: the kernel's one parameter; buffers as it says.
        unsafe {
            self.device.launch(&kernels::ACTIVATE, (blocks, 1, 1), row_threads(cols / 4), shared, params!(p));
        }
        rows
    }

    /// Digits of heads, a warp each, if there is a kernel for their size.
    fn warp_digits(
        &self,
        x: &Ints,
        column: usize,
        norm: Option<&HeadNorm>,
        rotary: Option<&Rotary>,
        how: &Quantise,
        rows: &Rows,
    ) -> bool {
        let all = [&kernels::HEADS_64, &kernels::HEADS_128, &kernels::HEADS_256];
        let Some(kernel) = warp_kernel(how.group, all) else { return false };
        let raw = |(m, e): &(i16, i16)| RawScale { m: *m, e: *e };
        let weight = norm.map(|n| self.small(&n.weight.iter().map(raw).collect::<Vec<_>>()));
        let steps = rotary.map(|r| self.small(r.steps));
        // Heads of a row share their angles, as long as every multiprocessor has plenty of warps.
        let plenty = WARPS * self.device.multiprocessors as usize;
        let each = (rows.rows * rows.groups() / plenty).clamp(1, 8).min(rows.groups());
        let p = kernels::Heads {
            x: x.at(),
            d: rows.raw(how.exponent, how.gain),
            weight: weight.as_ref().map_or(0, |w| w.at),
            steps: steps.as_ref().map_or(0, |s| s.at),
            sine: self.tables().sine,
            start: rotary.map_or(0, |r| r.start),
            cols: x.cols as u32,
            column: column as u32,
            rows: rows.rows as u32,
            hadamard: how.hadamard,
            inverse: rotary.is_some_and(|r| r.inverse).into(),
            exponent: norm.map_or(0, |n| n.exponent),
            eps: norm.map_or(Scale::ZERO, |n| n.eps).into(),
            each: each as u32,
        };
        // SAFETY: the kernel's one parameter; a warp for so many groups of a row, columns within x.
        unsafe { self.over(kernel, rows.rows * rows.groups().div_ceil(each) * 32, params!(p)) };
        true
    }

    pub(crate) fn head_digits(
        &self,
        x: &mut Ints,
        columns: Range<usize>,
        norm: Option<&HeadNorm>,
        rotary: &Rotary,
        how: &Quantise,
    ) -> Rows {
        assert!(
            columns.end <= x.cols && rotary.steps.len() == rotary.head_dim / 2,
            "columns of x, a step a pair"
        );
        let whole = norm.is_none_or(|n| n.weight.len() == how.group) && rotary.head_dim == how.group;
        let whole = whole && how.norm.is_none() && how.wide == 0;
        let rows = self.rows(x.rows, columns.len(), how);
        if whole && self.warp_digits(x, columns.start, norm, Some(rotary), how, &rows) {
            return rows;
        }
        if let Some(norm) = norm {
            self.head_norm(x, columns.clone(), norm.exponent, norm.eps, norm.weight);
        }
        self.digits(&self.rope(x, columns, rotary), how)
    }

    /// Parameters of `observe`, and the tables that they point to.
    pub(crate) fn observing(
        &self,
        seen: &Seen<'_, Self>,
        value: u64,
        innovation: u64,
        energy: &Ints,
    ) -> (Rc<Buffer>, kernels::Observe) {
        let Seen { pricing, mu, token, codes } = seen;
        assert!(codes.count == mu.rows * mu.cols && token.rows == mu.rows, "a code a mean, a scale a row");
        let (channel, p) = coding::pricing(self, pricing, mu, token);
        let p = kernels::Observe {
            p,
            codes: codes.buffer.at,
            value,
            innovation,
            energy: energy.at(),
            log2: self.tables().log2,
            shrink: self.tables().shrink,
            unit_m: pricing.unit.m,
            unit_e: pricing.unit.e,
            exponent: pricing.exponent,
            rows: mu.rows as u32,
        };
        (channel, p)
    }

    pub(crate) fn learnt(&self, seen: &Seen<'_, Self>, keep: Option<Keep<'_, Ints>>) -> (Ints, Option<Rows>) {
        let mu = seen.mu;
        let all = [&kernels::LEARN_64, &kernels::LEARN_128, &kernels::LEARN_256];
        let plain =
            |how: &Quantise| how.hadamard == 0 && how.norm.is_none() && how.wide == 0 && how.group == mu.cols;
        let whole = keep.as_ref().is_none_or(|k| {
            k.digits.as_ref().is_none_or(plain) && k.back.as_ref().is_none_or(|b| b.head_dim == mu.cols)
        });
        let Some(kernel) = warp_kernel(mu.cols, all).filter(|_| whole) else {
            return learn_in_steps(self, seen, keep);
        };
        let energy = self.ints(mu.rows, 1);
        let (mut at, mut ld, mut back, mut rows, mut d) =
            ([0; 2], 0, None, None, kernels::RawDigits::default());
        if let Some(keep) = keep {
            let Keep { innovation, value, column, back: turn, digits } = keep;
            assert!(
                column + mu.cols <= value.cols && innovation.cols == value.cols,
                "columns of what is kept"
            );
            assert!(value.rows >= mu.rows && innovation.rows >= mu.rows, "rows of what is kept");
            at = [&*value, &*innovation].map(|x| x.at() + 4 * column as u64);
            (ld, back) = (value.cols, turn);
            rows = digits.map(|how| {
                let rows = self.rows(mu.rows, mu.cols, &how);
                d = rows.raw(how.exponent, how.gain);
                rows
            });
        }
        let (_keep, o) = self.observing(seen, at[0], at[1], &energy);
        let steps = back.map(|r| self.small(r.steps));
        let p = kernels::Learn {
            o,
            steps: steps.as_ref().map_or(0, |s| s.at),
            sine: self.tables().sine,
            start: back.map_or(0, |r| r.start),
            d,
            ld: ld as u32,
            inverse: back.is_some_and(|r| r.inverse).into(),
        };
        let grid = ((mu.rows * 32).div_ceil(128), 1, 1);
        // SAFETY: the kernel's one parameter; a warp a row, the plane's columns are within what is kept.
        unsafe { self.device.launch(kernel, grid, 128, 0, params!(p)) };
        (energy, rows)
    }
}
