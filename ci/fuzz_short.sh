#!/usr/bin/env bash
# Fuzz targets for a few seconds each: first the committed corpus once through, then new inputs.
#
#   ci/fuzz_short.sh [--models] [SECONDS_PER_TARGET]     default 20
#
# --models adds the targets that read models (minutes to build). Runs on the stable compiler, so without a sanitizer; fuzz/README.md says how to
# run with one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

# Targets behind the feature `models`, as fuzz/Cargo.toml has them.
models=(load_gguf)
how=(--fuzz-dir fuzz --sanitizer none --codegen-units 16)
skipped=("${models[@]}")
if [[ ${1:-} == --models ]]; then
    how+=(--features models)
    skipped=()
    shift
fi
seconds=${1:-20}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "SECONDS_PER_TARGET must be a whole number above zero, not '$seconds'"

heading "cargo-fuzz"
if ! cargo fuzz --version 2>/dev/null; then
    # Its own target folder would be thrown away each time; beside ours it survives a retry.
    cargo install cargo-fuzz --locked --target-dir target/cargo-fuzz
    cargo fuzz --version
fi

targets=()
for target in $(cargo fuzz list --fuzz-dir fuzz); do
    if [[ " ${skipped[*]} " == *" $target "* ]]; then
        note "$target is NOT run: it takes minutes to build (--models runs it)"
    else
        targets+=("$target")
    fi
done
[[ ${#targets[@]} -gt 0 ]] || die "cargo fuzz list names no target"

heading "fuzz: build ${#targets[@]} targets"
cargo fetch --locked --manifest-path fuzz/Cargo.toml
cargo fuzz build "${how[@]}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()
for target in "${targets[@]}"; do
    # What is checked in is only read: new inputs go to a folder of their own, first on the list.
    mkdir -p "$work/$target" "fuzz/artifacts/$target"
    corpus=fuzz/corpus/$target
    files=$(find "$corpus" -type f | wc -l)
    [[ $files -gt 0 ]] || die "$corpus holds no input"
    heading "fuzz: $target: replay $files inputs, then $seconds s"
    # Without length control: an input of the length that a plane needs is not long in coming. libFuzzer runs the whole corpus first.
    cargo fuzz run "${how[@]}" "$target" "$work/$target" "$corpus" -- -len_control=0 -max_len=4096 \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 >"$work/log" 2>&1 || {
        tail -n 60 "$work/log"
        failed+=("$target")
        continue
    }
    runs=$(sed -nE 's/^stat::number_of_executed_units: *([0-9]+).*/\1/p' "$work/log")
    note "$target: ${runs:-0} executions"
    [[ ${runs:-0} -gt $files ]] || failed+=("$target (no more than its corpus was run)")
done

heading "fuzz: summary"
if [[ ${#failed[@]} -gt 0 ]]; then
    die "failed: ${failed[*]}; inputs are in fuzz/artifacts"
fi
note "${#targets[@]} targets, no failure: ${targets[*]}"
