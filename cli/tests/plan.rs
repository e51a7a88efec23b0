//! `speckv bench` and `speckv plan`: what one writes the other reads; break-even speeds hold; nonsense is refused.

mod common;

use std::path::{Path, PathBuf};

use common::{fails, ok, speckv, write_model};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a model and a machine file whose rates are round numbers.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let f = Fixture { dir: tempfile::tempdir().unwrap() };
        write_model(&f.path("model"), "qwen3");
        f.write("machine.json", &machine());
        f
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, value: &Value) {
        std::fs::write(self.path(name), value.to_string()).unwrap();
    }

    /// `plan` over the model, with more arguments.
    fn plan(&self, more: &[&str]) -> Value {
        ok(self.args(more))
    }

    fn args(&self, more: &[&str]) -> Vec<std::ffi::OsString> {
        let config = self.path("model").join("config.json");
        let all = args!["plan", "--config", config, "--machine", self.path("machine.json")];
        all.into_iter().chain(more.iter().map(|&m| m.into())).collect()
    }

    /// `plan` must fail.
    fn refused(&self, code: i32, words: &str, more: &[&str]) {
        fails(code, words, &self.path("never.csv"), self.args(more));
        assert!(!self.path("never.csv").exists());
    }
}

fn machine() -> Value {
    json!({
        "kind": "speckv-machine", "version": 1, "cpu": "a CPU", "backend": "cpu/scalar", "threads": 2,
        "date": "2026-01-02", "speckv": "0.1.0", "quick": false, "gemm_multiply_adds_per_second": 1e9,
        "attention": [{ "head_dim": 16, "multiply_adds_per_second": 1e9 }],
        "row_values_per_second": 1e9,
        "coder": [{
            "format": "bf16", "bits": 3.5, "encode_scalars_per_second": 4e6, "decode_scalars_per_second": 2e6,
            "observe_scalars_per_second": 2e6,
        }],
        "memory_copy_bytes_per_second": 1e10,
        "disk": { "bytes_per_second": 2e9, "bytes": 1048576, "direct": true },
        "prefill": { "multiply_adds_per_second": 1e8, "model": "m", "tokens": 512 },
    })
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key}: {value:#}"))
}

/// The entry of a list whose `way` has this name.
fn way<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|w| w["way"] == name).unwrap_or_else(|| panic!("{name}: {list:#}"))
}

/// The built-in rates of a format: predictor, bits per scalar.
fn built_in(format: &str) -> Vec<(&'static str, f64)> {
    let table = include_str!("../src/commands/plan/rates.csv");
    let lines = table.lines().map(|l| l.split(',').collect::<Vec<_>>()).filter(|l| l.len() == 4);
    lines.filter(|l| l[2] == format).map(|l| (l[0], l[3].parse().unwrap())).collect()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * a.abs().max(b.abs())
}

#[test]
fn figures_by_hand() {
    let f = Fixture::new();
    let value = f.plan(&["--tokens", "1k", "--link", "8Mbit/s", "--no-overlap", "--latency", "5ms"]);
    let context = &value["contexts"][0];
    // 2 layers x 2 parts x 2 heads x 16 columns x 1024 tokens.
    let scalars = 131_072.0;
    let [("static", bits), ..] = built_in("bf16")[..] else { panic!("static comes first") };
    let (raw, fixed) = (way(&context["ways"], "raw"), way(&context["ways"], "static"));
    assert_eq!(number(raw, "bytes"), 2.0 * scalars);
    assert!(near(number(fixed, "bytes"), scalars * bits / 8.0));
    assert!(near(number(fixed, "decode_seconds"), scalars * (1.0 / 2e6 + 1.0 / 2e6)));
    assert!(near(number(fixed, "encode_seconds"), scalars * (1.0 / 4e6 + 1.0 / 2e6)));
    let times = &context["links"][0]["times"];
    let ready = |name: &str| number(way(times, name), "ready_seconds");
    assert!(near(ready("raw"), 0.005 + 2.0 * scalars / 1e6));
    assert!(near(ready("static"), 0.005 + scalars * bits / 8.0 / 1e6 + scalars / 1e6));
    // The target: per layer 64 x 32 of K and V, 128 x 32 of Q and O, 144 x 32 of the MLP; 2 x 64 a pair.
    let products = 1024.0 * 2.0 * 32.0 * (64.0 + 128.0 + 144.0);
    let pairs = 1024.0 * 1025.0 / 2.0 * 2.0 * 2.0 * 64.0;
    assert!(near(ready("re-prefill"), (products + pairs) / 1e8));
    assert_eq!(value["rates"], "built in, measured on SmolLM2-135M-Instruct; other models and texts differ");

    // With overlap only a chunk's share of the shorter stage is left; encoding is a third stage.
    let value = f.plan(&["--tokens", "1024", "--link", "1MB/s", "--with-encode"]);
    let ready = number(way(&value["contexts"][0]["links"][0]["times"], "static"), "ready_seconds");
    let [e, t, d] = [0.75 * scalars / 1e6, scalars * bits / 8e6, scalars / 1e6];
    assert!(near(ready, t + (e + d) / 4.0), "{ready}");
}

#[test]
fn overrides_replace_the_machine() {
    let f = Fixture::new();
    let with = |more: &[&str]| {
        let value = f.plan(more);
        let ways = &value["contexts"][0]["ways"];
        ["static", "draft w8a8+kv16", "re-prefill"].map(|name| number(way(ways, name), "decode_seconds"))
    };
    let base = with(&[]);
    let fast = with(&["--prefill-rate", "1G"]);
    assert!(near(fast[2], base[2] / 10.0) && fast[..2] == base[..2]);
    let fast = with(&["--gemm-rate", "1T", "--attention-rate", "1T"]);
    assert!(fast[0] == base[0] && fast[1] < base[1] && fast[1] > base[0]);
    let fast = with(&["--coder-rate", "1e9"]);
    assert!(near(fast[0], base[0] / 1000.0) && near(base[1] - fast[1], base[0] - fast[0]));
    let speeds = f.plan(&["--link", "memory,disk"])["contexts"][0]["links"].clone();
    assert_eq!([number(&speeds[0], "bytes_per_second"), number(&speeds[1], "bytes_per_second")], [1e10, 2e9]);
}

/// Over a link of the break-even speed both ways take as long; around it the faster one changes.
#[test]
fn break_even_speeds_hold() {
    let f = Fixture::new();
    for options in [
        &["--tokens", "2k"][..],
        &["--tokens", "3000", "--no-overlap"],
        &["--tokens", "5k", "--with-encode", "--latency", "1ms"],
    ] {
        let value = f.plan(options);
        for name in ["static", "draft w8a8+kv16"] {
            let about = way(&value["contexts"][0]["ways"], name);
            for (limit, other) in [
                ("raw_faster_above_bytes_per_second", "raw"),
                ("prefill_faster_below_bytes_per_second", "re-prefill"),
            ] {
                let at = number(about, limit);
                let links = [at, at / 1.02, at * 1.02].map(|x| format!("{x:.9e}B/s")).join(",");
                let value = f.plan(&[options, &["--link", &links]].concat());
                let times = |i: usize| {
                    let times = &value["contexts"][0]["links"][i]["times"];
                    [name, other].map(|way_name| number(way(times, way_name), "ready_seconds"))
                };
                let ([a, b], [slow, slow_other], [fast, fast_other]) = (times(0), times(1), times(2));
                assert!(near(a, b), "{options:?} {name} {other}: {a} {b}");
                match other {
                    "raw" => assert!(slow < slow_other && fast > fast_other),
                    _ => assert!(slow > slow_other && fast < fast_other),
                }
            }
        }
    }
}

#[test]
fn tables_and_pictures() {
    let f = Fixture::new();
    let (csv, svg) = (f.path("plan.csv"), f.path("plan.svg"));
    let more =
        ["--tokens", "256,4k", "--link", "1MB/s,1GB/s,10Gbit/s", "--csv", csv.to_str().unwrap(), "--svg"];
    let said = speckv(f.args(&[&more[..], &[svg.to_str().unwrap()]].concat()));
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    for words in ["4,096 tokens", "over 10Gbit/s = 1.25 GB/s", "> raw", "raw faster above", "built in"] {
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
    }
    // Two contexts, three links, every predictor, raw and re-prefill; one way of each is the fastest, as the object says.
    let value = f.plan(&more[..4]);
    let table = std::fs::read_to_string(&csv).unwrap();
    let lines: Vec<Vec<&str>> = table.lines().skip(1).map(|l| l.split(',').collect()).collect();
    assert_eq!(lines.len(), 2 * 3 * (built_in("bf16").len() + 2));
    let fields = table.lines().next().unwrap().split(',').count();
    assert!(lines.iter().all(|l| l.len() == fields));
    let found: Vec<&str> = lines.iter().filter(|l| l[11] == "true").map(|l| l[3]).collect();
    let contexts = value["contexts"].as_array().unwrap();
    let links = contexts.iter().flat_map(|c| c["links"].as_array().unwrap());
    let want: Vec<&str> = links.map(|l| l["fastest"].as_str().unwrap()).collect();
    assert_eq!(found, want);
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    for words in
        ["raw", "static", "draft w8a8+kv16", "re-prefill", "tokens of context", "100 GB/s", "131,072"]
    {
        assert!(picture.contains(words), "{words}");
    }

    // A name cannot break out of the picture.
    std::fs::rename(f.path("model"), f.path("<b>&model")).unwrap();
    let (config, machine) = (f.path("<b>&model"), f.path("machine.json"));
    ok(args!["plan", "--config", config, "--machine", machine, "--svg", &svg]);
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.contains("&lt;b&gt;&amp;model") && !picture.contains("<b>"), "{picture}");
}

#[test]
fn rates_of_a_file() {
    let f = Fixture::new();
    let rates = f.path("rates.csv");
    let text = "predictor,precision,format,bits,work_share,measured\n\
                static,,f16,12,0,streams\nchain,,f16,8,0.5,streams\npublished,fp8,f16,6,,ideal\nguess,,f16,1,,streams\n";
    std::fs::write(&rates, text).unwrap();
    let more = ["--format", "f16", "--rates", rates.to_str().unwrap()];
    let said = speckv(f.args(&more));
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("`guess ` of the rates is left out"), "{}", said.stderr);
    assert!(said.stderr.contains("1 lines of the rates are ideal"), "{}", said.stderr);
    let value = f.plan(&more);
    let ways = value["contexts"][0]["ways"].as_array().unwrap();
    let names: Vec<_> = ways.iter().map(|w| w["way"].as_str().unwrap()).collect();
    assert_eq!(names, ["raw", "static", "chain", "re-prefill"]);
    let more_work = number(&ways[2], "decode_seconds") - number(&ways[1], "decode_seconds");
    // Products at half of the target's; 18 values a key or value of each layer through operations over rows.
    let rows = 4096.0 * 18.0 * 2.0 * 32.0 / number(&machine(), "row_values_per_second");
    assert!(near(more_work, 0.5 * 4096.0 * 2.0 * 32.0 * 336.0 / 1e9 + rows), "{more_work} {rows}");

    f.refused(
        3,
        "expected measured rates for e5m2, found f16",
        &["--format", "e5m2", "--rates", rates.to_str().unwrap()],
    );
    f.refused(3, "expected measured rates for f16, found bf16, e4m3", &["--format", "f16"]);
    std::fs::write(&rates, "predictor,format\n").unwrap();
    f.refused(3, "found none named `precision`", &["--rates", rates.to_str().unwrap()]);
    f.refused(1, "No such file", &["--rates", "missing.csv"]);
}

#[test]
fn nonsense() {
    let f = Fixture::new();
    for (more, words) in [
        (["--link", "10"], "has no unit"),
        (["--link", "10Gbytes"], "unknown unit `Gbytes`"),
        (["--link", "0GB/s"], "expected a positive number"),
        (["--link", "-3GB/s"], "expected a positive number"),
        (["--link", "1e999GB/s"], "expected a positive number"),
        (["--link", "infGB/s"], "unknown unit"),
        (["--tokens", "0"], "expected a number of tokens from 1"),
        (["--tokens", "-5"], "expected a number of tokens from 1"),
        (["--tokens", "99999999999M"], "expected a number of tokens from 1"),
        (["--format", "int4"], "expected bf16, f16, e4m3 or e5m2"),
        (["--prefill-rate", "0"], "expected a positive number"),
        (["--gemm-rate", "nan"], "unknown unit"),
        (["--latency", "5"], "unknown unit"),
        (["--latency", "-1ms"], "expected a time of at least zero"),
        (["--chunk", "0"], "0 is not in 1..=65536"),
    ] {
        f.refused(2, words, &[&format!("{}={}", more[0], more[1])]);
    }
    let out = f.path("never.csv");
    let out = out.to_str().unwrap();
    f.refused(2, "name the same file", &["--csv", out, "--svg", out]);
    f.refused(2, "is an input", &["--csv", f.path("machine.json").to_str().unwrap()]);

    let with = |path: &str, value: Value| {
        let mut bad = machine();
        *bad.pointer_mut(path).unwrap() = value;
        f.write("machine.json", &bad);
    };
    with("/version", json!(2));
    f.refused(3, "expected machine file version 1, found 2; measure again", &[]);
    with("/kind", json!("washing machine"));
    f.refused(3, "expected a machine file", &[]);
    with("/gemm_multiply_adds_per_second", json!(0));
    f.refused(3, "`gemm_multiply_adds_per_second`: expected a positive number, found 0", &[]);
    with("/prefill", Value::Null);
    f.refused(2, "has no prefill rate; give --prefill-rate", &[]);
    with("/disk", Value::Null);
    f.refused(2, "has no disk speed", &["--link", "disk"]);
    std::fs::write(f.path("machine.json"), "{").unwrap();
    f.refused(3, "not a machine file", &[]);
    f.write("machine.json", &machine());

    let config = f.path("model").join("config.json");
    let mut about: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    about["num_hidden_layers"] = json!(1 << 27);
    std::fs::write(&config, about.to_string()).unwrap();
    f.refused(3, "at most 4096 layers", &[]);
    std::fs::write(&config, "[]").unwrap();
    f.refused(3, "model_type", &[]);
    std::fs::remove_file(&config).unwrap();
    f.refused(1, "config.json", &[]);
}

fn check_machine(value: &Value, file: &Path) {
    let written: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(&written, value, "stdout and file are one");
    assert_eq!((&value["kind"], &value["version"]), (&json!("speckv-machine"), &json!(1)));
    assert!(value["backend"].as_str().unwrap().starts_with("cpu/"));
    let coder = value["coder"].as_array().unwrap();
    let bits = |format: &str| {
        coder.iter().filter(|c| c["format"] == format).map(|c| number(c, "bits")).collect::<Vec<_>>()
    };
    // What `plan` asks for: cheap and dear caches of both widths.
    let (coarse, fine) = (bits("e4m3"), bits("bf16"));
    assert!((0.6..1.5).contains(&coarse[0]) && (5.5..7.0).contains(&coarse[1]), "{coarse:?}");
    assert!((3.0..4.0).contains(&fine[0]) && (7.5..8.5).contains(&fine[1]) && fine[2] > 9.5, "{fine:?}");
}

#[test]
fn a_bench_feeds_a_plan() {
    let f = Fixture::new();
    let file = f.path("machine.json");
    std::fs::remove_file(&file).unwrap();
    let value = ok(args!["bench", "--quick", "--machine", &file, "--cpu", "a CPU"]);
    check_machine(&value, &file);
    assert_eq!((&value["cpu"], &value["quick"]), (&json!("a CPU"), &json!(true)));
    assert!(value.get("prefill").is_none() && value.get("disk").is_none());
    f.refused(2, "has no prefill rate", &[]);
    let plan = f.plan(&["--prefill-rate", "1T", "--format", "e4m3"]);
    assert_eq!(plan["contexts"].as_array().unwrap().len(), 2);

    let (model, folder) = (f.path("model"), f.path("."));
    let value = ok(args!["bench", "--quick", "--machine", &file, "--model", model, "--disk", folder]);
    check_machine(&value, &file);
    assert_eq!(value["prefill"]["model"], "model");
    assert!(number(&value["disk"], "bytes") >= 1e8 && number(&value["disk"], "bytes_per_second") > 0.0);
    f.plan(&["--link", "disk"]);

    let never = f.path("never.json");
    fails(
        2,
        "expected a folder to test",
        &never,
        args!["bench", "--quick", "--machine", &never, "--disk", f.path("no")],
    );
    fails(1, "No such file", &never, args!["bench", "--quick", "--machine", &never, "--model", f.path("no")]);
    let left: Vec<_> = std::fs::read_dir(f.path(".")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the model and the machine file, nothing else: {left:?}");
}

#[test]
fn help_teaches() {
    for command in ["bench", "plan"] {
        let said = speckv(args![command, "--help"]);
        assert_eq!(said.code, 0);
        assert!(said.stdout.contains(&format!("Examples:\n  speckv {command}")), "{}", said.stdout);
    }
}
