//! Any model the interface allows and any codes: decoding gives the codes, and the size never exceeds the documented bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use speckv_codec_core::payload_bound;
use speckv_fuzz::input::Planes;

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
    }
    assert_eq!(decoder.mode(), None);
    decoder.finish(chunk.values_checksum).expect("an encoded chunk ends as it must");
});
