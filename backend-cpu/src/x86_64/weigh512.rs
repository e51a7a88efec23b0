//! Attention weights of a block in AVX-512 registers: 64 scores are four of them, and the table of powers is looked up there, 32 places at a
//! time, in pieces of 16 bits.

use core::arch::x86_64::*;

use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::attention::{BLOCK, block_exponent};

use crate::vector::{self, Columns, Exp2, NEVER};

/// The low word of each lane.
const EVEN: u32 = 0x5555_5555;

/// See [`vector::weigh`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn weigh(
    products: &[i32],
    row: Scale,
    columns: Columns<'_>,
    factors: &[i32],
    exp2: &Exp2,
    out: &mut [i16; BLOCK],
) -> (i32, i64) {
    assert!((1..=BLOCK).contains(&products.len()), "products of a block");
    let seen = u64::MAX >> (BLOCK - products.len());
    let mut scores = match scores(products, row, columns) {
        Some(scores) => scores,
        None => {
            let mut rare = [0; BLOCK];
            vector::finish(products, row, columns, false, &mut rare[..products.len()]);
            load(&rare)
        }
    };
    // Below any score, and 18 octaves below any exponent.
    let never = _mm512_set1_epi32(i32::MIN);
    for (i, score) in scores.iter_mut().enumerate() {
        *score = _mm512_mask_mov_epi32(never, (seen >> (16 * i)) as __mmask16, *score);
    }
    // The greatest in every lane: what follows need not wait for it to go through a scalar register.
    let max =
        _mm512_max_epi32(_mm512_max_epi32(scores[0], scores[1]), _mm512_max_epi32(scores[2], scores[3]));
    let max = _mm512_max_epi32(max, _mm512_shuffle_i64x2::<0b01_00_11_10>(max, max));
    let max = _mm512_max_epi32(max, _mm512_shuffle_i64x2::<0b10_11_00_01>(max, max));
    let max = _mm512_max_epi32(max, _mm512_shuffle_epi32::<0b01_00_11_10>(max));
    let max = _mm512_max_epi32(max, _mm512_shuffle_epi32::<0b10_11_00_01>(max));
    let exponent = block_exponent(_mm512_cvtsi512_si32(max));
    let top = _mm512_add_epi32(max, _mm512_set1_epi32(0xFFFF));
    let top = _mm512_andnot_si512(_mm512_set1_epi32(0xFFFF), top);

    let factors: [__m512i; 4] = load(factors[..BLOCK].try_into().expect("a block"));
    let mut sums = _mm512_setzero_si512();
    for half in 0..2 {
        let x = [_mm512_sub_epi32(top, scores[2 * half]), _mm512_sub_epi32(top, scores[2 * half + 1])];
        let weights = powers(x, exp2);
        sums = _mm512_add_epi32(sums, _mm512_add_epi32(weights[0], weights[1]));
        let mut words = [_mm512_setzero_si512(); 2];
        for i in 0..2 {
            // 2^16 * 16319 + 2^14 < 2^31.
            let product = _mm512_mullo_epi32(weights[i], factors[2 * half + i]);
            words[i] = _mm512_srli_epi32::<15>(_mm512_add_epi32(product, _mm512_set1_epi32(1 << 14)));
        }
        // Words of the first register, then of the second.
        let packed = _mm512_packus_epi32(words[0], words[1]);
        let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        let packed = _mm512_permutexvar_epi64(order, packed);
        let out = out[32 * half..][..32].as_mut_ptr();
        // SAFETY: there is room for 32 words.
        unsafe { _mm512_storeu_si512(out.cast(), packed) };
    }
    (exponent, _mm512_reduce_add_epi32(sums) as i64)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[i32; BLOCK]) -> [__m512i; 4] {
    // SAFETY: 64 integers are there.
    std::array::from_fn(|i| unsafe { _mm512_loadu_si512(x[16 * i..][..16].as_ptr().cast()) })
}

/// [`vector::finish`] of products; none if one is so large that it might have to be clamped, as scores hardly ever are.
#[inline]
#[target_feature(enable = "avx512f")]
fn scores(products: &[i32], row: Scale, columns: Columns<'_>) -> Option<[__m512i; 4]> {
    let (row_m, row_e) = (row.m as i32, if row.m == 0 { NEVER } else { row.e as i32 });
    let least = -(row_e + columns.top);
    if least < 1 {
        return None;
    }
    // Mantissas multiply to at most 2^30 - 2^16 + 1: products up to 2^least stay below LIMIT.
    let limit = _mm512_set1_epi32((1u32 << least.min(31)) as i32);
    let (m, e) = (&columns.m[..BLOCK], &columns.e[..BLOCK]);
    let mut scores = [_mm512_setzero_si512(); 4];
    let mut beyond = 0;
    for (i, score) in scores.iter_mut().enumerate() {
        let left = products.len().saturating_sub(16 * i).min(16);
        let mask = ((1u32 << left) - 1) as __mmask16;
        let at = (16 * i).min(products.len());
        // SAFETY: `mask` has lanes that are in `products[at..]` alone, and 16 integers follow in the other two.
        let (acc, m, e) = unsafe {
            (
                _mm512_maskz_loadu_epi32(mask, products[at..].as_ptr()),
                _mm512_loadu_si512(m[16 * i..].as_ptr().cast()),
                _mm512_loadu_si512(e[16 * i..].as_ptr().cast()),
            )
        };
        beyond |= _mm512_cmpgt_epu32_mask(_mm512_abs_epi32(acc), limit);
        let m = _mm512_mullo_epi32(m, _mm512_set1_epi32(row_m));
        // One bit less, the last one with rounding in 32 bits. 62 gives the zero or -1 that longer shifts give.
        let shift =
            _mm512_min_epi32(_mm512_sub_epi32(_mm512_set1_epi32(-row_e - 1), e), _mm512_set1_epi32(62));
        let even = _mm512_srav_epi64(_mm512_mul_epi32(acc, m), _mm512_maskz_mov_epi32(0x5555, shift));
        let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(acc), _mm512_srli_epi64::<32>(m));
        let odd = _mm512_srav_epi64(odd, _mm512_srli_epi64::<32>(shift));
        let both = _mm512_mask_shuffle_epi32::<0b10_10_00_00>(even, 0xAAAA, odd);
        *score = _mm512_srai_epi32::<1>(_mm512_add_epi32(both, _mm512_set1_epi32(1)));
    }
    (beyond == 0).then_some(scores)
}

/// `exp2_q16` of 32 numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn powers(x: [__m512i; 2], exp2: &Exp2) -> [__m512i; 2] {
    // Places in the table, in the low byte of words: those of the first register in even words, of the second in odd ones.
    let at = _mm512_mask_blend_epi16(!EVEN, _mm512_srli_epi32::<8>(x[0]), _mm512_slli_epi32::<8>(x[1]));
    let sixth = _mm512_test_epi16_mask(at, _mm512_set1_epi16(1 << 6));
    let seventh = _mm512_test_epi16_mask(at, _mm512_set1_epi16(1 << 7));
    let mut pieces = [_mm512_setzero_si512(); 4];
    for (piece, table) in pieces.iter_mut().zip(&exp2.pieces) {
        let mut quarters = [_mm512_setzero_si512(); 4];
        for (i, quarter) in quarters.iter_mut().enumerate() {
            // SAFETY: a quarter of the table is two aligned registers.
            *quarter = unsafe {
                let table = table[64 * i..][..64].as_ptr().cast::<__m512i>();
                _mm512_permutex2var_epi16(_mm512_load_si512(table), at, _mm512_load_si512(table.add(1)))
            };
        }
        let below = _mm512_mask_blend_epi16(sixth, quarters[0], quarters[1]);
        let above = _mm512_mask_blend_epi16(sixth, quarters[2], quarters[3]);
        *piece = _mm512_mask_blend_epi16(seventh, below, above);
    }
    let first = |low, high| _mm512_mask_blend_epi16(!EVEN, low, _mm512_slli_epi32::<16>(high));
    let second = |low, high| _mm512_mask_blend_epi16(!EVEN, _mm512_srli_epi32::<16>(low), high);
    let [low, high, step_low, step_high] = pieces;
    [
        power(x[0], first(low, high), first(step_low, step_high)),
        power(x[1], second(low, high), second(step_low, step_high)),
    ]
}

/// What the entry says of a number, and its distance to the next.
#[inline]
#[target_feature(enable = "avx512f")]
fn power(x: __m512i, entry: __m512i, step: __m512i) -> __m512i {
    // `-(-a >> 8)` is `(a + 255) >> 8`.
    let step = _mm512_mullo_epi32(step, _mm512_and_si512(x, _mm512_set1_epi32(255)));
    let step = _mm512_srli_epi32::<8>(_mm512_add_epi32(step, _mm512_set1_epi32(255)));
    let v = _mm512_sub_epi32(entry, step);
    // The last bit of the shift with rounding. From 18 octaves on shifts leave nothing.
    let shift = _mm512_add_epi32(_mm512_srli_epi32::<16>(x), _mm512_set1_epi32(13));
    let v = _mm512_srlv_epi32(v, shift);
    _mm512_srli_epi32::<1>(_mm512_add_epi32(v, _mm512_set1_epi32(1)))
}
