//! What true codes say about a prediction, `N` channels at a time: `speckv_predictor::portable::observe_row`.

use speckv_predictor::backend::Unit;
use speckv_predictor::core::ElementFormat;
use speckv_predictor::core::limits::{FIXED_LIMIT, LANES};
use speckv_predictor::fixed::LIMIT;
use speckv_predictor::portable::coding::Shrink;
use speckv_predictor::tables::Tables;

use super::int::Int;
use super::units::{Format, Units};

/// The tables of the definition in a form that fits registers.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    /// `floor(16 log2)` of a significand `n`, `2^16 <= n < 2^17`, by the four bits below its leading one: the value at the first such `n`,
    /// and the two numbers at and above which it is one and two more.
    log: [[i32; 16]; 3],
    /// Shrinkage in pairs: below and from `t = 0` on.
    shrink: [[(u16, u16); 64]; 2],
}

impl Observer {
    /// Finds the steps of the definition's logarithm.
    pub(crate) fn new(tables: &Tables, shrink: &Shrink) -> Observer {
        let log = |n: i32| (tables.log2_q12(n as u64) >> 8) - 16 * 16;
        // The first number of `from..end` whose logarithm is at least `value`, or `end`.
        let first = |from: i32, end: i32, value: i32| {
            let (mut low, mut high) = (from, end);
            while low < high {
                let middle = (low + high) / 2;
                if log(middle) < value { low = middle + 1 } else { high = middle }
            }
            low
        };
        let steps: [[i32; 3]; 16] = std::array::from_fn(|i| {
            let (from, end) = (0x10000 + 0x1000 * i as i32, 0x11000 + 0x1000 * i as i32);
            let value = log(from);
            assert!(log(end - 1) <= value + 2, "a logarithm climbs 1.5 sixteenths in a sixteenth");
            [value, first(from, end, value + 1), first(from, end, value + 2)]
        });
        let factor = |t: usize| shrink.factors()[t] as u16;
        let half = |from: usize| std::array::from_fn(|i| (factor(from + 2 * i), factor(from + 2 * i + 1)));
        Observer { log: [0, 1, 2].map(|k| steps.map(|s| s[k])), shrink: [half(0), half(128)] }
    }
}

/// What all rows of a plane share.
pub(crate) struct Plane<'a> {
    pub observer: &'a Observer,
    pub format: ElementFormat,
    pub unit: Unit,
    /// Fraction bits of predictions.
    pub exponent: i32,
    /// Fraction bits of code units.
    pub code_exponent: i32,
    /// Scale indices in code units, one a column.
    pub channel: &'a [i16],
}

impl Plane<'_> {
    /// Whether 32 bits hold every value: always, but for wide formats with a scale, which caches do not have.
    pub(crate) fn fits(&self) -> bool {
        (self.unit == Unit::ONE || self.format.width() == 8) && self.channel.len() <= 4096
    }
}

/// Some rows: their predictions in their own units, tokens' scale indices, codes, and what is to be filled.
pub(crate) struct Rows<'a> {
    pub mu: &'a [i32],
    pub token: &'a [i32],
    pub codes: &'a [u16],
    pub value: &'a mut [i32],
    pub innovation: &'a mut [i32],
    /// Sums of squares of normalised innovations, one a row.
    pub squares: &'a mut [u64],
}

/// Fills what is to be filled.
#[inline(always)]
pub(super) fn rows<V: Int, F: Format>(proof: V::Proof, plane: &Plane<'_>, rows: Rows<'_>) {
    let context = Context::<V>::new(proof, plane);
    let cols = plane.channel.len();
    let whole = cols / V::N * V::N;
    for (t, squares) in rows.squares.iter_mut().enumerate() {
        let (mu, codes) = (&rows.mu[t * cols..][..cols], &rows.codes[t * cols..][..cols]);
        let value = &mut rows.value[t * cols..][..cols];
        let innovation = &mut rows.innovation[t * cols..][..cols];
        let token = rows.token[t] as i16;
        let (mut low, mut high) = (context.units.c(0), context.units.c(0));
        for at in (0..whole).step_by(V::N) {
            let square = context.columns::<F>(
                &mu[at..],
                &plane.channel[at..],
                token,
                &codes[at..],
                &mut value[at..],
                &mut innovation[at..],
            );
            low = low + (square & context.units.c(0xFFFF));
            high = high + square.right(16);
        }
        // Each lane sums at most 4096 squares of at most 2^28, in two parts of 16 bits.
        *squares = sum(low) + (sum(high) << 16);
        if whole < cols {
            *squares += context.rest::<F>(
                &mu[whole..],
                &plane.channel[whole..],
                token,
                &codes[whole..],
                &mut value[whole..],
                &mut innovation[whole..],
            );
        }
    }
}

/// The sum of lanes without sign.
#[inline(always)]
fn sum<V: Int>(x: V) -> u64 {
    let mut lanes = [0; LANES];
    x.store(&mut lanes);
    lanes.iter().map(|&x| u64::from(x as u32)).sum()
}

/// Means in code units: `Unit::to_code`, for any unit but powers of two.
#[inline(always)]
pub(crate) fn to_codes<V: Int>(proof: V::Proof, mu: &[i32], unit: Unit, out: &mut [i32]) {
    let recip = V::splat(proof, reciprocal(unit));
    let (wholes, rest) = mu.as_chunks::<LANES>();
    let (outs, rest_out) = out.as_chunks_mut::<LANES>();
    for (mu, out) in wholes.iter().zip(outs) {
        for at in (0..LANES).step_by(V::N) {
            V::load(proof, &mu[at..]).scaled(recip, 31).store(&mut out[at..]);
        }
    }
    for (mu, out) in rest.iter().zip(rest_out) {
        *out = unit.to_code(*mu);
    }
}

/// `2^54 / m`, below 2^31 for any unit but powers of two.
fn reciprocal(unit: Unit) -> i32 {
    debug_assert!(unit.m > Unit::ONE.m);
    ((1i64 << 54) / i64::from(unit.m)) as i32
}

struct Context<V: Int> {
    units: Units<V>,
    log: [V::Table16; 3],
    shrink: [V::Table64; 2],
    /// Reciprocal and mantissa of the unit; nothing for powers of two.
    unit: Option<(V, V)>,
    /// What a code's exponent is off by in values.
    shift: i32,
}

impl<V: Int> Context<V> {
    #[inline(always)]
    fn new(proof: V::Proof, plane: &Plane<'_>) -> Self {
        let units = Units::new(proof, plane.code_exponent);
        let Unit { m, e } = plane.unit;
        // Powers of two only move the exponent.
        let power = m == Unit::ONE.m;
        let Observer { log, shrink } = plane.observer;
        Context {
            units,
            log: [V::table16(proof, &log[0]), V::table16(proof, &log[1]), V::table16(proof, &log[2])],
            shrink: [V::table64(proof, &shrink[0]), V::table64(proof, &shrink[1])],
            unit: (!power).then(|| (units.c(reciprocal(plane.unit)), units.c(m as i32))),
            shift: plane.exponent + e + if power { 23 } else { 0 },
        }
    }

    /// `N` columns; returns the squares.
    #[inline(always)]
    fn columns<F: Format>(
        &self,
        mu: &[i32],
        channel: &[i16],
        token: i16,
        codes: &[u16],
        value: &mut [i32],
        innovation: &mut [i32],
    ) -> V {
        let (units, proof, c) = (&self.units, self.units.proof, |x| self.units.c(x));
        let mu = V::load(proof, mu);
        let mu = if let Some((recip, _)) = self.unit { mu.scaled(recip, 31) } else { mu };
        let code = V::load_u16(proof, codes);
        let m = code & c(F::MAGNITUDES - 1);
        let sign = c(0) - (code.right(F::WIDTH - 1) & c(1));
        let (t, significand) = units.binade::<F>(m);

        // Unit::value: at most 28 bits of significand, moved and rounded.
        let product = if let Some((_, m)) = self.unit { significand * m } else { significand };
        let shift = t + c(self.shift - F::BIAS - F::MB);
        let right = c(0) - shift;
        let half = c(1).shl_any(right - c(1));
        let moved = V::select(shift.gt(c(-1)), product.shl_any(shift), (product + half).shr_any(right));
        let room = V::select(shift.gt(c(0)), c(LIMIT).shr_any(shift), c(LIMIT));
        let positive = V::select(product.gt(room), c(LIMIT), moved);
        ((positive ^ sign) - sign).store(value);

        // ElementFormat::edge of the code and of the next.
        let inner = self.edge::<F>(units.inner::<F>(significand, t), t);
        let outer = self.edge::<F>(significand.left(2) + c(2), t);
        let outer = V::select(m.eq(c(F::MAGNITUDES - 1)), c(FIXED_LIMIT - 1), outer);
        let (inner, outer) = ((inner ^ sign) - sign, (outer ^ sign) - sign);
        let negative = c(0).gt(sign);
        let low = V::select(negative, outer, inner) - mu;
        let high = V::select(negative, inner, outer) - mu;

        // Shrink::innovation.
        let near = c(0).min(high).max(low);
        let centre = low.right_signed(1) + high.right_signed(1) + (low & high & c(1));
        let width = (high - low).max(c(1));
        let zeros = width.leading_zeros();
        let n = width.shl(zeros).right(15);
        let sixteenth = n.right(12) & c(15);
        let first = sixteenth.lookup16(&self.log[0]);
        let (second, third) = (sixteenth.lookup16(&self.log[1]), sixteenth.lookup16(&self.log[2]));
        let more = V::select(second.gt(n), c(0), V::select(third.gt(n), c(1), c(2)));
        let log = (c(31) - zeros).left(4) + first + more;
        let channel = V::load_i16(proof, channel);
        let q = units.index(channel + c(token.into()));
        let t = (log - q).max(c(-128)).min(c(127)) + c(128);
        let index = t.right(1) & c(63);
        let (below, above) = (index.lookup64(&self.shrink[0]), index.lookup64(&self.shrink[1]));
        let upper = t.gt(c(127));
        let (even, odd) = (V::select(upper, above.0, below.0), V::select(upper, above.1, below.1));
        let factor = V::select((t & c(1)).eq(c(0)), even, odd);
        // away * factor >> 15, in two parts.
        let away = centre - near;
        let away = away.right_signed(15) * factor + ((away & c(0x7FFF)) * factor).right(15);
        let v = (near + away).max(c(-LIMIT)).min(c(LIMIT));

        let z = units.normalise(&units.scale(units.index(channel)), v);
        let v = if let Some((_, m)) = self.unit { v.scaled(m, 23).max(c(-LIMIT)).min(c(LIMIT)) } else { v };
        v.store(innovation);
        z * z
    }

    /// `ElementFormat::mid` of so many quarters of a code.
    #[inline(always)]
    fn edge<F: Format>(&self, quarters: V, t: V) -> V {
        let limit = self.units.c(FIXED_LIMIT - 1);
        let (edge, shift) = self.units.distance::<F>(quarters, t);
        let room = V::select(shift.gt(self.units.c(0)), limit.shr_any(shift), limit);
        V::select(quarters.gt(room), limit, edge)
    }

    /// Fewer than `N` columns; returns the sum of their squares.
    #[inline(always)]
    fn rest<F: Format>(
        &self,
        mu: &[i32],
        channel: &[i16],
        token: i16,
        codes: &[u16],
        value: &mut [i32],
        innovation: &mut [i32],
    ) -> u64 {
        let left = codes.len();
        let (mut means, mut channels, mut all) = ([0; LANES], [0; LANES], [0; LANES]);
        let (mut values, mut innovations) = ([0; LANES], [0; LANES]);
        means[..left].copy_from_slice(mu);
        channels[..left].copy_from_slice(channel);
        all[..left].copy_from_slice(codes);
        let square = self.columns::<F>(&means, &channels, token, &all, &mut values, &mut innovations);
        let mut squares = [0; LANES];
        square.store(&mut squares);
        value.copy_from_slice(&values[..left]);
        innovation.copy_from_slice(&innovations[..left]);
        squares[..left].iter().map(|&x| x as u64).sum()
    }
}
