//! The probability model of `N` scalars at once: what `speckv_codec_core::{grid, model, shape}` define for one, in 32-bit integers and without
//! branches.

use speckv_predictor::core::PlaneModel;
use speckv_predictor::core::limits::{FIXED_LIMIT, SCALES, SHAPE_HALF, Z_LIMIT, ZONE_BINADES, scale_octave};

use super::int::Int;
use super::units::{Format, Scale, Units};

/// Whether any cell of a plane may be a zone: whether its largest scale is wide enough.
pub(crate) fn has_zones(plane: &PlaneModel<'_>) -> bool {
    let most = |x: &[i16]| x.iter().copied().max().map_or(0, i32::from);
    let q = (most(plane.channel_scale) + most(plane.token_scale)).clamp(0, SCALES - 1);
    scale_octave(q) - 2 - plane.exponent + plane.format.bias() >= ZONE_BINADES
}

/// The largest magnitude's value in units, cut to the fixed-point range: no larger number has another nearest magnitude. `None` if units
/// are so coarse that it is no whole number of them, as in no cache.
pub(crate) fn largest(plane: &PlaneModel<'_>) -> Option<i32> {
    let (mb, top) = (plane.format.mantissa_bits() as i32, plane.format.magnitudes() - 1);
    let shift = (top >> mb) - plane.format.bias() - mb + plane.exponent;
    let significand = (2i64 << mb) - 1;
    (shift >= 0).then(|| (significand << shift.min(40)).min(i64::from(FIXED_LIMIT - 1)) as i32)
}

const SHIFTS: [i32; 8] = [6, 7, 9, 9, 10, 10, 10, 10];
/// 0, 32 - 2048 / 128, 48 - 4096 / 512, 56 - 8192 / 1024.
const FIRSTS: [i32; 8] = [0, 16, 40, 40, 48, 48, 48, 48];

/// What all scalars of a plane share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<V: Int> {
    units: Units<V>,
    /// The largest magnitude's value.
    largest: i32,
    /// `65536 - escape`.
    end: i32,
    /// By `|z| >> 11`: log2 of the steps between knots there, and the knot that 0 would be if the steps reached down to it.
    shifts: V::Table8,
    firsts: V::Table8,
    steps: V::Table64,
    guesses: V::Table64,
}

/// Where cells and windows of `N` scalars lie.
#[derive(Clone, Copy)]
pub(crate) struct Window<V: Int> {
    mu: V,
    scale: Scale<V>,
    eb: V,
    ez: V,
    base: V,
    /// Upper edge of the zone above 0.
    zone_end: V,
    /// The reach's ends, in units, and the numbers of the cells there.
    lowest: V,
    highest: V,
    lo: V,
    hi: V,
    spread: V,
}

/// Cells of `N` scalars and their intervals.
#[derive(Clone, Copy)]
pub(crate) struct Cells<V: Int> {
    pub number: V,
    pub first_rank: V,
    pub ranks: V,
    pub raw_bits: V,
    pub start: V,
    pub end: V,
}

impl<V: Int> Cells<V> {
    /// `a` where the mask says so, else `b`.
    #[inline(always)]
    pub(crate) fn select(mask: V::Mask, a: Self, b: Self) -> Self {
        Cells {
            number: V::select(mask, a.number, b.number),
            first_rank: V::select(mask, a.first_rank, b.first_rank),
            ranks: V::select(mask, a.ranks, b.ranks),
            raw_bits: V::select(mask, a.raw_bits, b.raw_bits),
            start: V::select(mask, a.start, b.start),
            end: V::select(mask, a.end, b.end),
        }
    }
}

impl<V: Int> Shared<V> {
    /// Of a plane; nothing if its units are too coarse for this.
    pub(crate) fn new(proof: V::Proof, plane: &PlaneModel<'_>) -> Option<Self> {
        Some(Shared {
            units: Units::new(proof, plane.exponent),
            largest: largest(plane)?,
            end: 65536 - i32::from(plane.shape.escape()),
            shifts: V::table8(proof, &SHIFTS),
            firsts: V::table8(proof, &FIRSTS),
            steps: V::table64(proof, plane.shape.steps()),
            guesses: V::table64(proof, plane.shape.guesses()),
        })
    }

    #[inline(always)]
    pub(crate) fn c(&self, x: i32) -> V {
        self.units.c(x)
    }

    #[inline(always)]
    pub(crate) fn proof(&self) -> V::Proof {
        self.units.proof
    }

    /// The upper end of all cells, `65536 - escape`.
    #[inline(always)]
    pub(crate) fn upper_end(&self) -> V {
        self.c(self.end)
    }

    /// Scale indices of channels' and a token's.
    #[inline(always)]
    pub(crate) fn scale(&self, channels: &[i16], token: i16) -> V {
        self.units.index(V::load_i16(self.proof(), channels) + self.c(token.into()))
    }

    /// `ScalarModel::new` at means `|mu| < 2^30` and scale indices 0..=479.
    #[inline(always)]
    pub(crate) fn window<F: Format>(&self, mu: V, q: V) -> Window<V> {
        let c = |x| self.c(x);
        let scale = self.units.scale(q);
        let Scale { octave, mant, .. } = scale;
        // MANT * 2^(octave - 11): one of the shifts is by a negative number of bits, which gives 0, or both are by none.
        let reach = mant.shl_any(octave - c(11)) | mant.shr_any(c(11) - octave);
        let reach = V::select(octave.gt(c(25)), c(FIXED_LIMIT - 1), reach);
        let eb = (octave + c(F::BIAS - 2 - self.units.exponent)).max(c(1 - F::MB));
        let first = eb.max(c(1)) - c(1);
        let (ez, base) = if F::ZONES {
            let ez = (eb - c(ZONE_BINADES - 1)).max(c(0));
            (ez, first - ez + ez.min(c(1)))
        } else {
            (c(0), first)
        };
        let lowest = (mu - reach).max(c(1 - FIXED_LIMIT));
        let highest = (mu + reach).min(c(FIXED_LIMIT - 1));
        let zero = c(0);
        let mut w = Window {
            mu,
            scale,
            eb,
            ez,
            base,
            zone_end: self.units.distance::<F>(self.units.inner::<F>(c(1 << F::MB), ez), ez).0,
            lowest,
            highest,
            lo: zero,
            hi: zero,
            spread: zero,
        };
        w.lo = self.number::<F>(&w, lowest);
        w.hi = self.number::<F>(&w, highest);
        w.spread = c(self.end - 1) - (w.hi - w.lo);
        w
    }

    /// `ElementFormat::magnitude_of` as exponent field, at least 1, and significand: the nearest one, which may be twice the first of its
    /// binade. Of 0 the significand is 0, the field anything.
    #[inline(always)]
    fn nearest<F: Format>(&self, v: V) -> (V, V) {
        let c = |x| self.c(x);
        // With a leading one in bit 31 a value is `significand * 2^e`; below the first normal e counts no further and bits fall off.
        let zeros = v.leading_zeros();
        let e = c(31 - self.units.exponent + F::BIAS) - zeros;
        let t = e.max(c(1));
        let halves = v.shl_any(zeros).shr_any(c(30 - F::MB) + (t - e));
        (t, (halves + c(1)).shr(c(1)))
    }

    /// `Grid::number_of_magnitude`: the cases j > MB, 0 < j <= MB and j <= 0 add up, since the terms of the others vanish; and in the
    /// zone the sum is at most 0. Twice the first significand of a binade gives what the first of the next gives.
    #[inline(always)]
    fn number_of_magnitude<F: Format>(&self, w: &Window<V>, j: V, significand: V, k: V) -> V {
        let c = |x| self.c(x);
        let beyond = (j - c(F::MB)).max(c(0)).shl(c(F::MB));
        let number = w.base + significand.shr(k) + beyond + j.min(c(0));
        if F::ZONES { number.max(c(0)) } else { number }
    }

    /// `Grid::number` of `ElementFormat::rank_of_fixed`.
    #[inline(always)]
    fn number<F: Format>(&self, w: &Window<V>, value: V) -> V {
        let c = |x| self.c(x);
        let sign = value.sar(c(31));
        let v = ((value ^ sign) - sign).min(c(self.largest));
        let (t, significand) = self.nearest::<F>(v);
        let j = t - w.eb;
        let number = self.number_of_magnitude::<F>(w, j, significand, self.raw_bits::<F>(j));
        V::select(v.eq(c(0)), c(0), number ^ sign)
    }

    #[inline(always)]
    fn raw_bits<F: Format>(&self, j: V) -> V {
        (self.c(F::MB) - j).max(self.c(0)).min(self.c(F::MB))
    }

    /// `Grid::cell_of`, and the interval of each cell that lies in the window (of others anything).
    ///
    /// Only edges inside the window matter, which lie within 2^30: nothing is cut to that as `ElementFormat::mid` does.
    #[inline(always)]
    pub(crate) fn cells<F: Format>(&self, w: &Window<V>, rank: V) -> Cells<V> {
        let sign = rank.sar(self.c(31));
        let (t, significand) = self.units.binade::<F>(rank ^ sign);
        self.cells_at::<F>(w, sign, t, significand)
    }

    /// [`cells`](Self::cells) of magnitudes by exponent field and significand, or their mirror images where `sign` is -1.
    #[inline(always)]
    fn cells_at<F: Format>(&self, w: &Window<V>, sign: V, t: V, significand: V) -> Cells<V> {
        let c = |x| self.c(x);
        let negative = c(0).gt(sign);
        let j = t - w.eb;
        let k = self.raw_bits::<F>(j);
        let number = self.number_of_magnitude::<F>(w, j, significand, k) ^ sign;

        // The outer edge is two quarters below the next cell's first, measured in the same binade.
        let (lead, ranks) = (significand.shr(k).shl(k), c(1).shl(k));
        let inner = self.units.distance::<F>(self.units.inner::<F>(lead, t), t).0;
        let outer = self.units.distance::<F>((lead + ranks).shl(c(2)) - c(2), t).0;
        // The binade's first rank, one binade down where there are no normal codes.
        let binade = (t - c(1)).shl(c(F::MB));
        let mut cell = (inner, outer, lead + binade, ranks, k);
        if F::ZONES {
            let zone = w.ez.gt((significand + binade).shr(c(F::MB)));
            cell = (
                V::select(zone, c(0), cell.0),
                V::select(zone, w.zone_end, cell.1),
                V::select(zone, c(0), cell.2),
                V::select(zone, w.ez.shl(c(F::MB)).min(c(F::MAGNITUDES)), cell.3),
                V::select(zone, c(F::WIDTH - 1), cell.4),
            );
        }
        let (inner, outer, first, ranks, raw_bits) = cell;
        let (inner, outer) = ((inner ^ sign) - sign, (outer ^ sign) - sign);
        let index = number - w.lo;
        let start = self.at(w, V::select(negative, outer, inner), index);
        let end = self.at(w, V::select(negative, inner, outer), index + c(1));
        Cells {
            number,
            // Ranks first..first + ranks, or their mirror images -first - ranks..-first.
            first_rank: (first ^ sign) - sign - (ranks & sign),
            ranks,
            raw_bits,
            start: V::select(number.eq(w.lo), c(0), start),
            end: V::select(number.eq(w.hi), self.upper_end(), end),
        }
    }

    /// The cumulative at an edge `index` cells above the window's lower end.
    #[inline(always)]
    fn at(&self, w: &Window<V>, edge: V, index: V) -> V {
        let below = self.cumulative(self.units.normalise_near(&w.scale, edge - w.mu));
        // At most 65536 * 65534 < 2^32.
        (below * w.spread).shr(self.c(16)) + index
    }

    /// `Shape::cumulative`.
    #[inline(always)]
    fn cumulative(&self, z: V) -> V {
        let c = |x| self.c(x);
        let sign = z.sar(c(31));
        let m = (z ^ sign) - sign;
        // Of the last knot, which has no step, anything.
        let segment = m.shr(c(11));
        let (shift, first) = (segment.lookup8(&self.shifts), segment.lookup8(&self.firsts));
        let (below, rise) = (first + m.shr(shift)).lookup64(&self.steps);
        let within = m & (c(1).shl(shift) - c(1));
        let half = below + (rise * within).shr(shift);
        let half = V::select(m.gt(c(Z_LIMIT - 1)), c(SHAPE_HALF.into()), half);
        c(SHAPE_HALF.into()) + ((half ^ sign) - sign)
    }

    /// Whether cells lie outside the window.
    #[inline(always)]
    pub(crate) fn outside(&self, w: &Window<V>, cells: &Cells<V>) -> V::Mask {
        w.lo.gt(cells.number) | cells.number.gt(w.hi)
    }

    /// `ElementFormat::code`.
    #[inline(always)]
    pub(crate) fn codes<F: Format>(&self, rank: V) -> V {
        let sign = rank.sar(self.c(31));
        (rank ^ sign) | (sign & self.c(F::MAGNITUDES))
    }

    /// Whether cells are zones: no others have so many raw bits.
    #[inline(always)]
    pub(crate) fn zones<F: Format>(&self, cells: &Cells<V>) -> V::Mask {
        const { assert!(F::MB < F::WIDTH - 1) };
        cells.raw_bits.eq(self.c(F::WIDTH - 1))
    }

    /// Cells of the window near slots. Coarser than `ScalarModel::guess` about what floors and escapes take.
    #[inline(always)]
    pub(crate) fn guess<F: Format>(&self, w: &Window<V>, slot: V) -> Cells<V> {
        let c = |x| self.c(x);
        let floors = (w.hi - w.lo).shr(c(1));
        let tail = (slot.min(c(self.end) - slot) - floors).max(c(1));
        let zeros = tail.leading_zeros();
        let significand = tail.shl(zeros);
        let index = c(31 << 2) - zeros.shl(c(2)) + (significand.shr(c(29)) & c(3));
        let (z, fall) = index.lookup64(&self.guesses);
        let z = z - (fall * (significand.shr(c(21)) & c(255))).shr(c(8));
        let z = V::select(slot.gt(c(self.end / 2)), z, c(0) - z);
        // z * MANT < 2^30.
        let away = (z * w.scale.mant).sar((c(25) - w.scale.octave).max(c(0)));
        let value = (w.mu + away).max(w.lowest).min(w.highest);
        // Zero's nearest magnitude is 1's, or a neighbour; -1's where the window ends at 0, for 1's may lie beyond it.
        let sign = value.min(w.highest - c(1)).sar(c(31));
        let v = ((value ^ sign) - sign).max(c(1)).min(c(self.largest));
        let (t, significand) = self.nearest::<F>(v);
        let carry = significand.shr(c(F::MB + 1));
        self.cells_at::<F>(w, sign, t + carry, significand.shr(carry))
    }
}
