//! Kernels for AArch64. A proof from [`path`](crate::path) is what makes each call sound.

pub(crate) mod int128;
pub(crate) mod neon;

/// Implements a trait of `vector/` as the bodies themselves: NEON is in the compiler's baseline.
macro_rules! vectorised {
    ({ $trait:ident, $type:ty } $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        #[allow(clippy::too_many_arguments)]
        impl crate::vector::$trait for $type {
            $(
                #[inline]
                fn $name(self, $($arg: $ty),*) $(-> $ret)? {
                    crate::vector::$name($($arg),*)
                }
            )*
        }
    };
}
pub(crate) use vectorised;
