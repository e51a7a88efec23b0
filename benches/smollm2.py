#!/usr/bin/env python3
"""Compression of SmolLM2-135M-Instruct's KV cache on texts that no calibration saw, in real files with all container bytes.

    cargo build --release -p speckv-cli
    python3 benches/smollm2.py [--work bench-data] [--speckv target/release/speckv] [--tokens 1024] [--sequences 40]

Fetches model and texts (benches/texts/fetch.sh, checked by SHA-256), builds a profile from the calibration texts if WORK holds none, then for
each evaluation text captures caches in bf16 and e4m3 (the target attending to its fp8 cache: one scale a layer and part), compresses with
every predictor, restores, compares every byte, and prints tables. Needs nothing but Python, pip, npm and cargo.
"""
import argparse, filecmp, json, os, pathlib, platform, subprocess, sys, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--work", default="bench-data")
ap.add_argument("--speckv", default="target/release/speckv")
ap.add_argument("--tokens", type=int, default=1024, help="tokens of each evaluation text")
ap.add_argument("--sequences", type=int, default=40, help="calibration sequences of 1024 tokens")
ap.add_argument("--cast", action="store_true", help="also rounds finished bf16 caches to e4m3 (what no fp8 engine does)")
args = ap.parse_args()

here = pathlib.Path(__file__).resolve().parent
work = pathlib.Path(args.work)
work.mkdir(parents=True, exist_ok=True)
subprocess.run(["bash", str(here / "texts" / "fetch.sh"), str(work)], check=True)
model, profile = work / "SmolLM2-135M-Instruct.Q4_1.gguf", work / "smollm2.speckv"


def speckv(*words):
    """Runs a command with --json; returns its object, seconds and peak memory in MiB."""
    start = time.monotonic()
    process = subprocess.Popen([args.speckv, "--json", "--quiet", *map(str, words)], stdout=subprocess.PIPE)
    out = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"speckv {' '.join(map(str, words))}: failed\n{out.decode()}")
    return json.loads(out), time.monotonic() - start, used.ru_maxrss // 1024


if not profile.exists():
    texts = sorted((work / "calibration").glob("*.txt"))
    print(f"building {profile} from {len(texts)} texts", file=sys.stderr)
    report, seconds, peak = speckv("build", "--model", model, "--text", *texts, "--tokens", 1024, "--sequences", args.sequences,
                             "--name", "SmolLM2-135M-Instruct", "-o", profile)
    print(json.dumps(report, indent=1), file=sys.stderr)
    print(f"built in {seconds:.0f} s, peak memory {peak} MiB", file=sys.stderr)

variants = [("bf16", ["--format", "bf16"]), ("e4m3", ["--format", "e4m3"])]
if args.cast:
    variants.append(("e4m3 cast", ["--format", "e4m3", "--round-after"]))
rows, times = {}, {}
for text in sorted((work / "evaluation").glob("*.txt")):
    for name, options in variants:
        cache, stream, back = (work / f for f in ("cache.safetensors", "cache.skv", "back.safetensors"))
        speckv("capture", "--model", model, "--text", text, "--tokens", args.tokens, *options, "-o", cache)
        for predictor in ("static", "draft"):
            _, up, up_mib = speckv("compress", cache, "--profile", profile, "--predictor", predictor, "-o", stream)
            _, down, down_mib = speckv("decompress", stream, "--profile", profile, "-o", back)
            if not filecmp.cmp(cache, back, shallow=False):
                sys.exit(f"{text}: {name} {predictor}: the restored cache differs")
            scalars = 2 * 30 * 3 * 64 * args.tokens
            rows.setdefault(text.stem, {})[name, predictor] = 8 * stream.stat().st_size / scalars
            times.setdefault((name, predictor), []).append((up, down, max(up_mib, down_mib)))
        print(f"{text.stem}: {name} done", file=sys.stderr)

columns = [(n, p) for n, _ in variants for p in ("static", "draft")]
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
