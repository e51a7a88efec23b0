//! Every kind of bad input has its exit code and one line, and leaves no output behind.

mod common;

use common::{Fixture, LAYERS, fails, noise, ok, speckv, write_model};
use speckv_capture::{Cache, ElementFormat};
use speckv_codec_core::checksum::xxh3;

/// A decompression that must fail.
fn refused(f: &Fixture, code: i32, words: &str, stream: &str, profile: &str, more: &[&str]) {
    let (out, profile) = (f.path("never.safetensors"), f.path(profile));
    let all = args!["decompress", f.path(stream), "--profile", profile, "-o", &out];
    fails(code, words, &out, all.into_iter().chain(more.iter().map(|&m| m.into())));
    assert!(!out.exists());
}

/// A compression that must fail.
fn not_compressed(f: &Fixture, code: i32, words: &str, cache: &str, profile: &str, more: &[&str]) {
    let (out, profile) = (f.path("never.skv"), f.path(profile));
    let all = args!["compress", f.path(cache), "--profile", profile, "-o", &out];
    fails(code, words, &out, all.into_iter().chain(more.iter().map(|&m| m.into())));
    assert!(!out.exists());
}

#[test]
fn profiles() {
    let f = Fixture::new();
    f.compress("bf16.safetensors", "c.skv", &[]);
    f.build("other.speckv", 2);
    refused(&f, 5, "the stream was made with profile", "c.skv", "other.speckv", &[]);

    let profile = f.read("profile.speckv");
    for cut in [0, 7, 100, profile.len() / 2, profile.len() - 1] {
        std::fs::write(f.path("cut.speckv"), &profile[..cut]).unwrap();
        refused(&f, 3, "not a speckv profile", "c.skv", "cut.speckv", &[]);
        not_compressed(&f, 3, "not a speckv profile", "bf16.safetensors", "cut.speckv", &[]);
    }
    // A flipped bit past the description is another profile; within it, none.
    let mut flipped = profile.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(f.path("flipped.speckv"), &flipped).unwrap();
    refused(&f, 5, "the stream was made with profile", "c.skv", "flipped.speckv", &[]);
    // Files of another kind.
    refused(&f, 3, "not a speckv profile", "c.skv", "bf16.safetensors", &[]);
    not_compressed(&f, 3, "not a speckv profile", "bf16.safetensors", "c.skv", &[]);
    refused(&f, 1, "No such file", "c.skv", "missing.speckv", &[]);
}

#[test]
fn models() {
    let f = Fixture::new();
    write_model(&f.path("gpt2"), "gpt2");
    std::fs::create_dir(f.path("empty")).unwrap();
    write_model(&f.path("broken"), "qwen3");
    std::fs::write(f.path("broken/model.safetensors"), b"not weights").unwrap();
    for (model, code, words) in [
        ("gpt2", 3, "unsupported model: found model_type \"gpt2\"; supported: Llama"),
        ("empty", 1, "config.json"),
        ("broken", 3, "not a readable safetensors file"),
        ("missing", 1, "No such file"),
    ] {
        let out = f.path("never.safetensors");
        fails(
            code,
            words,
            &out,
            args!["capture", "--model", f.path(model), "--text", f.path("a.txt"), "-o", &out],
        );
        let out = f.path("never.speckv");
        fails(
            code,
            words,
            &out,
            args!["build", "--model", f.path(model), "--text", f.path("a.txt"), "-o", &out],
        );
    }
    std::fs::write(f.path("latin1.txt"), b"caf\xe9").unwrap();
    std::fs::write(f.path("ids.txt"), "1, 2, 48").unwrap();
    std::fs::write(f.path("words.txt"), "1, two").unwrap();
    std::fs::write(f.path("nothing.txt"), "").unwrap();
    for (what, file, code, words) in [
        ("--text", "latin1.txt", 3, "expected UTF-8 text, found other bytes at 3"),
        ("--text", "nothing.txt", 3, "found none"),
        ("--ids", "ids.txt", 3, "token 2: expected an id below 48, found 48"),
        ("--ids", "words.txt", 3, "found `two`"),
    ] {
        let out = f.path("never.safetensors");
        fails(
            code,
            words,
            &out,
            args!["capture", "--model", f.path("model"), what, f.path(file), "-o", &out],
        );
    }
    let out = f.path("never.safetensors");
    let all = args![
        "capture",
        "--model",
        f.path("model"),
        "--text",
        f.path("a.txt"),
        "--tokens",
        "999",
        "-o",
        &out
    ];
    fails(3, "expected 999 tokens after the first 0, found 200", &out, all);
}

#[test]
fn caches() {
    let f = Fixture::new();
    let mut other = noise(ElementFormat::Bf16, 1, 16);
    other.planes.pop();
    other.layers -= 1;
    other.write(&f.path("other.safetensors")).unwrap();
    let words = format!("the cache has {} layers x 2 KV heads x 16 columns, the profile of", LAYERS - 1);
    not_compressed(&f, 5, &words, "other.safetensors", "profile.speckv", &[]);

    let mut no_ids = noise(ElementFormat::Bf16, 1, 16);
    no_ids.token_ids = None;
    no_ids.write(&f.path("no-ids.safetensors")).unwrap();
    let draft = ["--predictor", "draft"];
    not_compressed(
        &f,
        5,
        "needs token ids: expected `token_ids`",
        "no-ids.safetensors",
        "profile.speckv",
        &draft,
    );
    let mut unknown = noise(ElementFormat::Bf16, 1, 16);
    unknown.token_ids.as_mut().unwrap()[3] = 48;
    unknown.write(&f.path("unknown.safetensors")).unwrap();
    not_compressed(&f, 5, "token id 48", "unknown.safetensors", "profile.speckv", &[]);
    noise(ElementFormat::Bf16, 1, 0).write(&f.path("empty.safetensors")).unwrap();
    not_compressed(&f, 3, "expected at least one token", "empty.safetensors", "profile.speckv", &[]);
    let mut tiny = noise(ElementFormat::E4m3, 1, 16);
    tiny.scales.as_mut().unwrap()[0][0][0] = f32::from_bits(1);
    tiny.write(&f.path("tiny.safetensors")).unwrap();
    not_compressed(&f, 3, "expected positive, normal fp8 scales", "tiny.safetensors", "profile.speckv", &[]);

    let cut = f.read("bf16.safetensors");
    std::fs::write(f.path("cut.safetensors"), &cut[..cut.len() - 1]).unwrap();
    not_compressed(&f, 3, "not a readable safetensors file", "cut.safetensors", "profile.speckv", &[]);
    not_compressed(
        &f,
        3,
        "which is no part of a cache file",
        "model/model.safetensors",
        "profile.speckv",
        &[],
    );
    not_compressed(&f, 1, "No such file", "missing.safetensors", "profile.speckv", &[]);
    let named = ["--precision", "w4a4"];
    not_compressed(&f, 5, "the profile has no predictor", "bf16.safetensors", "profile.speckv", &named);
}

#[test]
fn token_ids_and_prefixes() {
    let f = Fixture::new();
    f.compress("bf16.safetensors", "c.skv", &["--no-token-ids"]);
    refused(&f, 5, "give them with --token-ids", "c.skv", "profile.speckv", &[]);
    let ids = Cache::read(&f.path("bf16.safetensors")).unwrap().token_ids.unwrap();
    let write = |name: &str, ids: &[u32]| std::fs::write(f.path(name), format!("{ids:?}")).unwrap();
    write("short.json", &ids[1..]);
    let mut wrong = ids.clone();
    wrong[20] = (wrong[20] + 1) % 48;
    write("wrong.json", &wrong);
    let with = |name: &str| f.path(name).to_str().unwrap().to_owned();
    let more = ["--token-ids", &with("short.json")];
    refused(
        &f,
        5,
        "expected 40 token ids, one per token of the stream, found 39",
        "c.skv",
        "profile.speckv",
        &more,
    );
    let more = ["--token-ids", &with("wrong.json")];
    refused(&f, 5, "the stream is intact but does not decode", "c.skv", "profile.speckv", &more);

    f.compress("bf16.safetensors", "c.skv", &[]);
    ok(args!["extract", f.path("c.skv"), "--chunk", "2", "-o", f.path("one.skv")]);
    refused(&f, 5, "the stream starts at token 32", "one.skv", "profile.speckv", &[]);
    noise(ElementFormat::Bf16, 1, 32).write(&f.path("wrong.safetensors")).unwrap();
    let more = ["--prefix", &with("wrong.safetensors")];
    refused(&f, 5, "the stream is intact but does not decode", "one.skv", "profile.speckv", &more);
    noise(ElementFormat::Bf16, 1, 31).write(&f.path("short.safetensors")).unwrap();
    let more = ["--prefix", &with("short.safetensors")];
    refused(&f, 5, "expected the 32 tokens before the stream, found 31", "one.skv", "profile.speckv", &more);
    let more = ["--prefix", &with("e4m3.safetensors")];
    refused(&f, 5, "expected a prefix of bf16", "one.skv", "profile.speckv", &more);
    let out = f.path("never.skv");
    fails(
        2,
        "--chunk: expected 0 to 2, found 3",
        &out,
        args!["extract", f.path("c.skv"), "--chunk", "3", "-o", &out],
    );
}

#[test]
fn truncated_streams() {
    let f = Fixture::new();
    f.compress("e4m3.safetensors", "c.skv", &[]);
    let stream = f.read("c.skv");
    // Every length of the header, then a sample.
    let cuts =
        (0..200).step_by(7).chain((200..stream.len()).step_by(stream.len() / 30)).chain([stream.len() - 1]);
    for cut in cuts {
        std::fs::write(f.path("cut.skv"), &stream[..cut]).unwrap();
        refused(&f, 4, "truncated", "cut.skv", "profile.speckv", &[]);
    }
    std::fs::write(f.path("long.skv"), [&stream[..], &[0]].concat()).unwrap();
    refused(&f, 4, "the stream must end with its last payload", "long.skv", "profile.speckv", &[]);
    for command in ["inspect", "verify"] {
        std::fs::write(f.path("cut.skv"), &stream[..stream.len() - 1]).unwrap();
        let mut all = args![command, f.path("cut.skv")].to_vec();
        if command == "verify" {
            all.extend(args!["--profile", f.path("profile.speckv")]);
        }
        fails(4, "truncated", &f.path("never"), all);
    }
}

#[test]
fn flipped_bytes() {
    let f = Fixture::new();
    f.compress("bf16.safetensors", "c.skv", &[]);
    let stream = f.read("c.skv");
    for at in (0..stream.len()).step_by(stream.len() / 61) {
        let mut flipped = stream.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(f.path("flipped.skv"), &flipped).unwrap();
        refused(&f, 4, "flipped.skv", "flipped.skv", "profile.speckv", &[]);
    }
}

#[test]
fn absurd_lengths() {
    let f = Fixture::new();
    f.compress("bf16.safetensors", "c.skv", &["--predictor", "static"]);
    let stream = f.read("c.skv");
    let refused_with = |words: &str, at: usize, bytes: &[u8]| {
        let mut changed = stream.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        // The front is the header, one directory entry a chunk, and its checksum, made right again.
        let end = 72 + 3 * 24;
        let sum = xxh3(&changed[..end]);
        changed[end..end + 8].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(f.path("absurd.skv"), &changed).unwrap();
        refused(&f, 4, words, "absurd.skv", "profile.speckv", &[]);
    };
    refused_with("a stream must have at most 2^24 chunks", 32, &(1u64 << 40).to_le_bytes());
    refused_with("over the caller's limit", 32, &(1u64 << 25).to_le_bytes());
    refused_with("truncated", 32, &(1u64 << 24).to_le_bytes());
    refused_with("tokens must be 1..=2^40", 32, &u64::MAX.to_le_bytes());
    refused_with("chunk length must be 1..=65536", 20, &u32::MAX.to_le_bytes());
    refused_with("layers must be", 14, &u16::MAX.to_le_bytes());
    refused_with("payload length must be within the size bound", 72, &u64::MAX.to_le_bytes());
    refused_with("truncated", 72, &4000u64.to_le_bytes());
    // Fewer tokens than the payloads hold: the directory is shorter, and the checksum is found elsewhere.
    refused_with("damaged header", 32, &16u64.to_le_bytes());
}

#[test]
fn verify_tells_other_caches() {
    let f = Fixture::new();
    f.compress("bf16.safetensors", "c.skv", &[]);
    let mut other = Cache::read(&f.path("bf16.safetensors")).unwrap();
    other.planes[1][0][2 * (16 * (40 + 7) + 3)] ^= 1;
    other.write(&f.path("other.safetensors")).unwrap();
    let (profile, other) = (f.path("profile.speckv"), f.path("other.safetensors"));
    let all = args!["verify", f.path("c.skv"), "--profile", profile, "--cache", other];
    fails(5, "layer 1 key, head 1, token 7, column 3: expected code", &f.path("never"), all);
}

#[test]
fn command_lines() {
    let f = Fixture::new();
    f.compress("bf16.safetensors", "c.skv", &[]);
    let (cache, profile) = (f.path("bf16.safetensors"), f.path("profile.speckv"));
    let never = f.path("never");
    fails(2, "choose another output", &cache, args!["compress", &cache, "--profile", &profile, "-o", &cache]);
    let dotted = f.path("model/../profile.speckv");
    fails(
        2,
        "choose another output",
        &profile,
        args!["decompress", f.path("c.skv"), "--profile", &profile, "-o", dotted],
    );
    let nowhere = f.path("nowhere/out.skv");
    fails(2, "does not exist", &never, args!["compress", &cache, "--profile", &profile, "-o", nowhere]);
    fails(
        2,
        "found a folder",
        &never,
        args!["compress", &cache, "--profile", &profile, "-o", f.path("model")],
    );
    fails(2, "unrecognized subcommand", &never, args!["squash"]);
    fails(2, "--profile", &never, args!["compress", &cache, "-o", &never]);
    fails(
        2,
        "--chunk",
        &never,
        args!["compress", &cache, "--profile", &profile, "--chunk", "0", "-o", &never],
    );
    fails(
        2,
        "need --format",
        &never,
        args![
            "capture",
            "--model",
            f.path("model"),
            "--text",
            f.path("a.txt"),
            "--round-after",
            "-o",
            &never
        ],
    );
    fails(3, "found none of them", &never, args!["inspect", f.path("a.txt")]);
    // Nothing at all is met with help.
    let said = speckv::<&str>([]);
    assert!(said.code == 2 && said.stderr.contains("demo"), "{}", said.stderr);

    // Machines get the error as an object too.
    let said = speckv(args!["inspect", f.path("a.txt"), "--json"]);
    let value: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, &value["exit"]), (3, &3.into()));
    assert!(said.stderr.starts_with("error: ") && said.stderr.contains(value["error"].as_str().unwrap()));
}
