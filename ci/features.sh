#!/usr/bin/env bash
# Every set of features compiles without a warning, and the oldest compiler that is promised is the one that tests.
#
#   ci/features.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

heading "features: the promised compiler"
promised=$(sed -nE 's/^rust-version = "(.*)"/\1/p' Cargo.toml)
used=$(rustc --version | sed -nE 's/^rustc ([0-9]+\.[0-9]+).*/\1/p')
# All of CI runs on it: whatever passes here, passes on the oldest one.
[[ -n $promised && $promised == "$used" ]] || die "rust-version is $promised, but this is $used: CI tests with the oldest compiler promised"
note "rust-version $promised is what tests"

count=0
# sets PACKAGE FEATURE...: every set of these features.
sets() {
    local package=$1 features=("${@:2}") all i j
    for ((i = 0; i < 1 << $#; i += 2)); do
        all=
        for ((j = 0; j < ${#features[@]}; j++)); do
            [[ $((i >> (j + 1) & 1)) -eq 0 ]] || all+="${all:+,}${features[j]}"
        done
        note "$package: ${all:-no features}"
        cargo clippy -q -p "$package" --no-default-features --features "$all" -- -D warnings
        count=$((count + 1))
    done
}
heading "features: every set of them"
sets speckv-codec-core
sets speckv-predictor std conformance shadow
sets speckv-backend-cpu
sets speckv-capture models
sets speckv-backend-cuda cuda
sets speckv-cli shadow cuda
note "$count sets of features"
# A crate with a new feature must be in the list above.
declared=$(cargo metadata --locked --no-deps --format-version 1 | python3 -c '
import json, sys
print(sum(len([f for f in p["features"] if f != "default"]) for p in json.load(sys.stdin)["packages"]))')
[[ $declared -eq 7 ]] || die "the crates have $declared features, this script knows 7"
