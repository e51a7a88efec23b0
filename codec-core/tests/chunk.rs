//! Chunks: any model, any bit pattern, any size; the bound; the same bytes twice; the caller's mistakes.

use proptest::prelude::*;
use speckv_codec_core::{
    Checksum, Chunk, ChunkDecoder, ChunkEncoder, ElementFormat, Error, PlaneMode, PlaneModel, Rule, Shape,
    Symbol, payload_bound,
};

mod common;
use common::{Plane, Random, random_shape};

fn encode(planes: &[Plane], shape: &Shape, ids: Option<&[u32]>) -> Chunk {
    let mut encoder = ChunkEncoder::new(planes[0].format, planes.len(), ids);
    for plane in planes {
        encoder.push_plane(&plane.model(shape), &plane.codes).unwrap();
    }
    encoder.finish().unwrap()
}

/// Decodes and compares; returns the planes' modes.
fn check(planes: &[Plane], shape: &Shape, ids: Option<&[u32]>, chunk: &Chunk) -> Vec<PlaneMode> {
    let (format, tokens) = (planes[0].format, planes[0].token_scale.len());
    let scalars = planes.iter().map(|plane| plane.codes.len() as u64).sum();
    assert!(chunk.payload.len() as u64 <= payload_bound(format, planes.len() as u64, tokens as u64, scalars));
    let mut decoder = ChunkDecoder::new(format, planes.len(), tokens, ids.is_some(), &chunk.payload).unwrap();
    assert_eq!(decoder.token_ids(), ids);
    let mut modes = Vec::new();
    for plane in planes {
        modes.extend(decoder.mode());
        // A dirty buffer must not matter.
        let mut out = vec![0xA5; plane.codes.len()];
        decoder.next_plane(&plane.model(shape), &mut out).unwrap();
        assert_eq!(out, plane.codes);
    }
    assert_eq!(decoder.mode(), None);
    decoder.finish(chunk.values_checksum).unwrap();
    modes
}

proptest! {
    #![proptest_config(common::cases(300))]

    #[test]
    fn any_model_and_any_codes_round_trip(seed in any::<u64>(), format in 0u8..4, size in 0usize..4, count in 1usize..12) {
        let mut random = Random(seed);
        let format = ElementFormat::from_id(format).unwrap();
        let (tokens, channels) = [(1, 1), (17, 3), (33, 1), (40, 16)][size];
        let shape = random_shape(&mut random);
        let planes: Vec<Plane> = (0..count).map(|_| Plane::absurd(&mut random, format, tokens, channels)).collect();
        let bits = random.range(0, 32);
        let ids: Vec<u32> = (0..tokens).map(|_| (random.next() & ((1u64 << bits) - 1)) as u32).collect();
        let ids = (seed % 2 == 0).then_some(&ids[..]);
        let chunk = encode(&planes, &shape, ids);
        check(&planes, &shape, ids, &chunk);
        prop_assert_eq!(encode(&planes, &shape, ids), chunk);
    }
}

#[test]
fn a_full_plane_of_every_format_round_trips() {
    let mut random = Random(256);
    for format in ElementFormat::ALL {
        let planes =
            [Plane::absurd(&mut random, format, 256, 64), Plane::absurd(&mut random, format, 256, 64)];
        let shape = Shape::gaussian();
        check(&planes, &shape, None, &encode(&planes, &shape, None));
    }
}

#[test]
fn the_cost_is_what_the_words_take() {
    let shape = Shape::gaussian();
    for format in ElementFormat::ALL {
        let mut random = Random(9);
        let mut bad = good_plane(format, 64, 32);
        bad.codes.iter_mut().for_each(|code| *code = (random.next() & ((1 << format.width()) - 1)) as u16);
        let mut encoder = ChunkEncoder::new(format, 3, None);
        assert_eq!(encoder.cost(), 0);
        encoder.push_plane(&good_plane(format, 64, 32).model(&shape), &bad.codes).unwrap();
        let raw = (bad.codes.len() as u64 * u64::from(format.width())) << 8;
        assert_eq!(encoder.cost(), raw, "what would not shrink costs its width");
        encoder.push_raw(&bad.codes).unwrap();
        assert_eq!(encoder.cost(), 2 * raw);
        let good = good_plane(format, 64, 32);
        let price = good.model(&shape).price(&good.codes, &mut Vec::new()).unwrap();
        encoder.push_plane(&good.model(&shape), &good.codes).unwrap();
        assert!(price < raw);
        assert_eq!(encoder.cost(), 2 * raw + price);
        let bits = encoder.cost() / 256;
        // One byte of modes and 32 states before the words; up to 16 bits of each state stand for words that were not written.
        let words = (encoder.finish().unwrap().payload.len() as u64 - 1 - 128) * 8;
        assert!((bits - 512..bits + 64).contains(&words), "{format:?}: {words} bits of words cost {bits}");
    }
}

/// Means on the values and scales that fit: every code is cheap, whatever its bit pattern.
fn good_plane(format: ElementFormat, tokens: usize, channels: usize) -> Plane {
    let mut random = Random(7);
    let exponent = if format.width() == 8 { 10 } else { 16 };
    let low = 1 << format.mantissa_bits();
    let codes: Vec<u16> = (0..tokens * channels)
        .map(|_| format.code((format.bias() - 2) * low + random.below(4 * low as u64) as i32))
        .collect();
    let mu = codes.iter().map(|&code| format.edge(format.rank(code), exponent)).collect();
    let q = 16 * (exponent - 1 - format.mantissa_bits() as i32);
    Plane {
        format,
        exponent,
        mu,
        channel_scale: vec![q as i16; channels],
        token_scale: vec![0; tokens],
        codes,
    }
}

#[test]
fn nan_payloads_zeros_and_infinities_survive_good_models_and_bad() {
    for format in ElementFormat::ALL {
        let mut plane = good_plane(format, 16, 32);
        let top = (1u32 << format.width()) - 1;
        let sign = 1 << (format.width() - 1);
        for (i, code) in
            [top as u16, top as u16 - 1, sign, 0, sign - 1, sign - 2, 1, sign + 1].into_iter().enumerate()
        {
            plane.codes[i * 37] = code;
        }
        let planes = [plane];
        let shape = Shape::gaussian();
        let chunk = encode(&planes, &shape, None);
        assert_eq!(check(&planes, &shape, None, &chunk), [PlaneMode::Coded]);
    }
}

#[test]
fn planes_that_would_not_shrink_are_stored_raw() {
    let shape = Shape::gaussian();
    for format in ElementFormat::ALL {
        let mut random = Random(5);
        let good = good_plane(format, 9, 8);
        let mut bad = good_plane(format, 9, 8);
        bad.codes.iter_mut().for_each(|code| *code = (random.next() & ((1 << format.width()) - 1)) as u16);
        let planes = [good_plane(format, 9, 8), bad, good];
        let chunk = encode(&planes, &shape, None);
        let modes = check(&planes, &shape, None, &chunk);
        assert_eq!(modes, [PlaneMode::Coded, PlaneMode::Raw, PlaneMode::Coded]);
        assert_eq!(chunk.payload[0], 0b010);
    }
    // Exactly as dear as raw: raw.
    let codes: Vec<u16> = (0..32).collect();
    for (cost, mode) in [(32 * 8 * 256, PlaneMode::Raw), (32 * 8 * 256 - 1, PlaneMode::Coded)] {
        let symbols =
            codes.iter().map(|&code| Symbol { start: code << 8, freq: 256, raw: 0, raw_bits: 0 }).collect();
        let mut encoder = ChunkEncoder::new(ElementFormat::E4m3, 1, None);
        encoder.push_symbols(symbols, cost, &codes).unwrap();
        let chunk = encoder.finish().unwrap();
        let decoder = ChunkDecoder::new(ElementFormat::E4m3, 1, 32, false, &chunk.payload).unwrap();
        assert_eq!(decoder.mode(), Some(mode));
    }
}

#[test]
fn a_chunk_above_the_bound_is_stored_raw_as_a_whole() {
    // A backend's cost that is far too low stands for rounding that conspires.
    let codes: Vec<u16> = (0..640).map(|i| i % 251).collect();
    let symbols: Vec<Symbol> =
        codes.iter().map(|&code| Symbol { start: 65520, freq: 16, raw: code, raw_bits: 8 }).collect();
    let mut encoder = ChunkEncoder::new(ElementFormat::E5m2, 2, None);
    encoder.push_symbols(symbols.clone(), 0, &codes).unwrap();
    encoder.push_symbols(symbols, 0, &codes).unwrap();
    let chunk = encoder.finish().unwrap();
    assert!(chunk.payload.len() as u64 <= payload_bound(ElementFormat::E5m2, 2, 10, 1280));
    assert_eq!(chunk.payload[0], 0b11);
    let mut decoder = ChunkDecoder::new(ElementFormat::E5m2, 2, 10, false, &chunk.payload).unwrap();
    for _ in 0..2 {
        let mut out = vec![0; 640];
        decoder.next_plane_with(&mut out, |_, _| unreachable!("raw")).unwrap();
        assert_eq!(out, codes);
    }
    decoder.finish(chunk.values_checksum).unwrap();
}

#[test]
fn a_callers_loop_sees_the_same_lanes() {
    let planes = [good_plane(ElementFormat::Bf16, 20, 8), good_plane(ElementFormat::Bf16, 20, 8)];
    let shape = Shape::gaussian();
    let chunk = encode(&planes, &shape, None);
    let mut plain = ChunkDecoder::new(ElementFormat::Bf16, 2, 20, false, &chunk.payload).unwrap();
    let mut own = plain.clone();
    let (mut a, mut b) = (vec![0; 160], vec![1; 160]);
    for plane in &planes {
        let model = plane.model(&shape);
        plain.next_plane(&model, &mut a).unwrap();
        own.next_plane_with(&mut b, |lanes, out| model.decode(lanes, out)).unwrap();
        assert_eq!((plain.lanes().states, plain.lanes().at), (own.lanes().states, own.lanes().at));
    }
    own.finish(chunk.values_checksum).unwrap();
}

fn argument(rule: Rule, expected: i64, found: i64) -> Error {
    Error::Argument { rule, expected, found }
}

#[test]
fn callers_mistakes_are_named() {
    let shape = Shape::gaussian();
    let plane = good_plane(ElementFormat::E4m3, 4, 8);
    let model = plane.model(&shape);
    let mut symbols = Vec::new();
    let with = |change: &dyn Fn(&mut PlaneModel<'_>)| {
        let mut model = model;
        change(&mut model);
        model.price(&plane.codes, &mut Vec::new()).unwrap_err()
    };
    assert_eq!(with(&|model| model.exponent = 121), argument(Rule::Exponent, 120, 121));
    assert_eq!(with(&|model| model.exponent = -121), argument(Rule::Exponent, -120, -121));
    assert_eq!(with(&|model| model.mu = &[0; 31]), argument(Rule::ModelSize, 32, 31));
    assert_eq!(with(&|model| model.token_scale = &[0; 3]), argument(Rule::ModelSize, 24, 32));
    assert_eq!(with(&|model| model.mu = &[1 << 30; 32]), argument(Rule::Mean, (1 << 30) - 1, 1 << 30));
    assert_eq!(
        with(&|model| model.mu = &[i32::MIN; 32]),
        argument(Rule::Mean, 1 - (1 << 30), i64::from(i32::MIN))
    );
    assert_eq!(model.price(&[256; 32], &mut symbols), Err(argument(Rule::Code, 255, 256)));
    assert_eq!(model.price(&plane.codes[1..], &mut symbols), Err(argument(Rule::ModelSize, 32, 31)));
    assert!(symbols.is_empty());

    let mut encoder = ChunkEncoder::new(ElementFormat::E4m3, 2, Some(&[1, 2, 3, 4]));
    let other = good_plane(ElementFormat::Bf16, 4, 8);
    assert_eq!(
        encoder.push_plane(&other.model(&shape), &other.codes),
        Err(argument(Rule::ModelFormat, 2, 0))
    );
    assert_eq!(encoder.push_symbols(Vec::new(), 0, &plane.codes), Err(argument(Rule::PlaneSize, 0, 32)));
    assert_eq!(encoder.push_raw(&[1; 7]), Err(argument(Rule::TokenIds, 4, 7)));
    assert_eq!(encoder.push_raw(&[]), Err(argument(Rule::PlaneSize, 1, 0)));
    assert_eq!(encoder.push_raw(&[300; 4]), Err(argument(Rule::Code, 255, 300)));
    encoder.push_plane(&model, &plane.codes).unwrap();
    assert_eq!(encoder.push_raw(&[1; 8]), Err(argument(Rule::PlaneSize, 32, 8)));
    assert_eq!(encoder.clone().finish(), Err(argument(Rule::PlaneCount, 2, 1)));
    encoder.push_plane(&model, &plane.codes).unwrap();
    assert_eq!(encoder.push_plane(&model, &plane.codes), Err(argument(Rule::PlaneCount, 2, 3)));
    assert_eq!(
        ChunkEncoder::new(ElementFormat::E4m3, 0, None).finish(),
        Err(argument(Rule::PlaneCount, 1, 0))
    );

    let chunk = encoder.finish().unwrap();
    let new = |planes, tokens| ChunkDecoder::new(ElementFormat::E4m3, planes, tokens, true, &chunk.payload);
    assert_eq!(new(0, 4).unwrap_err(), argument(Rule::PlaneCount, 1, 0));
    assert_eq!(new(2, 0).unwrap_err(), argument(Rule::Tokens, 1, 0));
    let mut decoder = new(2, 4).unwrap();
    let mut out = [0; 32];
    assert_eq!(decoder.next_plane(&other.model(&shape), &mut out), Err(argument(Rule::ModelFormat, 2, 0)));
    assert_eq!(decoder.next_plane(&model, &mut out[1..]), Err(argument(Rule::ModelSize, 32, 31)));
    assert_eq!(
        decoder.next_plane(&PlaneModel { token_scale: &[0; 8], channel_scale: &[0; 4], ..model }, &mut out),
        Err(argument(Rule::PlaneSize, 4, 8))
    );
    decoder.next_plane(&model, &mut out).unwrap();
    assert_eq!(decoder.clone().finish(chunk.values_checksum), Err(argument(Rule::PlaneCount, 2, 1)));
    decoder.next_plane(&model, &mut out).unwrap();
    assert_eq!(decoder.next_plane(&model, &mut out), Err(argument(Rule::PlaneCount, 2, 3)));
    let found = chunk.values_checksum;
    let damaged = Error::Damaged { checksum: Checksum::Values, expected: 5, found };
    assert_eq!(decoder.finish(5), Err(damaged));
}

#[test]
fn a_wrong_model_is_an_error_not_wrong_data() {
    let shape = Shape::gaussian();
    let planes = [good_plane(ElementFormat::Bf16, 16, 8)];
    let chunk = encode(&planes, &shape, None);
    let mut wrong = good_plane(ElementFormat::Bf16, 16, 8);
    for i in 0..wrong.mu.len() {
        wrong.mu[i] += 3;
        let mut decoder = ChunkDecoder::new(ElementFormat::Bf16, 1, 16, false, &chunk.payload).unwrap();
        let mut out = vec![0; 128];
        let decoded = decoder
            .next_plane(&wrong.model(&shape), &mut out)
            .and_then(|()| decoder.finish(chunk.values_checksum));
        assert!(decoded.is_err() || out == planes[0].codes);
    }
}
