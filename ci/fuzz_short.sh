#!/usr/bin/env bash
# Every fuzz target for a few seconds each: first its corpus once through, then new inputs.
#
#   ci/fuzz_short.sh [SECONDS_PER_TARGET]     default 20
#
# Runs on the stable compiler, so without a sanitizer. For a long run with one, use cargo fuzz on nightly.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

seconds=${1:-20}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "SECONDS_PER_TARGET must be a whole number above zero, not '$seconds'"

heading "cargo-fuzz"
if ! cargo fuzz --version 2>/dev/null; then
    # Its own target folder would be thrown away each time; beside ours it survives a retry.
    cargo install cargo-fuzz --locked --target-dir target/cargo-fuzz
    cargo fuzz --version
fi

mapfile -t targets < <(cargo fuzz list --fuzz-dir fuzz)
[[ ${#targets[@]} -gt 0 ]] || die "cargo fuzz list names no target"

heading "fuzz: build ${#targets[@]} targets"
cargo fuzz build --fuzz-dir fuzz --sanitizer none

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()
for target in "${targets[@]}"; do
    # What is checked in is only read: new inputs go to a folder of their own, first on the list.
    mkdir -p "$work/$target" "fuzz/artifacts/$target"
    corpus=fuzz/corpus/$target
    seeds=()
    files=0
    if [[ -d $corpus ]]; then
        seeds=("$corpus") # libFuzzer reads the folders in it too
        files=$(find "$corpus" -type f | wc -l)
    fi
    if [[ $files -gt 0 ]]; then
        heading "fuzz: $target: replay $files inputs"
        cargo fuzz run --fuzz-dir fuzz --sanitizer none "$target" "${seeds[@]}" -- -runs=0 || {
            failed+=("$target (corpus)")
            continue
        }
    else
        note "$target has no corpus to replay"
    fi

    heading "fuzz: $target: $seconds s"
    cargo fuzz run --fuzz-dir fuzz --sanitizer none "$target" "$work/$target" "${seeds[@]}" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 2>&1 |
        tee "$work/log" || {
        failed+=("$target")
        continue
    }
    runs=$(sed -nE 's/^stat::number_of_executed_units: *([0-9]+).*/\1/p' "$work/log")
    [[ ${runs:-0} -gt 0 ]] || failed+=("$target (nothing was run)")
done

heading "fuzz: summary"
if [[ ${#failed[@]} -gt 0 ]]; then
    die "failed: ${failed[*]}; inputs are in fuzz/artifacts"
fi
note "${#targets[@]} targets, no failure: ${targets[*]}"
