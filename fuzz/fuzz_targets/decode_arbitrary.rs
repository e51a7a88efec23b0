//! Hostile bytes never panic, and whatever a reader accepts means the same after it is written again.
//!
//! The input is read twice: as a whole stream, and as the payload of a chunk under a right header, since random bytes
//! seldom have right checksums.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use speckv_codec_core::checksum::xxh3;
use speckv_codec_core::stream::Entry;
use speckv_codec_core::{
    Checksum, Chunk, ChunkEncoder, ElementFormat, Error, Geometry, Header, Limits, Name, PlaneModel,
    PredictorKind, Result, Shape, Stream, write_front, write_stream,
};

const LIMITS: Limits =
    Limits { max_tokens: 4096, max_scalars: 1 << 16, max_chunk_scalars: 1 << 14, max_chunks: 64 };

/// A fixed model of any size: means around zero, scales that differ.
struct Simple {
    format: ElementFormat,
    mu: Vec<i32>,
    channel_scale: Vec<i16>,
    token_scale: Vec<i16>,
    shape: Shape,
}

impl Simple {
    fn new(format: ElementFormat, plane: usize, tokens: usize, channels: usize) -> Self {
        let mean = |i: usize| ((i * 7919 + plane * 104_729) % 4001) as i32 - 2000;
        Self {
            format,
            mu: (0..tokens * channels).map(mean).collect(),
            channel_scale: (0..channels).map(|i| (i * 37 % 200) as i16).collect(),
            token_scale: (0..tokens).map(|i| (i * 11 % 64) as i16).collect(),
            shape: Shape::gaussian(),
        }
    }

    fn model(&self) -> PlaneModel<'_> {
        PlaneModel {
            format: self.format,
            exponent: 10,
            mu: &self.mu,
            channel_scale: &self.channel_scale,
            token_scale: &self.token_scale,
            shape: &self.shape,
        }
    }
}

/// Token ids and codes of every plane of every chunk.
type Values = Vec<(Option<Vec<u32>>, Vec<Vec<u16>>)>;

fn decode(bytes: &[u8]) -> Result<(Header, Values)> {
    let stream = Stream::parse(bytes, &LIMITS)?;
    let header = stream.header().clone();
    let mut values = Vec::new();
    for index in 0..stream.directory().len() {
        let chunk = stream.chunk(index)?;
        let mut decoder = chunk.decoder(&header)?;
        let mut planes = Vec::new();
        for plane in 0..header.geometry.planes() {
            let simple = Simple::new(header.format, plane, chunk.tokens, header.geometry.head_dim);
            let mut out = vec![0xDEAD; simple.mu.len()];
            decoder.next_plane(&simple.model(), &mut out)?;
            planes.push(out);
        }
        values.push((decoder.token_ids().map(<[u32]>::to_vec), planes));
        decoder.finish(chunk.values_checksum)?;
        Stream::parse(&stream.extract(index)?, &LIMITS).expect("an extracted chunk is a stream");
    }
    Ok((header, values))
}

fn encode(header: &Header, values: &Values) -> Vec<u8> {
    let chunks: Vec<Chunk> = values
        .iter()
        .map(|(ids, planes)| {
            let mut encoder = ChunkEncoder::new(header.format, planes.len(), ids.as_deref());
            for (plane, codes) in planes.iter().enumerate() {
                let tokens = codes.len() / header.geometry.head_dim;
                let simple = Simple::new(header.format, plane, tokens, header.geometry.head_dim);
                encoder.push_plane(&simple.model(), codes).expect("decoded planes fit their model");
            }
            encoder.finish().expect("all planes are there")
        })
        .collect();
    write_stream(header, &chunks).expect("an accepted header can be written")
}

fn check_accepted(bytes: &[u8]) -> Result<()> {
    let (header, values) = decode(bytes)?;
    let again = encode(&header, &values);
    assert_eq!(decode(&again), Ok((header, values)));
    Ok(())
}

/// A small right header for the rest of the input as payload.
fn as_payload(data: &[u8]) -> arbitrary::Result<()> {
    let mut input = Unstructured::new(data);
    let format = *input.choose(&ElementFormat::ALL)?;
    let geometry = Geometry {
        layers: input.int_in_range(1..=2)?,
        kv_heads: input.int_in_range(1..=3)?,
        head_dim: input.int_in_range(1..=40)?,
    };
    let tokens = input.int_in_range(1..=9)?;
    let header = Header {
        format,
        predictor: PredictorKind::External,
        precision: Name::new("fuzz").expect("a good name"),
        geometry,
        chunk_tokens: 9,
        first_token: 0,
        tokens,
        profile: [0; 32],
        token_ids: bool::arbitrary(&mut input)?,
        scales: if format.width() == 8 { vec![0x3F80_0000; 2 * geometry.layers] } else { Vec::new() },
    };
    let mut payload = input.take_rest().to_vec();
    payload.truncate(header.payload_bound(0) as usize);
    let mut entry =
        Entry { payload_len: payload.len() as u64, payload_checksum: xxh3(&payload), values_checksum: 0 };
    let seal = |entry: &Entry| {
        let mut bytes = write_front(&header, &[*entry]).expect("the header is right");
        bytes.extend_from_slice(&payload);
        bytes
    };
    if let Err(Error::Damaged { checksum: Checksum::Values, found, .. }) = decode(&seal(&entry)) {
        // Only the checksum of the values was unknown: with it the stream is right.
        entry.values_checksum = found;
        check_accepted(&seal(&entry)).expect("a stream with a right checksum");
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = check_accepted(data);
    let _ = as_payload(data);
});
