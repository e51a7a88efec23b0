//! What was measured of one predictor over all caches of one format.

use serde_json::{Value, json};
use speckv_codec_core::{ElementFormat, Geometry};

use crate::output::{rate, rounded};

/// The name under which the published scheme stands beside predictors.
pub const PUBLISHED: &str = "published";

/// One predictor, one element format; sums over caches.
#[derive(Clone, Debug)]
pub struct Row {
    /// Kind of predictor, or [`PUBLISHED`].
    pub predictor: String,
    /// Name of its precision, if any.
    pub precision: String,
    /// Of their scalars.
    pub format: ElementFormat,
    /// Number of caches.
    pub texts: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Of all streams, container included; none for an ideal code length.
    pub stream_bytes: Option<u64>,
    /// Cost of the planes of each `[layer][part]` in 1/256 bit, without container.
    pub costs: Vec<[u64; 2]>,
    /// To compress and to decompress.
    pub seconds: Option<[f64; 2]>,
    /// The target's own prefill of the same tokens in bf16.
    pub prefill_seconds: Option<f64>,
    /// Multiply-adds of the predictor.
    pub work: u128,
    /// Multiply-adds of the target's prefill.
    pub target_work: Option<u128>,
    /// Bytes of the profile that the predictor uses.
    pub profile_bytes: Option<u64>,
    /// Of the caches.
    pub geometry: Geometry,
}

impl Row {
    /// Of nothing yet.
    pub fn new(predictor: &str, precision: &str, format: ElementFormat, geometry: Geometry) -> Self {
        Row {
            predictor: predictor.to_owned(),
            precision: precision.to_owned(),
            format,
            texts: 0,
            tokens: 0,
            stream_bytes: None,
            costs: vec![[0; 2]; geometry.layers],
            seconds: None,
            prefill_seconds: None,
            work: 0,
            target_work: None,
            profile_bytes: None,
            geometry,
        }
    }

    /// Adds the same predictor's row over other caches.
    pub fn add(&mut self, other: &Row) {
        self.texts += other.texts;
        self.tokens += other.tokens;
        for (all, one) in self.costs.iter_mut().flatten().zip(other.costs.iter().flatten()) {
            *all += one;
        }
        self.stream_bytes = plus(self.stream_bytes, other.stream_bytes, |a, b| a + b);
        self.seconds = plus(self.seconds, other.seconds, |a, b| [a[0] + b[0], a[1] + b[1]]);
        self.prefill_seconds = plus(self.prefill_seconds, other.prefill_seconds, |a, b| a + b);
        self.work += other.work;
        self.target_work = plus(self.target_work, other.target_work, |a, b| a + b);
    }

    /// Predictor and precision, as people write them.
    pub fn label(&self) -> String {
        format!("{} {}", self.predictor, self.precision).trim_end().to_owned()
    }

    /// Scalars of all caches.
    pub fn scalars(&self) -> u64 {
        self.geometry.scalars_per_token() * self.tokens
    }

    /// Bits per scalar: of whole streams, or of planes where there is no stream.
    pub fn bits(&self) -> f64 {
        match self.stream_bytes {
            Some(bytes) => rate(bytes, self.scalars()),
            None => (self.part_bits(0) + self.part_bits(1)) / 2.0,
        }
    }

    /// Bits per scalar of the keys (0) or values (1), without container.
    pub fn part_bits(&self, part: usize) -> f64 {
        let cost: u64 = self.costs.iter().map(|layer| layer[part]).sum();
        cost as f64 / 256.0 / (self.scalars() / 2).max(1) as f64
    }

    /// The same of one layer.
    pub fn layer_bits(&self, layer: usize, part: usize) -> f64 {
        let scalars = self.scalars() / (2 * self.geometry.layers as u64);
        self.costs[layer][part] as f64 / 256.0 / scalars.max(1) as f64
    }

    /// How many times smaller than the codes themselves.
    pub fn ratio(&self) -> f64 {
        f64::from(self.format.width()) / self.bits()
    }

    /// Multiply-adds of the predictor as a share of those of the target's prefill, if its sizes are known.
    pub fn work_share(&self) -> Option<f64> {
        match (self.work, self.target_work) {
            (0, _) => Some(0.0),
            (work, Some(target)) => Some(work as f64 / target.max(1) as f64),
            _ => None,
        }
    }

    /// Seconds a cache to compress (0) or to decompress (1).
    pub fn mean_seconds(&self, at: usize) -> Option<f64> {
        self.seconds.map(|s| s[at] / self.texts.max(1) as f64)
    }

    /// Seconds of the target's prefill of a text.
    pub fn mean_prefill(&self) -> Option<f64> {
        self.prefill_seconds.map(|s| s / self.texts.max(1) as f64)
    }

    /// Time to compress (0) or to decompress (1) as a share of the target's bf16 prefill on the same machine.
    pub fn time_share(&self, at: usize) -> Option<f64> {
        self.seconds.zip(self.prefill_seconds).map(|(s, prefill)| s[at] / prefill)
    }

    /// Whether this is an ideal code length, and not the size of streams.
    pub fn ideal(&self) -> bool {
        self.stream_bytes.is_none()
    }

    /// For machines; `layers` adds the bits of every layer.
    pub fn json(&self, layers: bool) -> Value {
        let known = |x: Option<f64>, digits| x.map(|x| rounded(x, digits));
        let mut value = json!({
            "predictor": self.predictor, "precision": self.precision, "format": self.format.name(),
            "ideal": self.ideal(), "texts": self.texts, "tokens": self.tokens, "scalars": self.scalars(),
            "stream_bytes": self.stream_bytes, "profile_bytes": self.profile_bytes, "bits_per_scalar": rounded(self.bits(), 4),
            "k_bits_per_scalar": rounded(self.part_bits(0), 4), "v_bits_per_scalar": rounded(self.part_bits(1), 4),
            "ratio": rounded(self.ratio(), 4), "work_share": known(self.work_share(), 5),
            "compress_seconds": known(self.mean_seconds(0), 4), "decompress_seconds": known(self.mean_seconds(1), 4),
            "prefill_seconds": known(self.mean_prefill(), 4), "compress_share": known(self.time_share(0), 4),
            "decompress_share": known(self.time_share(1), 4),
        });
        if layers {
            let layer = |l: usize| [0, 1].map(|part| rounded(self.layer_bits(l, part), 4));
            value["layers"] = (0..self.costs.len()).map(layer).collect();
        }
        value
    }
}

/// A sum that is known if either is; both sides of one are known alike once there is something.
fn plus<T>(a: Option<T>, b: Option<T>, sum: impl FnOnce(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(sum(a, b)),
        (a, b) => a.or(b),
    }
}
