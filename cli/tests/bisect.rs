//! `speckv bisect`, and what a pipe gives.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{Fixture, fails, ok};

#[test]
fn backends_agree_on_every_operation() {
    let f = Fixture::new();
    for (cache, predictor) in [("bf16.safetensors", "draft"), ("e4m3.safetensors", "chain")] {
        let said = ok(args![
            "bisect",
            "portable",
            "scalar",
            f.path(cache),
            "--profile",
            f.path("profile.speckv"),
            "--predictor",
            predictor,
            "--chunk",
            "16"
        ]);
        // Three runs of chunks would be one run here: each plane comes back once.
        assert_eq!(said["planes"], 2 * common::LAYERS * 2);
        assert!(said["difference"].is_null());
    }
    let never = f.path("never");
    for (a, b, words) in [
        ("portable", "portable", "`portable` twice"),
        ("scalar", "scalar", "`scalar` twice"),
        ("portable", "abacus", "`abacus`: expected portable or a CPU path"),
    ] {
        let all = args!["bisect", a, b, f.path("bf16.safetensors"), "--profile", f.path("profile.speckv")];
        fails(2, words, &never, all);
    }
}

#[cfg(unix)]
#[test]
fn a_stream_may_come_from_a_pipe() {
    let f = Fixture::new();
    f.compress("bf16.safetensors", "c.skv", &[]);
    let stream = f.read("c.skv");
    let out = f.path("out.safetensors");
    for (bytes, code) in [(&stream[..], 0), (&stream[..stream.len() / 2], 4), (&[], 4)] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_speckv"))
            .args(args!["decompress", "/dev/stdin", "--profile", f.path("profile.speckv"), "-o", &out])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        let said = child.wait_with_output().unwrap();
        assert_eq!(said.status.code(), Some(code), "{}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(out.exists(), code == 0);
        if code == 0 {
            std::fs::remove_file(&out).unwrap();
        }
    }
}
