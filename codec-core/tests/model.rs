//! Section 3: prices by the page, strictly increasing, inverted exactly.
#![allow(clippy::disallowed_types, clippy::float_arithmetic)]

use proptest::prelude::*;
use speckv_codec_core::limits::{INV, MANT};
use speckv_codec_core::model::{ScalarModel, normalise, reach};
use speckv_codec_core::shape::knot_position;
use speckv_codec_core::{ElementFormat, Rule, Shape, Symbol};

mod common;
use common::{Random, random_shape};

/// Section 3 word for word, in wide integers, with none of the crate's shortcuts.
struct Page<'a> {
    format: ElementFormat,
    exponent: i32,
    mu: i128,
    q: i32,
    shape: &'a Shape,
}

impl Page<'_> {
    fn number(&self, rank: i32) -> i32 {
        let m = if rank >= 0 { rank } else { -1 - rank };
        let mb = self.format.mantissa_bits() as i32;
        let (e, f) = (m >> mb, m & ((1 << mb) - 1));
        let eb = ((self.q >> 4) - 2 - self.exponent + self.format.bias()).max(1 - mb);
        let ez = (eb - 8 + 1).max(0);
        let z = i32::from(ez > 0);
        let base = eb.max(1) - 1 - ez + z;
        let j = e.max(1) - eb;
        let sig = if e == 0 { f } else { (1 << mb) + f };
        let number = if e < ez {
            0
        } else if j <= 0 {
            e - ez + z
        } else if j <= mb {
            base + (sig >> (mb - j))
        } else {
            base + sig + ((j - mb) << mb)
        };
        if rank >= 0 { number } else { -1 - number }
    }

    fn window(&self) -> (i32, i32) {
        let big = (1i128 << 30) - 1;
        let r = ((i128::from(MANT[(self.q & 15) as usize]) << ((self.q >> 4) + 4)) >> 15).min(big);
        let rank = |v: i128| self.format.rank_of_fixed(v as i32, self.exponent);
        (self.number(rank((self.mu - r).max(-big))), self.number(rank((self.mu + r).min(big))))
    }

    fn cumulative(&self, edge: i128) -> i128 {
        let qi = self.q >> 4;
        let c = (edge - self.mu).clamp(-(1 << (qi + 5)), 1 << (qi + 5));
        let z = ((((c * 1024) >> qi) * i128::from(INV[(self.q & 15) as usize])) >> 15).clamp(-16384, 16384);
        let knots = self.shape.knots();
        let knot = (0..64).rev().find(|&knot| i128::from(knot_position(knot)) <= z.abs()).unwrap();
        let (below, above) = (i128::from(knots[knot]), i128::from(knots[knot + 1]));
        let (from, to) = (i128::from(knot_position(knot)), i128::from(knot_position(knot + 1)));
        let half = below + (((above - below) * (z.abs() - from)) >> (to - from).ilog2());
        if z >= 0 { 32768 + half } else { 32768 - half }
    }

    /// `cum` of the lower edge of the cell that starts at `rank`.
    fn lower(&self, rank: i32, lo: i32) -> i128 {
        let n = self.number(rank);
        let (first, last) = self.window();
        let a = 65536 - i128::from(self.shape.escape()) - i128::from(last - first + 1);
        let c = if n == lo {
            0
        } else if n > last {
            65536
        } else {
            self.cumulative(self.format.edge(rank, self.exponent).into())
        };
        ((c * a) >> 16) + i128::from(n - first)
    }

    fn symbol(&self, code: u16) -> Symbol {
        let rank = self.format.rank(code);
        let n = self.number(rank);
        let (lo, hi) = self.window();
        if n < lo || n > hi {
            let escape = self.shape.escape();
            let start = (65536 - u32::from(escape)) as u16;
            return Symbol { start, freq: escape, raw: code, raw_bits: self.format.width() as u16 };
        }
        let magnitudes = self.format.magnitudes();
        let first = (-magnitudes..=rank).rev().take_while(|&r| self.number(r) == n).last().unwrap();
        let next = (rank..magnitudes).find(|&r| self.number(r) != n).unwrap_or(magnitudes);
        let start = self.lower(first, lo);
        let end = if n == hi { 65536 - i128::from(self.shape.escape()) } else { self.lower(next, lo) };
        let eb = (self.q >> 4) - 2 - self.exponent + self.format.bias();
        let zone = eb > 7 && (n == 0 || n == -1);
        let (raw, raw_bits) = if zone {
            (if rank >= 0 { rank } else { -1 - rank }, self.format.width() - 1)
        } else {
            (rank - first, ((next - first) as u32).ilog2())
        };
        Symbol { start: start as u16, freq: (end - start) as u16, raw: raw as u16, raw_bits: raw_bits as u16 }
    }
}

fn arguments(random: &mut Random) -> (ElementFormat, i32, i32, i32) {
    let format = ElementFormat::ALL[random.below(4) as usize];
    let exponent = if random.below(2) == 0 { random.range(-120, 120) } else { random.range(0, 24) } as i32;
    let mu = random.range(-(1 << 30) + 1, (1 << 30) - 1) as i32 >> random.below(31);
    (format, exponent, mu, random.range(0, 479) as i32)
}

#[test]
fn tables_are_the_rounded_powers() {
    for i in 0..16 {
        assert_eq!(f64::from(MANT[i]), (32768.0 * 2f64.powf(i as f64 / 16.0)).round());
        assert_eq!(f64::from(INV[i]), (32768.0 * 2f64.powf(i as f64 / -16.0)).round());
    }
    for q in 0..480 {
        let real = 16.0 * 2f64.powf(f64::from(q) / 16.0);
        let expected = real.min((1u64 << 30) as f64 - 1.0);
        assert!((f64::from(reach(q)) - expected).abs() <= expected / 30000.0 + 1.0, "{q}");
    }
}

/// However small the scale beside the codes, what the mean rounds to is in the window, and nearly free.
#[test]
fn a_certain_mean_costs_next_to_nothing() {
    let mut r = Random(77);
    for format in ElementFormat::ALL {
        for _ in 0..20_000 {
            let exponent = 20;
            let code = (r.next() & ((1 << format.width()) - 1)) as u16;
            let rank = format.rank(code);
            let (lo, hi) = (format.edge(rank, exponent), format.edge(rank + 1, exponent));
            // Codes that are at least 64 scales of one unit wide, the mean at least 20 of them inside.
            if i64::from(hi) - i64::from(lo) < 64 || hi.max(-lo) >= (1 << 30) - 100 {
                continue;
            }
            let mu = lo + 20 + (r.next() % (hi - lo - 40) as u64) as i32;
            let symbol = ScalarModel::new(format, exponent, &Shape::gaussian(), mu, 0).symbol(code);
            assert!(symbol.freq > 65_000 && symbol.raw_bits == 0, "{format:?} {code:#x} {mu}: {symbol:?}");
        }
    }
}

#[test]
fn costs_are_rounded_up_by_at_most_two_256ths() {
    for freq in 1..=65535u16 {
        for raw_bits in [0, 3, 16] {
            let cost = f64::from(Symbol { start: 0, freq, raw: 0, raw_bits }.cost());
            let exact = (16.0 - f64::from(freq).log2() + f64::from(raw_bits)) * 256.0;
            assert!(cost >= exact - 1e-9 && cost < exact + 2.5, "{freq}: {cost} {exact}");
        }
    }
    // By the page.
    for freq in [1u16, 2, 3, 255, 256, 257, 4095, 40000, 65535] {
        let n = freq.ilog2();
        let i = ((u32::from(freq) << 8) >> n) - 256;
        let log = 256 * n + (256.0 * (1.0 + f64::from(i) / 256.0).log2()).floor() as u32;
        assert_eq!(Symbol { start: 0, freq, raw: 0, raw_bits: 5 }.cost(), 21 * 256 - log);
    }
}

#[test]
fn normalised_edges_never_decrease_and_are_exact_to_a_part_in_a_thousand() {
    for q in 0..480 {
        let scale = 2f64.powf(f64::from(q) / 16.0);
        let mut before = i32::MIN;
        for step in -2000i32..=2000 {
            let edge = (scale * f64::from(step) / 60.0).round().clamp(-1073741823.0, 1073741823.0) as i32;
            let z = normalise(edge, 0, q);
            assert!(z >= before);
            before = z;
            let exact = (f64::from(edge) / scale * 1024.0).clamp(-16384.0, 16384.0);
            assert!((f64::from(z) - exact).abs() <= 2.0 + exact.abs() / 10000.0, "{q} {step} {z} {exact}");
        }
    }
    let big = (1 << 30) - 1;
    assert_eq!((normalise(big, -big, 0), normalise(-big, big, 479)), (16384, -2139));
}

#[test]
fn symbols_are_those_of_the_page() {
    let mut random = Random(3);
    for round in 0..4000 {
        let shape = random_shape(&mut random);
        let (format, exponent, mut mu, q) = arguments(&mut random);
        let code = (random.next() & ((1 << format.width()) - 1)) as u16;
        if round % 2 == 0 {
            // Where it matters: near a code.
            mu = format.edge(format.rank(code), exponent);
        }
        let page = Page { format, exponent, mu: mu.into(), q, shape: &shape };
        let model = ScalarModel::new(format, exponent, &shape, mu, q);
        assert_eq!(model.window(), page.window());
        let near = format.code(
            (format.rank(code) + random.range(-9, 9) as i32)
                .clamp(-format.magnitudes(), format.magnitudes() - 1),
        );
        for code in [code, near, 0, 1] {
            assert_eq!(
                model.symbol(code),
                page.symbol(code),
                "{format:?} F={exponent} mu={mu} q={q} code={code}"
            );
        }
    }
}

fn check_slots(
    format: ElementFormat,
    exponent: i32,
    mu: i32,
    q: i32,
    shape: &Shape,
) -> Result<(), TestCaseError> {
    let model = ScalarModel::new(format, exponent, shape, mu, q);
    let (lo, hi) = model.window();
    prop_assert!(hi - lo < 274, "{} cells", hi - lo + 1);
    let escape = u32::from(shape.escape());
    let mut end = model.lower(lo);
    prop_assert_eq!(end, 0);
    for number in lo..=hi {
        let start = end;
        end = model.lower(number + 1);
        prop_assert!(start < end, "empty cell {}", number);
        for slot in start..end {
            let found = model.find(slot);
            prop_assert_eq!((found.number, found.start, found.freq), (Some(number), start, end - start));
        }
    }
    prop_assert_eq!(end, 65536 - escape);
    for slot in end..65536 {
        let found = model.find(slot);
        prop_assert_eq!((found.number, found.start, found.freq), (None, end, escape));
    }
    Ok(())
}

proptest! {
    #![proptest_config(common::cases(160))]

    #[test]
    fn every_slot_is_found(seed in any::<u64>()) {
        let mut random = Random(seed);
        let shape = if seed % 3 == 0 { Shape::gaussian() } else { random_shape(&mut random) };
        let (format, exponent, mu, q) = arguments(&mut random);
        check_slots(format, exponent, mu, q, &shape)?;
    }
}

#[test]
fn every_slot_is_found_at_the_corners() {
    let shapes = [
        Shape::gaussian(),
        Shape::new(core::array::from_fn(|i| if i == 0 { 0 } else { 32768 }), 1).unwrap(),
        Shape::new(core::array::from_fn(|i| if i == 64 { 32768 } else { 0 }), 8192).unwrap(),
    ];
    let big = (1 << 30) - 1;
    for format in ElementFormat::ALL {
        for (i, shape) in shapes.iter().enumerate() {
            for exponent in [-120, 0, 14, 120] {
                for (mu, q) in [(0, 0), (0, 479), (big, 479), (-big, 479), (big, 0), (-big, 0), (-1, 200)] {
                    check_slots(format, exponent, mu, q, shape)
                        .unwrap_or_else(|error| panic!("{format:?} {i} {exponent} {mu} {q}: {error}"));
                }
            }
        }
    }
}

#[test]
fn invalid_shapes_cannot_be_built() {
    let good = *Shape::gaussian().knots();
    let rule = |knots, escape| match Shape::new(knots, escape).unwrap_err() {
        speckv_codec_core::Error::Argument { rule, .. } => rule,
        other => panic!("{other}"),
    };
    assert_eq!(Shape::new(good, 16).unwrap(), Shape::gaussian());
    assert_eq!((rule(good, 0), rule(good, 8193)), (Rule::Escape, Rule::Escape));
    for (at, value) in [(0, 1), (64, 32767), (10, 0), (30, 32769)] {
        let mut knots = good;
        knots[at] = value;
        assert_eq!(rule(knots, 16), Rule::Knots);
    }
}

#[test]
fn the_shape_passes_through_its_knots() {
    let mut random = Random(8);
    for shape in [Shape::gaussian(), random_shape(&mut random)] {
        for knot in 0..=64 {
            let (z, value) = (knot_position(knot), u32::from(shape.knots()[knot]));
            assert_eq!(shape.cumulative(z), 32768 + value);
            assert_eq!(shape.cumulative(-z), 32768 - value);
        }
        assert!((-16384..16384).all(|z| shape.cumulative(z) <= shape.cumulative(z + 1)));
    }
}
