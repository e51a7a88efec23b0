//! The golden streams: old bytes decode to their values, the values encode to the old bytes, bad streams fail by name.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use speckv_codec_core::checksum::xxh3;
use speckv_codec_core::{Limits, PlaneMode, Stream};

mod common;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/streams.rs"]
mod streams;
use streams::Cache;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn entries(folder: &str) -> Vec<Value> {
    let manifest: Value = serde_json::from_slice(&fs::read(root().join("MANIFEST.json")).unwrap()).unwrap();
    manifest[folder].as_array().unwrap().clone()
}

fn read(folder: &str, entry: &Value, extension: &str) -> Vec<u8> {
    fs::read(root().join(folder).join(entry["name"].as_str().unwrap()).with_extension(extension)).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3(bytes))
}

#[test]
fn the_manifest_lists_every_file() {
    for (folder, kinds) in [("accept", 3), ("reject", 2)] {
        let files = fs::read_dir(root().join(folder)).unwrap().count();
        assert_eq!(files, kinds * entries(folder).len(), "{folder}");
    }
    assert!(entries("accept").len() >= golden::accept().len());
    assert!(entries("reject").len() >= golden::reject().len());
}

#[test]
fn old_bytes_decode_to_the_input() {
    for entry in entries("accept") {
        let (stream, values) = (read("accept", &entry, "skv"), read("accept", &entry, "values"));
        assert_eq!(entry["stream_xxh3"], digest(&stream), "{entry}");
        assert_eq!(entry["values_xxh3"], digest(&values), "{entry}");
        let cache = Cache::decode(&stream, &read("accept", &entry, "model"), &Limits::default());
        let cache = cache.unwrap_or_else(|error| panic!("{entry}: {error}"));
        assert!(cache.value_bytes() == values, "{entry}");
    }
}

#[test]
fn the_input_encodes_to_the_old_bytes() {
    for entry in entries("accept") {
        let stream = read("accept", &entry, "skv");
        let cache = Cache::decode(&stream, &read("accept", &entry, "model"), &Limits::default()).unwrap();
        assert!(cache.encode() == stream, "{entry}");
    }
}

#[test]
fn bad_streams_are_refused_by_the_exact_error() {
    for entry in entries("reject") {
        let stream = read("reject", &entry, "skv");
        assert_eq!(entry["stream_xxh3"], digest(&stream), "{entry}");
        let error = Cache::decode(&stream, &read("reject", &entry, "model"), &Limits::default()).err();
        assert_eq!(error.map(|error| error.to_string()).as_deref(), entry["error"].as_str(), "{entry}");
    }
}

#[test]
fn this_build_still_makes_them() {
    for (name, _, cache) in golden::accept() {
        let old = fs::read(root().join("accept").join(name).with_extension("skv")).unwrap();
        assert!(cache.encode() == old, "{name}");
    }
    for (name, _, bytes, _) in golden::reject() {
        let old = fs::read(root().join("reject").join(format!("v2_{name}.skv"))).unwrap();
        assert!(bytes == old, "{name}");
    }
}

#[test]
fn the_vectors_show_what_they_say() {
    let (mut raw, mut coded, mut escapes, mut zones) = (0, 0, 0, 0);
    for (name, _, cache) in golden::accept() {
        let bytes = cache.encode();
        let stream = Stream::parse(&bytes, &Limits::default()).unwrap();
        for (index, planes) in cache.chunks.iter().enumerate() {
            let mut decoder = stream.chunk(index).unwrap().decoder(&cache.header).unwrap();
            for shaped in planes {
                let mode = decoder.mode().unwrap();
                let mut symbols = Vec::new();
                shaped.model().price(&shaped.plane.codes, &mut symbols).unwrap();
                if mode == PlaneMode::Coded {
                    let width = u16::try_from(cache.header.format.width()).unwrap();
                    escapes += symbols.iter().filter(|symbol| symbol.raw_bits == width).count();
                    zones += symbols.iter().filter(|symbol| symbol.raw_bits == width - 1).count();
                }
                raw += usize::from(mode == PlaneMode::Raw);
                coded += usize::from(mode == PlaneMode::Coded);
                assert!(!name.starts_with("v2_zone") || mode == PlaneMode::Coded);
                decoder.next_plane(&shaped.model(), &mut vec![0; shaped.plane.codes.len()]).unwrap();
            }
        }
    }
    assert!(raw >= 8 && coded >= 30 && escapes >= 40 && zones >= 20, "{raw} {coded} {escapes} {zones}");
}
