//! Numbers of `N` scalars: element formats, fixed point and scales (`speckv_codec_core::{element, model}`).

use speckv_predictor::core::ElementFormat;
use speckv_predictor::core::limits::{INV, SCALES, UNITS_PER_SCALE, Z_LIMIT};

use super::int::Int;

/// An element format's constants, known to the compiler.
pub(crate) trait Format {
    const FORMAT: ElementFormat;
    /// Whether a plane may have zones.
    const ZONES: bool = true;
    const MB: i32 = Self::FORMAT.mantissa_bits() as i32;
    const BIAS: i32 = Self::FORMAT.bias();
    const WIDTH: i32 = Self::FORMAT.width() as i32;
    const MAGNITUDES: i32 = Self::FORMAT.magnitudes();
    /// Whether exponents reach so far that every cache has zones.
    const WIDE: bool = Self::BIAS == 127;
}

macro_rules! formats {
    ($($name:ident),*) => {
        $(pub(crate) struct $name;

        impl Format for $name {
            const FORMAT: ElementFormat = ElementFormat::$name;
        })*
    };
}
formats!(Bf16, F16, E4m3, E5m2);

/// A format in a plane without zones, as 8-bit ones mostly are.
pub(crate) struct Flat<F>(core::marker::PhantomData<F>);

impl<F: Format> Format for Flat<F> {
    const FORMAT: ElementFormat = F::FORMAT;
    const ZONES: bool = false;
}

/// A plane's fixed point, and the mantissas of reciprocal scales.
#[derive(Clone, Copy)]
pub(crate) struct Units<V: Int> {
    pub(crate) proof: V::Proof,
    pub exponent: i32,
    inv: V::Table16,
}

/// Scales of `N` scalars.
#[derive(Clone, Copy)]
pub(crate) struct Scale<V: Int> {
    octave: V,
    inv: V,
    /// Differences from a mean are moved left, then right, to count 1024 a power of two.
    left: V,
    right: V,
}

impl<V: Int> Units<V> {
    /// Fixed point with `exponent` fraction bits.
    #[inline(always)]
    pub(crate) fn new(proof: V::Proof, exponent: i32) -> Self {
        Units { proof, exponent, inv: V::table16(proof, &INV) }
    }

    #[inline(always)]
    pub(crate) fn c(&self, x: i32) -> V {
        V::splat(self.proof, x)
    }

    /// Clamped scale indices.
    #[inline(always)]
    pub(crate) fn index(&self, sum: V) -> V {
        sum.max(self.c(0)).min(self.c(SCALES - 1))
    }

    /// Scales of indices 0..=479.
    #[inline(always)]
    pub(crate) fn scale(&self, q: V) -> Scale<V> {
        let c = |x| self.c(x);
        let (octave, fraction) = (q.right(4), q & c(15));
        let ten = c(UNITS_PER_SCALE.ilog2() as i32);
        Scale {
            octave,
            inv: fraction.lookup16(&self.inv),
            left: (ten - octave).max(c(0)),
            right: (octave - ten).max(c(0)),
        }
    }

    /// `model::normalise` of any difference: cut to what `|z| <= 16384` can come from, so that 32 bits hold what comes between.
    #[inline(always)]
    pub(crate) fn normalise(&self, scale: &Scale<V>, difference: V) -> V {
        let c = |x| self.c(x);
        let farthest = c(i32::MAX).shr((c(26) - scale.octave).max(c(0)));
        let near = difference.min(farthest).max(c(0) - farthest);
        let t = near.shl(scale.left).sar(scale.right);
        (t * scale.inv).right_signed(15).min(c(Z_LIMIT)).max(c(-Z_LIMIT))
    }

    /// A magnitude's exponent field, at least 1, and its significand there.
    #[inline(always)]
    pub(crate) fn binade<F: Format>(&self, m: V) -> (V, V) {
        let c = |x| self.c(x);
        let t = m.right(F::MB).max(c(1));
        (t, m - (t - c(1)).left(F::MB))
    }

    /// Quarters of a code between 0 and the lower edge of a significand: two less than its own four, or one where a binade begins.
    #[inline(always)]
    pub(crate) fn inner<F: Format>(&self, significand: V, t: V) -> V {
        let c = |x| self.c(x);
        let begins = significand.eq(c(1 << F::MB)) & t.gt(c(1));
        (significand.left(2) - V::select(begins, c(1), c(2))).max(c(0))
    }

    /// `quarters` of a code in the binade of exponent field `t`, in units; and by how many bits that is to the left.
    #[inline(always)]
    pub(crate) fn distance<F: Format>(&self, quarters: V, t: V) -> (V, V) {
        let shift = t + self.c(self.exponent - F::BIAS - F::MB - 2);
        (quarters.shl_any(shift) | quarters.shr_any(self.c(0) - shift), shift)
    }
}
