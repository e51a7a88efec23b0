//! The scheme that speckv is compared with, simulated: speculative KV coding as published (Finn, May 2026).
//!
//! An fp8 copy of the target ([`speckv_capture::Arithmetic::Fp8`]) reads the prompt on its own, in open loop. Its keys and values are the means of
//! normal distributions with one fixed deviation for each channel (layer, part, head, column), against which the cache is coded. Where the
//! publication leaves a choice:
//! - A deviation is the root mean square of the channel's residuals over all *other* texts.
//! - The copy computes attention, and keeps its own keys and values, in bf16, also where the target attends to an fp8 cache. That is kinder to it:
//!   with an fp8 cache of its own, rounded otherwise than the target's, it takes 0.06 bits per scalar more (SmolLM2-135M-Instruct, e4m3).
//! - A code costs `-log2` of the mass between the midpoints to its neighbours, at most 22 bits. Both zeros are one cell: their sign is free.
//! - There is no coder and no container: what is reported is the ideal code length, and real streams would be longer.

use rayon::prelude::*;
use speckv_capture::Cache;
use speckv_codec_core::{ElementFormat, Part};

/// The least mass that a code is given: what even the worst prediction pays.
const FLOOR: f64 = 1.0 / (1 << 22) as f64;

/// Squares of the residuals of each channel, summed over the tokens of a text.
pub struct Squares {
    /// `[layers][2][kv_heads * head_dim]`.
    sums: Vec<[Vec<f64>; 2]>,
    tokens: u64,
}

impl Squares {
    /// Of a cache against its prediction.
    pub fn of(cache: &Cache, prediction: &Cache) -> Self {
        let part = |layer: usize, part: usize| {
            let (truth, mean) = (cache.values(layer, part), prediction.values(layer, part));
            let mut sums = vec![0.0; cache.kv_heads * cache.head_dim];
            let heads = truth.chunks(cache.tokens * cache.head_dim);
            let heads = heads.zip(mean.chunks(cache.tokens * cache.head_dim));
            for ((truth, mean), sums) in heads.zip(sums.chunks_mut(cache.head_dim)) {
                for (i, (x, m)) in truth.iter().zip(mean).enumerate() {
                    sums[i % cache.head_dim] += (f64::from(*x) - f64::from(*m)).powi(2);
                }
            }
            sums
        };
        let sums = (0..cache.layers).into_par_iter().map(|layer| [part(layer, 0), part(layer, 1)]).collect();
        Squares { sums, tokens: cache.tokens as u64 }
    }

    /// Root mean squares over some texts, `[layers][2][kv_heads * head_dim]`.
    fn deviations(texts: &[&Squares]) -> Vec<[Vec<f64>; 2]> {
        let tokens: u64 = texts.iter().map(|text| text.tokens).sum();
        let (layers, width) = texts.first().map_or((0, 0), |t| (t.sums.len(), t.sums[0][0].len()));
        let channel = |layer: usize, part: usize, channel: usize| {
            let sum: f64 = texts.iter().map(|text| text.sums[layer][part][channel]).sum();
            (sum / tokens.max(1) as f64).sqrt()
        };
        (0..layers).map(|l| [0, 1].map(|p| (0..width).map(|c| channel(l, p, c)).collect())).collect()
    }
}

/// Ideal code lengths of the planes of each `[layer][part]` of a cache in 1/256 bit, with the deviations of `others`.
pub fn costs(cache: &Cache, prediction: &Cache, others: &[&Squares]) -> Vec<[u64; 2]> {
    let deviations = Squares::deviations(others);
    let cells = Cells::new(cache.format);
    let part = |layer: usize, part: usize| -> u64 {
        let mean = prediction.values(layer, part);
        let plane = cache.tokens * cache.head_dim;
        let bits: f64 = (0..cache.kv_heads)
            .map(|head| {
                let unit = cache.scales.as_ref().map_or(1.0, |scales| {
                    let list = &scales[layer][part];
                    f64::from(list[head.min(list.len() - 1)])
                });
                let deviations = &deviations[layer][part][head * cache.head_dim..][..cache.head_dim];
                let codes = crate::caches::codes(cache, layer, PARTS[part], head, 0..cache.tokens);
                let scalars = codes.iter().zip(&mean[head * plane..]).enumerate();
                let bits = scalars.map(|(i, (&code, &mean))| {
                    // In units of the code: a scale changes nothing else.
                    cells.bits(code, f64::from(mean) / unit, deviations[i % cache.head_dim] / unit)
                });
                bits.sum::<f64>()
            })
            .sum();
        (bits * 256.0).round() as u64
    };
    (0..cache.layers).into_par_iter().map(|layer| [part(layer, 0), part(layer, 1)]).collect()
}

const PARTS: [Part; 2] = [Part::Key, Part::Value];

/// The reals that round to each code.
struct Cells {
    format: ElementFormat,
    /// Of each finite magnitude. The cell of zero reaches down as far as up.
    edges: Vec<[f64; 2]>,
}

impl Cells {
    fn new(format: ElementFormat) -> Self {
        let (mb, bias) = (format.mantissa_bits(), format.bias());
        // The largest exponent means infinities and NaNs; in e4m3 its last magnitude alone means a NaN.
        let finite = match format {
            ElementFormat::E4m3 => format.magnitudes() - 1,
            _ => format.magnitudes() - (1 << mb),
        };
        let value = |magnitude: i32| {
            let (e, f) = (magnitude >> mb, magnitude & ((1 << mb) - 1));
            let significand = if e == 0 { f } else { f + (1 << mb) };
            f64::from(significand) * f64::from(e.max(1) - bias - mb as i32).exp2()
        };
        let middle = |magnitude: i32| (value(magnitude) + value(magnitude + 1)) / 2.0;
        let edges = (0..finite).map(|m| {
            let upper = if m + 1 == finite { f64::INFINITY } else { middle(m) };
            [if m == 0 { -upper } else { middle(m - 1) }, upper]
        });
        Cells { format, edges: edges.collect() }
    }

    /// Code length of a code under a normal distribution; NaNs and infinities have no mass.
    fn bits(&self, code: u16, mean: f64, deviation: f64) -> f64 {
        let magnitude = usize::from(code) & (self.format.magnitudes() - 1) as usize;
        let negative = usize::from(code) != magnitude;
        let mass = self.edges.get(magnitude).map_or(0.0, |&[lower, upper]| {
            // The mirror image, if negative; then cells above the mean are turned to its lower side, where small masses keep their digits.
            let mean = if negative { -mean } else { mean };
            // A channel that was always predicted exactly still has some deviation.
            let deviation = deviation.max(f64::MIN_POSITIVE);
            let [a, b] = [lower, upper].map(|edge| (edge - mean) / deviation);
            if a > 0.0 { below(-a) - below(-b) } else { below(b) - below(a) }
        });
        // `max` also takes the floor where the mean is no number.
        -mass.max(FLOOR).log2()
    }
}

/// Cumulative function of the standard normal distribution.
fn below(z: f64) -> f64 {
    0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_masses_of_all_codes_add_up_to_one() {
        for format in ElementFormat::ALL {
            let cells = Cells::new(format);
            let negative_zero = format.magnitudes() as u16;
            for (mean, deviation) in [(0.0, 1.0), (1.3, 0.01), (-0.2, 5.0), (-3.0, 1e-6), (0.0, 1e-9)] {
                let codes = (0..1u32 << format.width()).map(|code| code as u16);
                let masses = codes
                    .filter(|&code| code != negative_zero)
                    .map(|code| (-cells.bits(code, mean, deviation)).exp2());
                let (paid, free): (Vec<f64>, Vec<f64>) = masses.partition(|&mass| mass > FLOOR);
                // What the floor gives to codes that would have less is all that may be over.
                let sum: f64 = paid.iter().sum();
                let over = free.len() as f64 * FLOOR;
                assert!(
                    sum < 1.0 + 1e-9 && sum + over > 1.0 - 1e-9,
                    "{format:?} {mean} {deviation}: {sum} {over}"
                );
                assert!(over < 0.016, "{format:?}: {over}");
            }
        }
    }

    #[test]
    fn code_lengths_by_hand() {
        let cells = Cells::new(ElementFormat::E4m3);
        // 0x38 is 1.0; its neighbours are 0.9375 and 1.125.
        let (a, b) = ((0.96875 - 1.02) / 0.1, (1.0625 - 1.02) / 0.1);
        let want = -(below(b) - below(a)).log2();
        assert!((cells.bits(0x38, 1.02, 0.1) - want).abs() < 1e-12);
        assert!((cells.bits(0xB8, -1.02, 0.1) - want).abs() < 1e-12);
        // Both zeros are the cell around zero; the largest number takes all above it.
        assert_eq!(cells.bits(0, 1e-4, 1e-5), cells.bits(0x80, 1e-4, 1e-5));
        assert!(cells.bits(0x7E, 1e6, 1.0) < 1e-9 && cells.bits(0xFE, -1e6, 1.0) < 1e-9);
        // A prediction that was never wrong costs nothing, a wrong one, a NaN or a mean that is none the floor.
        assert_eq!(cells.bits(0x38, 1.0, 0.0), 0.0);
        for (code, mean) in [(0x38, 2.0), (0x7F, 1.0), (0xFF, 1.0), (0x38, f64::NAN)] {
            assert_eq!(cells.bits(code, mean, 1e-3), 22.0, "{code:#x} {mean}");
        }
        assert_eq!(Cells::new(ElementFormat::E5m2).edges.len(), 0x7C);
        assert_eq!(Cells::new(ElementFormat::Bf16).edges.len(), 0x7F80);
    }

    /// A cache of one channel, bf16 integers.
    fn column(numbers: &[f32]) -> Cache {
        let codes: Vec<u8> =
            numbers.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
        Cache {
            format: ElementFormat::Bf16,
            layers: 1,
            kv_heads: 1,
            head_dim: 1,
            tokens: numbers.len(),
            planes: vec![[codes.clone(), codes]],
            scales: None,
            token_ids: None,
        }
    }

    #[test]
    fn deviations_are_those_of_the_other_texts() {
        let (truth, mean) = (column(&[1.0, 2.0, 3.0]), column(&[0.0, 2.0, 5.0]));
        let one = Squares::of(&truth, &mean);
        let two = Squares::of(&column(&[4.0]), &column(&[1.0]));
        assert_eq!((one.sums[0][0][0], one.tokens), (5.0, 3));
        assert_eq!(Squares::deviations(&[&one, &two]), [[vec![3.5f64.sqrt()], vec![3.5f64.sqrt()]]]);
        let cells = Cells::new(ElementFormat::Bf16);
        let codes = [0x3F80, 0x4000, 0x4040];
        let want: f64 = codes.iter().zip([0.0, 2.0, 5.0]).map(|(&c, m)| cells.bits(c, m, 3.0)).sum();
        let want = (want * 256.0).round() as u64;
        assert_eq!(costs(&truth, &mean, &[&two]), [[want, want]]);
    }
}
