//! Section 2: the cells of every grid cover every code once, in order, and are as wide as promised.

use speckv_codec_core::ElementFormat;
use speckv_codec_core::grid::Grid;

/// `k` of a magnitude outside the zone, and the first magnitude outside the zone, as the page words them.
fn by_the_page(format: ElementFormat, exponent: i32, q: i32) -> (impl Fn(i32) -> i32, i32, i32) {
    let mb = format.mantissa_bits() as i32;
    let s = (q >> 4) - 2;
    let eb = (s - exponent + format.bias()).max(1 - mb);
    let ez = (eb - 8 + 1).max(0);
    (move |m: i32| (mb - ((m >> mb).max(1) - eb)).clamp(0, mb), ez << mb, s)
}

fn check_grid(format: ElementFormat, exponent: i32, q: i32) {
    let grid = Grid::new(format, exponent, q);
    let (k_of, zone_end, _) = by_the_page(format, exponent, q);
    let magnitudes = format.magnitudes();
    let context = format!("{format:?} F={exponent} q={q}");
    assert_eq!(grid.zone_end(), zone_end, "{context}");
    let mut number = -1;
    let mut m = 0;
    // The page's cells one by one: each takes the next number, and holds exactly its magnitudes.
    while m < magnitudes {
        number += 1;
        let (end, k) = if m < zone_end {
            (zone_end.min(magnitudes), None)
        } else {
            let k = k_of(m);
            assert_eq!(m & ((1 << k) - 1), 0, "{context}: cells are aligned");
            (m + (1 << k), Some(k))
        };
        assert_eq!(grid.first_magnitude(number), m, "{context}");
        for inside in m..end {
            assert_eq!(grid.number(inside), number, "{context} m={inside}");
            assert_eq!(grid.number(-1 - inside), -1 - number, "{context} m={inside}");
            assert!(k.is_none() || k_of(inside) == k.unwrap());
        }
        let cell = grid.cell(number);
        let mirror = grid.cell(-1 - number);
        assert_eq!((cell.first_rank, cell.ranks, cell.zone), (m, end - m, k.is_none()), "{context}");
        assert_eq!((mirror.first_rank, mirror.ranks, mirror.zone), (-end, end - m, k.is_none()), "{context}");
        let raw_bits = k.unwrap_or(format.width() as i32 - 1) as u32;
        assert_eq!((cell.raw_bits, mirror.raw_bits), (raw_bits, raw_bits), "{context}");
        assert!(cell.zone || cell.ranks == 1 << raw_bits);
        for inside in [m, end - 1, (m + end) / 2] {
            assert_eq!(grid.cell_of(inside), (number, cell), "{context}");
            assert_eq!(grid.cell_of(-1 - inside), (-1 - number, mirror), "{context}");
        }
        m = end;
    }
    assert_eq!(m, magnitudes, "{context}");
    assert_eq!(grid.first_magnitude(number + 1), magnitudes, "{context}");
}

#[test]
fn cells_cover_every_code_of_8_bit_formats_at_every_exponent_and_scale() {
    for format in [ElementFormat::E4m3, ElementFormat::E5m2] {
        for exponent in -120..=120 {
            for octave in 0..30 {
                check_grid(format, exponent, octave * 16 + (octave * 7 + exponent).rem_euclid(16));
            }
        }
    }
}

#[test]
fn cells_cover_every_code_of_16_bit_formats_for_every_grid() {
    // A grid depends on the octave minus the exponent alone: take each difference once.
    for format in [ElementFormat::Bf16, ElementFormat::F16] {
        for difference in -120..=149 {
            let exponent = (-difference).clamp(-120, 120);
            let octave = difference + exponent;
            check_grid(format, exponent, octave * 16 + (difference & 15));
        }
    }
}

#[test]
fn cells_are_a_quarter_to_an_eighth_of_a_scale_wide_where_codes_are_finer() {
    for format in ElementFormat::ALL {
        for q in (0..480).step_by(5) {
            for exponent in (-20..=20).step_by(3) {
                let grid = Grid::new(format, exponent, q);
                let (k_of, zone_end, s) = by_the_page(format, exponent, q);
                for m in (0..format.magnitudes()).step_by(37) {
                    let k = k_of(m);
                    if m < zone_end || (m >> format.mantissa_bits()) - (s - exponent + format.bias()) < 0 {
                        continue;
                    }
                    // Width of the cell as a power of two of units.
                    let e = (m >> format.mantissa_bits()).max(1);
                    let width = k + e - format.bias() - format.mantissa_bits() as i32 + exponent;
                    assert!(width == s || (k == 0 && width > s), "{format:?} F={exponent} q={q} m={m}");
                    assert_eq!(grid.cell(grid.number(m)).raw_bits, k as u32);
                }
            }
        }
    }
}
