//! Sums, rotations and activations.

use speckv_predictor::backend::{Rotary, Silu};
use speckv_predictor::fixed::{LIMIT, shift_round};

use super::bounded_sum;

/// `x += y`, saturated: sums of two values within [`LIMIT`] fit 32 bits.
#[inline(always)]
pub(crate) fn add(x: &mut [i32], y: &[i32]) {
    let n = x.len().min(y.len());
    let (x, y) = (&mut x[..n], &y[..n]);
    for i in 0..n {
        x[i] = bounded_sum(x[i], y[i]);
    }
}

/// What [`coding::log_power`](speckv_predictor::portable::coding::log_power) sums up.
#[inline(always)]
pub(crate) fn squares(x: &[i32]) -> u64 {
    let mut sum = 0i64;
    for v in x {
        let v = (*v >> 8) as i64;
        sum = sum.wrapping_add(v.wrapping_mul(v));
    }
    sum as u64
}

/// A function's table, each entry beside its distance to the next: what interpolation takes, in one look-up.
#[derive(Clone, Debug)]
pub(crate) struct Steps<const N: usize>(Box<[u64; N]>);

impl<const N: usize> Steps<N> {
    /// Of a table of `N + 1` entries.
    pub(crate) fn new(table: &[i32]) -> Steps<N> {
        assert_eq!(table.len(), N + 1, "entries");
        let pairs = table.windows(2).map(|t| t[0] as u32 as u64 | ((t[1] - t[0]) as u32 as u64) << 32);
        Steps(pairs.collect::<Vec<_>>().try_into().expect("N pairs"))
    }

    /// Entry `at`, modulo `N` (a power of two), and the distance to the next.
    #[inline(always)]
    fn at(&self, at: u64) -> (i64, i64) {
        let pair = self.0[at as usize & (N - 1)];
        (pair as i32 as i64, pair as i64 >> 32)
    }
}

/// [`elementwise::rope_row`](speckv_predictor::portable::elementwise::rope_row) from `x` to `out`; `spare` has room for a head.
#[inline(always)]
pub(crate) fn rope(
    x: &[i32],
    rotary: &Rotary<'_>,
    position: u64,
    sine: &Steps<4096>,
    spare: &mut [i32],
    out: &mut [i32],
) {
    let half = rotary.head_dim / 2;
    let (steps, spare) = (&rotary.steps[..half], &mut spare[..2 * half]);
    let (sin, cos) = spare.split_at_mut(half);
    let sign = if rotary.inverse { -1 } else { 1 };
    for i in 0..half {
        let phase = steps[i].wrapping_mul(position);
        sin[i] = sign * sine_of(phase, sine);
        cos[i] = sine_of(phase.wrapping_add(1 << 62), sine);
    }
    let limit = LIMIT as i64;
    for (x, out) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)) {
        let ((x, y), (out_x, out_y)) = (x.split_at(half), out.split_at_mut(half));
        let (out_x, out_y) = (&mut out_x[..half], &mut out_y[..half]);
        for i in 0..half {
            let (a, b, s, c) = (x[i] as i64, y[i] as i64, sin[i] as i64, cos[i] as i64);
            out_x[i] = ((a * c - b * s + (1 << 29)) >> 30).clamp(-limit, limit) as i32;
            out_y[i] = ((b * c + a * s + (1 << 29)) >> 30).clamp(-limit, limit) as i32;
        }
    }
}

/// The sine of [`Tables::sin_cos`](speckv_predictor::tables::Tables::sin_cos).
#[inline(always)]
fn sine_of(phase: u64, sine: &Steps<4096>) -> i32 {
    let (a, step) = sine.at(phase >> 52);
    let f = (phase >> 32 & 0xF_FFFF) as i64;
    (a + ((step * f + (1 << 19)) >> 20)) as i32
}

/// [`elementwise::silu_row`](speckv_predictor::portable::elementwise::silu_row).
#[inline(always)]
pub(crate) fn silu(gate_up: &[i32], how: Silu, logistic: &Steps<2048>, out: &mut [i32]) {
    let n = out.len();
    let (gate, up) = (&gate_up[..n], &gate_up[n..2 * n]);
    let (to_q20, to_out) = (20 - how.gate, how.out - how.gate - how.up);
    if to_out < 0 && to_q20 > -62 && to_q20 <= 0 {
        // The usual case: two right shifts, without branches.
        let (s1, half1) = (-to_q20 as u32, if to_q20 == 0 { 0 } else { 1i64 << (-to_q20 - 1) });
        let s2 = (-to_out).min(63) as u32;
        let half2 = 1i64 << (s2 - 1);
        for i in 0..n {
            let g = gate[i] as i64;
            let x = (g + half1).wrapping_shr(s1) as i32;
            let silu = (g * sigma(x, logistic) + (1 << 29)) >> 30;
            let v = (silu * up[i] as i64).wrapping_add(half2).wrapping_shr(s2);
            out[i] = v.clamp(-(LIMIT as i64), LIMIT as i64) as i32;
        }
    } else {
        for i in 0..n {
            let silu =
                (gate[i] as i64 * sigma(shift_round(gate[i] as i64, to_q20), logistic) + (1 << 29)) >> 30;
            out[i] = shift_round(silu * up[i] as i64, to_out);
        }
    }
}

/// [`Tables::logistic_q30`](speckv_predictor::tables::Tables::logistic_q30).
#[inline(always)]
fn sigma(x: i32, logistic: &Steps<2048>) -> i64 {
    let a = x.unsigned_abs().min((16 << 20) - 1);
    let (low, step) = logistic.at((a >> 13) as u64);
    // 22 bits and 13 of fraction.
    let v = low + ((step * (a & 8191) as i64) >> 13);
    if x < 0 { (1 << 30) - v } else { v }
}
