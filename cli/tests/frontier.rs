//! `speckv frontier`: its numbers are those of the streams that `speckv compress` writes, its tables and its picture say the same.

mod common;

use common::{Fixture, LAYERS, fails, ok, speckv, text};
use serde_json::Value;
use speckv_capture::Cache;

/// Tokens of each text.
const TOKENS: usize = 60;

/// A fixture with two texts to measure.
fn fixture() -> Fixture {
    let f = Fixture::new();
    std::fs::write(f.path("one.txt"), text(11, 100)).unwrap();
    std::fs::write(f.path("two.txt"), text(12, TOKENS)).unwrap();
    f
}

/// Arguments that measure both texts.
fn texts(f: &Fixture, more: &[&str]) -> Vec<std::ffi::OsString> {
    let (model, profile) = (f.path("model"), f.path("profile.speckv"));
    let (one, two) = (f.path("one.txt"), f.path("two.txt"));
    let all = args![
        "frontier",
        "--model",
        model,
        "--text",
        one,
        two,
        "--tokens",
        TOKENS.to_string(),
        "--profile",
        profile
    ];
    all.into_iter().chain(more.iter().map(|&m| m.into())).collect()
}

/// Scalars of one text's cache.
fn scalars(cache: &Cache) -> u64 {
    (2 * cache.layers * cache.kv_heads * cache.head_dim * cache.tokens) as u64
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"))
}

#[test]
fn rows_are_the_streams_that_compress_writes() {
    let f = fixture();
    let report = ok(texts(&f, &["--layers"]));
    assert_eq!((&report["target"], &report["equal"]), (&"model".into(), &true.into()));
    let mut seen = 0;
    for format in ["bf16", "e4m3"] {
        for name in ["one", "two"] {
            let out = f.path(&format!("{name}-{format}.safetensors"));
            let (model, text) = (f.path("model"), f.path(&format!("{name}.txt")));
            let tokens = TOKENS.to_string();
            let all = args![
                "capture", "--model", model, "--text", text, "--tokens", tokens, "--format", format, "-o",
                out
            ];
            ok(all);
        }
        let rows = report["rows"].as_array().unwrap().iter().filter(|row| row["format"] == format);
        for row in rows {
            let (mut bytes, mut all) = (0, 0);
            for name in ["one", "two"] {
                let cache = f.path(&format!("{name}-{format}.safetensors"));
                all += scalars(&Cache::read(&cache).unwrap());
                let [predictor, precision] = ["predictor", "precision"].map(|k| row[k].as_str().unwrap());
                let (profile, out) = (f.path("profile.speckv"), f.path("c.skv"));
                let words =
                    args!["compress", cache, "--profile", profile, "-o", out, "--predictor", predictor];
                let precision = args!["--precision", precision];
                ok(words.into_iter().chain(precision.into_iter().filter(|_| row["precision"] != "")));
                bytes += f.read("c.skv").len() as u64;
            }
            assert_eq!(
                (row["stream_bytes"].as_u64(), row["scalars"].as_u64()),
                (Some(bytes), Some(all)),
                "{row}"
            );
            assert_eq!((&row["texts"], &row["tokens"]), (&2.into(), &(2 * TOKENS).into()));
            let bits = number(row, "bits_per_scalar");
            assert!((bits - 8.0 * bytes as f64 / all as f64).abs() < 1e-4);
            let width = if format == "bf16" { 16.0 } else { 8.0 };
            assert!((number(row, "ratio") - width / bits).abs() < 1e-3);
            // Prices leave out headers, token ids and states: a little, and never more than what is there.
            let price = (number(row, "k_bits_per_scalar") + number(row, "v_bits_per_scalar")) / 2.0;
            let container = (bits - price) * all as f64 / 8.0 / 2.0;
            assert!((150.0..450.0).contains(&container), "{container} bytes a stream: {row}");
            let layers = row["layers"].as_array().unwrap();
            assert_eq!(layers.len(), LAYERS);
            let mean = layers.iter().map(|l| l[0].as_f64().unwrap()).sum::<f64>() / LAYERS as f64;
            assert!((mean - number(row, "k_bits_per_scalar")).abs() < 1e-3, "{row}");
            for key in ["compress_seconds", "decompress_seconds", "prefill_seconds", "compress_share"] {
                assert!(number(row, key) > 0.0, "{row}");
            }
            match row["predictor"].as_str().unwrap() {
                "static" => assert_eq!(number(row, "work_share"), 0.0),
                _ => assert!((0.001..8.0).contains(&number(row, "work_share")), "{row}"),
            }
            seen += 1;
        }
    }
    assert!(seen >= 4 && seen == report["rows"].as_array().unwrap().len());

    // The same caches from files; nobody measured the target there.
    let (one, two, profile) =
        (f.path("one-e4m3.safetensors"), f.path("two-e4m3.safetensors"), f.path("profile.speckv"));
    let again = ok(args!["frontier", one, "--cache", two, "--profile", profile]);
    let rows = again["rows"].as_array().unwrap();
    let before: Vec<&Value> =
        report["rows"].as_array().unwrap().iter().filter(|row| row["format"] == "e4m3").collect();
    assert_eq!(rows.len(), before.len());
    for (row, before) in rows.iter().zip(before) {
        for key in ["predictor", "precision", "stream_bytes", "k_bits_per_scalar", "work_share"] {
            assert_eq!(row[key], before[key]);
        }
        assert!(
            row["prefill_seconds"].is_null() && row["decompress_share"].is_null() && row["layers"].is_null()
        );
    }
}

#[test]
fn table_and_picture_hold_every_row() {
    let f = fixture();
    let (csv, svg) = (f.path("out.csv"), f.path("out.svg"));
    let files = ["--csv", csv.to_str().unwrap(), "--svg", svg.to_str().unwrap(), "--published"];
    let report = ok(texts(&f, &files));
    let rows = report["rows"].as_array().unwrap();
    let table = std::fs::read_to_string(&csv).unwrap();
    let mut lines = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap();
    for column in ["predictor", "precision", "format", "bits", "work_share", "k_bits", "v_bits", "compress_s"]
    {
        assert!(head.contains(&column), "{column}: {head:?}");
    }
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines.len(), rows.len());
    let picture = std::fs::read_to_string(&svg).unwrap();
    for (line, row) in lines.iter().zip(rows) {
        assert_eq!(line.len(), head.len());
        let cell = |name: &str| line[head.iter().position(|h| *h == name).unwrap()];
        for key in ["predictor", "precision", "format"] {
            assert_eq!(cell(key), row[key]);
        }
        for (column, key) in
            [("bits", "bits_per_scalar"), ("v_bits", "v_bits_per_scalar"), ("work_share", "work_share")]
        {
            assert!((cell(column).parse::<f64>().unwrap() - number(row, key)).abs() < 1e-4, "{line:?} {row}");
        }
        let ideal = row["predictor"] == "published";
        assert_eq!(cell("measured"), if ideal { "ideal" } else { "streams" });
        let inspected = ok(args!["inspect", f.path("profile.speckv")]);
        let used = inspected["predictors"].as_array().unwrap().iter().find(|m| {
            m["predictor"] == row["predictor"]
                && m["precision"] == row["precision"]
                && (m["caches"] == "8-bit") == (row["format"] == "e4m3")
        });
        let bytes = if ideal { String::new() } else { used.unwrap()["bytes"].to_string() };
        assert_eq!(cell("profile_bytes"), bytes);
        // A point is labelled by its precision, if it has one, and its bits.
        let label = format!(": {:.2}\n", number(row, "bits_per_scalar"));
        let name = if row["precision"] == "" { cell("predictor") } else { cell("precision") };
        assert!(picture.contains(&format!("{name}{label}")), "{name}{label}: {picture}");
    }
    for words in
        ["raw bf16: 16 bits", "raw e4m3: 8 bits", "ideal code length, simulated", "2 texts of 60 tokens"]
    {
        assert!(picture.contains(words), "{words}");
    }
    well_formed(&picture);

    let said = speckv(texts(&f, &["--predictor", "static,draft", "--format", "e4m3"]));
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout.contains("e4m3 cache") && !said.stdout.contains("bf16 cache"), "{}", said.stdout);
    assert!(said.stderr.is_empty(), "{}", said.stderr);
}

/// Every tag is closed in order, attributes are quoted, and text holds nothing that needs escaping.
fn well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg.trim();
    assert!(rest.starts_with("<svg "));
    while let Some(at) = rest.find('<') {
        assert!(!rest[..at].contains('>') && (!open.is_empty() || rest[..at].trim().is_empty()));
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split_whitespace().next().unwrap()),
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
}

#[test]
fn the_published_scheme_is_simulated_on_the_same_caches() {
    let f = fixture();
    let report = ok(texts(&f, &["--published", "--predictor", "static", "--round-after"]));
    for format in ["bf16", "e4m3"] {
        let row = |predictor: &str| {
            let mut rows = report["rows"].as_array().unwrap().iter();
            rows.find(|row| row["format"] == format && row["predictor"] == predictor).unwrap()
        };
        let (published, plain) = (row("published"), row("static"));
        // It runs the whole target: its predictions are far better than statistics, and are no stream.
        assert!(
            number(published, "bits_per_scalar") < number(plain, "bits_per_scalar") - 2.0,
            "{published} {plain}"
        );
        assert!(number(published, "bits_per_scalar") > 0.5, "{published}");
        assert_eq!((number(published, "work_share"), &published["ideal"]), (1.0, &true.into()));
        assert!(published["stream_bytes"].is_null() && published["compress_seconds"].is_null());
        assert_eq!((&plain["ideal"], &published["texts"]), (&false.into(), &2.into()));
    }
}

#[test]
fn a_trained_model_shows_the_order_of_things() {
    let f = fixture();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = std::fs::read_to_string(root.join("assets/demo.txt")).unwrap();
    let middle = (all.len() / 2..).find(|&at| all.is_char_boundary(at)).unwrap();
    std::fs::write(f.path("first.txt"), &all[..middle]).unwrap();
    std::fs::write(f.path("second.txt"), &all[middle..]).unwrap();
    let model = root.join("../models/tiny-qwen3");
    let (profile, first, second) = (model.join("profile.speckv"), f.path("first.txt"), f.path("second.txt"));
    let words =
        args!["frontier", "--model", model, "--text", first, second, "--tokens", "128", "--profile", profile];
    let report = ok(words.into_iter().chain(args!["--published"]));
    for format in ["bf16", "e4m3"] {
        let best = |predictor: &str| {
            let rows = report["rows"].as_array().unwrap().iter();
            let rows = rows.filter(|row| row["format"] == format && row["predictor"] == predictor);
            rows.map(|row| number(row, "bits_per_scalar")).fold(f64::INFINITY, f64::min)
        };
        let [draft, published, plain] = ["draft", "published", "static"].map(best);
        assert!(draft < published && published < plain, "{format}: {draft} {published} {plain}");
    }
}

/// What is fitted to one short cache must not have learnt it by heart.
#[test]
fn a_chain_from_one_cache_helps_with_others() {
    let f = fixture();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = root.join("../models/tiny-qwen3");
    let code = root.join("../models/calibration/code-python-library.txt");
    for (text, out) in [(code, "code.safetensors"), (root.join("assets/demo.txt"), "demo.safetensors")] {
        ok(args!["capture", "--model", &model, "--text", text, "--tokens", "400", "-o", f.path(out)]);
    }
    let profile = f.path("chain.speckv");
    ok(args!["build", "--cache", f.path("code.safetensors"), "--model", &model, "-o", &profile]);
    let report = ok(args!["frontier", f.path("demo.safetensors"), "--profile", profile]);
    let bits = |predictor: &str, precision: &str| {
        let mut rows = report["rows"].as_array().unwrap().iter();
        number(
            rows.find(|r| r["predictor"] == predictor && r["precision"] == precision).unwrap(),
            "bits_per_scalar",
        )
    };
    let [plain, chain] = [bits("static", ""), bits("chain", "no-ids")];
    assert!(chain < 0.99 * plain, "{plain} {chain}");
}

/// What the model writes itself joins the fit, the same for the same seed, and the profile says so; caches alone are fitted to as they are.
#[test]
fn a_profile_tells_what_it_was_fitted_to() {
    let f = Fixture::new();
    let (model, text, cache) = (f.path("model"), f.path("a.txt"), f.path("bf16.safetensors"));
    let build = |name: &str, own: &str| {
        let out = f.path(name);
        ok(args![
            "build",
            "--model",
            &model,
            "--text",
            &text,
            "--tokens",
            "40",
            "--own-texts",
            own,
            "--no-draft",
            "-o",
            out
        ])
    };
    let fitted = |built: &Value| {
        let fitted = &built["report"]["fitted"];
        ["sequences", "own_texts", "tokens"].map(|key| fitted[key].as_u64())
    };
    let (none, three) = (build("none.speckv", "0"), build("three.speckv", "3"));
    let [given, own, tokens] = fitted(&none);
    assert_eq!(own, Some(0));
    assert_eq!(fitted(&three), [given.map(|n| n + 3), Some(3), tokens.map(|n| n + 3 * 40)]);
    assert_eq!(none["used"], three["used"]);
    build("again.speckv", "3");
    assert_eq!(f.read("three.speckv"), f.read("again.speckv"));
    assert_ne!(f.read("three.speckv"), f.read("none.speckv"));

    let out = f.path("cache.speckv");
    let theta = "10000";
    let from_cache = ok(args!["build", "--cache", &cache, "--rope-theta", theta, "-o", &out]);
    assert_eq!(fitted(&from_cache), [Some(1), None, Some(common::TOKENS as u64)]);
    let args = args!["build", "--cache", &cache, "--rope-theta", theta, "--own-texts", "3", "-o", &out];
    fails(2, "--own-texts", &out, args);
}

#[test]
fn what_cannot_be_measured() {
    let f = fixture();
    let svg = f.path("never.svg");
    let fails = |code: i32, words: &str, args: Vec<std::ffi::OsString>| {
        fails(code, words, &svg, args.into_iter().chain(args!["--svg", &svg]));
        assert!(!svg.exists());
    };
    let lists = "--predictor: expected one that the profile has (`";
    fails(5, lists, texts(&f, &["--predictor", "static,oracle"]));
    fails(5, "found `w1a1`", texts(&f, &["--precision", "w1a1"]));
    fails(2, "invalid value 'f16'", texts(&f, &["--format", "f16"]));
    let (model, profile, cache) = (f.path("model"), f.path("profile.speckv"), f.path("bf16.safetensors"));
    let one = args![
        "frontier",
        "--model",
        &model,
        "--text",
        f.path("one.txt"),
        "--profile",
        &profile,
        "--published"
    ];
    fails(2, "expected at least 2 of them, found 1", one.into());
    fails(2, "--model", args!["frontier", &cache, "--profile", &profile, "--published"].into());
    fails(
        2,
        "cannot be used with",
        args!["frontier", &cache, "--profile", &profile, "--model", &model].into(),
    );
    fails(2, "required", args!["frontier", "--profile", &profile].into());
    fails(2, "is an input", args!["frontier", &cache, "--profile", &profile, "--csv", &cache].into());
    fails(3, "not a speckv profile", args!["frontier", &cache, "--profile", &cache].into());
    fails(1, "No such file", args!["frontier", f.path("missing.safetensors"), "--profile", &profile].into());

    let mut other = Cache::read(&cache).unwrap();
    other.planes.pop();
    other.layers -= 1;
    other.write(&f.path("other.safetensors")).unwrap();
    let words = "other.safetensors: the cache has 1 layers";
    fails(5, words, args!["frontier", f.path("other.safetensors"), "--profile", &profile].into());

    let mut bare = Cache::read(&cache).unwrap();
    bare.token_ids = None;
    bare.write(&f.path("bare.safetensors")).unwrap();
    let bare = f.path("bare.safetensors");
    fails(
        5,
        "nothing to measure",
        args!["frontier", &bare, "--profile", &profile, "--predictor", "draft"].into(),
    );
    // What needs no ids is measured all the same.
    let report = ok(args!["frontier", &bare, "--profile", &profile]);
    let predictors: Vec<&Value> =
        report["rows"].as_array().unwrap().iter().map(|row| &row["predictor"]).collect();
    assert!(predictors.contains(&&"static".into()) && !predictors.contains(&&"draft".into()), "{report}");
}

#[test]
fn help_shows_examples() {
    let said = speckv(args!["frontier", "--help"]);
    assert_eq!(said.code, 0);
    assert!(said.stdout.contains("Examples:\n  speckv frontier"), "{}", said.stdout);
}
