//! The coder: prices, symbols and lanes, written once for vectors of any width. The definition is `speckv_codec_core`; what it does to one
//! scalar after another happens here to `N` at a time.
//!
//! What each path uses, and why. Cycles a scalar to decode (and to price) e4m3 at 0.94 bits on an AMD EPYC of family 26: `perf stat -e cycles:u`
//! around [`decode_plane`](speckv_predictor::Backend::decode_plane) of a plane of 1024 x 64; alternatives as measured when the choice was made.
//!
//! | path | vectors | tables of 64 | because |
//! | --- | --- | --- | --- |
//! | `scalar` | none: `single` | memory | nothing wider is in every CPU; as vectors of one it took 197 (107), 570 instructions a scalar; with tables and branches it decodes about twice as fast (docs/benchmarks.md) |
//! | `avx2` | four of eight, a row of 32 | `vpshufb`, a row of 32 places at once | one vector at a time took 44, two 31, four 30; lane by lane from memory 27 (18), by `vpgatherdd` 28 (17), and that is far slower where microcode has patched it; on family 25 (3.6 GHz) `vpshufb` and edges by value took a plane from 155 to 204 million scalars a second |
//! | `neon` | two of four | memory, lane by lane | 169 instructions a scalar to decode; one vector 166, four 196 (counted under emulation) |
//! | `avx512vnni`, `amx` | two of 16, a row of 32 | registers, by `vpermi2w` | 12 (9); when two took the place of one, 21 became 14 |

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod int;
#[cfg(test)]
mod int_tests;
pub(crate) mod model;
pub(crate) mod observe;
pub(crate) mod pair;
mod scales;
mod single;
#[cfg(test)]
mod tests;
mod units;

use speckv_predictor::backend::Unit;
use speckv_predictor::core::{ElementFormat, LaneEncoder, Lanes, PlaneModel, Result, Symbol};

use crate::scalar::Scalar;
use int::{Int, One};

/// A coder made of one kind of vector.
pub(crate) trait Coder: Copy + Send + Sync {
    /// [`PlaneModel::price`] of a checked plane; as many symbols as codes. `None` if it cannot.
    fn symbols(self, model: &PlaneModel<'_>, codes: &[u16], out: &mut [Symbol]) -> Option<u64>;
    /// [`PlaneModel::decode`] of a checked plane; `false` for any error.
    fn decode(self, model: &PlaneModel<'_>, lanes: &mut Lanes<'_>, out: &mut [u16]) -> bool;
    /// [`LaneEncoder::push_symbols`].
    fn push(self, encoder: &mut LaneEncoder, symbols: &[Symbol]);
    /// [`Unit::to_code`] of each mean, for any unit but powers of two.
    fn to_codes(self, mu: &[i32], unit: Unit, out: &mut [i32]);
    /// [`observe_row`](speckv_predictor::portable::observe_row) of rows that [`fit`](observe::Plane::fits).
    fn observe(self, plane: &observe::Plane<'_>, rows: observe::Rows<'_>);
}

/// Prices a plane: its symbols and their cost in 1/256 bit.
///
/// # Errors
/// Those of [`PlaneModel::price`].
pub(crate) fn price(coder: impl Coder, model: &PlaneModel<'_>, codes: &[u16]) -> Result<(Vec<Symbol>, u64)> {
    model.check_with(codes)?;
    let mut symbols = vec![Symbol::default(); codes.len()];
    // Scales and units that vectors have no room for are left to the scalar path, and what that cannot to the definition.
    let cost =
        coder.symbols(model, codes, &mut symbols).or_else(|| Scalar.symbols(model, codes, &mut symbols));
    if let Some(cost) = cost {
        return Ok((symbols, cost));
    }
    symbols.clear();
    let cost = model.price(codes, &mut symbols)?;
    Ok((symbols, cost))
}

/// Decodes a plane.
///
/// # Errors
/// Those of [`PlaneModel::decode`], from the definition itself, which repeats what failed.
pub(crate) fn decode(
    coder: impl Coder,
    model: &PlaneModel<'_>,
    lanes: &mut Lanes<'_>,
    out: &mut [u16],
) -> Result<()> {
    model.check(out.len())?;
    let before = lanes.clone();
    if coder.decode(model, lanes, out) {
        return Ok(());
    }
    lanes.clone_from(&before);
    if Scalar.decode(model, lanes, out) {
        return Ok(());
    }
    *lanes = before;
    model.decode(lanes, out)
}

/// `$call` with `$format` bound to a plane's format, of 8-bit ones without zones if it has none.
macro_rules! with_format {
    ($plane:expr, |$format:ident| $call:expr) => {{
        macro_rules! with {
            ($of:ty) => {{
                type $format = $of;
                $call
            }};
        }
        let zones = model::has_zones($plane);
        match $plane.format {
            ElementFormat::Bf16 => with!(units::Bf16),
            ElementFormat::F16 => with!(units::F16),
            ElementFormat::E4m3 if zones => with!(units::E4m3),
            ElementFormat::E4m3 => with!(units::Flat<units::E4m3>),
            ElementFormat::E5m2 if zones => with!(units::E5m2),
            ElementFormat::E5m2 => with!(units::Flat<units::E5m2>),
        }
    }};
}

#[inline(always)]
pub(crate) fn symbols_any<V: Int>(
    proof: V::Proof,
    plane: &PlaneModel<'_>,
    codes: &[u16],
    out: &mut [Symbol],
) -> Option<u64> {
    with_format!(plane, |F| encode::price::<V, F>(proof, plane, codes, out))
}

#[inline(always)]
pub(crate) fn decode_any<V: Int>(
    proof: V::Proof,
    plane: &PlaneModel<'_>,
    lanes: &mut Lanes<'_>,
    out: &mut [u16],
) -> bool {
    with_format!(plane, |F| decode::plane::<V, F>(proof, plane, lanes, out))
}

#[inline(always)]
pub(crate) fn observe_any<V: Int>(proof: V::Proof, plane: &observe::Plane<'_>, rows: observe::Rows<'_>) {
    match plane.format {
        ElementFormat::Bf16 => observe::rows::<V, units::Bf16>(proof, plane, rows),
        ElementFormat::F16 => observe::rows::<V, units::F16>(proof, plane, rows),
        ElementFormat::E4m3 => observe::rows::<V, units::E4m3>(proof, plane, rows),
        ElementFormat::E5m2 => observe::rows::<V, units::E5m2>(proof, plane, rows),
    }
}

impl Coder for Scalar {
    fn symbols(self, model: &PlaneModel<'_>, codes: &[u16], out: &mut [Symbol]) -> Option<u64> {
        with_format!(model, |F| single::price::<F>(model, codes, out))
    }

    fn decode(self, model: &PlaneModel<'_>, lanes: &mut Lanes<'_>, out: &mut [u16]) -> bool {
        with_format!(model, |F| single::decode::<F>(model, lanes, out))
    }

    fn push(self, encoder: &mut LaneEncoder, symbols: &[Symbol]) {
        encode::push::<One>((), encoder, symbols);
    }

    fn to_codes(self, mu: &[i32], unit: Unit, out: &mut [i32]) {
        observe::to_codes::<One>((), mu, unit, out);
    }

    fn observe(self, plane: &observe::Plane<'_>, rows: observe::Rows<'_>) {
        observe_any::<One>((), plane, rows);
    }
}
