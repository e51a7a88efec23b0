//! Every vector does to each of its integers what [`One`] does to one.

use speckv_predictor::core::Symbol;
use speckv_predictor::core::limits::LANES;
use speckv_predictor::random::Random;

use super::int::{Int, One};
use super::pair::Pair;
use crate::path::{Isa, Path};
#[cfg(target_arch = "x86_64")]
use crate::x86_64::int256::I256;

/// Small and large ones, and those at which something turns.
fn number(rng: &mut Random) -> i32 {
    match rng.within(0, 3) {
        0 => rng.pick(&[0, 1, -1, 31, 32, 33, 255, 256, 259, -253, -256, i32::MAX, i32::MIN]),
        1 => rng.within(-40, 40),
        _ => rng.bits() as i32 >> rng.within(0, 31),
    }
}

fn numbers(mut f: impl FnMut() -> i32) -> [i32; LANES] {
    std::array::from_fn(|_| f())
}

/// `f` of all lanes with vectors of one kind.
fn lanes<V: Int>(proof: V::Proof, x: &[&[i32; LANES]], f: impl Fn(&[V]) -> V) -> [i32; LANES] {
    let mut out = [0; LANES];
    for at in (0..LANES).step_by(V::N) {
        let x: Vec<V> = x.iter().map(|x| V::load(proof, &x[at..])).collect();
        f(&x).store(&mut out[at..]);
    }
    out
}

/// The same expression with both kinds.
macro_rules! same {
    ($vector:ty, $proof:expr, $seed:expr, $x:expr; $($name:literal => |$v:ident| $value:expr),* $(,)?) => {
        $({
            let ours = lanes::<$vector>($proof, &$x, |$v| $value);
            let theirs = lanes::<One>((), &$x, |$v| $value);
            assert_eq!(ours, theirs, "{} of {:?}, seed {}", $name, $x, $seed);
        })*
    };
}

fn check<V: Int>(proof: V::Proof, seed: u64) {
    let mut rng = Random::new(seed);
    let (a, b) = (numbers(|| number(&mut rng)), numbers(|| number(&mut rng)));
    same!(V, proof, seed, [&a, &b];
        "add" => |v| v[0] + v[1],
        "sub" => |v| v[0] - v[1],
        "mul" => |v| v[0] * v[1],
        "and" => |v| v[0] & v[1],
        "or" => |v| v[0] | v[1],
        "xor" => |v| v[0] ^ v[1],
        "min" => |v| v[0].min(v[1]),
        "max" => |v| v[0].max(v[1]),
        "shl_any" => |v| v[0].shl_any(v[1]),
        "shr_any" => |v| v[0].shr_any(v[1]),
        "gt" => |v| Int::select(v[0].gt(v[1]), v[0], v[1]),
        "eq" => |v| Int::select(v[0].eq(v[1] & v[0]), v[0], v[1]),
    );
    let (count, positive) = (b.map(|b| b & 31), a.map(|a| a & i32::MAX));
    let exact = a.map(|a| a & 0xFF_FFFF);
    same!(V, proof, seed, [&a, &count, &positive, &exact];
        "left" => |v| v[0].left((seed % 32) as i32),
        "right" => |v| v[0].right((seed % 32) as i32),
        "right_signed" => |v| v[0].right_signed((seed % 32) as i32),
        "shl" => |v| v[0].shl(v[1]),
        "shr" => |v| v[0].shr(v[1]),
        "sar" => |v| v[0].sar(v[1]),
        "leading_zeros" => |v| v[2].leading_zeros(),
        "exponent" => |v| v[2].exponent(),
        "float" => |v| v[3].float(),
    );
    let far = a.map(|a| a.max(-i32::MAX));
    let odd = b.map(|b| b | 1);
    same!(V, proof, seed, [&far, &b, &odd];
        "abs" => |v| v[0].abs(),
        "sign" => |v| v[0].sign(v[2]),
        "keep" => |v| v[0].keep(v[0].gt(v[1])),
    );
    // Results that fit 16 bits.
    let short = a.map(|a| a as i16 as i32 >> 1);
    let (down, up) = (b.map(|b| -(b & 0x7FFF)), b.map(|b| b & 0x7FFF));
    let (whole, by) = (a.map(|a| (a & 0x1_FFFF).min(1 << 16)), b.map(|b| (b & 0xFFFF).max(1)));
    same!(V, proof, seed, [&short, &down, &up, &a, &whole, &by];
        "shrunk" => |v| v[0].shrunk(v[1]),
        "grown" => |v| v[0].grown(v[2]),
        "high_product" => |v| v[3].high_product(v[5]),
        "part" => |v| v[4].part(v[5]),
    );
    // Quotients below 2^16, also of numbers with the highest bit set, just above and below multiples.
    let by = b.map(|b| (b & 0xFFFF).max(1));
    let whole = std::array::from_fn(|i| {
        let multiple = by[i] as u32 * rng.within(0, 65535) as u32;
        let any = rng.bits() as u32 % by[i] as u32;
        let rest = rng.pick(&[0, by[i] as u32 - 1, any]);
        (multiple + rest) as i32
    });
    same!(V, proof, seed, [&whole, &by]; "quotient" => |v| v[0].quotient(v[1]));
    let bits = rng.within(1, 32) as u32;
    // So that results fit.
    let (x, y) = (a.map(|a| a >> 1), b.map(|b| b >> (32 - bits).max(1)));
    same!(V, proof, seed, [&x, &y]; "scaled" => |v| v[0].scaled(v[1], bits));

    let table8 = std::array::from_fn(|_| rng.bits() as i32);
    let found = lanes::<V>(proof, &[&b], |v| v[0].lookup8(&V::table8(proof, &table8)));
    assert_eq!(found, b.map(|at| table8[(at & 7) as usize]), "seed {seed}");
    let table16 = std::array::from_fn(|_| rng.bits() as i32);
    let table64 = std::array::from_fn(|_| (rng.bits() as u16, rng.bits() as u16));
    let (at16, at64) = (b.map(|b| b & 15), b.map(|b| b & 63));
    let found = lanes::<V>(proof, &[&at16], |v| v[0].lookup16(&V::table16(proof, &table16)));
    assert_eq!(found, at16.map(|at| table16[at as usize]), "seed {seed}");
    let table = V::table64(proof, &table64);
    let first = lanes::<V>(proof, &[&at64], |v| v[0].lookup64(&table).0);
    let second = lanes::<V>(proof, &[&at64], |v| v[0].lookup64(&table).1);
    assert_eq!(first, at64.map(|at| i32::from(table64[at as usize].0)), "seed {seed}");
    assert_eq!(second, at64.map(|at| i32::from(table64[at as usize].1)), "seed {seed}");

    assert_eq!(moves::<V>(proof, &a, &b, seed), moves::<One>((), &a, &b, seed), "seed {seed}");
}

/// What masks and memory are left with.
#[derive(Debug, Default, PartialEq)]
struct Moved {
    bits: u32,
    /// Low halves, widened without sign and with it; refilled; both words of symbols.
    wide: [[i32; LANES]; 5],
    narrow: [u16; LANES],
    symbols: [Symbol; LANES],
    words: Vec<u16>,
    read: usize,
}

fn moves<V: Int>(proof: V::Proof, a: &[i32; LANES], b: &[i32; LANES], seed: u64) -> Moved {
    let halves = a.map(|a| a as u16);
    let signed = a.map(|a| a as i16);
    let bytes: Vec<u8> = b.iter().flat_map(|b| b.to_le_bytes()).take(2 * (seed % 40) as usize).collect();
    let mut to = Moved { words: vec![0; 2 * LANES], ..Moved::default() };
    for at in (0..LANES).step_by(V::N) {
        let (x, y) = (V::load(proof, &a[at..]), V::load(proof, &b[at..]));
        let mask = V::not(x.gt(y)) & V::not(x.eq(y)) | y.eq(V::splat(proof, 1));
        to.bits |= V::bits(mask) << at;
        x.store_u16(&mut to.narrow[at..]);
        V::load_u16(proof, &halves[at..]).store(&mut to.wide[0][at..]);
        V::load_i16(proof, &signed[at..]).store(&mut to.wide[1][at..]);
        x.store_symbols(y, &mut to.symbols[at..]);
        let (low, high) = V::load_symbols(proof, &to.symbols[at..]);
        low.store(&mut to.wide[3][at..]);
        high.store(&mut to.wide[4][at..]);
        let (refilled, after) = x.refill(mask, &bytes, to.read);
        to.read = after;
        refilled.store(&mut to.wide[2][at..]);
    }
    let mut written = 0;
    for at in (0..LANES).step_by(V::N).rev() {
        let (x, y) = (V::load(proof, &a[at..]), V::load(proof, &b[at..]));
        written = x.emit(y.gt(x), &mut to.words, written);
    }
    to.words.truncate(written);
    to
}

#[test]
fn every_vector_is_many_ones() {
    for path in Path::ALL.into_iter().filter(|p| p.is_available()) {
        for seed in 0..4000 {
            match Isa::new(path).expect("an available path") {
                Isa::Scalar => check::<Pair<One>>((), seed),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2(proof) => {
                    check::<I256>(proof, seed);
                    check::<Pair<Pair<I256>>>(proof, seed);
                }
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Vnni(proof) => check::<crate::x86_64::int512::I512>(proof, seed),
                #[cfg(target_arch = "x86_64")]
                Isa::Amx(proof) => check::<crate::x86_64::int512::I512>(proof.avx512vnni(), seed),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon(proof) => check::<crate::aarch64::int128::I128>(proof, seed),
            }
        }
        println!("vectors of {path}: 4000 seeds");
    }
}
