//! Any model the interface allows and any codes: decoding gives the codes, the size never exceeds the documented bound, and a slot of a code's interval leads back
//! to it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use speckv_codec_core::model::ScalarModel;
use speckv_codec_core::payload_bound;
use speckv_fuzz::input::{Plane, Planes};

fuzz_target!(|input: Planes| {
    let chunk = input.encode();
    let scalars = input.planes.iter().map(|plane| plane.codes.len() as u64).sum();
    let (planes, tokens) = (input.planes.len() as u64, input.sizes.tokens as u64);
    assert!(chunk.payload.len() as u64 <= payload_bound(input.sizes.format, planes, tokens, scalars));
    let mut decoder = input.decoder(&chunk.payload).expect("an encoded chunk has its fixed parts");
    assert_eq!(decoder.token_ids(), input.ids.as_deref());
    for plane in &input.planes {
        let mut out = vec![0; plane.codes.len()];
        let model = plane.model.plane(input.sizes.format);
        decoder.next_plane(&model, &mut out).expect("an encoded plane decodes");
        assert_eq!(out, plane.codes);
        interval(&input, plane);
    }
    assert_eq!(decoder.mode(), None);
    decoder.finish(chunk.values_checksum).expect("an encoded chunk ends as it must");
});

/// One scalar of a plane, chosen by its code: every slot of the code's interval is found in its cell, and no slot beside it.
fn interval(input: &Planes, plane: &Plane) {
    let model = plane.model.plane(input.sizes.format);
    let at = usize::from(plane.codes[0]) % model.scalars();
    let (token, channel) = (at / input.sizes.channels, at % input.sizes.channels);
    let q = model.scale(token, channel);
    let scalar = ScalarModel::new(model.format, model.exponent, model.shape, model.mu[at], q);
    let symbol = scalar.symbol(plane.codes[at]);
    let (start, freq) = (u32::from(symbol.start), u32::from(symbol.freq));
    let (lo, hi) = scalar.window();
    assert_eq!((scalar.lower(lo), scalar.lower(hi + 1)), (0, 65536 - u32::from(model.shape.escape())));
    for slot in [start, start + freq / 2, start + freq - 1] {
        let found = scalar.find(slot);
        assert_eq!((found.start, found.freq, found.cell.raw_bits), (start, freq, symbol.raw_bits.into()));
        if let Some(number) = found.number {
            assert!((lo..=hi).contains(&number));
            assert_eq!((scalar.lower(number), scalar.lower(number + 1)), (start, start + freq));
            assert_eq!(scalar.grid().cell(number), found.cell);
        }
    }
    for slot in
        [start.checked_sub(1), Some(start + freq)].into_iter().flatten().filter(|&slot| slot <= 0xFFFF)
    {
        assert_ne!(scalar.find(slot).start, start);
    }
}
