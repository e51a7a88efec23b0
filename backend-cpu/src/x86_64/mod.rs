//! Kernels for x86-64. Only they and those for AArch64 are unsafe code. A proof from [`path`](crate::path) is what makes each call sound.

pub(crate) mod amx;
pub(crate) mod avx2;
pub(crate) mod avx512vnni;
mod digits512;
mod finish512;
pub(crate) mod int256;
pub(crate) mod int512;
mod weigh512;

/// Implements a trait of `vector.rs` for a type whose values prove the features, as that file's bodies compiled with them.
macro_rules! vectorised {
    ({ $trait:ident, $type:ty, $features:literal } $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        #[allow(clippy::too_many_arguments)]
        impl crate::vector::$trait for $type {
            $(
                #[inline]
                fn $name(self, $($arg: $ty),*) $(-> $ret)? {
                    #[target_feature(enable = $features)]
                    fn body($($arg: $ty),*) $(-> $ret)? {
                        crate::vector::$name($($arg),*)
                    }
                    // SAFETY: `self` proves that the CPU has the features; `body` is safe code.
                    unsafe { body($($arg),*) }
                }
            )*
        }
    };
}
pub(crate) use vectorised;

/// Implements [`Special`](crate::vector::Special) for a type whose values prove AVX-512, with what is written for its registers; `$wide` makes
/// a value of the type that those take.
macro_rules! special512 {
    ($type:ty, $wide:expr) => {
        impl crate::vector::Special for $type {
            #[inline]
            fn weigh(
                self,
                products: &[i32],
                row: Scale,
                columns: Columns<'_>,
                factors: &[i32],
                exp2: &crate::vector::Exp2,
                out: &mut [i16; speckv_predictor::portable::attention::BLOCK],
            ) -> (i32, i64) {
                // SAFETY: `self` proves the features.
                unsafe { crate::x86_64::weigh512::weigh(products, row, columns, factors, exp2, out) }
            }

            #[inline]
            fn quantise(
                self,
                x: &[i32],
                how: &speckv_predictor::backend::Quantise,
                out: &mut [i16],
                scratch: &mut [i32],
            ) -> Scale {
                let wide = $wide;
                // SAFETY: as above.
                unsafe { crate::x86_64::digits512::quantise(wide(self), x, how, out, scratch) }
            }

            #[inline]
            fn finish(self, acc: &[i32], row: Scale, columns: Columns<'_>, add: bool, out: &mut [i32]) {
                // SAFETY: as above.
                unsafe { crate::x86_64::finish512::finish(acc, row, columns, add, out) }
            }
        }
    };
}
pub(crate) use special512;

/// Implements [`Coder`](crate::coder::Coder) for a type whose values prove the features, with vectors that they allow.
macro_rules! coder {
    ($type:ty, $vector:ty, $features:literal) => {
        impl crate::coder::Coder for $type {
            fn symbols(self, model: &PlaneModel<'_>, codes: &[u16], out: &mut [Symbol]) -> Option<u64> {
                #[target_feature(enable = $features)]
                fn body(p: $type, model: &PlaneModel<'_>, codes: &[u16], out: &mut [Symbol]) -> Option<u64> {
                    crate::coder::symbols_any::<$vector>(p, model, codes, out)
                }
                // SAFETY: `self` proves that the CPU has the features; `body` is safe code.
                unsafe { body(self, model, codes, out) }
            }

            fn decode(self, model: &PlaneModel<'_>, lanes: &mut Lanes<'_>, out: &mut [u16]) -> bool {
                #[target_feature(enable = $features)]
                fn body(p: $type, model: &PlaneModel<'_>, lanes: &mut Lanes<'_>, out: &mut [u16]) -> bool {
                    crate::coder::decode_any::<$vector>(p, model, lanes, out)
                }
                // SAFETY: as above.
                unsafe { body(self, model, lanes, out) }
            }

            fn push(self, encoder: &mut LaneEncoder, symbols: &[Symbol]) {
                #[target_feature(enable = $features)]
                fn body(p: $type, encoder: &mut LaneEncoder, symbols: &[Symbol]) {
                    crate::coder::encode::push::<$vector>(p, encoder, symbols);
                }
                // SAFETY: as above.
                unsafe { body(self, encoder, symbols) }
            }

            fn to_codes(self, mu: &[i32], unit: Unit, out: &mut [i32]) {
                #[target_feature(enable = $features)]
                fn body(p: $type, mu: &[i32], unit: Unit, out: &mut [i32]) {
                    crate::coder::observe::to_codes::<$vector>(p, mu, unit, out);
                }
                // SAFETY: as above.
                unsafe { body(self, mu, unit, out) }
            }

            fn observe(self, plane: &Plane<'_>, rows: Rows<'_>) {
                #[target_feature(enable = $features)]
                fn body(p: $type, plane: &Plane<'_>, rows: Rows<'_>) {
                    crate::coder::observe_any::<$vector>(p, plane, rows);
                }
                // SAFETY: as above.
                unsafe { body(self, plane, rows) }
            }
        }
    };
}
pub(crate) use coder;

/// What is left of the words from `at` on, and zeros.
#[cold]
#[inline(never)]
fn last_words<const N: usize>(words: &[u8], at: usize) -> [u8; N] {
    let rest = words.get(at..).unwrap_or_default();
    let mut last = [0; N];
    let len = rest.len().min(N);
    last[..len].copy_from_slice(&rest[..len]);
    last
}

/// [`Kernel::pack`](crate::kernel::Kernel::pack) for a type whose values prove the features.
macro_rules! packing {
    ($a:ty, $features:literal) => {
        #[inline(always)]
        fn prefetch(self, values: &[i32]) {
            for line in values.chunks(16) {
                // SAFETY: a hint, which reads nothing as far as the program can tell.
                unsafe {
                    core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(
                        line.as_ptr().cast(),
                    )
                };
            }
        }

        #[inline]
        fn pack(self, values: &[i16], digits: speckv_predictor::data::Digits, d: usize, out: &mut [$a]) {
            #[target_feature(enable = $features)]
            fn body(values: &[i16], digits: speckv_predictor::data::Digits, d: usize, out: &mut [$a]) {
                crate::kernel::pack_row(values, digits, d, out);
            }
            // SAFETY: `self` proves that the CPU has the features; `body` is safe code.
            unsafe { body(values, digits, d, out) }
        }
    };
}
pub(crate) use packing;
