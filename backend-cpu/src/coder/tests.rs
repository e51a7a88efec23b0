//! Every coder against the definition, with models that nothing would fit and streams that nobody wrote.

use speckv_predictor::core::limits::{
    EXPONENT_LIMIT, FIXED_LIMIT, KNOTS, LANES, MAX_ESCAPE, SCALES, SHAPE_HALF, scale_octave,
};
use speckv_predictor::core::model::{ScalarModel, reach};
use speckv_predictor::core::{ElementFormat, LaneEncoder, Lanes, PlaneModel, Shape, Symbol};
use speckv_predictor::random::Random;

use super::{Coder, decode, price};
use crate::dispatch::dispatch;
use crate::path::{Isa, Path};

/// A model of its own numbers.
struct Plane {
    format: ElementFormat,
    exponent: i32,
    mu: Vec<i32>,
    channel: Vec<i16>,
    token: Vec<i16>,
    shape: Shape,
    /// Means are below this in magnitude.
    bound: i32,
}

impl Plane {
    fn model(&self) -> PlaneModel<'_> {
        PlaneModel {
            format: self.format,
            exponent: self.exponent,
            mu: &self.mu,
            channel_scale: &self.channel,
            token_scale: &self.token,
            shape: &self.shape,
        }
    }

    /// Usual ones, fine ones and extreme ones.
    fn random(rng: &mut Random, tokens: usize, width: usize) -> Plane {
        let kind = rng.within(0, 3);
        if kind == 3 {
            return Plane::fine(rng, tokens, width);
        }
        let format = rng.pick(&ElementFormat::ALL);
        let usual = kind > 0;
        let exponent = match (usual, rng.within(0, 3)) {
            (true, 1..) => rng.within(8, 28),
            (true, _) => rng.within(0, 70),
            _ => rng.within(-EXPONENT_LIMIT, EXPONENT_LIMIT),
        };
        let mu = (0..tokens * width)
            .map(|_| match rng.within(0, 7) {
                0 => rng.within(1 - FIXED_LIMIT, FIXED_LIMIT - 1),
                1 => rng.pick(&[0, 1, -1, FIXED_LIMIT - 1, 1 - FIXED_LIMIT]),
                _ => rng.within(1 - FIXED_LIMIT, FIXED_LIMIT - 1) >> rng.within(0, 29),
            })
            .collect();
        // Vectors have room for octaves 11 to 25 whatever the means, and for some others.
        let (least, most) = if rng.within(0, 3) == 0 { (180, 385) } else { (206, 385) };
        let channel = (0..width)
            .map(|_| match (usual, rng.within(0, 7)) {
                (false, 0) => rng.pick(&[i16::MIN, i16::MAX, 0, 479]),
                (false, _) => rng.within(-40, SCALES + 40) as i16,
                _ => rng.within(least, most) as i16,
            })
            .collect();
        let token = (0..tokens)
            .map(|_| if !usual && rng.within(1, 20) == 1 { i16::MIN } else { rng.within(-30, 30) as i16 })
            .collect();
        let shape = any_shape(rng);
        Plane { format, exponent, mu, channel, token, shape, bound: FIXED_LIMIT }
    }

    /// Scales so small that vectors count in finer units, and means small enough for that.
    fn fine(rng: &mut Random, tokens: usize, width: usize) -> Plane {
        let format = rng.pick(&ElementFormat::ALL);
        // Cells of wide formats begin at whole units from here on only.
        let octave = if format == ElementFormat::Bf16 { rng.within(9, 10) } else { rng.within(2, 10) };
        let exponent = rng.within((format.bias() - 1).min(24), 28);
        // Raised by 11 - octave, means and reaches stay below 2^30.
        let bound = 1 << (octave + 18);
        let mu = (0..tokens * width)
            .map(|_| match rng.within(0, 7) {
                0 => rng.pick(&[0, 1, -1, bound - 1, 1 - bound]),
                _ => rng.within(1 - bound, bound - 1) >> rng.within(0, octave + 18),
            })
            .collect();
        let least = 16 * octave;
        let mut channel: Vec<i16> = (0..width).map(|_| rng.within(least, least + 140) as i16).collect();
        let mut token: Vec<i16> = (0..tokens).map(|_| rng.within(0, 30) as i16).collect();
        let lowest = rng.bits() as usize;
        (channel[lowest % width], token[lowest % tokens]) = (least as i16, 0);
        Plane { format, exponent, mu, channel, token, shape: any_shape(rng), bound }
    }

    /// Whether vectors count it in finer units.
    fn is_raised(&self) -> bool {
        let least = |x: &[i16]| x.iter().copied().min().map_or(0, i32::from);
        scale_octave((least(&self.channel) + least(&self.token)).clamp(0, SCALES - 1)) < 11
    }
}

/// Planes that a coder took, not leaving them to another.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    all: usize,
    /// Those in finer units, of a whole row or more.
    raised: usize,
}

impl Taken {
    fn count(&mut self, coder: impl Coder, plane: &Plane) {
        let scalars = plane.mu.len();
        let taken = coder.symbols(&plane.model(), &vec![0; scalars], &mut vec![Symbol::default(); scalars]);
        self.all += usize::from(taken.is_some());
        self.raised += usize::from(taken.is_some() && plane.is_raised() && scalars >= LANES);
    }
}

fn any_shape(rng: &mut Random) -> Shape {
    if rng.within(0, 1) == 0 { Shape::gaussian() } else { shape(rng) }
}

/// Knots that rise anywhere, by leaps too.
fn shape(rng: &mut Random) -> Shape {
    let mut knots = [0; KNOTS];
    let leaps = rng.within(1, 3) == 1;
    for knot in &mut knots[1..KNOTS - 1] {
        *knot = match (leaps, rng.within(0, 5)) {
            (true, 0) => SHAPE_HALF,
            (true, _) => 0,
            _ => rng.within(0, SHAPE_HALF.into()) as u16,
        };
    }
    knots[KNOTS - 1] = SHAPE_HALF;
    knots.sort_unstable();
    let any = rng.within(1, MAX_ESCAPE.into()) as u16;
    let escape = rng.pick(&[1, MAX_ESCAPE, any]);
    Shape::new(knots, escape).expect("sorted knots")
}

/// Knots that rise in the outermost steps alone: windows' ends are likely there.
fn tail_shape(rng: &mut Random) -> Shape {
    let mut knots = [0; KNOTS];
    knots[KNOTS - 1] = SHAPE_HALF;
    for knot in &mut knots[KNOTS - 1 - rng.within(0, 4) as usize..KNOTS - 1] {
        *knot = rng.within(0, SHAPE_HALF.into()) as u16;
    }
    knots.sort_unstable();
    Shape::new(knots, rng.pick(&[1, 2, MAX_ESCAPE])).expect("sorted knots")
}

/// A mean whose window ends where something changes: at 0, at the limits of fixed point, at the largest magnitude, at an edge of a cell.
fn mean_at_an_end(rng: &mut Random, format: ElementFormat, exponent: i32, bound: i32, q: i32) -> i32 {
    let magnitudes = format.magnitudes();
    let end = match rng.within(0, 4) {
        0 | 1 => 0,
        2 => rng.pick(&[bound - 1, 1 - bound]),
        3 => format.edge(rng.pick(&[1 - magnitudes, magnitudes - 1]), exponent),
        _ => format.edge(rng.within(1 - magnitudes, magnitudes - 1), exponent),
    };
    let near = if rng.bits().is_multiple_of(2) { 0 } else { rng.within(-2, 2) };
    end.saturating_add(rng.pick(&[-1, 1, 0]) * reach(q)).saturating_add(near).clamp(1 - bound, bound - 1)
}

/// One row whose windows end where something changes, slots at the ends of their cells, and codes there.
fn check_ends(coder: impl Coder, seed: u64, taken: &mut Taken) {
    let mut rng = Random::new(seed);
    let mut plane = Plane::random(&mut rng, 1, LANES);
    plane.token[0] = 0;
    if rng.within(0, 3) != 0 {
        plane.shape = tail_shape(&mut rng);
    }
    let (format, exponent, bound) = (plane.format, plane.exponent, plane.bound);
    let scales: Vec<i32> = plane.channel.iter().map(|&c| i32::from(c).clamp(0, SCALES - 1)).collect();
    for (mu, &q) in plane.mu.iter_mut().zip(&scales) {
        *mu = mean_at_an_end(&mut rng, format, exponent, bound, q);
    }
    taken.count(coder, &plane);
    let model = plane.model();
    let scalars: Vec<_> = plane
        .mu
        .iter()
        .zip(&scales)
        .map(|(&mu, &q)| ScalarModel::new(format, exponent, &plane.shape, mu, q))
        .collect();
    let words: Vec<u8> = (0..4 * LANES).map(|_| rng.bits() as u8).collect();
    let mut codes = [0; LANES];
    for _ in 0..16 {
        let states = std::array::from_fn(|i| {
            let (lo, hi) = scalars[i].window();
            let number = rng.pick(&[lo, lo + 1, hi, hi + 1, 0, -1]).clamp(lo, hi + 1);
            let number = if rng.within(0, 3) == 0 { rng.within(lo, hi) } else { number };
            let slot = (scalars[i].lower(number) as i32 + rng.within(-2, 1)).clamp(0, 65535);
            rng.bits() as u32 >> 1 << 16 | 1 << 16 | slot as u32
        });
        let (mut ours, mut theirs) = (Lanes::new(states, &words), Lanes::new(states, &words));
        let (mut found, mut expected) = ([0; LANES], [0; LANES]);
        let is = decode(coder, &model, &mut ours, &mut found);
        assert_eq!(is, model.decode(&mut theirs, &mut expected), "seed {seed}");
        if is.is_ok() {
            assert_eq!(found, expected, "seed {seed}");
            assert_eq!((ours.at, ours.states), (theirs.at, theirs.states), "seed {seed}");
        }
        for (i, code) in codes.iter_mut().enumerate() {
            let (lo, hi) = scalars[i].window();
            let number = rng.pick(&[lo, hi, 0, -1]);
            let last = scalars[i].grid().number(format.magnitudes() - 1);
            let cell = scalars[i].grid().cell(number.clamp(-1 - last, last));
            let rank = rng.pick(&[cell.first_rank, cell.first_rank + cell.ranks - 1]) + rng.within(-1, 1);
            *code = format.code(rank.clamp(-format.magnitudes(), format.magnitudes() - 1));
        }
        let (symbols, cost) = price(coder, &model, &codes).expect("codes of the format");
        let mut same = Vec::new();
        assert_eq!(cost, model.price(&codes, &mut same).expect("codes of the format"), "seed {seed}");
        assert_eq!(symbols, same, "seed {seed}");
    }
}

/// Runs `$check` with each coder that this machine has, and each seed. Each coder must take so many of the planes itself, and so many in
/// finer units: else the definition would be compared with itself.
macro_rules! each_coder {
    ($check:ident, $seeds:expr, $all:expr, $raised:expr) => {
        for path in Path::ALL.into_iter().filter(|p| p.is_available()) {
            let mut taken = Taken::default();
            for seed in $seeds {
                let isa = Isa::new(path).expect("an available path");
                dispatch!(isa, |_kernel, _wide, coder| $check(coder, seed, &mut taken));
            }
            println!("coder {}: planes {:?}: {taken:?}", path.name(), $seeds);
            assert!(taken.all >= $all && taken.raised >= $raised, "{path} took too few planes: {taken:?}");
        }
    };
}

/// Random codes and random streams, both ways.
fn check(coder: impl Coder, seed: u64, taken: &mut Taken) {
    let mut rng = Random::new(seed);
    let width = rng.pick(&[1, 7, 31, 32, 33, 64, 96, 100]);
    let tokens = rng.within(1, 12) as usize;
    let plane = Plane::random(&mut rng, tokens, width);
    taken.count(coder, &plane);
    let model = plane.model();
    let scalars = plane.mu.len();

    // Streams of random words, whole and cut short.
    let mut words: Vec<u8> = (0..2 * scalars).map(|_| rng.bits() as u8).collect();
    let states = std::array::from_fn(|_| rng.bits() as u32 | 1 << 16);
    if seed % 4 == 1 {
        words.truncate(rng.within(0, 2 * scalars as i32) as usize & !1);
    }
    let (mut ours, mut theirs) = (Lanes::new(states, &words), Lanes::new(states, &words));
    let (mut found, mut expected) = (vec![0; scalars], vec![0; scalars]);
    let (is, should) =
        (decode(coder, &model, &mut ours, &mut found), model.decode(&mut theirs, &mut expected));
    assert_eq!(is, should, "seed {seed}");
    assert_eq!((ours.at, ours.states), (theirs.at, theirs.states), "seed {seed}");
    assert!(should.is_err() || found == expected, "seed {seed}");

    // Codes that such a stream gave, and codes that no model expects.
    if seed.is_multiple_of(2) || should.is_err() {
        let mask = ((1u32 << plane.format.width()) - 1) as u16;
        expected.iter_mut().for_each(|c| *c = rng.bits() as u16 & mask);
    }
    let (symbols, cost) = price(coder, &model, &expected).expect("codes of the format");
    let mut same = Vec::new();
    assert_eq!(cost, model.price(&expected, &mut same).expect("codes of the format"), "seed {seed}");
    assert_eq!(symbols, same, "seed {seed}");

    let mut first: Vec<Symbol> = symbols.clone();
    first.truncate(rng.within(0, scalars as i32) as usize);
    let (mut ours, mut theirs) = (LaneEncoder::new(), LaneEncoder::new());
    for symbols in [&symbols, &first] {
        coder.push(&mut ours, symbols);
        theirs.push_symbols(symbols);
    }
    assert_eq!(ours.states, theirs.states, "seed {seed}");
    assert_eq!(ours.words, theirs.words, "seed {seed}");
}

#[test]
fn every_coder_is_the_definition() {
    each_coder!(check, 0..4000, 2500, 750);
}

/// Windows that end at 0 once gave codes from beyond.
#[test]
fn every_coder_is_the_definition_at_the_ends_of_windows() {
    each_coder!(check_ends, 0..4000, 2900, 950);
}

/// A usual plane and a fine one, which a coder must take itself, and price as the definition does.
fn check_taken(coder: impl Coder, seed: u64, taken: &mut Taken) {
    let mut rng = Random::new(seed);
    let plane = if seed.is_multiple_of(2) {
        let mut plane = Plane::random(&mut rng, 4, LANES);
        plane.exponent = rng.within(17, 27);
        plane.mu.iter_mut().for_each(|mu| *mu >>= 5);
        plane.channel.iter_mut().for_each(|c| *c = rng.within(180, 340) as i16);
        plane.token.iter_mut().for_each(|t| *t = rng.within(-30, 30) as i16);
        plane
    } else {
        Plane::fine(&mut rng, 4, LANES)
    };
    taken.count(coder, &plane);
    let (model, mask) = (plane.model(), ((1u32 << plane.format.width()) - 1) as u16);
    let codes: Vec<u16> = (0..4 * LANES).map(|_| rng.bits() as u16 & mask).collect();
    let (mut symbols, mut same) = ([Symbol::default(); 4 * LANES], Vec::new());
    let cost = coder.symbols(&model, &codes, &mut symbols);
    assert!(cost.is_some(), "seed {seed}");
    assert_eq!(cost, model.price(&codes, &mut same).ok(), "seed {seed}");
    assert_eq!(symbols[..], same[..], "seed {seed}");
}

#[test]
fn every_coder_takes_usual_and_fine_planes() {
    each_coder!(check_taken, 0..400, 400, 200);
}
