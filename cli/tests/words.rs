//! What the command says when all is well: help, inspections, the demo.

mod common;

use common::{Fixture, ok, speckv};

const COMMANDS: [&str; 8] =
    ["demo", "build", "capture", "compress", "decompress", "verify", "inspect", "extract"];

#[test]
fn help_teaches() {
    let all = speckv(args!["--help"]).stdout;
    for line in COMMANDS.into_iter().chain(["Exit codes:", "4  the stream is damaged"]) {
        assert!(all.contains(line), "{line}: {all}");
    }
    for command in COMMANDS {
        let said = speckv(args![command, "--help"]);
        assert_eq!(said.code, 0);
        assert!(said.stdout.contains(&format!("Examples:\n  speckv {command}")), "{}", said.stdout);
    }
}

#[test]
fn inspections() {
    let f = Fixture::new();
    f.compress("e4m3.safetensors", "c.skv", &["--predictor", "static"]);
    let stream = ok(args!["inspect", f.path("c.skv")]);
    assert_eq!((&stream["kind"], &stream["predictor"]), (&"stream".into(), &"static".into()));
    assert_eq!(stream["chunks"].as_array().unwrap().len(), 3);
    assert_eq!(stream["bytes"], f.read("c.skv").len());
    let payloads: u64 =
        stream["chunks"].as_array().unwrap().iter().map(|c| c["payload_bytes"].as_u64().unwrap()).sum();
    assert_eq!(stream["bytes"].as_u64(), Some(payloads + stream["front_bytes"].as_u64().unwrap()));

    let profile = ok(args!["inspect", f.path("profile.speckv")]);
    assert_eq!((&profile["kind"], &profile["target"]), (&"profile".into(), &"model".into()));
    assert_eq!(profile["digest"], stream["profile"]);
    let cache = ok(args!["inspect", f.path("e4m3.safetensors")]);
    assert_eq!((&cache["kind"], &cache["format"]), (&"cache".into(), &"e4m3".into()));
    assert_eq!((&cache["tokens"], &cache["scales_per_part"]), (&40.into(), &1.into()));

    for name in ["c.skv", "profile.speckv", "e4m3.safetensors"] {
        let said = speckv(args!["inspect", f.path(name), "--quiet"]);
        assert!(
            said.code == 0 && said.stderr.is_empty() && said.stdout.lines().count() > 3,
            "{}",
            said.stdout
        );
    }
    // Quiet commands that write files say nothing at all.
    let all = args!["extract", f.path("c.skv"), "--chunk", "1", "-o", f.path("one.skv"), "--quiet"];
    let said = speckv(all);
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (0, "", ""));
}

#[test]
fn the_demo_shows_that_every_bit_came_back() {
    let value = ok(args!["demo", "--tokens", "300"]);
    assert_eq!(value["equal"], true);
    for format in value["formats"].as_array().unwrap() {
        let rows = format["rows"].as_array().unwrap();
        let rate = |at: usize| rows[at]["bits_per_scalar"].as_f64().unwrap();
        let names: Vec<_> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["raw", "zstd -19", "byte-planes + zstd -19", "static", "chain", "draft"]);
        // The draft beats statistics, and statistics beat what knows nothing of caches.
        assert!(rate(4) < rate(3) && rate(3) < rate(2) && rate(2) < rate(0), "{format:#}");
    }
    let said = speckv(args!["demo", "--tokens", "64"]);
    assert!(said.stdout.contains("Every bit came back"), "{}", said.stdout);
}
