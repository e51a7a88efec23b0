//! RoPE and SiLU on rows (numerics.md, sections 5 and 6).

use crate::fixed::{saturate, shift_round};
use crate::tables::Tables;

/// Rotates every head of `x` (columns `heads * head_dim`) to `position`, or back when `inverse`.
///
/// `|x| <= LIMIT`, `|sin|, |cos| <= 2^30`: sums of products stay below 2^61.
pub fn rope_row(
    x: &mut [i32],
    head_dim: usize,
    steps: &[u64],
    position: u64,
    inverse: bool,
    tables: &Tables,
) {
    let half = head_dim / 2;
    for (i, step) in steps.iter().enumerate() {
        let (sin, cos) = tables.sin_cos(step.wrapping_mul(position));
        let (s, c) = (if inverse { -(sin as i64) } else { sin as i64 }, cos as i64);
        for head in x.chunks_exact_mut(head_dim) {
            let (a, b) = (head[i] as i64, head[i + half] as i64);
            head[i] = saturate((a * c - b * s + (1 << 29)) >> 30);
            head[i + half] = saturate((b * c + a * s + (1 << 29)) >> 30);
        }
    }
}

/// Fixed points of [`silu_row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silu {
    /// Fraction bits of gate.
    pub gate: i32,
    /// Fraction bits of up.
    pub up: i32,
    /// Fraction bits of the result.
    pub out: i32,
}

/// `out[i] = silu(gate_up[i]) * gate_up[n + i]`. `|gate| * sigma < 2^60`, `|silu| <= 2^30`, `|silu * up| < 2^60`.
pub fn silu_row(gate_up: &[i32], how: Silu, out: &mut [i32], tables: &Tables) {
    let (gate, up) = gate_up.split_at(out.len());
    for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
        let sigma = tables.logistic_q30(shift_round(*g as i64, 20 - how.gate));
        let silu = (*g as i64 * sigma + (1 << 29)) >> 30;
        *out = shift_round(silu * *u as i64, how.out - how.gate - how.up);
    }
}
