//! Planes: pricing, coding, observing; the same bytes and the same rejections.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use speckv_codec_core::{Chunk, ChunkDecoder, ChunkEncoder, ElementFormat, Shape};

use super::inputs::Pattern;
use super::rows::reveal;
use super::{Case, definition};
use crate::backend::{Backend, Keep, Pricing, Quantise, Rotary, Seen, Unit};
use crate::data::{Digits, Ints};
use crate::error::Error;
use crate::random::Random;

struct Plane {
    format: ElementFormat,
    unit: Unit,
    exponent: i32,
    channel: Vec<i16>,
    mu: Ints,
    token: Ints,
    codes: Vec<u16>,
}

/// The f32 scales that caches of 8 bits have, and one.
fn unit(rng: &mut Random, format: ElementFormat) -> Unit {
    let bits = rng.pick(&[
        0x3F80_0000,
        0x3D80_0000,
        0x5D80_0000,
        0x3F80_0001,
        0x3FFF_FFFF,
        0x3C12_3456,
        0x4212_0000,
    ]);
    if format.width() == 16 { Unit::ONE } else { Unit::from_f32_bits(bits).expect("a positive normal f32") }
}

impl Plane {
    /// Planes of every kind: codes near their predictions, or of any bits at all (NaNs, infinities, -0).
    fn new(rng: &mut Random, rows: usize, cols: usize, format: ElementFormat) -> Plane {
        let (unit, exponent) = (unit(rng, format), rng.within(8, 20));
        let mu = match rng.within(0, 3) {
            0 => rng.pick(&Pattern::ALL).ints(rng, rows, cols),
            _ => {
                Ints { rows, cols, data: (0..rows * cols).map(|_| rng.value(exponent as u32 + 3)).collect() }
            }
        };
        let wild = rng.within(0, 3);
        let channel: Vec<i16> = (0..cols).map(|_| rng.within(-20, 520) as i16).collect();
        let token = Ints {
            rows,
            cols: 1,
            data: (0..rows).map(|_| rng.within(-400, 400) >> rng.within(0, 6)).collect(),
        };
        let code_exponent = unit.code_exponent(exponent);
        let codes = mu
            .data
            .iter()
            .map(|m| {
                if wild == 0 || rng.within(0, 40) == 0 {
                    return (rng.bits() & ((1 << format.width()) - 1)) as u16;
                }
                let near = unit.to_code(*m) as i64 + rng.value(18) as i64;
                format.code(
                    format.rank_of_fixed(near.clamp(-(1 << 30) + 1, (1 << 30) - 1) as i32, code_exponent),
                )
            })
            .collect();
        Plane { format, unit, exponent, channel, mu, token, codes }
    }

    fn pricing<'a>(&'a self, shape: &'a Shape) -> Pricing<'a> {
        Pricing {
            format: self.format,
            unit: self.unit,
            exponent: self.exponent,
            channel: &self.channel,
            shape,
        }
    }

    fn encode<B: Backend>(&self, b: &B, shape: &Shape, to: &mut B::Encoder) -> Result<(), Error> {
        let (mu, token) = (b.upload(self.mu.clone()), b.upload(self.token.clone()));
        let codes = b.upload_codes(self.codes.clone());
        b.encode_plane(&self.pricing(shape), &mu, &token, &codes, to)
    }

    fn decode<B: Backend>(&self, b: &B, shape: &Shape, from: &mut B::Decoder<'_>) -> Result<B::Codes, Error> {
        let (mu, token) = (b.upload(self.mu.clone()), b.upload(self.token.clone()));
        b.decode_plane(&self.pricing(shape), &mu, &token, from)
    }
}

struct Cache {
    planes: Vec<Plane>,
    chunks: Vec<Range<usize>>,
    shape: Shape,
}

impl Cache {
    fn new(rng: &mut Random, format: ElementFormat) -> Cache {
        let cols = rng.pick(&[1, 7, 32, 64, 80]);
        let mut ends = Vec::new();
        let mut end = 0;
        for _ in 0..rng.within(1, 4) {
            let start = end;
            end += rng.pick(&[1, 5, 31, 64]);
            ends.push(start..end);
        }
        let planes = (0..3).map(|_| Plane::new(rng, end, cols, format)).collect();
        Cache { planes, chunks: ends, shape: Shape::gaussian() }
    }

    fn format(&self) -> ElementFormat {
        self.planes[0].format
    }

    /// The chunks and what their planes cost.
    fn encode<B: Backend>(&self, b: &B) -> Result<(Vec<Chunk>, u64), Error> {
        let new =
            |rows: &Range<usize>| (rows.clone(), ChunkEncoder::new(self.format(), self.planes.len(), None));
        let mut encoder = b.encoder(self.chunks.iter().map(new).collect());
        for plane in &self.planes {
            plane.encode(b, &self.shape, &mut encoder)?;
        }
        let cost = b.cost(&encoder)?;
        Ok((b.finish_chunks(encoder)?, cost))
    }

    fn decode<B: Backend>(
        &self,
        b: &B,
        payloads: &[Vec<u8>],
        checksums: &[u64],
    ) -> Result<Vec<Vec<u16>>, Error> {
        let mut decoders = Vec::new();
        for (payload, rows) in payloads.iter().zip(&self.chunks) {
            let decoder = ChunkDecoder::new(self.format(), self.planes.len(), rows.len(), false, payload)?;
            decoders.push((rows.clone(), decoder));
        }
        let mut decoder = b.decoder(decoders);
        let mut planes = Vec::new();
        for plane in &self.planes {
            planes.push(plane.decode(b, &self.shape, &mut decoder)?);
        }
        b.finish_decoders(decoder, checksums)?;
        Ok(planes.iter().map(|codes| b.download_codes(codes)).collect())
    }
}

fn parts(chunks: &[Chunk]) -> (Vec<Vec<u8>>, Vec<u64>) {
    chunks.iter().map(|c| (c.payload.clone(), c.values_checksum)).unzip()
}

fn caches() -> impl Iterator<Item = (u64, Cache)> {
    (0..48).map(|seed| (seed, Cache::new(&mut Random::new(seed), ElementFormat::ALL[seed as usize % 4])))
}

/// `encode_plane`, `finish_chunks`, `decode_plane`: the definition's bytes, and the codes back, over several chunks and formats.
pub fn encode_and_decode<B: Backend>(b: &B) {
    for (seed, cache) in caches() {
        let case =
            Case::new(b, format!("coding {} planes of {:?}", cache.planes.len(), cache.format()), seed);
        let expected = cache.encode(&definition());
        case.equal(&cache.encode(b), &expected);
        let codes: Vec<Vec<u16>> = cache.planes.iter().map(|p| p.codes.clone()).collect();
        let (payloads, checksums) = parts(&expected.expect("planes that can be coded").0);
        case.equal(&cache.decode(b, &payloads, &checksums), &Ok(codes));
    }
}

/// `decode_plane` of damaged chunks: the definition's answer, be it an error or codes.
pub fn decode_damaged<B: Backend>(b: &B) {
    for (seed, cache) in caches() {
        let rng = &mut Random::new(seed + 5000);
        let (good, mut checksums) = parts(&cache.encode(&definition()).expect("planes that can be coded").0);
        for i in 0..6 {
            let mut bad = good.clone();
            let which = rng.bits() as usize % bad.len();
            let payload = &mut bad[which];
            let at = rng.bits() as usize % payload.len();
            match rng.within(0, 2) {
                0 => payload.truncate(at),
                1 => payload[at] ^= 1 << rng.within(0, 7),
                _ => payload[at..].iter_mut().for_each(|v| *v = rng.bits() as u8),
            }
            let case =
                Case::new(b, format!("damage at byte {at} of chunk {which}, {:?}", cache.format()), seed);
            checksums[which] ^= i & 1;
            case.equal(&cache.decode(b, &bad, &checksums), &cache.decode(&definition(), &bad, &checksums));
        }
    }
}

/// Bad calls get the definition's errors: sizes that do not fit, a plane too many, codes too wide.
pub fn reject<B: Backend>(b: &B) {
    type Spoil = fn(&mut Plane);
    let spoils: [(&str, Spoil); 4] = [
        ("a channel too few", |p| {
            p.channel.pop();
        }),
        ("an exponent too large", |p| p.exponent = 1000),
        ("a code of 9 bits", |p| p.codes[0] = 0x100),
        ("nothing wrong", |_| ()),
    ];
    for (seed, mut cache) in caches().take(8) {
        for (what, spoil) in spoils {
            spoil(&mut cache.planes[1]);
            let case = Case::new(b, format!("{what}, {:?}", cache.format()), seed);
            case.equal(&cache.encode(b), &cache.encode(&definition()));
            cache = Cache::new(&mut Random::new(seed), cache.format());
        }
        // One plane more than the decoder was told of.
        let (good, checksums) = parts(&cache.encode(&definition()).expect("planes that can be coded").0);
        cache.planes.push(Plane::new(
            &mut Random::new(seed),
            cache.planes[0].mu.rows,
            cache.planes[0].mu.cols,
            cache.format(),
        ));
        let mut short = good.clone();
        short.iter_mut().for_each(|p| p.truncate(p.len() / 2));
        let case = Case::new(b, format!("a plane too many, {:?}", cache.format()), seed);
        for payloads in [&good, &short] {
            let expected = cache.decode(&definition(), payloads, &checksums);
            case.equal(&cache.decode(b, payloads, &checksums), &expected);
        }
    }
}

/// `observe`: values, innovations and energies of any codes.
pub fn observe<B: Backend>(b: &B) {
    for (seed, cache) in caches() {
        for plane in &cache.planes {
            let pricing = plane.pricing(&cache.shape);
            let expected = definition().observe(&pricing, &plane.mu, &plane.token, &plane.codes);
            let found = b.observe(
                &pricing,
                &b.upload(plane.mu.clone()),
                &b.upload(plane.token.clone()),
                &b.upload_codes(plane.codes.clone()),
            );
            let what = |of| {
                format!("observed {of} of {:?}, {:?}, exponent {}", plane.format, plane.unit, plane.exponent)
            };
            let check = |of, found: &B::Ints, expected| {
                Case::new(b, what(of), seed).same(&b.download(found), expected)
            };
            check("values", &found.truth.value, &expected.truth.value);
            check("innovations", &found.truth.innovation, &expected.truth.innovation);
            check("energies", &found.energy, &expected.energy);
        }
    }
}

/// `learn`: what is kept and where, keys turned back, digits of either kind, and energies alone.
pub fn learn<B: Backend>(b: &B) {
    let p = definition();
    for seed in 0..96 {
        let rng = &mut Random::new(seed + 700);
        let format = ElementFormat::ALL[seed as usize % 4];
        let (rows, cols) = (rng.pick(&[1, 5, 70]), rng.pick(&[2, 6, 64, 64, 80, 96, 128, 128, 256]));
        let plane = Plane::new(rng, rows, cols, format);
        let shape = Shape::gaussian();
        let (pricing, left, right) =
            (plane.pricing(&shape), rng.within(0, 70) as usize, rng.within(0, 70) as usize);
        let steps: Vec<u64> = (0..cols / 2).map(|i| rng.bits() >> (i % 60)).collect();
        let back = Rotary { head_dim: cols, steps: &steps, start: rng.bits() >> 40, inverse: true };
        let back = (rng.bits() & 1 == 0).then_some(back);
        let digits = rng.pick(&[Some(Digits::One), Some(Digits::Two), None]);
        let digits = digits.map(|d| Quantise::rows(cols, d, plane.exponent));
        let before = Pattern::Full.ints(rng, rows, left + cols + right);

        let (mut innovation, mut value) = (before.clone(), before.clone());
        let seen = Seen { pricing: &pricing, mu: &plane.mu, token: &plane.token, codes: &plane.codes };
        let keep = Keep { innovation: &mut innovation, value: &mut value, column: left, back, digits };
        let (energy, expected) = p.learn(&seen, Some(keep));

        let (mu, token) = (b.upload(plane.mu.clone()), b.upload(plane.token.clone()));
        let codes = b.upload_codes(plane.codes.clone());
        let seen = Seen { pricing: &pricing, mu: &mu, token: &token, codes: &codes };
        let (mut ours, mut our_value) = (b.upload(before.clone()), b.upload(before));
        let keep = Keep { innovation: &mut ours, value: &mut our_value, column: left, back, digits };
        let (our_energy, found) = b.learn(&seen, Some(keep));
        let what =
            |of| format!("learnt {of} of {rows} x {cols} at {left}, {format:?}, back {}", back.is_some());
        let check = |of, found: &B::Ints, expected: &Ints| {
            Case::new(b, what(of), seed).same(&b.download(found), expected)
        };
        check("values", &our_value, &value);
        check("innovations", &ours, &innovation);
        check("energies", &our_energy, &energy);
        check("energies alone", &b.learn(&seen, None).0, &energy);
        let case = Case::new(b, what("digits"), seed);
        case.equal(&found.is_some(), &expected.is_some());
        if let (Some(found), Some(expected)) = (found, expected) {
            case.same(&reveal(b, &found, &expected), &reveal(&p, &expected, &expected));
        }
    }
}

/// `values`: every code of every format, fixed points from coarse to saturated.
pub fn values<B: Backend>(b: &B) {
    for format in ElementFormat::ALL {
        let codes: Vec<u16> = (0..=(1u32 << format.width()) - 1).map(|c| c as u16).collect();
        for (seed, exponent) in [(0, 0), (1, 16), (2, 29), (3, -8)] {
            let unit = unit(&mut Random::new(seed), format);
            let found = b.download(&b.values(&b.upload_codes(codes.clone()), 64, format, unit, exponent));
            let expected = definition().values(&codes, 64, format, unit, exponent);
            Case::new(b, format!("values of {format:?}, {unit:?}, exponent {exponent}"), seed)
                .same(&found, &expected);
        }
    }
}
