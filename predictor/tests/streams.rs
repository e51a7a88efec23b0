//! Whole streams through the portable backend: every format and predictor, chunk lengths, chunks alone, damage.

use std::ops::Range;

use proptest::prelude::*;
use speckv_predictor::Portable;
use speckv_predictor::codec::{CacheView, Known, LoadedMode, Options, compress, decompress, parse};
use speckv_predictor::core::{ElementFormat, Limits, Part};
use speckv_predictor::data::Digits;
use speckv_predictor::profile::{Kind, ProfileFile};
use speckv_predictor::synthetic::{MODES, Make, Random};

const FORMATS: [ElementFormat; 4] =
    [ElementFormat::Bf16, ElementFormat::F16, ElementFormat::E4m3, ElementFormat::E5m2];

const DRAFT: (Kind, &str) = (Kind::Draft, "test");

struct Case {
    make: Make,
    format: ElementFormat,
    tokens: usize,
    ids: Vec<u32>,
    scales: Vec<u32>,
    planes: Vec<Vec<u16>>,
}

impl Case {
    fn new(make: Make, format: ElementFormat, tokens: usize, seed: u64) -> Case {
        let mut r = Random(seed);
        let planes = (0..make.geometry.planes()).map(|_| make.codes(&mut r, format, tokens)).collect();
        let per_part = if seed.is_multiple_of(2) { 1 } else { make.geometry.kv_heads };
        let scales = match format.width() {
            8 => (0..2 * make.geometry.layers * per_part)
                .map(|_| 0x3E80_0000 + (r.bits() % (1 << 25)) as u32)
                .collect(),
            _ => Vec::new(),
        };
        let ids = (0..tokens).map(|_| (r.bits() % make.vocab as u64) as u32).collect();
        Case { make, format, tokens, ids, scales, planes }
    }

    fn codes(&self, layer: usize, part: Part, head: usize, tokens: Range<usize>) -> Vec<u16> {
        let hd = self.make.geometry.head_dim;
        self.planes[self.make.geometry.plane(layer, part, head)][tokens.start * hd..tokens.end * hd].to_vec()
    }

    fn compress(&self, b: &Portable, mode: &LoadedMode<'_, Portable>, options: Options) -> Vec<u8> {
        let codes = |l, p, h, t: Range<usize>| self.codes(l, p, h, t);
        let view = CacheView {
            format: self.format,
            geometry: self.make.geometry,
            tokens: self.tokens,
            scales: self.scales.clone(),
            ids: Some(&self.ids),
            codes: &codes,
        };
        compress(b, mode, &view, options, &mut |_, _| {}).unwrap()
    }

    /// Restores a stream and compares every code it covers.
    fn check(&self, b: &Portable, mode: &LoadedMode<'_, Portable>, bytes: &[u8], known: Known<'_>) {
        let stream = parse(bytes, &Limits::default()).unwrap();
        let (first, tokens) = (stream.header().first_token as usize, stream.header().tokens as usize);
        let mut seen = 0;
        let mut sink = |l: usize, p: Part, h: usize, at: usize, codes: &[u16]| {
            let rows = codes.len() / self.make.geometry.head_dim;
            assert_eq!(
                codes,
                self.codes(l, p, h, first + at..first + at + rows),
                "layer {l} {p:?} head {h} from {at}"
            );
            seen += codes.len();
        };
        let ids = decompress(b, mode, &stream, known, &mut sink, &mut |_, _| {}).unwrap();
        assert_eq!(seen, tokens * self.make.geometry.scalars_per_token() as usize);
        if mode.needs_ids() {
            assert_eq!(ids, self.ids[first..first + tokens]);
        }
    }
}

fn with_mode(
    make: Make,
    (kind, precision): (Kind, &str),
    format: ElementFormat,
    f: impl FnOnce(&Portable, &LoadedMode<'_, Portable>),
) {
    let (b, bytes) = (Portable::new(), make.profile().unwrap());
    let file = ProfileFile::parse(&bytes).unwrap();
    f(&b, &LoadedMode::load(&b, &file, kind, precision, format).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Caches that have nothing to do with the profile come back bit for bit, and cost no more than raw and the container.
    #[test]
    fn random_caches_round_trip(
        seed: u64,
        format in 0usize..4,
        mode in prop::sample::select(MODES.to_vec()),
        qk_norm: bool,
        two: bool,
        wide in 0usize..=5,
        tokens in 1usize..90,
        chunk in prop::sample::select(vec![1u32, 17, 64, 256]),
    ) {
        let digits = if two { Digits::Two } else { Digits::One };
        let make = Make { qk_norm, digits, wide, seed, ..Make::default() };
        let case = Case::new(make, FORMATS[format], tokens, seed);
        with_mode(make, mode, case.format, |b, mode| {
            let options = Options { chunk_tokens: chunk, store_ids: true, from: 0 };
            let stream = case.compress(b, mode, options);
            case.check(b, mode, &stream, Known::default());
            assert_eq!(stream, case.compress(b, mode, options), "encoding twice");
            let raw: usize = case.planes.iter().map(|p| p.len() * case.format.bytes()).sum();
            let chunks = tokens.div_ceil(chunk as usize);
            // Per chunk: directory, plane modes, token ids, lane states and slack.
            assert!(stream.len() <= raw + 256 + 4 * case.scales.len() + tokens * 4 + chunks * (24 + 128 + 132));
        });
    }
}

#[test]
fn every_chunk_decodes_alone_given_its_prefix() {
    for mode in MODES.into_iter().filter(|m| m.1 != "open") {
        for format in [ElementFormat::Bf16, ElementFormat::E4m3] {
            let case = Case::new(Make::default(), format, 90, 7);
            with_mode(case.make, mode, format, |b, mode| {
                let bytes = case.compress(b, mode, Options { chunk_tokens: 17, store_ids: true, from: 0 });
                let stream = parse(&bytes, &Limits::default()).unwrap();
                assert_eq!(stream.directory().len(), 6);
                for chunk in 0..6 {
                    let alone = stream.extract(chunk).unwrap();
                    if !mode.needs_past() {
                        case.check(b, mode, &alone, Known::default());
                    }
                    let prefix = |l, p, h, t: Range<usize>| case.codes(l, p, h, t);
                    case.check(b, mode, &alone, Known { ids: None, prefix: Some(&prefix) });
                }
            });
        }
    }
}

#[test]
fn appended_tokens_are_the_chunks_of_the_whole() {
    for mode in MODES.into_iter().filter(|m| m.1 != "open") {
        let case = Case::new(Make::default(), ElementFormat::Bf16, 70, 11);
        with_mode(case.make, mode, case.format, |b, mode| {
            let options = Options { chunk_tokens: 16, store_ids: true, from: 0 };
            let whole = case.compress(b, mode, options);
            let whole = parse(&whole, &Limits::default()).unwrap();
            let tail = case.compress(b, mode, Options { from: 32, ..options });
            let prefix = |l, p, h, t: Range<usize>| case.codes(l, p, h, t);
            case.check(b, mode, &tail, Known { ids: None, prefix: Some(&prefix) });
            let tail = parse(&tail, &Limits::default()).unwrap();
            assert_eq!(tail.directory(), &whole.directory()[2..]);
            for chunk in 0..3 {
                assert_eq!(tail.chunk(chunk).unwrap().payload, whole.chunk(chunk + 2).unwrap().payload);
            }
        });
    }
}

#[test]
fn modes_and_limits_are_checked_before_work() {
    let make = Make::default();
    let (b, bytes) = (Portable::new(), make.profile().unwrap());
    let file = ProfileFile::parse(&bytes).unwrap();
    let load = |kind, format| {
        LoadedMode::load(&b, &file, kind, if kind == Kind::Draft { "test" } else { "" }, format).unwrap()
    };
    let case = Case::new(make, ElementFormat::E4m3, 9, 1);
    let codes = |l, p, h, t: Range<usize>| case.codes(l, p, h, t);
    let view = |tokens| CacheView {
        format: case.format,
        geometry: make.geometry,
        tokens,
        scales: case.scales.clone(),
        ids: None,
        codes: &codes,
    };
    let fine = load(Kind::Static, ElementFormat::Bf16);
    let error = compress(&b, &fine, &view(9), Options::default(), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("e4m3"), "{error}");
    let coarse = load(Kind::Static, ElementFormat::E4m3);
    let stream = case.compress(&b, &coarse, Options::default());
    let stream = parse(&stream, &Limits::default()).unwrap();
    let draft = load(Kind::Draft, ElementFormat::E4m3);
    let error = decompress(&b, &draft, &stream, Known::default(), &mut |_, _, _, _, _| {}, &mut |_, _| {});
    assert!(error.unwrap_err().to_string().contains("`static `"));
    let short = |_, _, _, _: Range<usize>| vec![0u16; 3];
    let view = CacheView { codes: &short, ..view(9) };
    let error = compress(&b, &coarse, &view, Options::default(), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("3 codes"), "{error}");
}

#[test]
fn token_ids_can_stay_outside() {
    let case = Case::new(Make::default(), ElementFormat::Bf16, 40, 3);
    with_mode(case.make, DRAFT, case.format, |b, mode| {
        let bytes = case.compress(b, mode, Options { chunk_tokens: 16, store_ids: false, from: 0 });
        case.check(b, mode, &bytes, Known { ids: Some(&case.ids), prefix: None });
        let stream = parse(&bytes, &Limits::default()).unwrap();
        let error = decompress(b, mode, &stream, Known::default(), &mut |_, _, _, _, _| {}, &mut |_, _| {})
            .unwrap_err();
        assert!(error.to_string().contains("token ids"), "{error}");
        let mut wrong = case.ids.clone();
        wrong[5] ^= 1;
        let known = Known { ids: Some(&wrong), prefix: None };
        assert!(decompress(b, mode, &stream, known, &mut |_, _, _, _, _| {}, &mut |_, _| {}).is_err());
    });
}

#[test]
fn damage_is_an_error_never_other_data() {
    let case = Case::new(Make::default(), ElementFormat::E4m3, 20, 5);
    with_mode(case.make, DRAFT, case.format, |b, mode| {
        let good = case.compress(b, mode, Options { chunk_tokens: 8, store_ids: true, from: 0 });
        let refused = |bytes: &[u8]| match parse(bytes, &Limits::default()) {
            Err(_) => true,
            Ok(stream) => {
                decompress(b, mode, &stream, Known::default(), &mut |_, _, _, _, _| {}, &mut |_, _| {})
                    .is_err()
            }
        };
        assert!(!refused(&good));
        assert!((0..good.len()).all(|n| refused(&good[..n])), "a truncation passed");
        for at in (0..good.len()).step_by(3) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(refused(&bad), "a flipped bit in byte {at} passed");
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let make = Make::default();
    let (b, bytes) = (Portable::new(), make.profile().unwrap());
    let file = ProfileFile::parse(&bytes).unwrap();
    let Err(error) = LoadedMode::load(&b, &file, Kind::Draft, "w1a1", ElementFormat::Bf16) else {
        panic!("no such precision")
    };
    assert!(error.to_string().contains("w1a1") && error.to_string().contains("draft test"), "{error}");

    let other = Make { seed: 2, ..make }.profile().unwrap();
    let other = ProfileFile::parse(&other).unwrap();
    let case = Case::new(make, ElementFormat::Bf16, 9, 1);
    let mode = LoadedMode::load(&b, &file, Kind::Draft, "test", case.format).unwrap();
    let stream = case.compress(&b, &mode, Options::default());
    let stream = parse(&stream, &Limits::default()).unwrap();
    let wrong = LoadedMode::load(&b, &other, Kind::Draft, "test", case.format).unwrap();
    let error = decompress(&b, &wrong, &stream, Known::default(), &mut |_, _, _, _, _| {}, &mut |_, _| {})
        .unwrap_err();
    assert!(error.to_string().contains("made with profile"), "{error}");
}

#[test]
fn damaged_profiles_are_refused_or_harmless() {
    let make = Make {
        geometry: speckv_predictor::core::Geometry { layers: 2, kv_heads: 1, head_dim: 4 },
        hidden: 8,
        heads: 1,
        ffn: 8,
        vocab: 4,
        wide: 1,
        ..Make::default()
    };
    let bytes = make.profile().unwrap();
    let b = Portable::new();
    let load = |bytes: &[u8]| -> Result<(), speckv_predictor::Error> {
        let file = ProfileFile::parse(bytes)?;
        for (kind, precision) in MODES {
            LoadedMode::load(&b, &file, kind, precision, ElementFormat::Bf16)?;
        }
        Ok(())
    };
    load(&bytes).unwrap();
    assert!((0..bytes.len()).step_by(7).all(|n| load(&bytes[..n]).is_err()), "a truncated profile passed");
    let mut r = Random(9);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bad = bytes.clone();
        for _ in 0..1 + r.bits() % 3 {
            let at = (r.bits() % bad.len() as u64) as usize;
            bad[at] = r.bits() as u8;
        }
        // Some flips only change a weight: then it is another profile (another digest), not a damaged one.
        refused += usize::from(load(&bad).is_err());
    }
    assert!(refused > 500, "{refused}");
}

/// The arithmetic of predictions is a contract (docs/numerics.md): streams of made-up profiles, by digest. A change here is a change of
/// format: it needs a version, golden streams and a line in CHANGELOG.md.
#[test]
fn predictions_have_not_changed() {
    let mut digests = Vec::new();
    for (i, format) in FORMATS.into_iter().enumerate() {
        let digits = if i % 2 == 0 { Digits::One } else { Digits::Two };
        let make =
            Make { digits, qk_norm: i < 2, wide: 5 * (i % 2), seed: 100 + i as u64, ..Make::default() };
        let case = Case::new(make, format, 70, i as u64);
        for mode in MODES {
            with_mode(make, mode, format, |b, mode| {
                let stream = case.compress(b, mode, Options { chunk_tokens: 32, store_ids: true, from: 0 });
                digests.push(blake3::hash(&stream).to_hex()[..16].to_string());
            });
        }
    }
    assert_eq!(digests, GOLDEN);
}

/// The modes in order, of bf16; of f16; of e4m3; of e5m2.
const GOLDEN: [&str; 24] = [
    "c32af4df4c9be7d3",
    "871e5a66debeb402",
    "989925e8364fa2f6",
    "0793d815d89d6a96",
    "4315945a14404bc2",
    "28764b09980d4843",
    "89f210470ca6c367",
    "8057a4ceaceac05f",
    "ced8a7e255c13d3a",
    "1c7912c4b93c9837",
    "d5734f50cc21981f",
    "59eaeeef624976f4",
    "b7d6ce8513a7699a",
    "a7c2d433f8127982",
    "925da5a7715c27bd",
    "5e6bd5308ba81b89",
    "59c190b5b244f9ca",
    "3d525dd7b9031f1b",
    "100c0c0f3f6023b2",
    "998af4b0e7f34d6c",
    "91ad67f5b9202c16",
    "e5d95aea8683d327",
    "b3efa1c3536aed9a",
    "5b873914315c1a78",
];

#[test]
fn an_open_loop_starts_at_the_beginning() {
    let case = Case::new(Make::default(), ElementFormat::Bf16, 40, 3);
    with_mode(case.make, (Kind::Draft, "open"), case.format, |b, mode| {
        let bytes = case.compress(b, mode, Options { chunk_tokens: 16, store_ids: true, from: 0 });
        case.check(b, mode, &bytes, Known::default());
        let stream = parse(&bytes, &Limits::default()).unwrap();
        let alone = stream.extract(1).unwrap();
        let alone = parse(&alone, &Limits::default()).unwrap();
        let prefix = |l, p, h, t: Range<usize>| case.codes(l, p, h, t);
        let known = Known { ids: None, prefix: Some(&prefix) };
        let error = decompress(b, mode, &alone, known, &mut |_, _, _, _, _| {}, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("starts at token 0"), "{error}");
    });
}

/// Random bits cannot be compressed; nor may they cost more than a hundredth over the cache file's own bytes.
#[test]
fn noise_costs_hardly_more_than_raw() {
    let make = Make {
        geometry: speckv_predictor::core::Geometry { layers: 3, kv_heads: 2, head_dim: 64 },
        ..Make::default()
    };
    for format in FORMATS {
        let mut case = Case::new(make, format, 256, 21);
        let mut r = Random(5);
        let mask = ((1u32 << format.width()) - 1) as u16;
        case.planes.iter_mut().flatten().for_each(|c| *c = r.bits() as u16 & mask);
        let raw = case.planes.iter().map(|p| p.len() * format.bytes()).sum::<usize>()
            + 4 * (case.ids.len() + case.scales.len());
        for mode in MODES {
            with_mode(make, mode, format, |b, mode| {
                let stream = case.compress(b, mode, Options::default());
                assert!(stream.len() * 100 <= raw * 101, "{format:?}: {} of {raw}", stream.len());
                case.check(b, mode, &stream, Known::default());
            });
        }
    }
}
