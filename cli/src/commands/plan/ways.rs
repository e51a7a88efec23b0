//! What each way to a ready cache moves and computes: bytes, and seconds on this machine.

use speckv_build::{DEPTH, OPEN, RESIDUAL, WIDE};
use speckv_codec_core::{ElementFormat, Geometry};
use speckv_predictor::profile::{NamedDigits, PRECISIONS};
use speckv_predictor::work::{self, Dims, Work};

use super::model::Way;
use super::rates::Rate;
use crate::machine::Machine;

/// The target and its cache.
#[derive(Clone, Debug)]
pub struct Target {
    /// For the output.
    pub name: String,
    /// Of the cache.
    pub geometry: Geometry,
    /// Of the layers.
    pub dims: Dims,
    /// Of the cache's elements.
    pub format: ElementFormat,
}

/// Speeds that decide: of the machine file, or given.
#[derive(Clone, Copy, Debug)]
pub struct Speeds {
    /// Products of predictors, int8 multiply-adds a second.
    pub gemm: f64,
    /// Attention of predictors, int8 multiply-adds a second.
    pub attention: f64,
    /// Operations over rows of predictors, values a second.
    pub rows: f64,
    /// The target's prefill, multiply-adds a second.
    pub prefill: f64,
    /// Scalars a second of encoding and of decoding, all in one, if given.
    pub coder: Option<f64>,
}

impl Target {
    /// Scalars of a cache.
    pub fn scalars(&self, tokens: u64) -> f64 {
        self.geometry.scalars_per_token() as f64 * tokens as f64
    }

    /// Bytes of a raw cache.
    pub fn raw_bytes(&self, tokens: u64) -> f64 {
        self.scalars(tokens) * self.format.bytes() as f64
    }

    /// The work of a predictor: counted where this program has the predictor, else by the share of the target's products that the rates give.
    pub fn work(&self, rate: &Rate) -> Option<Work> {
        let Target { geometry, dims, .. } = *self;
        let (closed, name) = match rate.precision.strip_suffix(OPEN) {
            Some(name) => (false, name),
            None => (true, rate.precision.as_str()),
        };
        let draft = |p: &NamedDigits| {
            let wide = WIDE.min(dims.hidden / 8);
            work::draft(geometry, dims, p.weights, p.activations, wide, RESIDUAL.count(), closed)
        };
        let named = || PRECISIONS.iter().find(|p| p.name == name);
        // What a share of the target's products costs. Drafts attend as the target does, chains do not.
        let shared = |per_pair| {
            let whole = work::target(geometry, dims).per_token as f64;
            Some(Work { per_token: (whole * rate.work_share?) as u64, per_pair })
        };
        match rate.predictor.as_str() {
            "static" => Some(Work::default()),
            "draft" => named().map(draft).or_else(|| shared(draft(&PRECISIONS[0]).per_pair)),
            "chain" if rate.precision == "no-ids" => {
                Some(work::chain(geometry, DEPTH, None, RESIDUAL.count()))
            }
            "chain" if rate.precision == "ids" => {
                Some(work::chain(geometry, DEPTH, Some(dims.hidden), RESIDUAL.count()))
            }
            "chain" => shared(0),
            _ => None,
        }
    }

    /// Values that a predictor puts through operations over rows for each token.
    fn row_values(&self, rate: &Rate) -> u64 {
        match rate.predictor.as_str() {
            "draft" => work::draft_row_values(self.geometry, self.dims),
            "chain" => work::chain_row_values(self.geometry),
            _ => 0,
        }
    }

    /// Raw transfer, each predictor, re-prefill, in this order. Rates of predictors whose work is not known are left out.
    pub fn ways(&self, tokens: u64, rates: &[&Rate], machine: &Machine, speeds: &Speeds) -> Vec<Way> {
        let scalars = self.scalars(tokens);
        let raw = Way {
            name: "raw".to_owned(),
            bits: Some(f64::from(self.format.width())),
            bytes: self.raw_bytes(tokens),
            encode: 0.0,
            decode: 0.0,
        };
        let coded = rates.iter().filter_map(|rate| {
            let work = self.work(rate)?;
            let [products, attention] = work.split(0, tokens).map(|n| n as f64);
            let values = self.row_values(rate) as f64 * tokens as f64;
            let predict = products / speeds.gemm + attention / speeds.attention + values / speeds.rows;
            let coder = machine.coder_rate(self.format, rate.bits)?;
            let observe = 1.0 / coder.observe;
            let each = match speeds.coder {
                Some(given) => [1.0 / given; 2],
                None => [1.0 / coder.encode + observe, 1.0 / coder.decode + observe],
            };
            let [encode, decode] = each.map(|seconds| predict + scalars * seconds);
            let name = format!("{} {}", rate.predictor, rate.precision).trim_end().to_owned();
            Some(Way { name, bits: Some(rate.bits), bytes: scalars * rate.bits / 8.0, encode, decode })
        });
        let prefill = Way {
            name: "re-prefill".to_owned(),
            bits: None,
            bytes: 0.0,
            encode: 0.0,
            decode: work::target(self.geometry, self.dims).total(0, tokens) as f64 / speeds.prefill,
        };
        std::iter::once(raw).chain(coded).chain([prefill]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            name: "m".to_owned(),
            geometry: Geometry { layers: 3, kv_heads: 2, head_dim: 4 },
            dims: Dims { hidden: 16, heads: 4, ffn: 20 },
            format: ElementFormat::E4m3,
        }
    }

    fn rate(predictor: &str, precision: &str, work_share: Option<f64>) -> Rate {
        let (predictor, precision) = (predictor.to_owned(), precision.to_owned());
        Rate { predictor, precision, format: ElementFormat::E4m3, bits: 2.0, work_share }
    }

    #[test]
    fn work_is_counted_or_shared() {
        let t = target();
        let whole = work::target(t.geometry, t.dims).per_token;
        assert_eq!(t.work(&rate("static", "", Some(9.0))), Some(Work::default()));
        let [known, other] = ["w8a8", "w4a4"].map(|p| t.work(&rate("draft", p, Some(0.5))).unwrap());
        assert!(known.per_token > whole / 2 && known.per_pair == other.per_pair);
        assert_eq!(other.per_token, whole / 2);
        assert_eq!(t.work(&rate("chain", "", Some(0.25))), Some(Work { per_token: whole / 4, per_pair: 0 }));
        assert_eq!(t.work(&rate("chain", "", None)), None);
        assert_eq!(t.work(&rate("oracle", "", Some(0.5))), None);
    }

    #[test]
    fn seconds_by_hand() {
        let machine = crate::machine::example();
        let speeds = Speeds { gemm: 1e3, attention: 1e2, rows: 1e4, prefill: 10.0, coder: Some(7.0) };
        let chain = rate("chain", "", Some(0.25));
        let (t, unknown) = (target(), rate("oracle", "", None));
        let ways = t.ways(5, &[&chain, &unknown], &machine, &speeds);
        let names: Vec<&str> = ways.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(names, ["raw", "chain", "re-prefill"]);
        // 3 layers x 2 parts x 2 heads x 4 columns x 5 tokens.
        let whole = work::target(t.geometry, t.dims);
        assert_eq!((ways[0].bytes, ways[1].bytes), (240.0, 60.0));
        let rows = work::chain_row_values(t.geometry) as f64;
        let want = 5.0 * ((whole.per_token / 4) as f64 / 1e3 + rows / 1e4) + 240.0 / 7.0;
        assert!((ways[1].decode - want).abs() < 1e-9 && ways[1].encode == ways[1].decode);
        assert_eq!(ways[2].decode, (5 * whole.per_token + 15 * whole.per_pair) as f64 / 10.0);
        let ways = t.ways(5, &[&rate("draft", "w8a8", None)], &machine, &speeds);
        let [products, attention] =
            t.work(&rate("draft", "w8a8", None)).unwrap().split(0, 5).map(|n| n as f64);
        let values = 5.0 * work::draft_row_values(t.geometry, t.dims) as f64;
        let want = products / 1e3 + attention / 1e2 + values / 1e4 + 240.0 / 7.0;
        assert!((ways[1].decode - want).abs() < 1e-9);
        // Of the machine file: 1 / 2e7 + 1 / 1e8 s a scalar to decode.
        let ways = t.ways(5, &[&rate("static", "", None)], &machine, &Speeds { coder: None, ..speeds });
        assert!((ways[1].decode - 240.0 * 6e-8).abs() < 1e-12 && ways[1].encode < ways[1].decode);
    }
}
