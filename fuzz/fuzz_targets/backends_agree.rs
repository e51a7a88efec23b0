//! Every CPU path codes, decodes and observes as the definition does: several chunks, odd widths, extreme exponents, units, means, scales and shapes, good
//! payloads and damaged ones.
#![no_main]

use std::ops::Range;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use speckv_codec_core::limits::EXPONENT_LIMIT;
use speckv_codec_core::{Chunk, ChunkDecoder, ChunkEncoder, ElementFormat};
use speckv_fuzz::backends::{PORTABLE, paths};
use speckv_fuzz::input::{Plane, Planes, Sizes, many};
use speckv_predictor::backend::{Backend, Host, Observed, Unit};
use speckv_predictor::data::Ints;
use speckv_predictor::{Error, Portable};

/// Channel scales of profiles are not larger.
const CHANNEL: i16 = 1024;

#[derive(Debug)]
struct Input {
    cache: Planes,
    /// One a plane.
    channels: Vec<Vec<i16>>,
    unit: Unit,
    chunks: Vec<Range<usize>>,
    /// Chunk, byte and bits that are damaged.
    damage: (usize, usize, u8),
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let cache = Planes::arbitrary(input)?;
        let Sizes { format, tokens, .. } = cache.sizes;
        let limited = |plane: &Plane| plane.model.channel_scale.iter().map(|c| c % (CHANNEL + 1)).collect();
        let channels = cache.planes.iter().map(limited).collect();
        // 16-bit caches have no scales.
        let scale = if format.width() == 8 { u32::arbitrary(input)? } else { 0 };
        let unit = Unit::from_f32_bits(scale & 0x7FFF_FFFF).unwrap_or(Unit::ONE);
        let mut ends = many(3, || input.int_in_range(1..=tokens))?;
        ends.push(tokens);
        ends.sort_unstable();
        ends.dedup();
        let starts = [0].into_iter().chain(ends.iter().copied());
        let chunks: Vec<_> = starts.zip(&ends).map(|(from, &to)| from..to).collect();
        let damage =
            (input.choose_index(chunks.len())?, u16::arbitrary(input)?.into(), u8::arbitrary(input)?);
        Ok(Self { cache, channels, unit, chunks, damage })
    }
}

fn download<B: Backend>(b: &B, seen: &Observed<B::Ints>) -> [Ints; 3] {
    [&seen.truth.value, &seen.truth.innovation, &seen.energy].map(|x| b.download(x))
}

impl Input {
    fn format(&self) -> ElementFormat {
        self.cache.sizes.format
    }

    fn ids(&self, rows: &Range<usize>) -> Option<&[u32]> {
        Some(&self.cache.ids.as_ref()?[rows.clone()])
    }

    fn planes(&self) -> impl Iterator<Item = (&Plane, &Vec<i16>)> {
        self.cache.planes.iter().zip(&self.channels)
    }

    /// The first error of `encode_plane`, or the chunks.
    fn encode<B: Host>(&self, b: &B) -> std::result::Result<Vec<Chunk>, Error> {
        let count = self.cache.planes.len();
        let new =
            |rows: &Range<usize>| (rows.clone(), ChunkEncoder::new(self.format(), count, self.ids(rows)));
        let mut encoder = b.encoder(self.chunks.iter().map(new).collect());
        for (plane, channel) in self.planes() {
            let pricing = plane.model.pricing(self.format(), self.unit, channel);
            let (mu, token) = (b.upload(plane.model.means()), b.upload(plane.model.tokens()));
            b.encode_plane(&pricing, &mu, &token, &plane.codes, &mut encoder)?;
        }
        b.finish_chunks(encoder)
    }

    /// Codes of the planes up to the first error, and that error.
    fn decode<B: Host>(&self, b: &B, payloads: &[&[u8]]) -> (Vec<Vec<u16>>, Option<Error>) {
        let count = self.cache.planes.len();
        let (mut decoders, mut planes) = (Vec::new(), Vec::new());
        for (rows, payload) in self.chunks.iter().zip(payloads) {
            let ids = self.cache.ids.is_some();
            match ChunkDecoder::new(self.format(), count, rows.len(), ids, payload) {
                Ok(decoder) => decoders.push((rows.clone(), decoder)),
                Err(error) => return (planes, Some(error.into())),
            }
        }
        let mut decoder = b.decoder(decoders);
        for (plane, channel) in self.planes() {
            let pricing = plane.model.pricing(self.format(), self.unit, channel);
            let (mu, token) = (b.upload(plane.model.means()), b.upload(plane.model.tokens()));
            match b.decode_plane(&pricing, &mu, &token, &mut decoder) {
                Ok(codes) => planes.push(codes),
                Err(error) => return (planes, Some(error)),
            }
        }
        (planes, None)
    }

    fn observe<B: Host>(&self, b: &B) -> Vec<[Ints; 4]> {
        let one = |(plane, channel): (&Plane, &Vec<i16>)| {
            let pricing = plane.model.pricing(self.format(), self.unit, channel);
            let (mu, token) = (b.upload(plane.model.means()), b.upload(plane.model.tokens()));
            let seen = b.observe(&pricing, &mu, &token, &plane.codes);
            let [value, innovation, energy] = download(b, &seen);
            let cols = self.cache.sizes.channels;
            let alone = b.values(&plane.codes, cols, self.format(), self.unit, pricing.exponent);
            [value, innovation, energy, b.download(&alone)]
        };
        self.planes().map(one).collect()
    }
}

/// What the definition says, and that it keeps its own promises.
fn expected(input: &Input, b: &Portable) -> std::result::Result<Vec<Chunk>, Error> {
    let chunks = input.encode(b)?;
    let payloads: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk.payload[..]).collect();
    let codes = input.cache.planes.iter().map(|plane| plane.codes.clone()).collect();
    assert_eq!(input.decode(b, &payloads), (codes, None));
    Ok(chunks)
}

fuzz_target!(|input: Input| {
    let chunks = expected(&input, &PORTABLE);
    // What no plane can be priced in is refused before anything is observed.
    let exponents = input.cache.planes.iter().map(|p| input.unit.code_exponent(p.model.exponent).abs());
    assert_eq!(chunks.is_ok(), exponents.max() <= Some(EXPONENT_LIMIT));
    for path in paths() {
        assert_eq!(input.encode(path), chunks, "{}", path.name());
    }
    let Ok(chunks) = chunks else { return };

    let observed = input.observe(&*PORTABLE);
    for [value, _, _, alone] in &observed {
        assert_eq!(value, alone);
    }
    let mut payloads: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk.payload[..]).collect();
    let good = input.decode(&*PORTABLE, &payloads);
    let (chunk, at, bits) = input.damage;
    let mut damaged = payloads[chunk].to_vec();
    let at = at % damaged.len();
    if bits == 0 {
        damaged.truncate(at)
    } else {
        damaged[at] ^= bits
    }
    for path in paths() {
        assert_eq!(input.decode(path, &payloads), good, "{}", path.name());
        assert_eq!(input.observe(path), observed, "{}", path.name());
    }
    payloads[chunk] = &damaged;
    let bad = input.decode(&*PORTABLE, &payloads);
    for path in paths() {
        assert_eq!(input.decode(path, &payloads), bad, "{}", path.name());
    }
});
