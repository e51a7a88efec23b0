//! What the operands of the seven projections are rounded to.

use rayon::prelude::*;

/// Precision of the operands of the query, key, value, output, gate, up and down projections. Everything else (norms, RoPE, attention, the residual
/// stream, the output matrix) is the same in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// bf16, as the target itself computes.
    #[default]
    Bf16,
    /// fp8 e4m3 with scales of their own: weights one for each block of 64 x 64, activations one for each 64 numbers of a row; each scale maps the
    /// largest magnitude it covers to 448. Products are exact and summed in f32, as fp8 matrix units do.
    ///
    /// A simulation: the weights are rounded from bf16 wherever they are used, which saves neither time nor memory.
    Fp8,
}

/// Inputs, and outputs of a matrix, that share a scale.
const BLOCK: usize = 64;
/// The largest e4m3 number.
const LARGEST: f32 = 448.0;

impl Arithmetic {
    /// A number of rows near `rows` at which a matrix can be cut so that every piece is rounded as in the whole.
    pub(super) fn whole_blocks(self, rows: usize) -> usize {
        match self {
            Arithmetic::Bf16 => rows,
            Arithmetic::Fp8 => (rows / BLOCK).max(1) * BLOCK,
        }
    }

    /// Rounds activations, `[tokens, width]`, in place.
    pub(super) fn round_activations(self, x: &mut [f32], width: usize) {
        if self == Arithmetic::Fp8 {
            let rows = x.par_chunks_mut(width).with_min_len(16);
            rows.for_each(|row| row.chunks_mut(BLOCK).for_each(|group| round(&mut [group])));
        }
    }

    /// Rounds weights, `[outputs, inputs]`, in place; the first output is the first of a block.
    pub(super) fn round_weights(self, weights: &mut [f32], inputs: usize) {
        if self == Arithmetic::Fp8 {
            weights.par_chunks_mut(BLOCK * inputs).for_each(|rows| {
                let mut rows: Vec<_> = rows.chunks_mut(inputs).map(|row| row.chunks_mut(BLOCK)).collect();
                for _ in 0..inputs.div_ceil(BLOCK) {
                    round(&mut rows.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>());
                }
            });
        }
    }
}

/// Rounds numbers that share a scale.
fn round(block: &mut [&mut [f32]]) {
    let most = block.iter().flat_map(|row| row.iter()).fold(0.0f32, |most, x| most.max(x.abs()));
    // A block of zeros, or of numbers too small to tell from it.
    let scale = most.max(1e-12) / LARGEST;
    block.iter_mut().flat_map(|row| row.iter_mut()).for_each(|x| *x = e4m3(*x / scale) * scale);
}

/// The nearest e4m3 number, ties to even, for magnitudes of at most 448 and a rounding error more.
#[inline(always)]
fn e4m3(x: f32) -> f32 {
    // Numbers of a binade are 2^(e-3) apart, below 2^-6 as in the first. 1.5 x 2^23 of these steps leave no room for anything finer, so adding them
    // rounds. In plain arithmetic, so that loops over this are vectorised.
    let exponent = ((x.to_bits() >> 23) & 0xFF).max(127 - 6);
    let steps = f32::from_bits(((exponent + 20) << 23) | 1 << 22);
    (x + steps) - steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ElementFormat;
    use crate::cache::{decode_fp8, encode_fp8};

    fn plain(x: f32) -> f32 {
        decode_fp8(ElementFormat::E4m3, encode_fp8(ElementFormat::E4m3, x))
    }

    /// Numbers of many magnitudes, some zero, the same everywhere.
    fn numbers(count: usize) -> Vec<f32> {
        let number = |i: usize| {
            let bits = (i as u32).wrapping_mul(2_654_435_761);
            let magnitude =
                2f32.powi((bits >> 28) as i32 - 9) * (1.0 + (bits >> 5 & 0xFFFF) as f32 / 65536.0);
            if i.is_multiple_of(97) { 0.0 } else { magnitude * if bits & 1 == 0 { 1.0 } else { -1.0 } }
        };
        (0..count).map(number).collect()
    }

    #[test]
    fn rounds_to_the_nearest_e4m3_number() {
        // Every 64th f32 up to 448, subnormal steps and ties among them, and both neighbours of every tie.
        for bits in (0..=LARGEST.to_bits()).step_by(64) {
            let x = f32::from_bits(bits);
            assert_eq!(e4m3(x), plain(x), "{x:e}");
            assert_eq!(e4m3(-x), plain(-x), "{x:e}");
        }
        for code in 0..0x7E {
            let tie =
                (decode_fp8(ElementFormat::E4m3, code) + decode_fp8(ElementFormat::E4m3, code + 1)) / 2.0;
            for x in [tie.next_down(), tie, tie.next_up()] {
                assert_eq!(e4m3(x), plain(x), "{x:e}");
            }
        }
        assert_eq!(e4m3(LARGEST.next_up()), LARGEST);
        assert!(e4m3(f32::NAN).is_nan());
    }

    #[test]
    fn blocks_of_weights_and_groups_of_activations_have_scales_of_their_own() {
        // Neither side a multiple of 64: the last blocks are smaller.
        let (outputs, inputs) = (70, 100);
        let exact = numbers(outputs * inputs);
        let check = |block_rows: usize, found: &[f32]| {
            for at in 0..exact.len() {
                let (row, column) = (at / inputs, at % inputs);
                let within = |other: &usize| {
                    other / inputs / block_rows == row / block_rows
                        && other % inputs / BLOCK == column / BLOCK
                };
                let most =
                    (0..exact.len()).filter(within).fold(0.0f32, |most, other| most.max(exact[other].abs()));
                let scale = most / LARGEST;
                assert_eq!(found[at], plain(exact[at] / scale) * scale, "row {row}, column {column}");
            }
        };
        let mut weights = exact.clone();
        Arithmetic::Fp8.round_weights(&mut weights, inputs);
        check(BLOCK, &weights);
        let mut activations = exact.clone();
        Arithmetic::Fp8.round_activations(&mut activations, inputs);
        check(1, &activations);

        let mut pieces = exact.clone();
        let cut = Arithmetic::Fp8.whole_blocks(100) * inputs;
        pieces[..cut].chunks_mut(cut).for_each(|piece| Arithmetic::Fp8.round_weights(piece, inputs));
        Arithmetic::Fp8.round_weights(&mut pieces[cut..], inputs);
        assert_eq!((cut, pieces), (BLOCK * inputs, weights));

        for unchanged in [vec![0.0; inputs], exact.clone()] {
            let mut x = unchanged.clone();
            Arithmetic::Bf16.round_weights(&mut x, inputs);
            Arithmetic::Bf16.round_activations(&mut x, inputs);
            assert_eq!(x, unchanged);
        }
        let mut zeros = vec![0.0; inputs];
        Arithmetic::Fp8.round_activations(&mut zeros, inputs);
        assert_eq!(zeros, vec![0.0; inputs]);
    }
}
