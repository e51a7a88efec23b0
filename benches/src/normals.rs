//! `constriction`: its rANS with the normal distributions that [`Planes`] states, quantised to the codes' ranks.
//!
//! What a user of that crate would write for such data: a `LeakyQuantizer` over all ranks of the format, whose distribution function knows where the
//! codes' edges lie. Its probabilities have 24 bits and leave every rank at least `2^-24`.

use constriction::stream::Decode;
use constriction::stream::model::DefaultLeakyQuantizer;
use constriction::stream::stack::DefaultAnsCoder;
use probability::distribution::{Distribution, Gaussian, Inverse};
use speckv_predictor::core::ElementFormat;

use crate::planes::Planes;

/// A normal distribution over ranks.
struct Ranks<'a> {
    normal: Gaussian,
    edges: &'a [f64],
    format: ElementFormat,
    exponent: i32,
}

impl Distribution for Ranks<'_> {
    type Value = i32;

    /// `x` is a rank less a half: the lower edge of that rank.
    fn distribution(&self, x: f64) -> f64 {
        let at = (x + 0.5) as i32 + self.format.magnitudes();
        self.normal.distribution(self.edges[at as usize])
    }
}

impl Inverse for Ranks<'_> {
    fn inverse(&self, p: f64) -> i32 {
        let limit = f64::from((1 << 30) - 1);
        self.format.rank_of_fixed(self.normal.inverse(p).clamp(-limit, limit) as i32, self.exponent)
    }
}

/// The scalars of planes as `constriction` wants them.
pub struct Scalars {
    format: ElementFormat,
    exponent: i32,
    /// Lower edges of all ranks and the upper one of the last, in units.
    edges: Vec<f64>,
    /// The symbols.
    pub ranks: Vec<i32>,
    /// Mean and scale of each, in units.
    normals: Vec<(f64, f64)>,
}

impl Scalars {
    /// Of the first `count` planes.
    pub fn new(planes: &Planes, count: usize) -> Scalars {
        let (format, exponent) = (planes.format, planes.exponent);
        let most = format.magnitudes();
        let edges = (-most..=most).map(|rank| f64::from(format.edge(rank, exponent))).collect();
        let (mut ranks, mut normals) = (Vec::new(), Vec::new());
        for plane in &planes.planes[..count] {
            ranks.extend(plane.codes.iter().map(|&code| format.rank(code)));
            for (row, &token) in plane.mean.data.chunks(plane.mean.cols).zip(&plane.token.data) {
                let scale = |&q: &i16| libm::exp2(f64::from(i32::from(q) + token) / 16.0);
                normals.extend(row.iter().map(|&mu| f64::from(mu)).zip(plane.channel.iter().map(scale)));
            }
        }
        Scalars { format, exponent, edges, ranks, normals }
    }

    fn model(&self, (mean, scale): (f64, f64)) -> Ranks<'_> {
        let (format, exponent) = (self.format, self.exponent);
        Ranks { normal: Gaussian::new(mean, scale), edges: &self.edges, format, exponent }
    }

    fn quantizer(&self) -> DefaultLeakyQuantizer<f64, i32> {
        let most = self.format.magnitudes();
        DefaultLeakyQuantizer::new(-most..=most - 1)
    }

    /// The compressed words.
    pub fn encode(&self) -> Vec<u32> {
        let (mut coder, quantizer) = (DefaultAnsCoder::new(), self.quantizer());
        let symbols = self.ranks.iter().zip(&self.normals);
        coder
            .encode_symbols_reverse(
                symbols.map(|(&rank, &normal)| (rank, quantizer.quantize(self.model(normal)))),
            )
            .expect("every rank has a probability");
        coder.into_compressed().expect("words in memory")
    }

    /// The symbols.
    pub fn decode(&self, words: Vec<u32>) -> Vec<i32> {
        let quantizer = self.quantizer();
        let mut coder = DefaultAnsCoder::from_compressed(words).expect("what encode gave");
        let models = self.normals.iter().map(|&normal| quantizer.quantize(self.model(normal)));
        coder.decode_symbols(models).map(|rank| rank.expect("any words decode")).collect()
    }
}

#[cfg(test)]
mod tests {
    use speckv_backend_cpu::CpuBackend;

    use super::*;

    /// Else the comparison would be of other models.
    #[test]
    fn it_takes_as_many_bits_as_ours_and_gives_the_ranks_back() {
        let cpu = CpuBackend::best();
        for (format, bits) in crate::planes::POINTS {
            let planes = Planes::new(&cpu, format, bits, 2);
            let scalars = Scalars::new(&planes, 2);
            let words = scalars.encode();
            let (theirs, ours) = (32.0 * words.len() as f64 / scalars.ranks.len() as f64, planes.rate(&cpu));
            assert!((theirs - ours).abs() < 0.03, "{}: {theirs} and {ours} bits", format.name());
            assert!(scalars.decode(words) == scalars.ranks, "{} at {bits} bits", format.name());
        }
    }
}
