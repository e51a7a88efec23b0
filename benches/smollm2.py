#!/usr/bin/env python3
"""Compression of SmolLM2-135M-Instruct's KV cache on texts that no calibration saw, in real files with all container bytes.

    cargo build --release -p speckv-cli
    python3 benches/smollm2.py [--work bench-data] [--speckv target/release/speckv] [--tokens 1024] [--sequences 40]
                               [--own-texts N] [--files] [--frontier] [--cross]

Fetches model and texts (benches/texts/fetch.sh, checked by SHA-256), and builds the profiles that are asked for if WORK holds none. Any of:
--files     for each evaluation text: captures caches in bf16 and e4m3 (the target attending to its fp8 cache: one scale a layer and part) and in
            e4m3 rounded only after a bf16 run (cast), compresses files with the best predictor of each kind, restores, compares every byte
--frontier  every predictor and precision with `speckv frontier`, beside the published scheme: WORK/frontier.csv, WORK/frontier.svg
            (both with a profile of every precision, built from all calibration texts)
--cross     profiles fitted to prose alone and to code alone, each measured on both
Needs nothing but Python, pip, npm and cargo.
"""
import argparse, filecmp, json, os, pathlib, platform, subprocess, sys, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--work", default="bench-data")
ap.add_argument("--speckv", default="target/release/speckv")
ap.add_argument("--tokens", type=int, default=1024, help="tokens of each evaluation text")
ap.add_argument("--sequences", type=int, default=40, help="calibration sequences of 1024 tokens")
ap.add_argument("--own-texts", type=int, help="sequences besides that the model writes itself (default: as speckv build)")
for step in ("files", "frontier", "cross"):
    ap.add_argument("--" + step, action="store_true")
args = ap.parse_args()

here = pathlib.Path(__file__).resolve().parent
work = pathlib.Path(args.work)
work.mkdir(parents=True, exist_ok=True)
subprocess.run(["bash", str(here / "texts" / "fetch.sh"), str(work)], check=True)
# Profiles of other options have other names.
own, tag = ([], "") if args.own_texts is None else (["--own-texts", args.own_texts], f"-own{args.own_texts}")
model, profile = work / "SmolLM2-135M-Instruct.Q4_1.gguf", work / f"smollm2{tag}.speckv"


def speckv(*words):
    """Runs a command with --json; returns its object, seconds and peak memory in MiB."""
    start = time.monotonic()
    process = subprocess.Popen([args.speckv, "--json", "--quiet", *map(str, words)], stdout=subprocess.PIPE)
    out = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"speckv {' '.join(map(str, words))}: failed\n{out.decode()}")
    return json.loads(out), time.monotonic() - start, used.ru_maxrss // 1024


def build(out, texts, sequences, *options):
    """Builds a profile if there is none yet."""
    if out.exists():
        return
    print(f"building {out} from {len(texts)} texts", file=sys.stderr)
    report, seconds, peak = speckv("build", "--model", model, "--text", *texts, "--tokens", 1024, "--sequences", sequences,
                             "--name", "SmolLM2-135M-Instruct", *own, *options, "-o", out)
    print(json.dumps(report, indent=1), file=sys.stderr)
    print(f"built in {seconds:.0f} s, peak memory {peak} MiB", file=sys.stderr)


def frontier(profile, texts, *options):
    """Bits per scalar of each predictor and format."""
    report, _, _ = speckv("frontier", "--model", model, "--text", *texts, "--tokens", args.tokens, "--profile", profile, *options)
    return {(r["format"], f"{r['predictor']} {r['precision']}".strip()): r["bits_per_scalar"] for r in report["rows"]}


calibration, evaluation = (sorted((work / kind).glob("*.txt")) for kind in ("calibration", "evaluation"))
if args.files or args.frontier:
    build(profile, calibration, args.sequences, "--precisions", "all")

if args.frontier:
    for bits, words in (("fp8-native", []), ("cast", ["--round-after", "--format", "e4m3"])):
        name = "frontier" if not words else "frontier-cast"
        rows = frontier(profile, evaluation, "--published", "--csv", work / f"{name}.csv", "--svg", work / f"{name}.svg", *words)
        print("\n".join(f"{bits}: {form} {name}: {rate:.3f}" for (form, name), rate in rows.items()))

if args.cross:
    kinds = ("prose", "code")
    for fitted in kinds:
        build(work / f"smollm2-{fitted}{tag}.speckv", [t for t in calibration if t.name.startswith(fitted)], args.sequences // 2)
    for measured in kinds:
        texts = [t for t in evaluation if t.name.startswith(measured)]
        own, other = (frontier(work / f"smollm2-{fitted}{tag}.speckv", texts) for fitted in (measured, kinds[measured == "prose"]))
        for key, rate in own.items():
            print(f"{measured}: {' '.join(key)}: {rate:.3f} fitted to {measured}, {other[key]:.3f} to the other, {other[key] / rate - 1:+.1%}")

if not args.files:
    sys.exit()
variants = [("bf16", ["--format", "bf16"]), ("e4m3", ["--format", "e4m3"]), ("e4m3 cast", ["--format", "e4m3", "--round-after"])]
predictors = ("static", "chain", "draft")
rows, times = {}, {}
for text in evaluation:
    for name, options in variants:
        cache, stream, back = (work / f for f in ("cache.safetensors", "cache.skv", "back.safetensors"))
        speckv("capture", "--model", model, "--text", text, "--tokens", args.tokens, *options, "-o", cache)
        for predictor in predictors:
            _, up, up_mib = speckv("compress", cache, "--profile", profile, "--predictor", predictor, "-o", stream)
            _, down, down_mib = speckv("decompress", stream, "--profile", profile, "-o", back)
            if not filecmp.cmp(cache, back, shallow=False):
                sys.exit(f"{text}: {name} {predictor}: the restored cache differs")
            scalars = 2 * 30 * 3 * 64 * args.tokens
            rows.setdefault(text.stem, {})[name, predictor] = 8 * stream.stat().st_size / scalars
            times.setdefault((name, predictor), []).append((up, down, max(up_mib, down_mib)))
        print(f"{text.stem}: {name} done", file=sys.stderr)

columns = [(n, p) for n, _ in variants for p in predictors]
print("| text | " + " | ".join(f"{n} {p}" for n, p in columns) + " |\n| --- |" + " ---: |" * len(columns))
for text, row in rows.items():
    print(f"| {text} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |")
mean = {c: sum(r[c] for r in rows.values()) / len(rows) for c in columns}
print("| **mean** | " + " | ".join(f"**{mean[c]:.3f}**" for c in columns) + " |")
print("| ratio | " + " | ".join(f"{(16 if c[0] == 'bf16' else 8) / mean[c]:.2f}x" for c in columns) + " |")
for (name, predictor), t in times.items():
    up, down = (sorted(x[i] for x in t)[len(t) // 2] for i in (0, 1))
    print(f"{name} {predictor}: compress {up:.2f} s, decompress {down:.2f} s (medians of whole commands), peak memory {max(x[2] for x in t)} MiB")
cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor()) if os.path.exists("/proc/cpuinfo") else platform.processor()
print(f"{cpu}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}; profile {profile.stat().st_size:,} bytes; {args.tokens} tokens a text; every restored file equal to its cache")
