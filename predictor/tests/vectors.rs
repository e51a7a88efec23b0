//! The golden streams of predictors: old bytes decode to their values, the values encode to the old bytes, what is bad fails by name.

use std::collections::BTreeSet;
use std::fs;

use speckv_predictor::Portable;
use speckv_predictor::codec::{kind_of, parse};
use speckv_predictor::core::checksum::xxh3;
use speckv_predictor::core::{ElementFormat, Limits};
use speckv_predictor::synthetic::MODES;

#[path = "common/cases.rs"]
mod cases;
mod common;
#[path = "common/vectors.rs"]
mod vectors;
use vectors::{entries, read, root};

fn digest(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3(bytes))
}

#[test]
fn old_bytes_and_inputs_give_each_other_and_bad_ones_the_exact_error() {
    let [accepted, rejected] = vectors::check(&Portable::new());
    assert!(accepted >= 39 && rejected >= 27, "{accepted} {rejected}");
}

#[test]
fn the_manifest_lists_every_file() {
    let count = |folder: &str| fs::read_dir(root().join(folder)).unwrap().count();
    let (accept, reject) = (entries("accept"), entries("reject"));
    let own = reject.iter().filter(|entry| entry["profile"].is_null()).count();
    assert_eq!(count("accept"), accept.len());
    assert_eq!(count("reject"), reject.len() + own);
    for (list, folder, extension) in
        [("profiles", "profiles", "speckv"), ("caches", "caches", "values"), ("accept", "accept", "skv")]
    {
        assert_eq!(count(folder), entries(list).len(), "{folder}");
        for entry in entries(list) {
            assert_eq!(entry["xxh3"], digest(&read(folder, &entry["name"], extension)), "{entry}");
        }
    }
    for entry in reject {
        assert_eq!(entry["xxh3"], digest(&read("reject", &entry["name"], "skv")), "{entry}");
    }
}

#[test]
fn this_build_still_makes_them() {
    for (name, make) in cases::profiles() {
        assert!(make.profile().unwrap() == read("profiles", &name.into(), "speckv"), "{name}");
    }
    for (name, cache) in cases::caches() {
        assert!(cache.bytes() == read("caches", &name.as_str().into(), "values"), "{name}");
    }
    for case in cases::accept() {
        assert!(case.stream == read("accept", &case.name.as_str().into(), "skv"), "{}", case.name);
    }
    for case in cases::reject() {
        let name = format!("v2_{}", case.name).into();
        assert!(case.stream == read("reject", &name, "skv"), "{}", case.name);
        assert!(case.own.is_none_or(|own| own == read("reject", &name, "speckv")), "{}", case.name);
    }
}

#[test]
fn the_vectors_show_what_they_say() {
    let (mut shown, mut planes, mut raw) = (BTreeSet::new(), 0, 0);
    for entry in entries("accept") {
        let bytes = read("accept", &entry["name"], "skv");
        let stream = parse(&bytes, &Limits::default()).unwrap();
        let header = stream.header();
        shown.insert((
            kind_of(header).unwrap().name(),
            header.precision.as_str().to_string(),
            header.format.name(),
        ));
        for index in 0..stream.directory().len() {
            let payload = stream.chunk(index).unwrap().payload;
            let count = header.geometry.planes();
            planes += count;
            raw += (0..count).filter(|p| payload[p / 8] >> (p % 8) & 1 == 1).count();
        }
    }
    for (kind, precision) in MODES {
        for format in ElementFormat::ALL {
            let wanted = (kind.name(), precision.to_string(), format.name());
            assert!(shown.contains(&wanted), "{wanted:?}");
        }
    }
    // Planes stored raw would show nothing of predictions.
    assert!(raw * 20 < planes, "{raw} of {planes} planes are raw");
}
