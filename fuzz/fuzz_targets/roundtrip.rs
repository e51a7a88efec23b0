//! Any model the interface allows and any codes: decoding gives the codes, the bound holds, encoding twice gives the same
//! bytes.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use speckv_codec_core::{ChunkDecoder, ChunkEncoder, ElementFormat, PlaneModel, Shape, payload_bound};

#[derive(Debug)]
struct Plane {
    exponent: i32,
    mu: Vec<i32>,
    channel_scale: Vec<i16>,
    token_scale: Vec<i16>,
    codes: Vec<u16>,
}

#[derive(Debug)]
struct Input {
    format: ElementFormat,
    tokens: usize,
    token_ids: Option<Vec<u32>>,
    shape: Shape,
    planes: Vec<Plane>,
}

fn many<T>(count: usize, mut one: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    (0..count).map(|_| one()).collect()
}

fn shape(input: &mut Unstructured<'_>) -> Result<Shape> {
    if bool::arbitrary(input)? {
        return Ok(Shape::gaussian());
    }
    let mut knots = [0u16; 65];
    for knot in 1..65 {
        let left = 32768 - knots[knot - 1];
        let most = if bool::arbitrary(input)? { left } else { left / 8 };
        knots[knot] = knots[knot - 1] + input.int_in_range(0..=most)?;
    }
    knots[64] = 32768;
    Ok(Shape::new(knots, input.int_in_range(1..=8192)?).expect("knots rise"))
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let format = *input.choose(&ElementFormat::ALL)?;
        let (tokens, channels) = (input.int_in_range(1..=40)?, input.int_in_range(1..=20)?);
        let token_ids =
            if bool::arbitrary(input)? { Some(many(tokens, || u32::arbitrary(input))?) } else { None };
        let shape = shape(input)?;
        let planes = input.int_in_range(1..=4)?;
        let plane = |input: &mut Unstructured<'a>| {
            let exponent = input.int_in_range(-120..=120)?;
            let channel_scale = many(channels, || i16::arbitrary(input))?;
            let token_scale = many(tokens, || input.int_in_range(-300..=300))?;
            let near = bool::arbitrary(input)?;
            let (mut mu, mut codes) = (Vec::new(), Vec::new());
            for _ in 0..tokens * channels {
                let code = u16::arbitrary(input)? & ((1u32 << format.width()) - 1) as u16;
                codes.push(code);
                mu.push(if near {
                    format.edge(format.rank(code), exponent)
                } else {
                    input.int_in_range(1 - (1 << 30)..=(1 << 30) - 1)?
                });
            }
            Ok(Plane { exponent, mu, channel_scale, token_scale, codes })
        };
        let planes = many(planes, || plane(input))?;
        Ok(Self { format, tokens, token_ids, shape, planes })
    }
}

impl Input {
    fn model<'a>(&'a self, plane: &'a Plane) -> PlaneModel<'a> {
        PlaneModel {
            format: self.format,
            exponent: plane.exponent,
            mu: &plane.mu,
            channel_scale: &plane.channel_scale,
            token_scale: &plane.token_scale,
            shape: &self.shape,
        }
    }

    fn encode(&self) -> speckv_codec_core::Chunk {
        let mut encoder = ChunkEncoder::new(self.format, self.planes.len(), self.token_ids.as_deref());
        for plane in &self.planes {
            encoder.push_plane(&self.model(plane), &plane.codes).expect("the input keeps the rules");
        }
        encoder.finish().expect("all planes are there")
    }
}

fuzz_target!(|input: Input| {
    let chunk = input.encode();
    assert_eq!(chunk, input.encode());
    let scalars = input.planes.iter().map(|plane| plane.codes.len() as u64).sum();
    let bound = payload_bound(input.format, input.planes.len() as u64, input.tokens as u64, scalars);
    assert!(chunk.payload.len() as u64 <= bound);
    let ids = input.token_ids.is_some();
    let mut decoder = ChunkDecoder::new(input.format, input.planes.len(), input.tokens, ids, &chunk.payload)
        .expect("an encoded chunk has its fixed parts");
    assert_eq!(decoder.token_ids(), input.token_ids.as_deref());
    for plane in &input.planes {
        let mut out = vec![0xFFFF; plane.codes.len()];
        decoder.next_plane(&input.model(plane), &mut out).expect("an encoded plane decodes");
        assert_eq!(out, plane.codes);
    }
    decoder.finish(chunk.values_checksum).expect("an encoded chunk ends as it must");
});
