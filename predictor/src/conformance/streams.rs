//! Whole streams of every predictor, precision and element format, of made-up caches: the definition's bytes, and the cache back.

use alloc::vec::Vec;
use core::ops::Range;

use speckv_codec_core::{ElementFormat, Geometry, Limits, Part};

use super::definition;
use crate::backend::Backend;
use crate::codec::{CacheView, Known, LoadedMode, Options, compress, decompress, parse};
use crate::profile::{Kind, ProfileFile};
use crate::synthetic::{MODES, Make, Random};

const TOKENS: usize = 150;

struct Case {
    make: Make,
    format: ElementFormat,
    ids: Vec<u32>,
    scales: Vec<u32>,
    planes: Vec<Vec<u16>>,
}

impl Case {
    fn new(make: Make, format: ElementFormat) -> Case {
        let mut r = Random(make.seed);
        let planes = (0..make.geometry.planes()).map(|_| make.codes(&mut r, format, TOKENS)).collect();
        let scales = if format.width() == 8 {
            alloc::vec![0x3EBD_70A4 /* 0.37 */; 2 * make.geometry.layers]
        } else {
            Vec::new()
        };
        Case {
            make,
            format,
            ids: (0..TOKENS).map(|_| (r.bits() % make.vocab as u64) as u32).collect(),
            scales,
            planes,
        }
    }

    fn codes(&self, layer: usize, part: Part, head: usize, tokens: Range<usize>) -> Vec<u16> {
        let hd = self.make.geometry.head_dim;
        self.planes[self.make.geometry.plane(layer, part, head)][tokens.start * hd..tokens.end * hd].to_vec()
    }

    fn compress<B: Backend>(&self, b: &B, file: &ProfileFile<'_>, kind: (Kind, &str)) -> Vec<u8> {
        let mode = LoadedMode::load(b, file, kind.0, kind.1, self.format).unwrap();
        let codes = |l, p, h, t: Range<usize>| self.codes(l, p, h, t);
        let view = CacheView {
            format: self.format,
            geometry: self.make.geometry,
            tokens: TOKENS,
            scales: self.scales.clone(),
            ids: Some(&self.ids),
            codes: &codes,
        };
        compress(b, &mode, &view, Options { chunk_tokens: 64, ..Options::default() }, &mut |_, _| {}).unwrap()
    }

    fn check<B: Backend>(&self, b: &B, file: &ProfileFile<'_>, kind: (Kind, &str), bytes: &[u8]) {
        let mode = LoadedMode::load(b, file, kind.0, kind.1, self.format).unwrap();
        let stream = parse(bytes, &Limits::default()).unwrap();
        let mut seen = 0;
        let mut sink = |l: usize, p: Part, h: usize, at: usize, codes: &[u16]| {
            let rows = codes.len() / self.make.geometry.head_dim;
            assert_eq!(codes, self.codes(l, p, h, at..at + rows));
            seen += codes.len();
        };
        decompress(b, &mode, &stream, Known::default(), &mut sink, &mut |_, _| {}).unwrap();
        assert_eq!(seen, self.planes.iter().map(Vec::len).sum::<usize>());
    }
}

/// `compress` and `decompress` on this backend against the definition's streams: bytes equal, each side reads the other's. Returns the number of
/// streams compared.
pub fn streams<B: Backend>(b: &B) -> usize {
    let portable = definition();
    let base = Make {
        geometry: Geometry { layers: 3, kv_heads: 2, head_dim: 32 },
        hidden: 72,
        ffn: 96,
        ..Make::default()
    };
    let mut count = 0;
    for (seed, format) in ElementFormat::ALL.into_iter().enumerate() {
        let make = Make { qk_norm: seed < 2, wide: 5 * (seed % 3), seed: seed as u64, ..base };
        let bytes = make.profile().unwrap();
        let file = ProfileFile::parse(&bytes).unwrap();
        let case = Case::new(make, format);
        for kind in MODES {
            let golden = case.compress(&portable, &file, kind);
            // Planes stored raw would show nothing of predictions.
            let raw: usize = case.planes.iter().map(|p| p.len() * format.bytes()).sum();
            assert!(golden.len() * 100 < raw * 95, "{format:?} {kind:?}: {} of {raw}", golden.len());
            let ours = case.compress(b, &file, kind);
            assert!(ours == golden, "{}, {format:?} {kind:?}: other bytes", b.name());
            case.check(b, &file, kind, &golden);
            case.check(&portable, &file, kind, &ours);
            count += 1;
        }
    }
    count
}
