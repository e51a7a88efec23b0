//! What goes in comes back, byte for byte, whatever the options.

mod common;

use common::{Fixture, TOKENS, fails, noise, ok};
use speckv_capture::{Cache, ElementFormat};

fn decompress(f: &Fixture, stream: &str, out: &str) {
    ok(args!["decompress", f.path(stream), "--profile", f.path("profile.speckv"), "-o", f.path(out)]);
}

#[test]
fn cache_files_come_back_as_they_were() {
    let f = Fixture::new();
    let predictors = ["static", "chain", "draft"];
    for (cache, predictor) in ["bf16", "e4m3"].into_iter().flat_map(|c| predictors.map(|p| (c, p))) {
        let file = format!("{cache}.safetensors");
        let report = f.compress(&file, "c.skv", &["--predictor", predictor]);
        assert_eq!(report["predictor"], predictor);
        assert_eq!(report["stream_bytes"], f.read("c.skv").len());
        decompress(&f, "c.skv", "back.safetensors");
        assert!(f.read("back.safetensors") == f.read(&file), "{cache} {predictor}");
        let verified = ok(args![
            "verify",
            f.path("c.skv"),
            "--profile",
            f.path("profile.speckv"),
            "--cache",
            f.path(&file)
        ]);
        assert_eq!((&verified["same_bytes_again"], &verified["cache_equal"]), (&true.into(), &true.into()));
    }
    // The output may be replaced, unlike an input.
    decompress(&f, "c.skv", "back.safetensors");
}

#[test]
fn auto_takes_the_draft_when_it_can() {
    let f = Fixture::new();
    assert_eq!(f.compress("bf16.safetensors", "c.skv", &[])["predictor"], "draft");
    let mut cache = Cache::read(&f.path("bf16.safetensors")).unwrap();
    cache.token_ids = None;
    cache.write(&f.path("no-ids.safetensors")).unwrap();
    assert_eq!(f.compress("no-ids.safetensors", "c.skv", &[])["predictor"], "chain");
    decompress(&f, "c.skv", "back.safetensors");
    assert!(f.read("back.safetensors") == f.read("no-ids.safetensors"));
}

#[test]
fn any_bits_in_any_format_come_back() {
    let f = Fixture::new();
    let formats = [
        (ElementFormat::Bf16, 1),
        (ElementFormat::F16, 1),
        (ElementFormat::E4m3, 2),
        (ElementFormat::E5m2, 1),
    ];
    for (format, scales) in formats {
        // One token; a chunk exactly full.
        for tokens in [1, 16] {
            noise(format, scales, tokens).write(&f.path("noise.safetensors")).unwrap();
            for predictor in ["static", "chain", "draft"] {
                f.compress("noise.safetensors", "c.skv", &["--predictor", predictor]);
                decompress(&f, "c.skv", "back.safetensors");
                assert!(f.read("back.safetensors") == f.read("noise.safetensors"), "{format:?} {predictor}");
            }
        }
    }
}

#[test]
fn long_caches_are_restored_run_by_run() {
    let f = Fixture::new();
    // The codec takes about 2048 tokens at a time; what comes back is put together from such runs.
    noise(ElementFormat::Bf16, 1, 2300).write(&f.path("long.safetensors")).unwrap();
    for (predictor, chunk) in [("static", "16"), ("draft", "256"), ("static", "2300")] {
        let (profile, out) = (f.path("profile.speckv"), f.path("c.skv"));
        let all = args!["compress", f.path("long.safetensors"), "--profile", profile, "-o", out];
        ok(all.into_iter().chain(args!["--chunk", chunk, "--predictor", predictor]));
        decompress(&f, "c.skv", "back.safetensors");
        assert!(f.read("back.safetensors") == f.read("long.safetensors"), "{predictor} {chunk}");
    }
}

#[test]
fn scales_that_are_missing_or_uneven_mean_the_same_afterwards() {
    let f = Fixture::new();
    let mut bare = noise(ElementFormat::E4m3, 1, 20);
    bare.scales = None;
    let mut uneven = noise(ElementFormat::E5m2, 2, 20);
    uneven.scales.as_mut().unwrap()[1][0].truncate(1);
    for cache in [bare, uneven] {
        cache.write(&f.path("odd.safetensors")).unwrap();
        f.compress("odd.safetensors", "c.skv", &[]);
        decompress(&f, "c.skv", "back.safetensors");
        let back = Cache::read(&f.path("back.safetensors")).unwrap();
        assert!((0..2).all(|layer| (0..2).all(|part| {
            let numbers = |c: &Cache| c.values(layer, part).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            numbers(&back) == numbers(&cache)
        })));
        assert!(back.planes == cache.planes);
        let (profile, odd) = (f.path("profile.speckv"), f.path("odd.safetensors"));
        ok(args!["verify", f.path("c.skv"), "--profile", profile, "--cache", odd]);
    }
}

#[test]
fn streams_without_ids_take_them_from_outside() {
    let f = Fixture::new();
    let with = f.compress("bf16.safetensors", "with.skv", &[])["stream_bytes"].as_u64().unwrap();
    let without =
        f.compress("bf16.safetensors", "c.skv", &["--no-token-ids"])["stream_bytes"].as_u64().unwrap();
    assert!(without < with);
    let ids = Cache::read(&f.path("bf16.safetensors")).unwrap().token_ids.unwrap();
    std::fs::write(f.path("ids.json"), format!("{ids:?}")).unwrap();
    for ids in ["ids.json", "bf16.safetensors"] {
        let (profile, out) = (f.path("profile.speckv"), f.path("back.safetensors"));
        ok(args!["decompress", f.path("c.skv"), "--profile", profile, "--token-ids", f.path(ids), "-o", out]);
        assert!(f.read("back.safetensors") == f.read("bf16.safetensors"));
    }
}

#[test]
fn chunks_are_restored_alone_behind_their_prefix() {
    let f = Fixture::new();
    for cache in ["bf16.safetensors", "e4m3.safetensors"] {
        f.compress(cache, "c.skv", &[]);
        let whole = Cache::read(&f.path(cache)).unwrap();
        for (chunk, tokens) in [(0, 0..16), (1, 16..32), (2, 32..TOKENS)] {
            let report =
                ok(args!["extract", f.path("c.skv"), "--chunk", chunk.to_string(), "-o", f.path("one.skv")]);
            assert_eq!(
                (&report["first_token"], &report["tokens"]),
                (&tokens.start.into(), &tokens.len().into())
            );
            // The prefix may be longer than what comes before the chunk.
            let mut all =
                args!["decompress", f.path("one.skv"), "--profile", f.path("profile.speckv")].to_vec();
            all.extend(args!["--prefix", f.path(cache), "-o", f.path("one.safetensors")]);
            ok(&all);
            let one = Cache::read(&f.path("one.safetensors")).unwrap();
            assert_eq!(one.token_ids.as_deref(), whole.token_ids.as_ref().map(|ids| &ids[tokens.clone()]));
            assert_eq!(one.tokens, tokens.len());
            let verified = ok(args![
                "verify",
                f.path("one.skv"),
                "--profile",
                f.path("profile.speckv"),
                "--prefix",
                f.path(cache),
                "--cache",
                f.path(cache)
            ]);
            assert_eq!(
                (&verified["same_bytes_again"], &verified["cache_equal"]),
                (&true.into(), &true.into())
            );
        }
    }
}

#[test]
fn what_a_cache_has_gained_is_a_stream_of_the_same_chunks() {
    let f = Fixture::new();
    f.compress("bf16.safetensors", "whole.skv", &[]);
    f.compress("bf16.safetensors", "gained.skv", &["--from", "16"]);
    ok(&args!["extract", f.path("whole.skv"), "--chunk", "1", "-o", f.path("a.skv")]);
    ok(&args!["extract", f.path("gained.skv"), "--chunk", "0", "-o", f.path("b.skv")]);
    assert_eq!(std::fs::read(f.path("a.skv")).unwrap(), std::fs::read(f.path("b.skv")).unwrap());
}

#[test]
fn threads_change_no_bit() {
    let f = Fixture::new();
    f.compress("e4m3.safetensors", "one.skv", &["--threads", "1"]);
    f.compress("e4m3.safetensors", "three.skv", &["--threads", "3"]);
    assert!(f.read("one.skv") == f.read("three.skv"));
}

#[test]
fn captures_have_the_format_asked_for() {
    let f = Fixture::new();
    let capture = |out: &str, more: &[&str]| {
        let all = args!["capture", "--model", f.path("model"), "--text", f.path("a.txt"), "-o", f.path(out)];
        ok(all.into_iter().chain(more.iter().map(|&m| m.into())));
        Cache::read(&f.path(out)).unwrap()
    };
    let fine = capture("fine.safetensors", &["--skip", "3", "--tokens", "20"]);
    assert_eq!((fine.format, fine.tokens), (ElementFormat::Bf16, 20));
    let words = common::text(1, 200);
    let fourth = words.split(' ').nth(3).unwrap();
    assert_eq!(format!("w{}", fine.token_ids.unwrap()[0]), fourth);
    let other = f.path("e4m3.safetensors");
    let fixed = capture("fixed.safetensors", &["--format", "e4m3", "--scales-from", other.to_str().unwrap()]);
    assert_eq!(fixed.scales, Cache::read(&other).unwrap().scales);
    let rounded = capture("rounded.safetensors", &["--format", "e5m2", "--round-after", "--tokens", "20"]);
    assert_eq!(rounded.format, ElementFormat::E5m2);
    assert_eq!(capture("all.safetensors", &[]).tokens, 200);
    let heads = capture("heads.safetensors", &["--format", "e4m3", "--scale-per-head", "--tokens", "20"]);
    assert!(heads.scales.unwrap().iter().flatten().all(|list| list.len() == heads.kv_heads));
    for predictor in ["static", "chain", "draft"] {
        f.compress("heads.safetensors", "c.skv", &["--predictor", predictor]);
        decompress(&f, "c.skv", "back.safetensors");
        assert!(f.read("back.safetensors") == f.read("heads.safetensors"), "{predictor}");
    }
}

#[test]
fn profiles_from_caches_alone_have_no_draft() {
    let f = Fixture::new();
    let mut cache = Cache::read(&f.path("bf16.safetensors")).unwrap();
    cache.token_ids = None;
    cache.write(&f.path("no-ids.safetensors")).unwrap();
    // Enough tokens to learn the tokens' vectors from.
    std::fs::write(f.path("long.txt"), common::text(9, 1100)).unwrap();
    let (model, long) = (f.path("model"), f.path("long.txt"));
    ok(args!["capture", "--model", model, "--text", long, "-o", f.path("long.safetensors")]);
    let without = vec!["static ", "chain no-ids"];
    let with = vec!["static ", "chain no-ids", "chain ids"];
    for (file, modes) in [("no-ids", without.clone()), ("bf16", without), ("long", with)] {
        let (cache, out) = (f.path(&format!("{file}.safetensors")), f.path("chain.speckv"));
        ok(args!["build", "--cache", cache, "--rope-theta", "10000", "-o", out]);
        let about = ok(args!["inspect", f.path("chain.speckv")]);
        let word = |m: &serde_json::Value, key: &str| m[key].as_str().unwrap().to_owned();
        let found: Vec<String> = about["predictors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| format!("{} {}", word(m, "predictor"), word(m, "precision")))
            .collect();
        assert_eq!(found, modes);
        // A cache that the profile never saw, with ids that it partly never saw.
        for (cache, best) in [("no-ids", "no-ids"), ("e4m3", "")] {
            let cache = f.path(&format!("{cache}.safetensors"));
            let profile = f.path("chain.speckv");
            let args = args!["compress", cache.clone(), "--profile", profile, "-o", f.path("c.skv")];
            if best.is_empty() {
                fails(
                    5,
                    "has no predictor for e4m3 caches; it has: static (16-bit), chain no-ids (16-bit)",
                    &f.path("c.skv"),
                    args,
                );
                continue;
            }
            assert_eq!(ok(args)["precision"], best);
            let profile = f.path("chain.speckv");
            ok(args!["decompress", f.path("c.skv"), "--profile", profile, "-o", f.path("back.safetensors")]);
            assert!(f.read("back.safetensors") == std::fs::read(cache).unwrap());
        }
    }
    let profile = f.path("chain.speckv");
    let report =
        ok(args!["compress", f.path("bf16.safetensors"), "--profile", profile, "-o", f.path("c.skv")]);
    assert_eq!((&report["predictor"], &report["precision"]), (&"chain".into(), &"ids".into()));
    let profile = f.path("chain.speckv");
    ok(args!["decompress", f.path("c.skv"), "--profile", profile, "-o", f.path("back.safetensors")]);
    assert!(f.read("back.safetensors") == f.read("bf16.safetensors"));
}

#[test]
fn every_precision_comes_back_and_others_are_refused_by_name() {
    let f = Fixture::new();
    let build = |out: &str, precisions: &str| {
        args![
            "build",
            "--model",
            f.path("model"),
            "--text",
            f.path("a.txt"),
            f.path("b.txt"),
            "--tokens",
            "40",
            "--sequences",
            "3",
            "--precisions",
            precisions,
            "-o",
            f.path(out)
        ]
    };
    ok(build("all.speckv", "all"));
    fails(3, "there is no precision `w4a4`", &f.path("x.speckv"), build("x.speckv", "w4a4"));
    fails(3, "build that too", &f.path("x.speckv"), build("x.speckv", "w8a8,w16a16-open"));
    let compress = |cache: &str, predictor: &str, precision: &str| {
        args![
            "compress",
            f.path(cache),
            "--profile",
            f.path("all.speckv"),
            "--predictor",
            predictor,
            "--precision",
            precision,
            "-o",
            f.path("c.skv")
        ]
    };
    let drafts = ["w8a8+kv16", "w8a8", "w8a16+kv16", "w16a16", "w8a8+kv16-open"].map(|p| ("draft", p));
    for (predictor, precision) in drafts.into_iter().chain([("chain", "ids"), ("chain", "no-ids")]) {
        for cache in ["bf16.safetensors", "e4m3.safetensors"] {
            let report = ok(compress(cache, predictor, precision));
            assert_eq!((&report["predictor"], &report["precision"]), (&predictor.into(), &precision.into()));
            let profile = f.path("all.speckv");
            ok(args!["decompress", f.path("c.skv"), "--profile", profile, "-o", f.path("back.safetensors")]);
            assert!(f.read("back.safetensors") == f.read(cache), "{cache} {predictor} {precision}");
        }
    }
    // The default profile has one precision: the stream of another names what is missing.
    let profile = f.path("profile.speckv");
    let args = args![
        "compress",
        f.path("bf16.safetensors"),
        "--profile",
        profile,
        "--precision",
        "w16a16",
        "-o",
        f.path("d.skv")
    ];
    fails(5, "has no predictor of precision `w16a16`", &f.path("d.skv"), args);
}

#[test]
fn builds_repeat() {
    let f = Fixture::new();
    let report = f.build("again.speckv", 1);
    assert!(f.read("again.speckv") == f.read("profile.speckv"));
    // Three sequences in turn from a text of five and one of two.
    let used: Vec<_> =
        report["used"].as_array().unwrap().iter().map(|u| u["sequences"].as_u64().unwrap()).collect();
    assert_eq!(used, [2, 1]);
}
