//! Rounding to fp8 against an exhaustive search for the nearest value, over every bf16 code.

use speckv_capture::cache::{ScalePer, decode_fp8, encode_fp8, fp8_scales};
use speckv_capture::{Cache, ElementFormat};

const FORMATS: [(ElementFormat, f32); 2] = [(ElementFormat::E4m3, 448.0), (ElementFormat::E5m2, 57344.0)];

/// Finite codes of one sign with their values, in order; the codes count up, so the parity of the code is the
/// parity of the mantissa's last bit.
fn finite(format: ElementFormat) -> Vec<(u8, f64)> {
    let all = (0u8..128).map(|code| (code, f64::from(decode_fp8(format, code))));
    all.filter(|(_, value)| value.is_finite()).collect()
}

/// The definition: nearest, of two equally near the even code, beyond the largest the largest.
fn nearest(table: &[(u8, f64)], x: f64) -> u8 {
    let mut best = table[0];
    for &(code, value) in table {
        let (new, old) = ((x - value).abs(), (x - best.1).abs());
        if new < old || (new == old && code % 2 == 0) {
            best = (code, value);
        }
    }
    best.0
}

#[test]
fn decoding_covers_the_format() {
    for (format, largest) in FORMATS {
        let table = finite(format);
        assert!(table.windows(2).all(|w| w[0].1 < w[1].1), "{format:?}: codes are not in order");
        assert_eq!(table.last().unwrap().1, f64::from(largest));
        assert_eq!(table[0].1, 0.0);
    }
    assert_eq!(decode_fp8(ElementFormat::E4m3, 1), 2f32.powi(-9));
    assert_eq!(decode_fp8(ElementFormat::E5m2, 1), 2f32.powi(-16));
    assert_eq!(decode_fp8(ElementFormat::E4m3, 0x38), 1.0);
    assert_eq!(decode_fp8(ElementFormat::E5m2, 0x3C), 1.0);
    assert!(decode_fp8(ElementFormat::E4m3, 0x7F).is_nan());
    assert_eq!(decode_fp8(ElementFormat::E5m2, 0xFC), f32::NEG_INFINITY);
    assert!(decode_fp8(ElementFormat::E5m2, 0x7D).is_nan());
}

#[test]
fn every_bf16_code_goes_to_the_nearest_value() {
    let codes: Vec<u16> = (0..=u16::MAX).collect();
    let plane: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
    let cache = Cache {
        format: ElementFormat::Bf16,
        layers: 1,
        kv_heads: 2,
        head_dim: 64,
        tokens: 512,
        planes: vec![[plane.clone(), plane]],
        scales: None,
        token_ids: None,
    };
    for (format, _) in FORMATS {
        let table = finite(format);
        // A scale that is no power of two makes every quotient inexact.
        let scales = [1.0f32, 0.037];
        let rounded = cache.to_fp8(format, &[scales.map(|s| vec![s])]).unwrap();
        for (part, scale) in scales.into_iter().enumerate() {
            for (&code, &found) in codes.iter().zip(&rounded.planes[0][part]) {
                let x = half::bf16::from_bits(code).to_f32() / scale;
                if x.is_nan() {
                    assert!(decode_fp8(format, found).is_nan());
                    continue;
                }
                let sign = if x.is_sign_negative() { 0x80 } else { 0 };
                // Beyond the last midpoint all inputs are alike, and f64 can still tell differences apart.
                let want = sign | nearest(&table, f64::from(x.abs()).min(1e6));
                assert_eq!(found, want, "{format:?}: {x:e} (bf16 code {code:#06x}, scale {scale})");
            }
        }
    }
}

#[test]
fn codes_survive_a_round_trip() {
    for (format, _) in FORMATS {
        for code in 0..=255u8 {
            let value = decode_fp8(format, code);
            if value.is_finite() {
                assert_eq!(encode_fp8(format, value), code);
            }
        }
    }
}

#[test]
fn scales_map_the_largest_magnitude_to_the_largest_number() {
    let cache = |values: [f32; 4]| Cache {
        format: ElementFormat::Bf16,
        layers: 1,
        kv_heads: 1,
        head_dim: 2,
        tokens: 1,
        planes: vec![
            [&values[..2], &values[2..]]
                .map(|part| part.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()),
        ],
        scales: None,
        token_ids: None,
    };
    let (a, b) = (cache([1.0, -3.5, 0.0, 0.0]), cache([-7.0, 2.0, 0.0, -0.0]));
    for (format, largest) in FORMATS {
        let scales = fp8_scales(format, &[&a, &b], ScalePer::Part).unwrap();
        assert_eq!(scales, [[vec![7.0 / largest], vec![1.0]]]);
        assert_eq!(b.to_fp8(format, &scales).unwrap().values(0, 0)[0], -7.0);
    }
    let infinite = cache([f32::INFINITY, 0.0, 0.0, 0.0]);
    let error = fp8_scales(ElementFormat::E4m3, &[&infinite], ScalePer::Part).unwrap_err();
    assert_eq!(error.to_string(), "fp8 scales: layers.0.key holds inf");
    assert!(a.to_fp8(ElementFormat::F16, &[[vec![1.0], vec![1.0]]]).is_err());
    assert!(a.to_fp8(ElementFormat::E4m3, &[[vec![1.0], vec![0.0]]]).is_err());
    assert!(a.to_fp8(ElementFormat::E4m3, &[]).is_err());
}

#[test]
fn each_head_can_have_its_own_scale() {
    let bytes =
        |values: [f32; 4]| values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    let cache = Cache {
        format: ElementFormat::Bf16,
        layers: 1,
        kv_heads: 2,
        head_dim: 2,
        tokens: 1,
        planes: vec![[bytes([1.0, -0.5, 64.0, 3.0]), bytes([0.0, 0.0, 2.0, -2.0])]],
        scales: None,
        token_ids: None,
    };
    for (format, largest) in FORMATS {
        let scales = fp8_scales(format, &[&cache], ScalePer::Head).unwrap();
        assert_eq!(scales, [[vec![1.0 / largest, 64.0 / largest], vec![1.0, 2.0 / largest]]]);
        let rounded = cache.to_fp8(format, &scales).unwrap();
        rounded.check().unwrap();
        // The largest of each head comes back as it was, whatever the other head holds.
        assert_eq!((rounded.values(0, 0)[0], rounded.values(0, 0)[2]), (1.0, 64.0));
        assert_eq!(rounded.values(0, 1)[2..], [2.0, -2.0]);
    }
    let error = cache.to_fp8(ElementFormat::E4m3, &[[vec![1.0; 3], vec![1.0]]]).unwrap_err();
    assert!(error.to_string().contains("expected 1 or 2 scales, found 3"), "{error}");
}
