//! Section 1: codes, ranks, edges, magnitudes, against plain real arithmetic.
#![allow(clippy::disallowed_types, clippy::float_arithmetic)]

use speckv_codec_core::ElementFormat;

/// Value of a magnitude as the page defines it. Exact: at most 12 significant bits, exponents within a double's.
fn value(format: ElementFormat, m: i32) -> f64 {
    let mb = format.mantissa_bits() as i32;
    let (e, f) = (m >> mb, m & ((1 << mb) - 1));
    if e == 0 {
        f64::from(f) * 2f64.powi(1 - format.bias() - mb)
    } else {
        f64::from((1 << mb) + f) * 2f64.powi(e - format.bias() - mb)
    }
}

#[test]
fn ids_round_trip_and_others_are_refused() {
    for id in 0..=255 {
        match ElementFormat::from_id(id) {
            Some(format) => assert_eq!((format.id(), id < 4), (id, true)),
            None => assert!(id >= 4),
        }
    }
    assert_eq!(ElementFormat::ALL.map(ElementFormat::id), [0, 1, 2, 3]);
    assert_eq!(ElementFormat::ALL.map(ElementFormat::bytes), [2, 2, 1, 1]);
}

#[test]
fn ranks_and_codes_are_inverse_for_every_code() {
    for format in ElementFormat::ALL {
        let codes = 1u32 << format.width();
        let mut seen = vec![false; codes as usize];
        for code in 0..codes {
            let rank = format.rank(code as u16);
            assert!((-format.magnitudes()..format.magnitudes()).contains(&rank));
            assert_eq!(u32::from(format.code(rank)), code, "{format:?}");
            seen[(rank + format.magnitudes()) as usize] = true;
        }
        assert!(seen.iter().all(|&seen| seen));
        let sign = (codes / 2) as u16;
        assert_eq!((format.rank(0), format.rank(sign), format.rank(sign + 1)), (0, -1, -2));
    }
}

#[test]
fn mid_is_the_midpoint_rounded_down() {
    for format in ElementFormat::ALL {
        for exponent in (-120..=120).step_by(7).chain([-119, 119, 120]) {
            let mut before = 0;
            for m in 0..=format.magnitudes() {
                let mid = format.mid(m, exponent);
                let expected = if m == 0 {
                    0
                } else if m == format.magnitudes() {
                    (1 << 30) - 1
                } else {
                    let real = (value(format, m) + value(format, m - 1)) / 2.0 * 2f64.powi(exponent);
                    real.floor().min(f64::from((1 << 30) - 1)) as i32
                };
                assert_eq!(mid, expected, "{format:?} {exponent} {m}");
                assert!(mid >= before);
                before = mid;
                assert_eq!(format.edge(m, exponent), mid);
                assert_eq!(format.edge(-m, exponent), -mid);
            }
        }
    }
}

#[test]
fn magnitude_of_is_the_nearest() {
    for format in ElementFormat::ALL {
        for exponent in -120..=120 {
            let powers = (0..30)
                .flat_map(|bit| [(1i32 << bit) - 1, 1 << bit, (1 << bit) + 1, 0x2AAA_AAAA >> (30 - bit)]);
            for v in powers.chain([0, (1 << 30) - 1, 123_456_789]) {
                let m = format.magnitude_of(v, exponent);
                let real = f64::from(v) * 2f64.powi(-exponent);
                assert!((0..format.magnitudes()).contains(&m));
                let away = |m: i32| (value(format, m) - real).abs();
                assert!(m == 0 || away(m) <= away(m - 1), "{format:?} {exponent} {v}");
                // The upper one of two that are equally near.
                let last = m == format.magnitudes() - 1;
                assert!(last || away(m) < away(m + 1), "{format:?} {exponent} {v}");
                assert_eq!(format.rank_of_fixed(v, exponent), m);
                if v > 0 {
                    assert_eq!(format.rank_of_fixed(-v, exponent), -1 - m);
                }
            }
        }
    }
}
