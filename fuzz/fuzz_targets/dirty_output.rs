//! What a buffer held before changes nothing: outputs prefilled with garbage, vectors that are appended to, scratch reused from call to call.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use speckv_codec_core::checksum::plane_checksum;
use speckv_codec_core::{ChunkDecoder, Symbol};
use speckv_fuzz::backends::{PORTABLE, chosen};
use speckv_fuzz::input::{Plane, Planes, many};
use speckv_predictor::backend::{Backend, Quantise, Store, Unit};
use speckv_predictor::data::{Digits, Ints, Weights};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::{observe_row, quantise::quantise_row};

/// Codes and errors of every plane, over buffers filled with `dirt`.
fn decode(
    input: &Planes,
    mut decoder: ChunkDecoder<'_>,
    dirt: u16,
) -> Vec<speckv_codec_core::Result<Vec<u16>>> {
    let mut answers = Vec::new();
    for plane in &input.planes {
        let mut out = vec![dirt; plane.codes.len()];
        let result = decoder.next_plane(&plane.model.plane(input.sizes.format), &mut out);
        // What a buffer holds after an error means nothing.
        answers.push(result.map(|()| out));
        if result.is_err() {
            return answers;
        }
    }
    answers
}

/// Symbols behind garbage are the symbols, and an error leaves a vector as it was.
fn price(input: &Planes, plane: &Plane, dirt: u16) {
    let model = plane.model.plane(input.sizes.format);
    let garbage = Symbol { start: dirt, freq: !dirt, raw: dirt, raw_bits: dirt };
    let (mut clean, mut dirty) = (Vec::new(), vec![garbage; 5]);
    let cost = model.price(&plane.codes, &mut clean).expect("the input keeps the rules");
    assert_eq!(model.price(&plane.codes, &mut dirty), Ok(cost));
    assert!(dirty[..5] == [garbage; 5] && dirty[5..] == clean);
    model.price(&plane.codes[1..], &mut dirty).expect_err("a code too few");
    assert_eq!(dirty.len(), clean.len() + 5);
}

/// The definition's rows, and the products of a backend, which may write into what was there.
fn rows(b: &impl Backend, input: &mut Unstructured<'_>, plane: &Plane, dirt: i32) -> Result<()> {
    let x = plane.model.means();
    let digits = if bool::arbitrary(input)? { Digits::One } else { Digits::Two };
    let wide = input.int_in_range(0..=x.cols.min(9))?;
    let norm = bool::arbitrary(input)?.then_some(Scale { m: 20000, e: -31 });
    let how = Quantise { wide, norm, ..Quantise::rows(x.cols, digits, plane.model.exponent / 2) };
    let expected = PORTABLE.quantise(&x, &how);
    let (mut values, mut scales) = (vec![dirt as i16; x.cols], [Scale { m: dirt as i16, e: dirt as i16 }]);
    let mut scratch = vec![dirt; x.cols + 3];
    for t in 0..x.rows {
        quantise_row(x.row(t), &how, &mut values, &mut scales, &mut scratch);
        assert_eq!(values, expected.values[t * x.cols..][..x.cols]);
        assert_eq!(scales[0], expected.scales[t]);
    }

    let out = input.int_in_range(1..=9)?;
    let values = (0..out * x.cols).map(|i| plane.codes[i % plane.codes.len()] as i16 % 128).collect();
    let scales = many(out, || Ok(Scale { m: 1 << 14, e: input.int_in_range(-40..=10)? }))?;
    let weights = Weights { out, inp: x.cols, digits: Digits::One, values, scales, bias: None };
    let rows = b.quantise(&b.upload(x.clone()), &how);
    let matrix = b.load(weights.clone()).expect("few inputs");
    // One column before and two after the product are not its own.
    let cols = out + 3;
    let (mut clean, dirty) =
        (Ints::zeros(x.rows, cols), Ints { rows: x.rows, cols, data: vec![dirt; x.rows * cols] });
    let mut dirty = b.upload(dirty);
    let store = Store { column: 1, add: false };
    PORTABLE.gemm(&expected, &weights, None, store, &mut clean);
    b.gemm(&rows, &matrix, None, store, &mut dirty);
    for (clean, dirty) in clean.data.chunks(cols).zip(b.download(&dirty).data.chunks(cols)) {
        assert_eq!((dirty[0], &dirty[out + 1..]), (dirt, &[dirt; 2][..]));
        assert_eq!(dirty[1..=out], clean[1..=out]);
    }
    Ok(())
}

/// What is observed of a plane, over whatever was there.
fn observe(input: &Planes, plane: &Plane, dirt: i32) {
    let (model, mu) = (&plane.model, plane.model.means());
    let pricing = model.pricing(input.sizes.format, Unit::ONE, &model.channel_scale);
    let expected = PORTABLE.observe(&pricing, &mu, &model.tokens(), &plane.codes);
    let (mut value, mut innovation) = (vec![dirt; mu.cols], vec![!dirt; mu.cols]);
    for t in 0..mu.rows {
        let energy = observe_row(
            &pricing,
            model.exponent,
            mu.row(t),
            &model.channel_scale,
            model.token_scale[t],
            &plane.codes[t * mu.cols..][..mu.cols],
            &mut value,
            &mut innovation,
            PORTABLE.shrink(),
            PORTABLE.tables(),
        );
        assert_eq!(energy, expected.energy.data[t]);
        assert_eq!(value, expected.truth.value.row(t));
        assert_eq!(innovation, expected.truth.innovation.row(t));
    }
}

fn run(data: &[u8]) -> Result<()> {
    let mut rest = Unstructured::new(data);
    let input = Planes::arbitrary(&mut rest)?;
    let Some(path) = chosen(&mut rest)? else { return Ok(()) };
    let (dirt, cut) = (u16::arbitrary(&mut rest)?, u16::arbitrary(&mut rest)?);
    let wild = i32::from(dirt) * 16001;
    let mut scratch = vec![dirt as u8; 7];
    for plane in &input.planes {
        price(&input, plane, dirt);
        observe(&input, plane, wild);
        rows(path, &mut rest, plane, wild)?;
        let checksum = plane_checksum(input.sizes.format, &plane.codes, &mut Vec::new());
        assert_eq!(plane_checksum(input.sizes.format, &plane.codes, &mut scratch), checksum);
    }

    let mut payload = input.encode().payload;
    // Every other input is cut short or has a bit changed, so that decoders stop half-way.
    if cut & 1 != 0 {
        let at = usize::from(cut >> 4) % payload.len();
        if cut & 2 != 0 { payload.truncate(at) } else { payload[at] ^= 1 << (cut >> 2 & 3) }
    }
    let Ok(decoder) = input.decoder(&payload) else { return Ok(()) };
    let clean = decode(&input, decoder.clone(), 0);
    assert_eq!(decode(&input, decoder.clone(), dirt), clean);
    // The same decoders twice through the path.
    for decoder in [decoder.clone(), decoder] {
        let mut decoder = path.decoder(vec![(0..input.sizes.tokens, decoder)]);
        for (plane, expected) in input.planes.iter().zip(&clean) {
            let model = &plane.model;
            let pricing = model.pricing(input.sizes.format, Unit::ONE, &model.channel_scale);
            let (mu, token) = (model.means(), model.tokens());
            let found = path.decode_plane(&pricing, &mu, &token, &mut decoder);
            assert_eq!(found, expected.clone().map_err(Into::into));
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    _ = run(data);
});
