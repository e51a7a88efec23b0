#!/usr/bin/env bash
# Lines of codec-core that the fuzz corpus alone reaches; docs/trust.md says why the others are not. Needs LLVM's tools of the compiler's own version
# (Debian: llvm-22, or rustup component add llvm-tools). No part of .ci/run.
#
#   ci/coverage.sh [PERCENT]      fails below so many per cent of lines; default 95
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

wanted=${1:-95}
major=$(rustc -vV | sed -nE 's/^LLVM version: ([0-9]+).*/\1/p')
tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
tool() { # tool NAME: where it is
    if [[ -x $tools/$1 ]]; then echo "$tools/$1"; else command -v "$1-$major" || die "$1 of LLVM $major is needed: apt install llvm-$major"; fi
}
profdata=$(tool llvm-profdata) cov=$(tool llvm-cov)

heading "coverage: build"
out=${CARGO_TARGET_DIR:-$PWD/target}/coverage
# As cargo-fuzz builds, but counting regions instead of guiding a fuzzer: the corpus is only replayed.
# Build scripts count too, but nobody asks them.
LLVM_PROFILE_FILE=/dev/null RUSTFLAGS="-Cinstrument-coverage --cfg fuzzing" \
    cargo build --locked --release --manifest-path fuzz/Cargo.toml --target-dir "$out" --bins
targets=$(sed -nE 's/^name = "(.*)"/\1/p' fuzz/Cargo.toml | grep -vx -e speckv-fuzz -e load_gguf)

heading "coverage: replay"
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
for target in $targets; do
    LLVM_PROFILE_FILE=$raw/$target.profraw "$out/release/$target" "fuzz/corpus/$target" -runs=0 >"$raw/log" 2>&1 ||
        { cat "$raw/log" && die "$target fails on its corpus"; }
    "$profdata" merge -sparse "$raw/$target.profraw" -o "$raw/$target.profdata"
    # One program at a time: where two have compiled a function differently, the tool drops its counts.
    "$cov" export --format=lcov "$out/release/$target" --instr-profile "$raw/$target.profdata" --sources codec-core/src \
        >"$raw/$target.lcov" 2>/dev/null
done

heading "coverage: codec-core, by the corpus alone"
python3 - "$wanted" "$raw"/*.lcov <<'END'
"""Unites the counts of lines of all targets, and says what none of them reached."""
import sys
from collections import defaultdict

lines = defaultdict(dict)
for path in sys.argv[2:]:
    for row in open(path):
        key, _, rest = row.strip().partition(":")
        if key == "SF":
            file = lines[rest[rest.index("codec-core/"):]]
        elif key == "DA":
            line, count = map(int, rest.split(",")[:2])
            file[line] = file.get(line, 0) + count
# Functions that only the compiler calls, for a constant: nothing can reach them.
compiled = {"codec-core/src/lanes.rs": "log2_table"}
for name, function in compiled.items():
    text = open(name).read().splitlines()
    first = next(n for n, row in enumerate(text, 1) if f"const fn {function}(" in row)
    last = next(n for n, row in enumerate(text, 1) if n > first and row == "}")
    counted = [line for line in lines[name] if first <= line <= last]
    if not counted or any(lines[name].pop(line) for line in counted):
        sys.exit(f"{name}: {function} is not what the compiler alone calls")
    print(f"{name}: {len(counted)} lines of {function} left out, which the compiler runs")
all_lines = hit = 0
for name, counts in sorted(lines.items()):
    reached = sum(c > 0 for c in counts.values())
    all_lines, hit = all_lines + len(counts), hit + reached
    missed = [line for line in sorted(counts) if not counts[line]]
    print(f"{name:34} {reached:4} of {len(counts):4}   missed: {' '.join(map(str, missed)) or 'none'}")
share = 100 * hit / max(all_lines, 1)
print(f"codec-core: {hit} of {all_lines} lines, {share:.2f} %")
sys.exit(share < float(sys.argv[1]) or not all_lines)
END
