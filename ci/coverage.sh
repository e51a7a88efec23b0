#!/usr/bin/env bash
# Lines of codec-core that the fuzz corpus and the golden streams reach. Needs LLVM's tools of the compiler's own version
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
RUSTFLAGS="-Cinstrument-coverage --cfg fuzzing" \
    cargo build --locked --release --manifest-path fuzz/Cargo.toml --target-dir "$out" --bins
targets=$(sed -nE 's/^name = "(.*)"/\1/p' fuzz/Cargo.toml | grep -vx -e speckv-fuzz -e load_gguf)

heading "coverage: replay"
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
objects=()
for target in $targets; do
    LLVM_PROFILE_FILE=$raw/$target.profraw "$out/release/$target" "fuzz/corpus/$target" -runs=0 >"$raw/log" 2>&1 ||
        { cat "$raw/log" && die "$target fails on its corpus"; }
    objects+=(--object "$out/release/$target")
done
"$profdata" merge -sparse "$raw"/*.profraw -o "$raw/all.profdata"

heading "coverage: codec-core, by the corpus alone"
report() { "$cov" "$1" "${objects[@]:1}" --instr-profile "$raw/all.profdata" "${@:2}" --sources codec-core/src; }
report report --show-region-summary=false --show-branch-summary=false
heading "coverage: lines that no input reaches"
report show --show-line-counts-or-regions=false 2>/dev/null | grep -E '^ +[0-9]+\| +0\||^/.*:$' | grep -B1 -E '\| +0\|' | grep -v '^--' || true
reached=$(report report --show-region-summary=false --show-branch-summary=false | awk '$1 == "TOTAL" { gsub("%", ""); print $NF }')
awk "BEGIN { exit !($reached >= $wanted) }" || die "$reached % of lines, $wanted % wanted"
note "coverage: $reached % of the lines of codec-core"
