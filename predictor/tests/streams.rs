//! Whole streams through the portable backend: every format and predictor, chunk lengths, chunks alone, damage.

use std::ops::Range;

use proptest::prelude::*;
use speckv_predictor::Portable;
use speckv_predictor::codec::{CacheView, Known, LoadedMode, Options, compress, decompress, parse};
use speckv_predictor::core::{ElementFormat, Limits, Part};
use speckv_predictor::predict::Before;
use speckv_predictor::profile::{Kind, PRECISIONS, ProfileFile};
use speckv_predictor::session::Session;
use speckv_predictor::synthetic::{MODES, Make, Random};

const FORMATS: [ElementFormat; 4] =
    [ElementFormat::Bf16, ElementFormat::F16, ElementFormat::E4m3, ElementFormat::E5m2];

const DRAFT: (Kind, &str) = (Kind::Draft, PRECISIONS[0].name);
const OPEN: (Kind, &str) = (Kind::Draft, "w8a8+kv16-open");

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
                .map(|_| 0x3F00_0000 + (r.bits() % (1 << 24)) as u32)
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
        self.try_compress(b, mode, options).unwrap()
    }

    fn try_compress(
        &self,
        b: &Portable,
        mode: &LoadedMode<'_, Portable>,
        options: Options,
    ) -> Result<Vec<u8>, speckv_predictor::Error> {
        let codes = |l, p, h, t: Range<usize>| self.codes(l, p, h, t);
        let view = CacheView {
            format: self.format,
            geometry: self.make.geometry,
            tokens: self.tokens,
            scales: self.scales.clone(),
            ids: Some(&self.ids),
            codes: &codes,
        };
        compress(b, mode, &view, options, &mut |_, _| {})
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
        wide in 0usize..=5,
        tokens in 1usize..90,
        chunk in prop::sample::select(vec![1u32, 17, 64, 256]),
    ) {
        let make = Make { qk_norm, wide, seed, ..Make::default() };
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
    for mode in MODES.into_iter().filter(|m| *m != OPEN) {
        for format in [ElementFormat::Bf16, ElementFormat::E4m3] {
            let case = Case::new(Make::default(), format, 90, 7);
            with_mode(case.make, mode, format, |b, mode| {
                let bytes = case.compress(b, mode, Options { chunk_tokens: 17, store_ids: true, from: 0 });
                let stream = parse(&bytes, &Limits::default()).unwrap();
                assert_eq!(stream.directory().len(), 6);
                for chunk in 0..6 {
                    let alone = stream.extract(chunk).unwrap();
                    if mode.before() == Before::Nothing {
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
    for mode in MODES.into_iter().filter(|m| *m != OPEN) {
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
        LoadedMode::load(&b, &file, kind, if kind == Kind::Draft { DRAFT.1 } else { "" }, format).unwrap()
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
    assert!(error.to_string().contains("w1a1") && error.to_string().contains("draft w8a8+kv16 ("), "{error}");

    let other = Make { seed: 2, ..make }.profile().unwrap();
    let other = ProfileFile::parse(&other).unwrap();
    let case = Case::new(make, ElementFormat::Bf16, 9, 1);
    let mode = LoadedMode::load(&b, &file, DRAFT.0, DRAFT.1, case.format).unwrap();
    let stream = case.compress(&b, &mode, Options::default());
    let stream = parse(&stream, &Limits::default()).unwrap();
    let wrong = LoadedMode::load(&b, &other, DRAFT.0, DRAFT.1, case.format).unwrap();
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
    let case = Case::new(make, ElementFormat::Bf16, 6, 1);
    // Loads and uses every predictor: which are refused, which restore what they compressed.
    let try_out = |bytes: &[u8]| -> Result<[usize; 2], speckv_predictor::Error> {
        let file = ProfileFile::parse(bytes)?;
        let options = Options { chunk_tokens: 4, ..Options::default() };
        let mut found = [0; 2];
        for (kind, precision) in MODES {
            match LoadedMode::load(&b, &file, kind, precision, case.format) {
                Err(_) => found[0] += 1,
                Ok(mode) => {
                    if let Ok(stream) = case.try_compress(&b, &mode, options) {
                        case.check(&b, &mode, &stream, Known::default());
                        found[1] += 1;
                    }
                }
            }
        }
        Ok(found)
    };
    assert_eq!(try_out(&bytes).unwrap(), [0, MODES.len()]);
    assert!((0..bytes.len()).step_by(7).all(|n| try_out(&bytes[..n]).is_err()), "a truncated profile passed");
    let mut r = Random(9);
    let (mut files, mut modes) = (0, [0; 2]);
    for _ in 0..2000 {
        let mut bad = bytes.clone();
        // Half of them in the tensors: most of a file as small as this one is its description.
        let from = if r.bits().is_multiple_of(2) { 0 } else { bad.len() / 2 };
        for _ in 0..1 + r.bits() % 3 {
            let at = from + (r.bits() % (bad.len() - from) as u64) as usize;
            bad[at] = r.bits() as u8;
        }
        // Some flips only change a weight: then it is another profile (another digest), not a damaged one.
        match try_out(&bad) {
            Err(_) => files += 1,
            Ok(found) => modes = [0, 1].map(|i| modes[i] + found[i]),
        }
    }
    assert!(files > 300 && modes[0] > 300 && modes[1] > 5000, "{files} {modes:?}");
}

/// The arithmetic of predictions is a contract (docs/numerics.md): streams of made-up profiles, by digest. A change here is a change of
/// format: it needs a version, golden streams and a line in CHANGELOG.md.
#[test]
fn predictions_have_not_changed() {
    let mut digests = Vec::new();
    for (i, format) in FORMATS.into_iter().enumerate() {
        let make = Make { qk_norm: i < 2, wide: 5 * (i % 2), seed: 100 + i as u64, ..Make::default() };
        let case = Case::new(make, format, 70, i as u64);
        let raw: usize = case.planes.iter().map(|p| p.len() * format.bytes()).sum();
        for mode in MODES {
            with_mode(make, mode, format, |b, loaded| {
                let stream = case.compress(b, loaded, Options { chunk_tokens: 32, store_ids: true, from: 0 });
                // Planes stored raw would show nothing of predictions.
                assert!(stream.len() * 100 < raw * 95, "{format:?} {mode:?}: {} of {raw}", stream.len());
                digests.push(blake3::hash(&stream).to_hex()[..16].to_string());
            });
        }
    }
    assert_eq!(digests, GOLDEN);
}

/// [`MODES`] in order, of bf16; of f16; of e4m3; of e5m2.
const GOLDEN: [&str; 32] = [
    "efd3029e83cdc56d",
    "e621d6eeab610ad4",
    "fab9041c3d0c819e",
    "92b42546bdfc0533",
    "2019db125e40d680",
    "4a93085c7a6fbee2",
    "4f4cd2cece695bab",
    "2a0761c87039d410",
    "7db938a1a541d166",
    "dd931e01d6be53e4",
    "5231bd23ca451711",
    "eba99c3db7e2b40b",
    "07cb911e795fb3b1",
    "9ae1b1e267a2894c",
    "859c2fbb234d7886",
    "f8fce031e19573b3",
    "191060d30964e5e9",
    "43d59c761288b44f",
    "01cf61480a2dca81",
    "b36389fb062a49b2",
    "1c338ae282cc1a0e",
    "39a27d5a57ba7c38",
    "caa5e84667e9ea8e",
    "d05d185fe3e17380",
    "46176ed5908746ea",
    "817dd0c6dcb8a8b8",
    "62355522d5aef61b",
    "9648b45c5311bd9e",
    "a707f072b959eb7a",
    "d0801c40dc9ac5aa",
    "aaabaded9099602e",
    "eeb22ddd707ca9d3",
];

#[test]
fn an_open_loop_starts_at_the_beginning() {
    let case = Case::new(Make::default(), ElementFormat::Bf16, 40, 3);
    with_mode(case.make, OPEN, case.format, |b, mode| {
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

#[test]
fn sessions_refuse_what_their_predictor_cannot_know() {
    let case = Case::new(Make::default(), ElementFormat::Bf16, 8, 3);
    let skipped = |session: &mut Session<'_, Portable>| session.skip(4, |l, p, h| case.codes(l, p, h, 0..4));
    for mode in MODES {
        with_mode(case.make, mode, case.format, |b, loaded| {
            let session = || loaded.session(b, case.format, &[]).unwrap();
            let (mut passes, mut skips) = (session(), session());
            let (pass, skip) = (passes.pass(4), skipped(&mut skips));
            assert_eq!(session().pass(0), Ok(()));
            assert_eq!(pass.is_ok(), loaded.before() == Before::Nothing, "{mode:?}");
            assert_eq!(skip.is_ok(), mode != OPEN, "{mode:?}");
            assert_eq!(
                [passes.position(), skips.position()],
                [&pass, &skip].map(|r| 4 * usize::from(r.is_ok()))
            );
            let says = match loaded.before() {
                Before::Nothing => return,
                Before::Truth => "the cache of the tokens before it",
                Before::Predictions => "starts at token 0, not at 4",
            };
            let error = pass.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            if mode != OPEN {
                // Layers that know different numbers of tokens cannot go on.
                let mut left = 3;
                let error = skips.skip(4, |l, p, h| {
                    left -= 1;
                    if left > 0 { case.codes(l, p, h, 4..8) } else { Vec::new() }
                });
                assert!(error.unwrap_err().to_string().contains("a plane of 0 codes"));
                assert!(skipped(&mut skips).unwrap_err().to_string().contains("failed before"));
            }
        });
    }
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
