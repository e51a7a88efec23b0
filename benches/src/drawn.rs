//! A made-up model of the shapes of SmolLM2-135M, and caches drawn from its own predictors: what predictors and whole runs are timed on.
//!
//! Every tensor is random, for the time of an integer product does not depend on the numbers. That of the coder does, through the rate: so each predictor gets a
//! cache of its own, every scalar its prediction plus normal noise of the very scale that it is priced with, as if the predictor were right
//! about its errors. The scales are those that cost about what the real model's caches do with that predictor, and escapes are as rare as there.

use std::ops::Range;

use speckv_capture::Cache;
use speckv_predictor::backend::{Backend, Host, Pricing, Unit};
use speckv_predictor::codec::{CHUNK_TOKENS, LoadedMode};
use speckv_predictor::core::{Chunk, ChunkEncoder, ElementFormat, Geometry, Part, Shape, Stream};
use speckv_predictor::data::Ints;
use speckv_predictor::error::Error;
use speckv_predictor::profile::Kind;
use speckv_predictor::session::Planes;
use speckv_predictor::synthetic::Make;

use crate::ours::{codes, geometry};
use crate::random::Random;

/// The predictors.
const MODES: [(Kind, &str); 3] = [(Kind::Static, ""), (Kind::Chain, "ids"), (Kind::Draft, "w8a8+kv16")];

/// SmolLM2-135M with a vocabulary of 1024, to keep the profile small: embedding is a copy of rows.
pub const MODEL: Make = Make {
    geometry: Geometry { layers: 30, kv_heads: 3, head_dim: 64 },
    hidden: 576,
    heads: 9,
    ffn: 1536,
    vocab: 1024,
    qk_norm: false,
    wide: 32,
    modes: &MODES,
    // See `BITS`. Values of about 1 have 20 fraction bits.
    scales: [16 * 20 - 8, 16 * 17 + 11, 16 * 13],
    token_weight: 1 << 12,
    seed: 135,
};

/// Bits that a bf16 scalar of the real model's caches costs with them, and about what one drawn does.
pub const BITS: [f64; 3] = [10.06, 7.82, 3.43];

/// A bf16 cache of `tokens` tokens, drawn from what `mode`, of a profile of `make`, predicts of it, plane by plane in closed loop.
pub fn draw<B: Backend>(b: &B, make: &Make, mode: &LoadedMode<'_, B>, tokens: usize) -> Cache {
    let (format, g, mut random) = (ElementFormat::Bf16, make.geometry, Random(1));
    let ids: Vec<u32> = (0..tokens).map(|_| (random.bits() % make.vocab as u64) as u32).collect();
    let mut session = mode.session(b, format, &[]).expect("a session");
    let mut draw = Draw { random, planes: vec![[const { Vec::new() }; 2]; g.layers] };
    session.run(tokens, &ids, &mut draw, &mut |_, _| ()).expect("ids of the vocabulary");
    let Geometry { layers, kv_heads, head_dim } = g;
    Cache {
        format,
        layers,
        kv_heads,
        head_dim,
        tokens,
        planes: draw.planes,
        scales: None,
        token_ids: Some(ids),
    }
}

/// The first tokens of a cache.
pub fn first(cache: &Cache, tokens: usize) -> Cache {
    let g = geometry(cache);
    let part = |layer, part| {
        let heads = (0..g.kv_heads).flat_map(move |head| codes(cache, layer, part, head, 0..tokens));
        heads.flat_map(u16::to_le_bytes).collect()
    };
    let planes = (0..g.layers).map(|layer| [Part::Key, Part::Value].map(|p| part(layer, p))).collect();
    let token_ids = cache.token_ids.as_ref().map(|ids| ids[..tokens].to_vec());
    Cache { tokens, planes, token_ids, scales: None, ..*cache }
}

/// Makes planes up: predictions plus noise.
struct Draw {
    random: Random,
    planes: Vec<[Vec<u8>; 2]>,
}

impl<B: Backend> Planes<B> for Draw {
    fn plane(
        &mut self,
        b: &B,
        (layer, part, _): (usize, Part, usize),
        pricing: &Pricing,
        mu: &B::Ints,
        token: &B::Ints,
    ) -> Result<B::Codes, Error> {
        let (mu, token) = (b.download(mu), b.download(token));
        let mut codes = Vec::with_capacity(mu.data.len());
        for (row, token) in mu.data.chunks(mu.cols).zip(&token.data) {
            for (mu, channel) in row.iter().zip(pricing.channel) {
                let scale = libm::exp2(f64::from(i32::from(*channel) + token) / 16.0);
                let value = libm::round(f64::from(*mu) + self.random.normal() * scale) as i32;
                codes.push(pricing.format.code(pricing.format.rank_of_fixed(value, pricing.exponent)));
            }
        }
        self.planes[layer][part as usize].extend(codes.iter().flat_map(|code| code.to_le_bytes()));
        Ok(b.upload_codes(codes))
    }
}

/// The predictor without a coder: planes are told as they are. What is left of a run is prediction, and learning what the planes were.
pub struct Told<'a> {
    /// The true cache; tokens after its end are those at its beginning again.
    pub cache: &'a Cache,
    /// The run's tokens.
    pub tokens: Range<usize>,
    /// Keeps predictions here, if wanted.
    pub kept: Option<&'a mut Predicted>,
}

impl<B: Backend> Planes<B> for Told<'_> {
    fn plane(
        &mut self,
        b: &B,
        (layer, part, head): (usize, Part, usize),
        pricing: &Pricing,
        mu: &B::Ints,
        token: &B::Ints,
    ) -> Result<B::Codes, Error> {
        let start = self.tokens.start % self.cache.tokens;
        let codes = codes(self.cache, layer, part, head, start..start + self.tokens.len());
        if let Some(Predicted(all)) = &mut self.kept {
            all.push(Plane {
                exponent: pricing.exponent,
                channel: pricing.channel.to_vec(),
                shape: pricing.shape.clone(),
                mu: b.download(mu),
                token: b.download(token),
                codes: codes.clone(),
            });
        }
        Ok(b.upload_codes(codes))
    }
}

/// The planes of a run as they were predicted and as they are: the coder alone works on them.
#[derive(Default)]
pub struct Predicted(Vec<Plane>);

struct Plane {
    exponent: i32,
    channel: Vec<i16>,
    shape: Shape,
    mu: Ints,
    token: Ints,
    codes: Vec<u16>,
}

impl Plane {
    fn pricing(&self) -> Pricing<'_> {
        let (exponent, channel, shape) = (self.exponent, &self.channel[..], &self.shape);
        Pricing { format: ElementFormat::Bf16, unit: Unit::ONE, exponent, channel, shape }
    }
}

/// Chunks of a run of `tokens`, as ranges.
fn chunks(tokens: usize) -> Vec<Range<usize>> {
    let chunk = CHUNK_TOKENS as usize;
    (0..tokens).step_by(chunk).map(|start| start..tokens.min(start + chunk)).collect()
}

impl Predicted {
    /// The coder alone: the chunks that a stream of these planes has.
    pub fn encode(&self, b: &impl Host, ids: &[u32]) -> Vec<Chunk> {
        let chunks = chunks(ids.len());
        let new = |r: &Range<usize>| {
            (r.clone(), ChunkEncoder::new(ElementFormat::Bf16, self.0.len(), Some(&ids[r.clone()])))
        };
        let mut encoder = b.encoder(chunks.iter().map(new).collect());
        for plane in &self.0 {
            b.encode_plane(&plane.pricing(), &plane.mu, &plane.token, &plane.codes, &mut encoder)
                .expect("codes of the format");
        }
        b.finish_chunks(encoder).expect("all planes are there")
    }

    /// The decoder alone: whether each plane of the stream comes back. Its checksums are checked too.
    pub fn decode(&self, b: &impl Host, stream: &Stream<'_>) -> bool {
        let header = stream.header();
        let chunks = chunks(header.tokens as usize);
        let stored: Vec<_> = (0..chunks.len()).map(|i| stream.chunk(i).expect("a chunk")).collect();
        let decoders = chunks.into_iter().zip(&stored);
        let mut decoder =
            b.decoder(decoders.map(|(rows, c)| (rows, c.decoder(header).expect("a payload"))).collect());
        let equal = self.0.iter().all(|plane| {
            let codes = b.decode_plane(&plane.pricing(), &plane.mu, &plane.token, &mut decoder);
            codes.expect("a plane") == plane.codes
        });
        let checksums: Vec<u64> = stored.iter().map(|chunk| chunk.values_checksum).collect();
        equal && b.finish_decoders(decoder, &checksums).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use speckv_backend_cpu::CpuBackend;
    use speckv_predictor::core::Limits;
    use speckv_predictor::profile::ProfileFile;

    use super::*;
    use crate::ours::Ours;
    use crate::rivals::Raw;

    /// Two chunks, the second a short one, of every predictor: else times of the parts would not be those of the whole.
    #[test]
    fn predictor_and_coder_alone_do_what_compressing_does() {
        let (cpu, tokens) = (CpuBackend::best(), 300);
        let make =
            Make { modes: &MODES, token_weight: MODEL.token_weight, scales: MODEL.scales, ..Make::default() };
        let profile = make.profile().unwrap();
        let profile = ProfileFile::parse(&profile).unwrap();
        let all = Ours::all(&cpu, &profile, ElementFormat::Bf16);
        assert_eq!(all.len(), MODES.len());
        for ours in &all {
            let cache = draw(&cpu, &make, &ours.mode, tokens);
            let (bytes, ids) = (ours.compress(&cache), cache.token_ids.as_ref().unwrap());
            assert!(ours.decompress(&bytes) == Raw::new(&cache).bytes, "{}", ours.name());
            let (mut session, mut kept) =
                (ours.mode.session(&cpu, cache.format, &[]).unwrap(), Predicted::default());
            let mut told = Told { cache: &cache, tokens: 0..tokens, kept: Some(&mut kept) };
            session.run(tokens, ids, &mut told, &mut |_, _| ()).unwrap();
            let (stream, chunks) =
                (Stream::parse(&bytes, &Limits::default()).unwrap(), kept.encode(&cpu, ids));
            assert_eq!(chunks.len(), 2);
            for (i, chunk) in chunks.iter().enumerate() {
                assert!(stream.chunk(i).unwrap().payload == chunk.payload, "{}, chunk {i}", ours.name());
            }
            assert!(kept.decode(&cpu, &stream), "{}", ours.name());
            kept.0[3].codes[70] ^= 1;
            assert!(!kept.decode(&cpu, &stream), "{}: another code", ours.name());
        }
    }

    #[test]
    fn the_first_tokens_are_those_of_every_head() {
        let plane = |at: u8| (at..at + 12).collect::<Vec<u8>>();
        let cache = Cache {
            format: ElementFormat::Bf16,
            layers: 1,
            kv_heads: 2,
            head_dim: 1,
            tokens: 3,
            planes: vec![[plane(0), plane(100)]],
            scales: None,
            token_ids: Some(vec![7, 8, 9]),
        };
        let few = first(&cache, 2);
        assert_eq!(
            few.planes,
            [[vec![0, 1, 2, 3, 6, 7, 8, 9], vec![100, 101, 102, 103, 106, 107, 108, 109]]]
        );
        assert_eq!((few.tokens, few.token_ids), (2, Some(vec![7, 8])));
    }
}
