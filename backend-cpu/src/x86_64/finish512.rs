//! Products to fixed point in AVX-512 registers.

use core::arch::x86_64::*;

use speckv_predictor::fixed::{LIMIT, Scale};

use crate::vector::{self, Columns, NEVER};

/// See [`vector::finish`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn finish(acc: &[i32], row: Scale, columns: Columns<'_>, add: bool, out: &mut [i32]) {
    let (row_m, row_e) = (row.m as i32, if row.m == 0 { NEVER } else { row.e as i32 });
    let least = -(row_e + columns.top);
    if least < 1 {
        return vector::finish(acc, row, columns, add, out);
    }
    // Mantissas multiply to at most 2^30 - 2^16 + 1: products up to 2^least stay below LIMIT, so that nothing need be clamped.
    let limit = _mm512_set1_epi32((1u32 << least.min(31)) as i32);
    let (row_m, row_e) = (_mm512_set1_epi32(row_m), _mm512_set1_epi32(-row_e - 1));
    let (one, longest) = (_mm512_set1_epi32(1), _mm512_set1_epi32(62));
    let sum = |a, b| {
        let (low, high) = (_mm512_set1_epi32(-LIMIT), _mm512_set1_epi32(LIMIT));
        _mm512_min_epi32(_mm512_max_epi32(_mm512_add_epi32(a, b), low), high)
    };
    let n = out.len();
    let (acc, m, e, bias) = (&acc[..n], &columns.m[..n], &columns.e[..n], columns.bias.map(|b| &b[..n]));
    let mask = |lanes: usize| (u32::MAX >> (32 - lanes)) as __mmask16;
    let load = |x: &[i32]| {
        // SAFETY: masked lanes are those of the slice, of 16 at most.
        unsafe { _mm512_maskz_loadu_epi32(mask(x.len()), x.as_ptr()) }
    };
    // Before the loop, which then calls nothing and keeps what it needs in registers.
    if acc.chunks(16).any(|acc| _mm512_cmpgt_epu32_mask(_mm512_abs_epi32(load(acc)), limit) != 0) {
        return vector::finish(acc, row, columns, add, out);
    }
    let lines = acc.chunks(16).zip(m.chunks(16)).zip(e.chunks(16)).zip(out.chunks_mut(16));
    for (i, (((acc, m), e), out)) in lines.enumerate() {
        let sums = load(acc);
        let m = _mm512_mullo_epi32(load(m), row_m);
        // One bit less, the last one with rounding in 32 bits. 62 gives the zero or -1 that longer shifts give.
        let shift = _mm512_min_epi32(_mm512_sub_epi32(row_e, load(e)), longest);
        let even = _mm512_srav_epi64(_mm512_mul_epi32(sums, m), _mm512_maskz_mov_epi32(0x5555, shift));
        let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(sums), _mm512_srli_epi64::<32>(m));
        let odd = _mm512_srav_epi64(odd, _mm512_srli_epi64::<32>(shift));
        let both = _mm512_mask_shuffle_epi32::<0b10_10_00_00>(even, 0xAAAA, odd);
        let mut v = _mm512_srai_epi32::<1>(_mm512_add_epi32(both, one));
        if let Some(bias) = bias {
            v = sum(v, load(&bias[16 * i..][..out.len()]));
        }
        if add {
            v = sum(load(out), v);
        }
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr(), mask(out.len()), v) };
    }
}
