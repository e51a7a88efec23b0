//! What each path is made of.

/// Runs `$call` with `$kernel` bound to the path's kernel for products of digits, `$wide` to that for 16-bit left operands and `$coder` to
/// its coder.
macro_rules! dispatch {
    ($isa:expr, |$kernel:ident| $call:expr) => {
        $crate::dispatch::dispatch!($isa, |$kernel, _wide, _coder| $call)
    };
    ($isa:expr, |$kernel:ident, $wide:ident| $call:expr) => {
        $crate::dispatch::dispatch!($isa, |$kernel, $wide, _coder| $call)
    };
    ($isa:expr, |$kernel:ident, $wide:ident, $coder:ident| $call:expr) => {
        match $isa {
            $crate::path::Isa::Scalar => {
                let scalar = $crate::scalar::Scalar;
                let ($kernel, $wide, $coder) = (scalar, scalar, scalar);
                $call
            }
            #[cfg(target_arch = "x86_64")]
            $crate::path::Isa::Avx2(proof) => {
                let ($kernel, $wide, $coder) = (proof, proof, proof);
                $call
            }
            #[cfg(target_arch = "x86_64")]
            $crate::path::Isa::Avx512Vnni(proof) => {
                use $crate::x86_64::avx512vnni::{Narrow, Wide};
                let ($kernel, $wide, $coder) = (Narrow(proof), Wide(proof), proof);
                $call
            }
            #[cfg(target_arch = "x86_64")]
            $crate::path::Isa::Amx(proof) => {
                use $crate::x86_64::{amx::Tiles, avx512vnni::Wide};
                let vnni = proof.avx512vnni();
                let ($kernel, $wide, $coder) = (Tiles(proof), Wide(vnni), vnni);
                $call
            }
            #[cfg(target_arch = "aarch64")]
            $crate::path::Isa::Neon(proof) => {
                use $crate::aarch64::neon::{Narrow, Wide};
                let ($kernel, $wide, $coder) = (Narrow(proof), Wide(proof), proof);
                $call
            }
        }
    };
}
pub(crate) use dispatch;
