//! Synthetic planes of a stated rate, and the backend's coder around them.

use speckv_predictor::backend::{Host, Pricing, Unit};
use speckv_predictor::core::{Chunk, ChunkDecoder, ChunkEncoder, ElementFormat, Shape};
use speckv_predictor::data::{self, ChunkEncoders, Ints};

use crate::random::Random;

/// Tokens of a plane: a chunk of the default length.
pub const TOKENS: usize = 256;
/// Columns of a plane.
pub const COLUMNS: usize = 64;
/// Formats and rates in bits per scalar that are measured: about what drafts and what chains leave.
pub const POINTS: [(ElementFormat, f64); 8] = [
    (ElementFormat::E4m3, 1.1),
    (ElementFormat::E4m3, 4.1),
    (ElementFormat::E5m2, 1.1),
    (ElementFormat::E5m2, 3.1),
    (ElementFormat::Bf16, 3.6),
    (ElementFormat::Bf16, 7.8),
    (ElementFormat::F16, 6.6),
    (ElementFormat::F16, 9.6),
];

/// One plane: what it is predicted to be, and what it is.
pub struct Plane {
    /// Means, `[tokens, columns]`.
    pub mean: Ints,
    /// Scale index of each column.
    pub channel: Vec<i16>,
    /// Scale offset of each token.
    pub token: Ints,
    /// What is coded.
    pub codes: Vec<u16>,
}

/// Planes of one chunk, in units of `2^-exponent`.
pub struct Planes {
    /// Element format.
    pub format: ElementFormat,
    /// Fraction bits of the means.
    pub exponent: i32,
    /// Shape of the residuals.
    pub shape: Shape,
    /// The planes, in order.
    pub planes: Vec<Plane>,
}

impl Planes {
    /// `count` planes of 256 x 64 that cost about `bits` bits a scalar: residuals normal, every eighth Laplace of the same variance; means normal,
    /// over several binades as a cache's; scales that vary by an octave from column to column and half of one from token to token.
    ///
    /// # Panics
    /// If no scale index comes within 0.1 bit of `bits`.
    pub fn new(b: &impl Host, format: ElementFormat, bits: f64, count: usize) -> Planes {
        // 8-bit caches are scaled to fill their format.
        let (spread, exponent) = if format.width() == 8 { (40.0, 12) } else { (2.0, 20) };
        let draw = |index| {
            let mut random = Random(u64::from(format.id()) + 1);
            let planes = (0..count).map(|_| plane(&mut random, format, spread, exponent, index)).collect();
            Planes { format, exponent, shape: Shape::gaussian(), planes }
        };
        // The rate grows with the scale, by about 1/16 bit an index at high rates.
        let (mut low, mut high) = (16, 400);
        while low < high {
            let middle = (low + high) / 2;
            if draw(middle).rate(b) < bits { low = middle + 1 } else { high = middle }
        }
        let [below, above] = [low - 1, low].map(draw);
        let planes = if bits - below.rate(b) < above.rate(b) - bits { below } else { above };
        let found = planes.rate(b);
        assert!(
            (found - bits).abs() < 0.1,
            "{}: expected {bits} bits a scalar, found {found}",
            format.name()
        );
        planes
    }

    /// Scalars of all planes.
    pub fn scalars(&self) -> usize {
        self.planes.iter().map(|plane| plane.codes.len()).sum()
    }

    /// How plane `plane` is priced.
    pub fn pricing<'a>(&'a self, plane: &'a Plane) -> Pricing<'a> {
        let (format, exponent) = (self.format, self.exponent);
        Pricing { format, unit: Unit::ONE, exponent, channel: &plane.channel, shape: &self.shape }
    }

    /// Bits a scalar by the coder's own prices.
    pub fn rate(&self, b: &impl Host) -> f64 {
        data::cost(&self.priced(b)) as f64 / 256.0 / self.scalars() as f64
    }

    /// The chunk's symbols and their prices, not yet coded.
    pub fn priced(&self, b: &impl Host) -> ChunkEncoders {
        let mut encoder = vec![(0..TOKENS, ChunkEncoder::new(self.format, self.planes.len(), None))];
        for plane in &self.planes {
            b.encode_plane(&self.pricing(plane), &plane.mean, &plane.token, &plane.codes, &mut encoder)
                .expect("codes of the format");
        }
        encoder
    }

    /// The chunk: prices and coder.
    pub fn encode(&self, b: &impl Host) -> Chunk {
        let mut chunks = b.finish_chunks(self.priced(b)).expect("all planes are there");
        chunks.pop().expect("one chunk")
    }

    /// The codes of all planes, checked by the chunk's checksum.
    pub fn decode(&self, b: &impl Host, chunk: &Chunk) -> Vec<Vec<u16>> {
        let decoder = ChunkDecoder::new(self.format, self.planes.len(), TOKENS, false, &chunk.payload);
        let mut decoder = b.decoder(vec![(0..TOKENS, decoder.expect("a payload"))]);
        let decode = |plane: &Plane| {
            let Plane { mean, token, .. } = plane;
            b.decode_plane(&self.pricing(plane), mean, token, &mut decoder).expect("a plane")
        };
        let codes = self.planes.iter().map(decode).collect();
        b.finish_decoders(decoder, &[chunk.values_checksum]).expect("the end of the chunk");
        codes
    }
}

fn plane(random: &mut Random, format: ElementFormat, spread: f64, exponent: i32, index: i16) -> Plane {
    let one = f64::from(1 << exponent);
    let channel: Vec<i16> = (0..COLUMNS).map(|_| index + random.within(8)).collect();
    let token: Vec<i16> = (0..TOKENS).map(|_| random.within(4)).collect();
    let (mut mean, mut codes) = (Vec::new(), Vec::new());
    for (row, &token) in token.iter().enumerate() {
        for (column, &channel) in channel.iter().enumerate() {
            let mu = libm::round(random.normal() * spread * one);
            let residual = if (row + column) % 8 == 0 { random.laplace() } else { random.normal() };
            let scale = libm::exp2(f64::from(channel + token) / 16.0);
            mean.push(mu as i32);
            codes
                .push(format.code(format.rank_of_fixed(libm::round(mu + residual * scale) as i32, exponent)));
        }
    }
    let token = Ints { rows: TOKENS, cols: 1, data: token.into_iter().map(i32::from).collect() };
    Plane { mean: Ints { rows: TOKENS, cols: COLUMNS, data: mean }, channel, token, codes }
}
