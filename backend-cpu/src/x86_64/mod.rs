//! Kernels for x86-64: the only unsafe code of this crate. A proof from [`path`](crate::path) is what makes each call sound.

pub(crate) mod avx2;
pub(crate) mod avx512vnni;

/// Implements [`Vector`](crate::vector::Vector) for a type whose values prove the features, as the bodies of `vector.rs` compiled with them.
macro_rules! vectorised {
    ({ $type:ty, $features:literal } $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        #[allow(clippy::too_many_arguments)]
        impl crate::vector::Vector for $type {
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
