//! What kernels look up while they price scalars (kernels/plane.cuh has the layout), made from codec-core's own functions: once for each shape, once for each
//! element format and exponent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use speckv_predictor::core::grid::Grid;
use speckv_predictor::core::limits::{
    INV, SCALES, SHAPE_HALF, Z_LIMIT, ZONE_BINADES, scale_fraction, scale_octave,
};
use speckv_predictor::core::model::reach;
use speckv_predictor::core::shape::knot_position;
use speckv_predictor::core::{ElementFormat, Shape};

use crate::buffer::Buffer;
use crate::device::Device;

/// Most tables of shapes, 12 KiB each, that are kept.
const SHAPES: usize = 1024;
/// Most tables of formats and exponents, up to 80 KiB each.
const GRIDS: usize = 256;
/// Bytes of a shape's tables.
const SHAPE_BYTES: usize = 12288;

/// Tables by what they are made of.
type Kept<K> = RefCell<HashMap<K, Rc<Buffer>>>;

/// Tables on the device.
#[derive(Default)]
pub(crate) struct PriceTables {
    /// By knots and escape frequency.
    shapes: Kept<(Vec<u16>, u16)>,
    grids: Kept<(ElementFormat, i32)>,
}

impl PriceTables {
    pub(crate) fn shape(&self, device: &Rc<Device>, shape: &Shape) -> Rc<Buffer> {
        let key = (shape.knots().to_vec(), shape.escape());
        kept(device, &self.shapes, SHAPES, key, || shape_table(shape))
    }

    /// For an exponent that formats allow.
    pub(crate) fn grid(&self, device: &Rc<Device>, format: ElementFormat, exponent: i32) -> Rc<Buffer> {
        kept(device, &self.grids, GRIDS, (format, exponent), || grid_table(format, exponent))
    }
}

fn kept<K: std::hash::Hash + Eq>(
    device: &Rc<Device>,
    all: &Kept<K>,
    most: usize,
    key: K,
    make: impl FnOnce() -> Vec<u8>,
) -> Rc<Buffer> {
    if let Some(found) = all.borrow().get(&key) {
        return found.clone();
    }
    let buffer = Rc::new(Buffer::from(device, &make()));
    if !device.failed() {
        let mut all = all.borrow_mut();
        if all.len() >= most {
            all.clear();
        }
        all.insert(key, buffer.clone());
    }
    buffer
}

/// Dynamic shared memory of the kernels that price planes of a format.
pub(crate) const fn shared_bytes(format: ElementFormat) -> u32 {
    SHAPE_BYTES as u32 + 16 * SCALES as u32 + rows(format) as u32 * (512 + 1024 + 256)
}

/// Of 8-bit formats: values of `eb` that differ.
const fn rows(format: ElementFormat) -> usize {
    if format.width() == 16 {
        return 0;
    }
    (1 << (format.width() - 1 - format.mantissa_bits()))
        + ZONE_BINADES as usize
        + format.mantissa_bits() as usize
        - 1
}

/// `(rise, offset)` of the lines that the cumulative consists of, `C(z) = (rise z + offset) >> 10` in wrapping 32 bits where `z >> 6` is `index`.
fn line(shape: &Shape, index: i32) -> (u32, u32) {
    let from = index * 64;
    if from >= Z_LIMIT {
        return (0, 1 << 26);
    }
    if from < -Z_LIMIT {
        return (0, 0);
    }
    // The knots around |z|; for negative z those of the values just above.
    let low = if from >= 0 { from } else { -from - 64 };
    let knot = (0..64).rfind(|k| knot_position(*k) <= low).unwrap_or(0);
    let (start, end) = (knot_position(knot), knot_position(knot + 1));
    let below = u32::from(shape.knots()[knot]);
    let rise = (u32::from(shape.knots()[knot + 1]) - below) * (1024 / (end - start) as u32);
    let half = u32::from(SHAPE_HALF);
    let offset = match from >= 0 {
        true => ((half + below) << 10).wrapping_sub(rise.wrapping_mul(start as u32)),
        // Rounded the other way: the definition rounds T toward zero.
        false => ((half - below) << 10).wrapping_add(rise.wrapping_mul(start as u32)).wrapping_add(1023),
    };
    (rise, offset)
}

fn shape_table(shape: &Shape) -> Vec<u8> {
    let lines = (0..512).chain(-512..0).map(|index| line(shape, index));
    let mut words: Vec<u32> = lines.flat_map(|(rise, offset)| [rise, offset]).collect();
    // For every 64 slots a z about there; with it begins a search whose end it cannot change.
    let all = 65536 - u64::from(shape.escape());
    let mut z = -Z_LIMIT;
    for slot in (32..65536u64).step_by(64) {
        let target = (slot * 65536 / all) as u32;
        while z < Z_LIMIT && shape.cumulative(z) < target {
            z += 1;
        }
        words.push((i64::from(z) << 17).min(i32::MAX.into()) as i32 as u32);
    }
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// `eb` of section 2 of the format.
fn edge_binade(format: ElementFormat, exponent: i32, q: i32) -> i32 {
    (scale_octave(q) - 2 - exponent + format.bias()).max(1 - format.mantissa_bits() as i32)
}

fn grid_table(format: ElementFormat, exponent: i32) -> Vec<u8> {
    let (rows, mb) = (rows(format) as i32, format.mantissa_bits() as i32);
    let mut out = Vec::with_capacity(shared_bytes(format) as usize - SHAPE_BYTES);
    for q in 0..SCALES {
        let eb = edge_binade(format, exponent, q);
        let zone = (eb - ZONE_BINADES + 1).max(0);
        let row = (eb - (1 - mb)).min(rows - 1);
        let [a, b] = if rows > 0 { [row << 9, row << 10] } else { [eb, i32::from(zone > 0) - zone] };
        [reach(q), scale_octave(q) | INV[scale_fraction(q)] << 8, a, b]
            .iter()
            .for_each(|v| out.extend(v.to_le_bytes()));
    }
    // A grid whose eb is the row's.
    let grids: Vec<Grid> =
        (0..rows).map(|row| Grid::new(format, format.bias() - 2 - (row + 1 - mb), 0)).collect();
    let last = format.magnitudes() - 1;
    for grid in &grids {
        for half in 0..256 {
            let of = |m: i32| grid.number_of_magnitude(m.min(last)) as u8;
            // Above the edge that is nearest to a value of so many half codes.
            let cell = grid.cell(grid.number_of_magnitude((half >> 1).min(last)));
            let up = if cell.zone { 1 } else { cell.ranks };
            out.extend([of((half + 1) >> 1), of((half + 1 + up) >> 1)]);
        }
    }
    for grid in &grids {
        let cells = grid.number_of_magnitude(last);
        for n in -128..128 {
            let there = (if n < 0 { -1 - n } else { n }) <= cells;
            let edge = if there { format.edge(grid.cell(n).first_rank, exponent) } else { 0 };
            out.extend(edge.to_le_bytes());
        }
    }
    for grid in &grids {
        let cells = grid.number_of_magnitude(last);
        for n in 0..128 {
            let cell = grid.cell(n);
            let both = if n <= cells { cell.first_rank as u16 | (cell.raw_bits as u16) << 8 } else { 0 };
            out.extend(both.to_le_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_cumulative() {
        let steep = core::array::from_fn(|k| if k < 20 { 3 * k as u16 } else { 32768 });
        for shape in [Shape::gaussian(), Shape::new(steep, 8192).expect("a shape")] {
            for z in -3 * Z_LIMIT / 2..3 * Z_LIMIT / 2 {
                let (rise, offset) = line(&shape, z >> 6);
                let found = rise.wrapping_mul(z as u32).wrapping_add(offset) >> 10;
                assert_eq!(found, shape.cumulative(z.clamp(-Z_LIMIT, Z_LIMIT)), "{z}");
            }
        }
    }

    #[test]
    fn tables_have_the_sizes_that_kernels_expect() {
        for format in ElementFormat::ALL {
            let bytes = shape_table(&Shape::gaussian()).len() + grid_table(format, 3).len();
            assert_eq!(bytes, shared_bytes(format) as usize, "{format:?}");
        }
        assert_eq!(ElementFormat::ALL.map(shared_bytes), [19968, 19968, 66560, 93440]);
    }

    #[test]
    fn cells_and_edges_are_those_of_every_scale() {
        for (format, exponent) in
            [(ElementFormat::E4m3, 12), (ElementFormat::E5m2, -7), (ElementFormat::E4m3, 120)]
        {
            let (table, rows) = (grid_table(format, exponent), rows(format));
            let (near, edges) = (16 * SCALES as usize, 16 * SCALES as usize + 512 * rows);
            for q in (0..SCALES).step_by(16) {
                let grid = Grid::new(format, exponent, q);
                let row = i32::from_le_bytes(table[16 * q as usize + 8..][..4].try_into().expect("4 bytes"))
                    as usize
                    >> 9;
                for m in 0..format.magnitudes() {
                    let number = grid.number_of_magnitude(m);
                    assert_eq!(
                        i32::from(table[near + 512 * row + 4 * m as usize]),
                        number,
                        "{format:?} {q} {m}"
                    );
                    for n in [number, -1 - number] {
                        let at = edges + 1024 * row + 4 * (n + 128) as usize;
                        let edge = i32::from_le_bytes(table[at..][..4].try_into().expect("4 bytes"));
                        assert_eq!(
                            edge,
                            format.edge(grid.cell(n).first_rank, exponent),
                            "{format:?} {q} {n}"
                        );
                    }
                }
            }
        }
    }
}
