//! Writes the golden streams of this version: `cargo run -p speckv-codec-core --example make_vectors`.
//!
//! Existing files are never overwritten: golden bytes change by a new format version and new names, not by a new run.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use speckv_codec_core::Limits;
use speckv_codec_core::checksum::xxh3;

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/golden.rs"]
mod golden;
#[path = "../tests/common/streams.rs"]
mod streams;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let manifest_path = root.join("MANIFEST.json");
    let mut manifest = match fs::read(&manifest_path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(std::io::Error::other)?,
        Err(_) => json!({"accept": [], "reject": []}),
    };
    let mut written = 0;
    for folder in ["accept", "reject"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for (name, feature, cache) in golden::accept() {
        let stream = cache.encode();
        let entry = json!({
            "name": name, "version": golden::VERSION, "feature": feature, "stream_xxh3": hex(&stream),
            "values_xxh3": hex(&cache.value_bytes()),
        });
        let files = [("skv", stream), ("model", cache.model_bytes()), ("values", cache.value_bytes())];
        written += add(&root, &mut manifest, "accept", name, entry, &files)?;
    }
    for (name, feature, stream, cache) in golden::reject() {
        let name = format!("v2_{name}");
        let Err(error) = streams::Cache::decode(&stream, &cache.model_bytes(), &Limits::default()) else {
            panic!("{name} decodes");
        };
        let entry = json!({
            "name": name, "version": golden::VERSION, "feature": feature, "stream_xxh3": hex(&stream),
            "error": error.to_string(),
        });
        let files = [("skv", stream), ("model", cache.model_bytes())];
        written += add(&root, &mut manifest, "reject", &name, entry, &files)?;
    }
    if written > 0 {
        fs::write(&manifest_path, format!("{manifest:#}\n"))?;
    }
    println!("{written} vectors written");
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3(bytes))
}

/// Adds one vector unless it is there; returns how many were added.
fn add(
    root: &Path,
    manifest: &mut Value,
    folder: &str,
    name: &str,
    entry: Value,
    files: &[(&str, Vec<u8>)],
) -> std::io::Result<usize> {
    let list = manifest[folder].as_array_mut().expect("the manifest has both lists");
    if let Some(old) = list.iter().find(|old| old["name"] == name) {
        let verdict = if *old == entry { "unchanged" } else { "DIFFERS from what this build makes; kept" };
        println!("{folder}/{name}: {verdict}");
        return Ok(0);
    }
    for (extension, bytes) in files {
        let path = root.join(folder).join(name).with_extension(extension);
        // Fails if the file exists.
        std::io::Write::write_all(&mut fs::File::create_new(path)?, bytes)?;
    }
    list.push(entry);
    Ok(1)
}
