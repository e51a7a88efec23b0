//! Whole streams with their models: written, read, and kept as golden files.
#![allow(dead_code)]

use speckv_codec_core::checksum::xxh3;
use speckv_codec_core::{
    Chunk, ChunkEncoder, ElementFormat, Geometry, Header, Limits, Name, PlaneModel, PredictorKind, Result,
    Shape, Stream, write_stream,
};

use crate::common::{Plane, Random};

/// A plane with the shape it is coded by.
pub struct Shaped {
    pub plane: Plane,
    pub shape: Shape,
}

impl Shaped {
    pub fn model(&self) -> PlaneModel<'_> {
        self.plane.model(&self.shape)
    }

    /// As a model file has it: exponent i32, knots u16, escape u16, channel scales i16, token scales i16, means i32.
    pub fn write_model(&self, out: &mut Vec<u8>) {
        out.extend(self.plane.exponent.to_le_bytes());
        out.extend(self.shape.knots().iter().flat_map(|knot| knot.to_le_bytes()));
        out.extend(self.shape.escape().to_le_bytes());
        out.extend(self.plane.channel_scale.iter().flat_map(|scale| scale.to_le_bytes()));
        out.extend(self.plane.token_scale.iter().flat_map(|scale| scale.to_le_bytes()));
        out.extend(self.plane.mu.iter().flat_map(|mu| mu.to_le_bytes()));
    }

    /// Reads what [`write_model`](Self::write_model) wrote off the front; the codes are zeros.
    pub fn read_model(bytes: &mut &[u8], format: ElementFormat, tokens: usize, channels: usize) -> Self {
        fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
            let (front, rest) = bytes.split_first_chunk().expect("model file too short");
            *bytes = rest;
            *front
        }
        let exponent = i32::from_le_bytes(take(bytes));
        let knots = core::array::from_fn(|_| u16::from_le_bytes(take(bytes)));
        let shape = Shape::new(knots, u16::from_le_bytes(take(bytes))).unwrap();
        let mut scales = |count| (0..count).map(|_| i16::from_le_bytes(take(bytes))).collect::<Vec<_>>();
        let (channel_scale, token_scale) = (scales(channels), scales(tokens));
        let mu = (0..tokens * channels).map(|_| i32::from_le_bytes(take(bytes))).collect();
        let codes = vec![0; tokens * channels];
        Self { plane: Plane { format, exponent, mu, channel_scale, token_scale, codes }, shape }
    }
}

/// A cache with all that is needed to code it.
pub struct Cache {
    pub header: Header,
    /// `chunks[c][p]`.
    pub chunks: Vec<Vec<Shaped>>,
    pub token_ids: Option<Vec<u32>>,
}

pub fn header(format: ElementFormat, geometry: Geometry, chunk_tokens: u32, tokens: u64) -> Header {
    Header {
        format,
        predictor: PredictorKind::External,
        precision: Name::new("").unwrap(),
        geometry,
        chunk_tokens,
        first_token: 0,
        tokens,
        profile: [0; 32],
        token_ids: false,
        scales: if format.width() == 8 { vec![0x3F80_0000; 2 * geometry.layers] } else { Vec::new() },
    }
}

impl Cache {
    pub fn ids_of(&self, index: usize) -> Option<&[u32]> {
        let first = index * self.header.chunk_tokens as usize;
        let count = self.header.tokens_of(index as u64) as usize;
        self.token_ids.as_ref().map(|ids| &ids[first..first + count])
    }

    pub fn encode_chunk(&self, index: usize) -> Chunk {
        let planes = &self.chunks[index];
        let mut encoder = ChunkEncoder::new(self.header.format, planes.len(), self.ids_of(index));
        for shaped in planes {
            encoder.push_plane(&shaped.model(), &shaped.plane.codes).unwrap();
        }
        encoder.finish().unwrap()
    }

    pub fn encode(&self) -> Vec<u8> {
        let chunks: Vec<Chunk> = (0..self.chunks.len()).map(|index| self.encode_chunk(index)).collect();
        write_stream(&self.header, &chunks).unwrap()
    }

    /// The model file: every plane of every chunk.
    pub fn model_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.chunks.iter().flatten().for_each(|shaped| shaped.write_model(&mut out));
        out
    }

    /// The values file: the codes of every plane of every chunk, little-endian, then the token ids (u32) if present.
    pub fn value_bytes(&self) -> Vec<u8> {
        let planes = self.chunks.iter().flatten();
        let codes = planes.flat_map(|shaped| &shaped.plane.codes);
        let mut out: Vec<u8> =
            codes.flat_map(|code| code.to_le_bytes().into_iter().take(self.header.format.bytes())).collect();
        out.extend(self.token_ids.iter().flatten().flat_map(|id| id.to_le_bytes()));
        out
    }

    /// Models from a model file; the codes are those `stream` decodes to. Reads the whole stream.
    pub fn decode(stream: &[u8], mut models: &[u8], limits: &Limits) -> Result<Self> {
        let stream = Stream::parse(stream, limits)?;
        let header = stream.header().clone();
        let mut cache = Self { token_ids: header.token_ids.then(Vec::new), chunks: Vec::new(), header };
        for index in 0..stream.directory().len() {
            let chunk = stream.chunk(index)?;
            let mut decoder = chunk.decoder(&cache.header)?;
            let mut planes = Vec::new();
            for _ in 0..cache.header.geometry.planes() {
                let (format, channels) = (cache.header.format, cache.header.geometry.head_dim);
                let mut shaped = Shaped::read_model(&mut models, format, chunk.tokens, channels);
                let mut codes = vec![0xFFFF; chunk.tokens * channels];
                decoder.next_plane(&shaped.model(), &mut codes)?;
                shaped.plane.codes = codes;
                planes.push(shaped);
            }
            if let (Some(all), Some(ids)) = (&mut cache.token_ids, decoder.token_ids()) {
                all.extend_from_slice(ids);
            }
            decoder.finish(chunk.values_checksum)?;
            cache.chunks.push(planes);
        }
        Ok(cache)
    }
}

/// A cache of near-predictable planes: codes a few cells from their means, some far away, every bit pattern possible.
pub fn likely_cache(seed: u64, header: Header) -> Cache {
    let mut random = Random(seed);
    let format = header.format;
    let chunks = (0..header.chunks())
        .map(|chunk| {
            let tokens = header.tokens_of(chunk) as usize;
            let plane = |_| likely_plane(&mut random, format, tokens, header.geometry.head_dim);
            (0..header.geometry.planes()).map(plane).collect()
        })
        .collect();
    let token_ids =
        header.token_ids.then(|| (0..header.tokens).map(|_| random.below(49_152) as u32).collect());
    Cache { header, chunks, token_ids }
}

fn likely_plane(random: &mut Random, format: ElementFormat, tokens: usize, channels: usize) -> Shaped {
    let exponent = if format.width() == 8 { 10 } else { 16 };
    let binade = 1i64 << format.mantissa_bits();
    let spread = if format.width() == 8 { 1 } else { 6 };
    let mut codes = Vec::new();
    let mut mu = Vec::new();
    for _ in 0..tokens * channels {
        let bias = i64::from(format.bias());
        let magnitude = random.range((bias - 3) * binade, (bias + 2) * binade) as i32;
        let rank = if random.below(2) == 0 { magnitude } else { -1 - magnitude };
        mu.push((format.edge(rank, exponent) + format.edge(rank + 1, exponent)) / 2);
        let step = (0..4).map(|_| random.range(-spread, spread)).sum::<i64>() / 2;
        let near = (rank + step as i32).clamp(-format.magnitudes(), format.magnitudes() - 1);
        let any = (random.next() & ((1 << format.width()) - 1)) as u16;
        codes.push(if random.below(60) == 0 { any } else { format.code(near) });
    }
    let base = 16 * (exponent + 1 - format.mantissa_bits() as i32) + 8;
    let channel_scale = (0..channels).map(|_| (base + random.range(-6, 6) as i32) as i16).collect();
    let token_scale = (0..tokens).map(|_| random.range(-4, 4) as i16).collect();
    Shaped {
        plane: Plane { format, exponent, mu, channel_scale, token_scale, codes },
        shape: Shape::gaussian(),
    }
}

/// Puts the header's checksum right after a change. `front` is the length of the front.
pub fn mend_header(bytes: &mut [u8], front: usize) {
    let sum = xxh3(&bytes[..front - 8]);
    bytes[front - 8..front].copy_from_slice(&sum.to_le_bytes());
}
