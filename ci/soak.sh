#!/usr/bin/env bash
# For a given time: compress and decompress random caches, real ones of the embedded model and made-up ones, over all
# predictors, formats, chunk lengths and CPU paths, with random damage between. Stops at the first wrong byte and says
# how to repeat it; else prints totals. No part of a case depends on another: a seed and a number repeat it.
#
#   ci/soak.sh [SECONDS] [SEED]     default 30, and a seed from the clock
#   SPECKV=path ci/soak.sh ...      uses that speckv for the captures
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

seconds=${1:-30} seed=${2:-$(date +%s)}
[[ $seconds =~ ^[1-9][0-9]*$ && $seed =~ ^[0-9]+$ ]] || die "SECONDS and SEED must be whole numbers, not '$seconds' and '$seed'"

heading "soak: build"
cargo build --release -p speckv-backend-cpu --example soak
speckv=${SPECKV:-}
if [[ -z $speckv ]]; then
    cargo build --release -p speckv-cli
    speckv=${CARGO_TARGET_DIR:-target}/release/speckv
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A build in the meantime may not pull it from under a soak of hours.
cp "${CARGO_TARGET_DIR:-target}/release/examples/soak" "$work/soak"

heading "soak: captures"
model=models/tiny-qwen3
capture() { "$speckv" capture -q --model $model --text "models/calibration/$1" --tokens 160 --format "$2" -o "$work/$3.safetensors" "${@:4}"; }
capture code-python-library.txt bf16 a
capture prose-king-james-bible.txt bf16 b
capture prose-python-documentation.txt e4m3 c
capture code-python-library.txt e4m3 d --scale-per-head
capture prose-king-james-bible.txt e5m2 e

heading "soak: $seconds s, seed $seed"
RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-1} "$work/soak" \
    "$seconds" "$seed" $model/profile.speckv "$work"/*.safetensors | tee "$work/totals"
# A soak of nothing would pass.
cases=$(sed -nE '1s/.*: ([0-9]+) cases.*/\1/p' "$work/totals")
[[ ${cases:-0} -gt 0 ]] || die "no case was run"
note "soak: $cases cases, nothing wrong"
