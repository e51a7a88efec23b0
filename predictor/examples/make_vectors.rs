//! Writes the golden streams of predictors of this version:
//! `cargo run -p speckv-predictor --example make_vectors`.
//!
//! Existing files are never overwritten: golden bytes change by a new format version and new names, not by a new run.

use std::fs;
use std::io::{Error, Result, Write};

use serde_json::{Value, json};
use speckv_predictor::Portable;
use speckv_predictor::core::checksum::xxh3;

#[path = "../tests/common/cases.rs"]
mod cases;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/vectors.rs"]
mod vectors;

fn main() -> Result<()> {
    let path = vectors::root().join("MANIFEST.json");
    let mut manifest = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(Error::other)?,
        Err(_) => json!({"profiles": [], "caches": [], "accept": [], "reject": []}),
    };
    let (mut written, version) = (0, cases::VERSION);
    for (name, make) in cases::profiles() {
        let bytes = make.profile().map_err(Error::other)?;
        let entry = json!({"name": name, "version": version, "xxh3": hex(&bytes)});
        written += add(&mut manifest, "profiles", entry, &[("speckv", bytes)])?;
    }
    for (name, cache) in cases::caches() {
        let bytes = cache.bytes();
        let entry = json!({"name": name, "version": version, "tokens": cache.tokens, "xxh3": hex(&bytes)});
        written += add(&mut manifest, "caches", entry, &[("values", bytes)])?;
    }
    for case in cases::accept() {
        let entry = json!({
            "name": case.name, "version": version, "feature": case.feature, "profile": case.profile, "cache": case.cache,
            "xxh3": hex(&case.stream),
        });
        written += add(&mut manifest, "accept", entry, &[("skv", case.stream)])?;
    }
    for case in cases::reject() {
        let name = format!("v2_{}", case.name);
        let profile = match (&case.own, case.profile) {
            (Some(own), _) => own.clone(),
            (None, name) => vectors::read("profiles", &name.into(), "speckv"),
        };
        let Some(error) = vectors::refusal(&Portable::new(), &profile, &case.stream) else {
            panic!("{name} is accepted");
        };
        let entry = json!({
            "name": name, "version": version, "feature": case.feature, "profile": case.profile, "kind": case.kind,
            "error": error.to_string(), "xxh3": hex(&case.stream),
        });
        let mut files = vec![("skv", case.stream)];
        files.extend(case.own.map(|own| ("speckv", own)));
        written += add(&mut manifest, "reject", entry, &files)?;
    }
    if written > 0 {
        fs::write(&path, format!("{manifest:#}\n"))?;
    }
    println!("{written} vectors written");
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3(bytes))
}

/// Adds one vector to the list and the folder of its kind unless it is there; returns how many were added.
fn add(manifest: &mut Value, list: &str, entry: Value, files: &[(&str, Vec<u8>)]) -> Result<usize> {
    let all = manifest[list].as_array_mut().expect("the manifest has all lists");
    let name = entry["name"].as_str().expect("a name");
    if let Some(old) = all.iter().find(|old| old["name"] == name) {
        let verdict = if *old == entry { "unchanged" } else { "DIFFERS from what this build makes; kept" };
        println!("{list}/{name}: {verdict}");
        return Ok(0);
    }
    let folder = vectors::root().join(list);
    fs::create_dir_all(&folder)?;
    for (extension, bytes) in files {
        // Fails if the file exists. Names have dots and pluses in them, so the extension is added, not set.
        fs::File::create_new(folder.join(format!("{name}.{extension}")))?.write_all(bytes)?;
    }
    all.push(entry);
    Ok(1)
}
