//! The golden streams of predictors: what each shows and how it is made. `examples/make_vectors` writes them, `tests/vectors` makes them again.
#![allow(dead_code)]

use std::ops::Range;

use serde_json::json;
use speckv_predictor::Portable;
use speckv_predictor::codec::{CacheView, LoadedMode, Options, compress};
use speckv_predictor::core::checksum::xxh3;
use speckv_predictor::core::stream::Entry;
use speckv_predictor::core::{ElementFormat, Geometry, Limits, Part, Stream, write_front};
use speckv_predictor::profile::{Kind, ProfileFile};
use speckv_predictor::synthetic::{MODES, Make, Random};

use crate::common::edit;

/// Format version under which the vectors of this page are made.
pub const VERSION: u16 = 2;

type Named = (Kind, &'static str);
const STATIC: Named = MODES[0];
const NO_IDS: Named = MODES[1];
const IDS: Named = MODES[2];
const DRAFT: Named = MODES[3];
const DRAFTS: [Named; 6] = [STATIC, MODES[3], MODES[4], MODES[5], MODES[6], MODES[7]];
const CHAINS: [Named; 2] = [NO_IDS, IDS];
const FORMATS: [ElementFormat; 4] =
    [ElementFormat::Bf16, ElementFormat::F16, ElementFormat::E4m3, ElementFormat::E5m2];

/// Small, and with everything that a layer has: grouped queries, several heads, wide columns, norms of heads.
fn small() -> Make {
    Make {
        geometry: Geometry { layers: 2, kv_heads: 2, head_dim: 4 },
        hidden: 8,
        heads: 4,
        ffn: 8,
        vocab: 20,
        wide: 3,
        modes: &DRAFTS,
        seed: 11,
        ..Make::default()
    }
}

/// Profiles by name.
pub fn profiles() -> Vec<(&'static str, Make)> {
    vec![
        ("v2_drafts", small()),
        // Three layers: the last looks back two.
        (
            "v2_chains",
            Make {
                geometry: Geometry { layers: 3, ..small().geometry },
                modes: &CHAINS,
                seed: 12,
                ..small()
            },
        ),
        ("v2_biases", Make { modes: &[DRAFT], qk_norm: false, wide: 0, seed: 13, ..small() }),
    ]
}

fn make_of(profile: &str) -> Make {
    profiles().into_iter().find(|p| p.0 == profile).expect("a profile of this page").1
}

/// A cache of made-up codes.
pub struct Cache {
    pub format: ElementFormat,
    pub geometry: Geometry,
    pub tokens: usize,
    pub scales: Vec<u32>,
    pub ids: Vec<u32>,
    /// In plane order, `[tokens, head_dim]`.
    pub planes: Vec<Vec<u16>>,
}

impl Cache {
    fn new(make: Make, format: ElementFormat, tokens: usize, seed: u64) -> Cache {
        let mut r = Random(seed);
        let geometry = make.geometry;
        let planes = (0..geometry.planes()).map(|_| make.codes(&mut r, format, tokens)).collect();
        // A scale a part for e4m3, one a head for e5m2.
        let heads = if format == ElementFormat::E4m3 { 1 } else { geometry.kv_heads };
        let count = if format.width() == 8 { 2 * geometry.layers * heads } else { 0 };
        let scales = (0..count).map(|_| 0x3F00_0000 + (r.bits() % (1 << 24)) as u32).collect();
        let ids = (0..tokens).map(|_| (r.bits() % make.vocab as u64) as u32).collect();
        Cache { format, geometry, tokens, scales, ids, planes }
    }

    /// As a values file: the codes of every plane (1 or 2 bytes each, little-endian), then the token ids (u32).
    pub fn bytes(&self) -> Vec<u8> {
        let codes = self.planes.iter().flatten();
        let mut out: Vec<u8> =
            codes.flat_map(|code| code.to_le_bytes().into_iter().take(self.format.bytes())).collect();
        out.extend(self.ids.iter().flat_map(|id| id.to_le_bytes()));
        out
    }

    /// The stream of a mode of a profile, by the definition.
    fn compress(&self, profile: &[u8], (kind, precision): Named, options: Options) -> Vec<u8> {
        let (b, file) = (Portable::new(), ProfileFile::parse(profile).unwrap());
        let mode = LoadedMode::load(&b, &file, kind, precision, self.format).unwrap();
        let codes = |l: usize, p: Part, h: usize, t: Range<usize>| {
            let hd = self.geometry.head_dim;
            self.planes[self.geometry.plane(l, p, h)][t.start * hd..t.end * hd].to_vec()
        };
        let view = CacheView {
            format: self.format,
            geometry: self.geometry,
            tokens: self.tokens,
            scales: self.scales.clone(),
            ids: Some(&self.ids),
            codes: &codes,
        };
        compress(&b, &mode, &view, options, &mut |_, _| {}).unwrap()
    }
}

/// Caches by name.
pub fn caches() -> Vec<(String, Cache)> {
    let mut all = Vec::new();
    for (profile, tokens) in [("v2_drafts", 10), ("v2_chains", 7)] {
        for (i, format) in FORMATS.into_iter().enumerate() {
            let cache = Cache::new(make_of(profile), format, tokens, 20 + i as u64);
            all.push((format!("{profile}_{}", format.name()), cache));
        }
    }
    let make = make_of("v2_drafts");
    all.push(("v2_long".into(), Cache::new(make, ElementFormat::Bf16, 70, 30)));
    let mut wild = Cache::new(make, ElementFormat::Bf16, 8, 31);
    let patterns = [0x7FC1, 0xFFFF, 0x7F80, 0xFF80, 0x8000, 0x0000, 0x7F7F, 0x8001];
    for (plane, code) in wild.planes.iter_mut().zip(patterns) {
        plane[13] = code;
    }
    all.push(("v2_wild".into(), wild));
    all
}

/// A stream that a reader must accept.
pub struct Accept {
    pub name: String,
    pub feature: &'static str,
    pub profile: &'static str,
    pub cache: String,
    pub stream: Vec<u8>,
}

/// Streams a reader must accept, of profiles as they are made here.
pub fn accept() -> Vec<Accept> {
    let caches = caches();
    let profiles: Vec<_> =
        profiles().into_iter().map(|(name, make)| (name, make.profile().unwrap())).collect();
    let mut all = Vec::new();
    let mut add = |name: String, feature, profile: &'static str, cache: &str, named: Named, options| {
        let bytes = &profiles.iter().find(|p| p.0 == profile).unwrap().1;
        let made = &caches.iter().find(|c| c.0 == cache).unwrap().1;
        let stream = made.compress(bytes, named, options);
        all.push(Accept { name, feature, profile, cache: cache.into(), stream });
    };
    let options = Options { chunk_tokens: 8, store_ids: true, from: 0 };
    let said = |(kind, precision): Named| match precision {
        "" => kind.name().to_string(),
        _ => format!("{}_{precision}", kind.name()),
    };
    for (profile, modes) in [("v2_drafts", &DRAFTS[..]), ("v2_chains", &CHAINS[..])] {
        for &mode in modes {
            for format in FORMATS {
                let chunk_tokens = if profile == "v2_chains" { 4 } else { 8 };
                add(
                    format!("v2_{}_{}", said(mode), format.name()),
                    "a predictor and precision in a format, two chunks",
                    profile,
                    &format!("{profile}_{}", format.name()),
                    mode,
                    Options { chunk_tokens, ..options },
                );
            }
        }
    }
    let (drafts, bf16, e4m3) = ("v2_drafts", "v2_drafts_bf16", "v2_drafts_e4m3");
    let biases = "biases instead of norms of heads, no wide columns";
    add("v2_biases_bf16".into(), biases, "v2_biases", bf16, DRAFT, options);
    add("v2_biases_e4m3".into(), biases, "v2_biases", e4m3, DRAFT, options);
    let one_chunk = Options { chunk_tokens: 256, ..options };
    add("v2_long".into(), "attention over two blocks of keys", drafts, "v2_long", DRAFT, one_chunk);
    add("v2_wild".into(), "NaN payloads, infinities, -0", drafts, "v2_wild", DRAFT, options);
    let outside = Options { store_ids: false, ..options };
    add("v2_ids_outside".into(), "no token ids in the stream", drafts, bf16, DRAFT, outside);
    let later = Options { from: 8, ..options };
    add("v2_later_draft".into(), "from token 8 on, given those before it", drafts, bf16, DRAFT, later);
    let later = Options { from: 4, chunk_tokens: 4, ..options };
    add("v2_later_chain".into(), "from token 4 on", "v2_chains", "v2_chains_bf16", IDS, later);
    all
}

/// A stream or profile that a reader must refuse.
pub struct Reject {
    pub name: &'static str,
    pub feature: &'static str,
    /// A profile of the accepted streams, or none for the one in `own`.
    pub profile: Option<&'static str>,
    /// A profile of its own.
    pub own: Option<Vec<u8>>,
    pub stream: Vec<u8>,
    /// What is at fault, in the words of format.md, section 7.
    pub kind: &'static str,
}

const WRONG: &str = "wrong profile";
const MISTAKE: &str = "caller's mistake";
const BAD: &str = "bad profile";
const TRUNCATED: &str = "truncated";
const MALFORMED: &str = "malformed";
const VALUES: &str = "damaged restored values";

/// The stream with its header changed and the checksum put right.
fn header(stream: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let front = Stream::parse(stream, &Limits::default()).unwrap().front.len as usize;
    let mut bytes = stream.to_vec();
    change(&mut bytes);
    let sum = xxh3(&bytes[..front - 8]);
    bytes[front - 8..front].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The stream with its first payload changed and the payload's checksum put right.
fn payload(stream: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let parsed = Stream::parse(stream, &Limits::default()).unwrap();
    let mut payloads: Vec<Vec<u8>> =
        (0..parsed.directory().len()).map(|i| parsed.chunk(i).unwrap().payload.to_vec()).collect();
    change(&mut payloads[0]);
    let entries: Vec<Entry> = payloads
        .iter()
        .zip(parsed.directory())
        .map(|(p, old)| Entry { payload_len: p.len() as u64, payload_checksum: xxh3(p), ..*old })
        .collect();
    let mut out = write_front(parsed.header(), &entries).unwrap();
    payloads.iter().for_each(|p| out.extend(p));
    out
}

/// Streams and profiles a reader must refuse.
pub fn reject() -> Vec<Reject> {
    let accepted = accept();
    let good = |name: &str| accepted.iter().find(|a| a.name == name).unwrap();
    let mut all = Vec::new();
    let mut add = |name, feature, profile, stream, kind| {
        all.push(Reject { name, feature, profile: Some(profile), own: None, stream, kind });
    };
    let (drafts, chains) = ("v2_drafts", "v2_chains");
    let draft = &good("v2_draft_w8a8+kv16_bf16").stream;
    let stat = &good("v2_static_bf16").stream;
    let chain = &good("v2_chain_ids_e4m3").stream;
    add("digest", "another profile", drafts, header(draft, |b| b[45] ^= 1), WRONG);
    add("geometry", "a layer more than the profile has", drafts, header(stat, |b| b[14] += 1), WRONG);
    add("precision", "no such precision", drafts, header(draft, |b| b[80] = b'7'), WRONG);
    add("kind", "a predictor that the profile lacks", drafts, header(stat, |b| b[11] = 1), WRONG);
    add("external", "a predictor of someone's own", drafts, header(stat, |b| b[11] = 255), MISTAKE);
    let static_ids = good("v2_ids_outside").stream.clone();
    add("ids_missing", "token ids neither in the stream nor given", drafts, static_ids, MISTAKE);
    let past_the_table = payload(draft, |p| p[2] |= 31);
    add("id_unknown", "a token id past the embedding", drafts, past_the_table, MISTAKE);
    let later = good("v2_later_draft").stream.clone();
    add("prefix_missing", "a draft from a later token, nothing before it given", drafts, later, MISTAKE);
    let open = &good("v2_draft_w8a8+kv16-open_bf16").stream;
    let second = Stream::parse(open, &Limits::default()).unwrap().extract(1).unwrap();
    add("open_later", "an open loop from a later token", drafts, second, MISTAKE);
    let huge = header(chain, |b| b[79..83].copy_from_slice(&0x7F00_0000u32.to_le_bytes()));
    add("exponent", "a scale that puts a plane's exponent out of range", chains, huge, MISTAKE);
    // Of a 16-bit stream: the third field of the first entry of the directory, behind the precision's name.
    let moved = |stream: &[u8]| {
        header(stream, |b| {
            let at = 72 + usize::from(b[13]) + 16;
            b[at] ^= 1;
        })
    };
    add("values_static", "another checksum of the restored values", drafts, moved(stat), VALUES);
    add("values_draft", "the same", drafts, moved(draft), VALUES);
    // Behind the plane modes, the ids and the 32 states: everything after it decodes to something else, and is predicted from that.
    let words = |stream: &[u8]| {
        let parsed = Stream::parse(stream, &Limits::default()).unwrap();
        let tokens = parsed.chunk(0).unwrap().tokens;
        let ids = if parsed.header().token_ids { 1 + (5 * tokens).div_ceil(8) } else { 0 };
        parsed.header().geometry.planes().div_ceil(8) + ids + 128
    };
    let flipped = |stream: &[u8]| payload(stream, |p| p[words(stream)] ^= 0x10);
    add("word_static", "the first word changed under a right checksum", drafts, flipped(stat), VALUES);
    add("word_draft", "the same", drafts, flipped(draft), TRUNCATED);
    add("word_chain", "the same", chains, flipped(chain), TRUNCATED);
    let cut = payload(draft, |p| p.truncate(p.len() - 2));
    add("words_missing", "a word too few", drafts, cut, TRUNCATED);
    let long = payload(chain, |p| p.extend([0, 0]));
    add("words_left", "a word too many", chains, long, MALFORMED);

    all.extend(profiles_rejected());
    all
}

/// Profiles of static predictors alone, each with one thing wrong.
fn profiles_rejected() -> Vec<Reject> {
    let geometry = Geometry { layers: 1, kv_heads: 1, head_dim: 2 };
    let make = Make {
        geometry,
        hidden: 2,
        heads: 1,
        ffn: 2,
        vocab: 1,
        wide: 0,
        modes: &[STATIC],
        ..Make::default()
    };
    let good = make.profile().unwrap();
    let stream = Cache::new(make, ElementFormat::Bf16, 3, 40).compress(&good, STATIC, Options::default());
    let mut all = Vec::new();
    let mut add = |name, feature, own: Vec<u8>| {
        let digest = blake3::hash(&own);
        let stream = header(&stream, |b| b[40..72].copy_from_slice(digest.as_bytes()));
        all.push(Reject { name, feature, profile: None, own: Some(own), stream, kind: BAD });
    };
    add("profile_version", "version 3", edit(&good, |about, _| about["version"] = json!(3)));
    add("profile_head_dim", "an odd head_dim", edit(&good, |about, _| about["head_dim"] = json!(3)));
    let far = edit(&good, |about, _| about["exponents"] = json!([[65, 0]]));
    add("profile_exponent", "an exponent of 65", far);
    let with_net = edit(&good, |about, _| about["modes"][0]["net"] = json!(0));
    add("profile_mode", "a static mode with a network", with_net);
    let rename = edit(&good, |_, tensors| {
        let mean = tensors.remove("mode.0.mean").unwrap();
        tensors.insert("mode.0.means".into(), mean);
    });
    add("profile_missing", "no means", rename);
    let flat = edit(&good, |_, tensors| tensors.get_mut("mode.0.channel").unwrap().1 = vec![2, 2]);
    add("profile_shape", "channel scales of another shape", flat);
    let put = |name: &str, at: usize, bytes: &[u8]| {
        edit(&good, |_, tensors| {
            tensors.get_mut(name).unwrap().2[at..at + bytes.len()].copy_from_slice(bytes);
        })
    };
    let loud = put("mode.0.channel", 2, &1025i16.to_le_bytes());
    add("profile_channel", "a channel's scale index of 1025", loud);
    let mean = put("mode.0.mean", 4, &(1i32 << 30).to_le_bytes());
    add("profile_mean", "a mean of 2^30", mean);
    let falls = put("mode.0.shapes", 40, &0i32.to_le_bytes());
    add("profile_knots", "knots that fall", falls);
    let escape = put("mode.0.shapes", 4 * 65, &0i32.to_le_bytes());
    add("profile_escape", "no escape frequency", escape);
    all
}
