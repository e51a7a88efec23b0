#!/usr/bin/env bash
# Every set of features of every crate compiles without a warning, and the oldest compiler that is promised is the one that tests.
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

heading "features: every set of them"
# A line a set: package, then the features with commas between.
sets=$(cargo metadata --locked --no-deps --format-version 1 | python3 -c '
import itertools, json, sys
for package in json.load(sys.stdin)["packages"]:
    names = sorted(set(package["features"]) - {"default"})
    # Without any, check.sh lints the crate as it is.
    for count in range(len(names) + 1) if names else ():
        for chosen in itertools.combinations(names, count):
            print(package["name"], ",".join(chosen))')
count=0
while read -r package features; do
    note "$package: ${features:-no features}"
    cargo clippy -q -p "$package" --no-default-features --features "$features" -- -D warnings </dev/null
    count=$((count + 1))
done <<<"$sets"
[[ $count -gt 0 ]] || die "no crate has features"
note "$count sets of features"
