//! Whole streams: every path and thread count writes the bytes that the portable backend writes, and reads them.

use std::ops::Range;

use speckv_backend_cpu::{CpuBackend, Path};
use speckv_predictor::codec::{CacheView, Known, LoadedMode, Options, compress, decompress, parse};
use speckv_predictor::core::{ElementFormat, Geometry, Limits, Part};
use speckv_predictor::profile::{Kind, ProfileFile};
use speckv_predictor::synthetic::{MODES, Make, Random};
use speckv_predictor::{Backend, Portable};

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
        let scales =
            if format.width() == 8 { vec![0.37f32.to_bits(); 2 * make.geometry.layers] } else { Vec::new() };
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

#[test]
fn every_path_writes_and_reads_the_portable_bytes() {
    let forced = std::env::var("SPECKV_CPU").ok().map(|_| CpuBackend::from_env().expect("the forced path"));
    let paths: Vec<CpuBackend> = match forced {
        Some(one) => vec![one],
        None => Path::ALL.into_iter().filter_map(|p| CpuBackend::forced(p).ok()).collect(),
    };
    assert!(!paths.is_empty());
    let portable = Portable::new();
    let pools: Vec<_> =
        [1, 2].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()).into_iter().collect();
    let base = Make {
        geometry: Geometry { layers: 3, kv_heads: 2, head_dim: 32 },
        hidden: 72,
        ffn: 96,
        ..Make::default()
    };
    for (seed, format) in [ElementFormat::Bf16, ElementFormat::F16, ElementFormat::E4m3, ElementFormat::E5m2]
        .into_iter()
        .enumerate()
    {
        let make = Make { qk_norm: seed < 2, wide: 5 * (seed % 3), seed: seed as u64, ..base };
        let bytes = make.profile().unwrap();
        let file = ProfileFile::parse(&bytes).unwrap();
        let case = Case::new(make, format);
        for kind in MODES {
            let golden = case.compress(&portable, &file, kind);
            // Planes stored raw would show nothing of predictions.
            let raw: usize = case.planes.iter().map(|p| p.len() * format.bytes()).sum();
            assert!(golden.len() * 100 < raw * 95, "{format:?} {kind:?}: {} of {raw}", golden.len());
            for b in &paths {
                for pool in &pools {
                    let ours = pool.install(|| case.compress(b, &file, kind));
                    let threads = pool.current_num_threads();
                    assert!(
                        ours == golden,
                        "{} with {threads} threads, {format:?} {kind:?}: other bytes",
                        b.name()
                    );
                    pool.install(|| case.check(b, &file, kind, &golden));
                }
                case.check(&portable, &file, kind, &case.compress(b, &file, kind));
            }
        }
    }
}
