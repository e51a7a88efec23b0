//! The probability model of `N` scalars at once: what `speckv_codec_core::{grid, model, shape}` define for one, in 32-bit integers and without
//! branches.
//!
//! Cells of magnitudes are runs of values, and a cell's first value, a whole number of units, says all about it: the binade of the values below it
//! says where its edge is, and the binade of its own how wide it is. An edge has the number of the cell above it; those below 0 mirror the others.
//! Binades are counted as those of `f32` are: that of 1 unit is 127. Values below the first normal one are in its binade.

use speckv_predictor::core::PlaneModel;
use speckv_predictor::core::limits::{
    FIXED_LIMIT, INV, MANT, SCALES, SHAPE_HALF, Z_LIMIT, ZONE_BINADES, scale_octave,
};

use super::int::Int;
use super::units::Format;

/// The octaves of a plane's smallest and largest scale.
fn octaves(plane: &PlaneModel<'_>) -> (i32, i32) {
    let ends = |x: &[i16]| x.iter().fold((i16::MAX, i16::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let (channel, token) = (ends(plane.channel_scale), ends(plane.token_scale));
    let octave = |a: i16, b: i16| scale_octave((i32::from(a) + i32::from(b)).clamp(0, SCALES - 1));
    (octave(channel.0, token.0), octave(channel.1, token.1))
}

/// Whether any cell of a plane may be a zone: whether its largest scale is wide enough.
pub(crate) fn has_zones(plane: &PlaneModel<'_>) -> bool {
    octaves(plane).1 - 2 - plane.exponent + plane.format.bias() >= ZONE_BINADES
}

/// The largest magnitude's value in units, cut to the fixed-point range: no larger number has another nearest magnitude. `None` if units
/// are so coarse that it is no whole number of them, as in no cache.
pub(crate) fn largest(plane: &PlaneModel<'_>) -> Option<i32> {
    let (mb, top) = (plane.format.mantissa_bits() as i32, plane.format.magnitudes() - 1);
    let shift = (top >> mb) - plane.format.bias() - mb + plane.exponent;
    let significand = (2i64 << mb) - 1;
    (shift >= 0).then(|| (significand << shift.min(40)).min(i64::from(FIXED_LIMIT - 1)) as i32)
}

/// By `|z| >> 11`: how far to the left `|z|` counts 2^16 from knot to knot, and the knot that 0 would be if the steps reached down to it.
const SHIFTS: [i32; 8] = [10, 9, 7, 7, 6, 6, 6, 6];
/// 0, 32 - 2048 / 128, 48 - 4096 / 512, 56 - 8192 / 1024.
const FIRSTS: [i32; 8] = [0, 16, 40, 40, 48, 48, 48, 48];

/// What all scalars of a plane share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<V: Int> {
    proof: V::Proof,
    /// Fraction bits of all values here: as many more than the plane's as make the smallest scale count 2048.
    exponent: i32,
    raise: i32,
    /// The largest magnitude's value.
    largest: i32,
    /// `65536 - escape`.
    end: i32,
    mant: V::Table16,
    /// Twice what `INV` is above one.
    less: V::Table16,
    shifts: V::Table8,
    firsts: V::Table8,
    steps: V::Table64,
    guesses: V::Table64,
}

/// Where cells and windows of `N` scalars lie.
#[derive(Clone, Copy)]
pub(crate) struct Window<V: Int> {
    mu: V,
    /// Differences from the mean are moved so far to the right to count 1024 a power of two, and grow or shrink by the rest of the scale.
    right: V,
    more: V,
    less: V,
    /// Binades that are one cell wide, and whose codes are one.
    eb: V,
    top: V,
    base: V,
    /// First exponent field above the zone, or 0; and the value there.
    ez: V,
    zone_end: V,
    /// The reach's ends, in units, and the numbers of the cells there.
    lowest: V,
    highest: V,
    lo: V,
    hi: V,
    spread: V,
}

/// Where magnitudes lie among cells.
#[derive(Clone, Copy)]
struct Place<V: Int> {
    /// Binade; raw bits of the cells there; log2 of their width.
    t: V,
    raw_bits: V,
    width: V,
    /// What number a cell has beside its significand's leading bits.
    add: V,
}

/// An edge: its number, and the first value above it in magnitude.
#[derive(Clone, Copy)]
struct Edge<V: Int> {
    number: V,
    value: V,
}

/// Cells of `N` scalars and their intervals.
#[derive(Clone, Copy)]
pub(crate) struct Cells<V: Int> {
    pub start: V,
    pub end: V,
    pub raw_bits: V,
    /// -1 for negative cells.
    pub sign: V,
    /// First magnitude.
    pub first: V,
    /// Number of codes.
    pub ranks: V,
}

impl<V: Int> Shared<V> {
    /// Of a plane; nothing if its scales or units are such that 32 bits need more care than is taken here.
    pub(crate) fn new<F: Format>(proof: V::Proof, plane: &PlaneModel<'_>) -> Option<Self> {
        let (low, high) = octaves(plane);
        let raise = (11 - low).max(0);
        let exponent = plane.exponent + raise;
        // Cells begin at whole numbers of units: the first one above a zone, or the first normal one, or all between.
        let eb = (low - 2 - plane.exponent + F::BIAS).max(1 - F::MB);
        let whole = (eb + 1 - ZONE_BINADES).max(eb.min(1)) + plane.exponent >= F::BIAS;
        // Means and reaches are below 2^30, even raised, and windows below 2^31.
        let bits = plane.mu.iter().fold(0, |bits, mu| bits | mu.unsigned_abs());
        let room = raise == 0 || u64::from(bits) + (32 << high) < 1 << (30 - raise);
        // Binades fit, and 0 is in that of the first normal value; where that is below a unit there are always zones.
        let binades = (F::BIAS - 128..=120).contains(&exponent) && (!F::WIDE || eb >= ZONE_BINADES);
        let tame = whole && high + raise <= 25 && room && binades;
        let largest = largest(&PlaneModel { exponent, ..*plane }).filter(|_| tame)?;
        Some(Shared {
            proof,
            exponent,
            raise,
            largest,
            end: 65536 - i32::from(plane.shape.escape()),
            mant: V::table16(proof, &MANT.map(|m| m as i32)),
            less: V::table16(proof, &INV.map(|i| 2 * (i - (1 << 15)))),
            shifts: V::table8(proof, &SHIFTS),
            firsts: V::table8(proof, &FIRSTS),
            steps: V::table64(proof, plane.shape.steps()),
            guesses: V::table64(proof, plane.shape.guesses()),
        })
    }

    #[inline(always)]
    pub(crate) fn c(&self, x: i32) -> V {
        V::splat(self.proof, x)
    }

    #[inline(always)]
    pub(crate) fn proof(&self) -> V::Proof {
        self.proof
    }

    /// The upper end of all cells, `65536 - escape`.
    #[inline(always)]
    pub(crate) fn upper_end(&self) -> V {
        self.c(self.end)
    }

    /// Scale indices of channels' and a token's.
    #[inline(always)]
    pub(crate) fn scale(&self, channels: &[i16], token: i16) -> V {
        let sum = V::load_i16(self.proof, channels) + self.c(token.into());
        sum.max(self.c(0)).min(self.c(SCALES - 1))
    }

    /// `ScalarModel::new` at means `|mu| < 2^30` and scale indices of the plane.
    #[inline(always)]
    pub(crate) fn window<F: Format>(&self, mu: V, q: V) -> Window<V> {
        let c = |x| self.c(x);
        let (mu, octave, fraction) = (mu.left(self.raise), q.right(4) + c(self.raise), q & c(15));
        let mant = fraction.lookup16(&self.mant);
        let reach = mant.shl(octave - c(11)) & c(-1 << self.raise);
        let binade = octave + c(125);
        // In exponent fields `eb` is so much more.
        let field = F::BIAS - 127 - self.exponent;
        let (eb, ez, base, zone_end);
        if F::WIDE {
            eb = binade;
            ez = eb + c(field + 1 - ZONE_BINADES);
            base = c(ZONE_BINADES - 1);
            zone_end = c(1).shl(eb - c(126 + ZONE_BINADES));
        } else {
            eb = binade.max(c(1 - F::MB - field));
            let first = eb.max(c(1 - field)) - c(1 - field);
            if F::ZONES {
                ez = (eb + c(field + 1 - ZONE_BINADES)).max(c(0));
                base = first - ez + ez.min(c(1));
                zone_end = c(1).shl_any(ez + c(self.exponent - F::BIAS)).keep(ez.gt(c(0)));
            } else {
                (ez, base, zone_end) = (c(0), first, c(0));
            }
        }
        let zero = c(0);
        let mut w = Window {
            mu,
            right: octave - c(10),
            more: mant - c(1 << 15),
            less: fraction.lookup16(&self.less),
            eb,
            top: eb + c(F::MB),
            base,
            ez,
            zone_end,
            lowest: (mu - reach).max(c(1 - FIXED_LIMIT)),
            highest: (mu + reach).min(c(FIXED_LIMIT - 1)),
            lo: zero,
            hi: zero,
            spread: zero,
        };
        w.lo = self.number::<F>(&w, w.lowest);
        w.hi = self.number::<F>(&w, w.highest);
        w.spread = c(self.end - 1) - (w.hi - w.lo);
        w
    }

    /// The binade of a value below 2^31; of a negative one anything.
    #[inline(always)]
    fn binade<F: Format>(&self, value: V) -> V {
        let binade = value.exponent();
        // Of wide formats only 0 is below the first normal value, and 0 is in a zone, whatever its binade.
        if F::WIDE { binade } else { binade.max(self.c(128 + self.exponent - F::BIAS)) }
    }

    /// Half a code's step in a binade, in units rounded down.
    #[inline(always)]
    fn half_step<F: Format>(&self, t: V) -> V {
        self.c(1).shl_any(t - self.c(128 + F::MB))
    }

    /// What cells are like in a binade.
    #[inline(always)]
    fn place<F: Format>(&self, w: &Window<V>, t: V) -> Place<V> {
        let near = t.max(w.eb).min(w.top);
        let away = t - near;
        // Of the shifted and the plain one: beyond the top a binade has 2^MB cells, below `eb` one.
        let add = w.base + away.max(away.left(F::MB));
        Place { t, raw_bits: w.top - near, width: w.eb + away - self.c(127), add }
    }

    /// `Grid::number` of `ElementFormat::rank_of_fixed`. Twice the first significand of a binade gives what the first of the next gives.
    #[inline(always)]
    fn number<F: Format>(&self, w: &Window<V>, value: V) -> V {
        let v = value.abs().min(self.c(self.largest));
        let t = self.binade::<F>(v);
        let place = self.place::<F>(w, t);
        let number = place.add + (v + self.half_step::<F>(t)).shr_any(place.width);
        let number = if F::ZONES { number.max(self.c(0)) } else { number };
        number ^ value.right_signed(31)
    }

    /// Where magnitudes from a cell's first value on begin: half a step below, rounded down to the plane's own units; `below` is the binade of the
    /// values below.
    #[inline(always)]
    fn edge<F: Format>(&self, value: V, below: V) -> V {
        (value - self.half_step::<F>(below).max(self.c(1 << self.raise))).max(self.c(0))
    }

    /// `ScalarModel::lower` of edges of any number, those outside the window included.
    ///
    /// Only edges inside it matter, at most 16 scales from the mean: 16 bits hold how far.
    #[inline(always)]
    fn lower(&self, w: &Window<V>, number: V, edge: V) -> V {
        let c = |x| self.c(x);
        let z = (edge.sign(number) - w.mu).sar(w.right).shrunk(w.less);
        let m = z.abs();
        let segment = m.right(11);
        let at = m.shl(segment.lookup8(&self.shifts));
        let (below, rise) = (segment.lookup8(&self.firsts) + at.right(16)).lookup64(&self.steps);
        let half = below + at.high_product(rise);
        // The last knot has no step.
        let half = V::select(m.gt(c(Z_LIMIT - 1)), c(SHAPE_HALF.into()), half);
        let lower = (c(SHAPE_HALF.into()) + half.sign(z)).part(w.spread) + (number - w.lo);
        V::select(number.gt(w.hi), self.upper_end(), lower.keep(number.gt(w.lo)))
    }

    /// An edge near slots: that of the cells to either side of which they probably are.
    #[inline(always)]
    fn guess<F: Format>(&self, w: &Window<V>, slot: V) -> Edge<V> {
        let c = |x| self.c(x);
        let away = slot - c(self.end / 2);
        let floors = (w.hi - w.lo).right(1);
        let tail = (c(self.end / 2) - floors - away.abs()).max(c(1)).float();
        // Four entries an octave.
        let (z, fall) = (tail.right(21) - c(127 << 2)).lookup64(&self.guesses);
        let z = z - tail.right(5).high_product(fall);
        let value = w.mu + z.sign(away).grown(w.more).shl(w.right);
        let value = value.max(w.lowest).min(w.highest);
        let v = value.abs();
        let place = self.place::<F>(w, self.binade::<F>(v));
        // Where codes are as wide as cells their edges are half a cell below their values; elsewhere less.
        let lead = (v + c(3).shl_any(place.width - c(2))).shr_any(place.width);
        let number = place.add + lead;
        let first = lead.shl_any(place.width);
        let (number, first) =
            if F::ZONES { (number.max(c(0)), first.keep(number.gt(c(0)))) } else { (number, first) };
        Edge { number: number.sign(value), value: first }
    }

    /// Cells of the window near slots, and their intervals: those to that side of the guessed edge on which the slot is.
    #[inline(always)]
    pub(crate) fn find<F: Format>(&self, w: &Window<V>, slot: V) -> Cells<V> {
        let c = |x| self.c(x);
        let one = self.guess::<F>(w, slot);
        let lower = self.lower(w, one.number, self.edge::<F>(one.value, self.binade::<F>(one.value - c(1))));
        let number = one.number + ((slot - lower).right_signed(31) | c(1));
        let (near, far) = (one.number.abs(), number.abs());
        // -1 towards 0.
        let inward = (far - near).right_signed(31);
        let place = self.place::<F>(w, self.binade::<F>(one.value + inward));
        let value = one.value + ((c(1).shl_any(place.width) ^ inward) - inward);
        let value = if F::ZONES { value.max(w.zone_end).keep(far.gt(c(0))) } else { value };
        let other = self.lower(w, number, self.edge::<F>(value, self.binade::<F>(value - c(1))));
        let magnitude = near.min(far);
        let lead = (magnitude - place.add).shl(place.raw_bits);
        let cells = Cells {
            start: lower.min(other),
            end: lower.max(other),
            raw_bits: place.raw_bits,
            sign: number.min(one.number).right_signed(31),
            first: (place.t + c(F::BIAS - 128 - self.exponent)).left(F::MB) + lead,
            ranks: c(1).shl(place.raw_bits),
        };
        if F::ZONES { self.zones::<F>(w, magnitude.eq(c(0)), cells) } else { cells }
    }

    /// The cells of magnitudes, negative ones where `sign` is -1; intervals if they lie in the window. And whether they do not.
    #[inline(always)]
    pub(crate) fn cells<F: Format>(&self, w: &Window<V>, m: V, sign: V) -> (Cells<V>, V::Mask) {
        let c = |x| self.c(x);
        let field = m.right(F::MB);
        let place = self.place::<F>(w, field.max(c(1)) + c(127 + self.exponent - F::BIAS));
        let before = (field.max(c(1)) - c(1)).left(F::MB);
        let lead = (m - before).shr(place.raw_bits);
        let value = lead.shl_any(place.width);
        let (mut magnitude, mut inner) = (lead + place.add, value);
        let (mut outer, mut below) = (value + c(1).shl_any(place.width), place.t);
        let zone = w.ez.gt(field);
        if F::ZONES {
            let zero = c(0);
            (magnitude, inner) = (V::select(zone, zero, magnitude), V::select(zone, zero, inner));
            outer = V::select(zone, w.zone_end, outer);
            below = V::select(zone, (w.ez - c(1)).max(c(1)) + c(127 + self.exponent - F::BIAS), below);
        }
        let inner = self.edge::<F>(inner, self.binade::<F>(inner - c(1)));
        let inner = self.lower(w, (magnitude ^ sign) - sign, inner);
        let outer = self.lower(w, ((magnitude + c(1)) ^ sign) - sign, self.edge::<F>(outer, below));
        let cells = Cells {
            start: inner.min(outer),
            end: inner.max(outer),
            raw_bits: place.raw_bits,
            sign,
            first: before + lead.shl(place.raw_bits),
            ranks: c(1).shl(place.raw_bits),
        };
        let cells = if F::ZONES { self.zones::<F>(w, zone, cells) } else { cells };
        let number = magnitude ^ sign;
        (cells, w.lo.gt(number) | number.gt(w.hi))
    }

    /// Cells, of which those that `zero` says are the first, and so a zone if there is one.
    #[inline(always)]
    fn zones<F: Format>(&self, w: &Window<V>, zero: V::Mask, cells: Cells<V>) -> Cells<V> {
        let c = |x| self.c(x);
        let zone = if F::WIDE { zero } else { zero & w.ez.gt(c(0)) };
        Cells {
            raw_bits: V::select(zone, c(F::WIDTH - 1), cells.raw_bits),
            first: cells.first.keep(V::not(zone)),
            ranks: V::select(zone, w.ez.left(F::MB).min(c(F::MAGNITUDES)), cells.ranks),
            ..cells
        }
    }

    /// Whether cells are zones: no others have so many raw bits.
    #[inline(always)]
    pub(crate) fn zone<F: Format>(&self, cells: &Cells<V>) -> V::Mask {
        const { assert!(F::MB < F::WIDTH - 1) };
        cells.raw_bits.eq(self.c(F::WIDTH - 1))
    }
}
