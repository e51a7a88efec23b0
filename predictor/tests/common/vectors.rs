//! Reads golden streams of predictors and runs them through a backend: used by the tests of every crate that has one.
#![allow(dead_code)]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use speckv_predictor::codec::{CacheView, Known, LoadedMode, Options, compress, decompress, kind_of, parse};
use speckv_predictor::core::{Header, Limits, Part};
use speckv_predictor::profile::ProfileFile;
use speckv_predictor::{Backend, Error};

/// `predictor/vectors` of the checkout that the test was built in or, where it was carried to another machine, of the one it is started in.
pub fn root() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../predictor/vectors");
    if built.is_dir() { built } else { PathBuf::from("predictor/vectors") }
}

/// The entries of a list of the manifest.
pub fn entries(list: &str) -> Vec<Value> {
    let manifest: Value = serde_json::from_slice(&fs::read(root().join("MANIFEST.json")).unwrap()).unwrap();
    manifest[list].as_array().unwrap().clone()
}

/// A file beside the manifest.
pub fn read(folder: &str, name: &Value, extension: &str) -> Vec<u8> {
    let path = root().join(folder).join(format!("{}.{extension}", name.as_str().unwrap()));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A values file: the planes of all tokens, and the token ids.
pub struct Values {
    pub tokens: usize,
    pub ids: Vec<u32>,
    planes: Vec<Vec<u16>>,
    header: Header,
}

impl Values {
    /// Of the cache that a stream was made of.
    pub fn read(bytes: &[u8], header: &Header) -> Values {
        let (g, width) = (header.geometry, header.format.bytes());
        let tokens = bytes.len() / (g.scalars_per_token() as usize * width + 4);
        let (codes, ids) = bytes.split_at(bytes.len() - 4 * tokens);
        let code = |b: &[u8]| b.iter().rev().fold(0, |all, &byte| all << 8 | u16::from(byte));
        let codes: Vec<u16> = codes.chunks_exact(width).map(code).collect();
        let ids = ids.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let planes: Vec<_> = codes.chunks_exact(tokens * g.head_dim).map(<[u16]>::to_vec).collect();
        assert_eq!(planes.len(), g.planes(), "a values file of another size");
        Values { tokens, ids, planes, header: header.clone() }
    }

    /// Codes of tokens of a plane.
    pub fn codes(&self, layer: usize, part: Part, head: usize, tokens: Range<usize>) -> Vec<u16> {
        let g = self.header.geometry;
        self.planes[g.plane(layer, part, head)][tokens.start * g.head_dim..tokens.end * g.head_dim].to_vec()
    }
}

/// Old bytes to the input: decodes a stream and compares every code and id with its values file.
pub fn decodes<B: Backend>(b: &B, profile: &[u8], stream: &[u8], values: &[u8]) -> Result<(), Error> {
    let (file, stream) = (ProfileFile::parse(profile)?, parse(stream, &Limits::default())?);
    let header = stream.header();
    let mode = LoadedMode::load(b, &file, kind_of(header)?, header.precision.as_str(), header.format)?;
    let values = Values::read(values, header);
    let (first, hd, mut seen) = (header.first_token as usize, header.geometry.head_dim, 0);
    let mut sink = |l, p, h, at: usize, found: &[u16]| {
        let at = first + at;
        assert_eq!(found, values.codes(l, p, h, at..at + found.len() / hd), "layer {l} {p:?} head {h}");
        seen += found.len();
    };
    let prefix = |l: usize, p: Part, h: usize, t: Range<usize>| values.codes(l, p, h, t);
    let covered = first..first + header.tokens as usize;
    let known =
        Known { ids: (!header.token_ids).then_some(&values.ids[covered.clone()]), prefix: Some(&prefix) };
    let ids = decompress(b, &mode, &stream, known, &mut sink, &mut |_, _| {})?;
    assert_eq!(ids, values.ids[covered]);
    assert_eq!(seen as u64, header.tokens * header.geometry.scalars_per_token());
    Ok(())
}

/// The input to the old bytes: what the values file compresses to, as the stream's header says.
pub fn encodes<B: Backend>(b: &B, profile: &[u8], stream: &[u8], values: &[u8]) -> Result<Vec<u8>, Error> {
    let file = ProfileFile::parse(profile)?;
    let parsed = parse(stream, &Limits::default())?;
    let header = parsed.header();
    let mode = LoadedMode::load(b, &file, kind_of(header)?, header.precision.as_str(), header.format)?;
    let values = Values::read(values, header);
    let codes = |l: usize, p: Part, h: usize, t: Range<usize>| values.codes(l, p, h, t);
    let view = CacheView {
        format: header.format,
        geometry: header.geometry,
        tokens: values.tokens,
        scales: header.scales.clone(),
        ids: Some(&values.ids),
        codes: &codes,
    };
    let options = Options {
        chunk_tokens: header.chunk_tokens,
        store_ids: header.token_ids,
        from: header.first_token as usize,
    };
    compress(b, &mode, &view, options, &mut |_, _| {})
}

/// What a reader that is given nothing but profile and stream says against them.
pub fn refusal<B: Backend>(b: &B, profile: &[u8], stream: &[u8]) -> Option<Error> {
    let run = || {
        let (file, stream) = (ProfileFile::parse(profile)?, parse(stream, &Limits::default())?);
        let header = stream.header();
        let mode = LoadedMode::load(b, &file, kind_of(header)?, header.precision.as_str(), header.format)?;
        decompress(b, &mode, &stream, Known::default(), &mut |_, _, _, _, _| {}, &mut |_, _| {})
    };
    run().err()
}

/// The profile that an entry of `reject` is tried with.
pub fn rejecting_profile(entry: &Value) -> Vec<u8> {
    match &entry["profile"] {
        Value::Null => read("reject", &entry["name"], "speckv"),
        name => read("profiles", name, "speckv"),
    }
}

/// Every accepted stream both ways, every rejected one by the exact error; returns how many of each.
pub fn check<B: Backend>(b: &B) -> [usize; 2] {
    let (accept, reject) = (entries("accept"), entries("reject"));
    for entry in &accept {
        let stream = read("accept", &entry["name"], "skv");
        let profile = read("profiles", &entry["profile"], "speckv");
        let values = read("caches", &entry["cache"], "values");
        decodes(b, &profile, &stream, &values).unwrap_or_else(|e| panic!("{} of {entry}: {e}", b.name()));
        let again = encodes(b, &profile, &stream, &values).unwrap_or_else(|e| panic!("{entry}: {e}"));
        assert!(again == stream, "{}: the input of {entry} encodes to other bytes", b.name());
    }
    for entry in &reject {
        let (profile, stream) = (rejecting_profile(entry), read("reject", &entry["name"], "skv"));
        let found = refusal(b, &profile, &stream).map(|e| e.to_string());
        assert_eq!(found.as_deref(), entry["error"].as_str(), "{}: {entry}", b.name());
    }
    [accept.len(), reject.len()]
}
