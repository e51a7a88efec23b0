//! Encoding is a function: the same bytes again, from another encoder, from a copy of one half-way, and from what was decoded; in a stream too. Wrong calls in
//! between are refused by the exact error and change nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use speckv_codec_core::{ChunkEncoder, Geometry, Header, Limits, Name, PredictorKind, Stream, write_stream};
use speckv_fuzz::input::Planes;
use speckv_fuzz::mistakes;

fuzz_target!(|input: Planes| {
    let format = input.sizes.format;
    let chunk = input.encode();
    assert_eq!(input.encode(), chunk);

    // The planes of a stream come in pairs.
    if input.planes.len().is_multiple_of(2) {
        let bytes = stream(&input, &chunk);
        let parsed = Stream::parse(&bytes, &Limits::default()).expect("a stream");
        assert_eq!(parsed.chunk(0).map(|c| c.payload), Ok(&chunk.payload[..]));
        assert_eq!(parsed.extract(0).as_ref(), Ok(&bytes));
        mistakes::of_stream(&parsed);
        assert_eq!(stream(&input, &chunk), bytes);
    }

    let mut decoder = input.decoder(&chunk.payload).expect("an encoded chunk has its fixed parts");
    let ids = decoder.token_ids().map(<[u32]>::to_vec);
    let mut encoder = ChunkEncoder::new(format, input.planes.len(), ids.as_deref());
    for (at, plane) in input.planes.iter().enumerate() {
        if at == 0 || at + 1 == input.planes.len() {
            mistakes::of_encoder(&input, &mut encoder, at);
            mistakes::of_decoder(&input, &decoder, at);
            mistakes::of_shape(&plane.model.shape);
        }
        if at == input.planes.len() / 2 {
            // A copy goes on; what is left behind must not matter.
            let copy = encoder.clone();
            _ = encoder.push_raw(&plane.codes);
            encoder = copy;
        }
        let mut codes = vec![0; plane.codes.len()];
        decoder.next_plane(&plane.model.plane(format), &mut codes).expect("an encoded plane decodes");
        encoder.push_plane(&plane.model.plane(format), &codes).expect("a decoded plane encodes");
    }
    mistakes::of_full_encoder(&input, &mut encoder);
    mistakes::of_done_decoder(&input, &decoder, chunk.values_checksum);
    decoder.finish(chunk.values_checksum).expect("an encoded chunk ends as it must");
    assert_eq!(encoder.finish().expect("all planes are there"), chunk);
});

/// A stream of the one chunk, a layer for each pair of planes.
fn stream(input: &Planes, chunk: &speckv_codec_core::Chunk) -> Vec<u8> {
    let sizes = input.sizes;
    let header = Header {
        format: sizes.format,
        predictor: PredictorKind::External,
        precision: Name::new("fuzz").expect("a good name"),
        geometry: Geometry { layers: sizes.planes / 2, kv_heads: 1, head_dim: sizes.channels },
        chunk_tokens: sizes.tokens as u32,
        first_token: 0,
        tokens: sizes.tokens as u64,
        profile: [7; 32],
        token_ids: input.ids.is_some(),
        scales: if sizes.format.width() == 8 { vec![0x3F80_0000; sizes.planes] } else { Vec::new() },
    };
    write_stream(&header, std::slice::from_ref(chunk)).expect("a header that keeps the rules")
}
