#!/usr/bin/env bash
# The second decoder (docs/reference_decoder, written from the documents alone) against all golden streams and against
# fresh ones of every predictor and precision. About a minute and a half on one core.
#
#   ci/reference_decoder.sh     builds speckv first
#   SPECKV=path ci/reference_decoder.sh     uses that one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

python=${PYTHON:-python3}
command -v "$python" >/dev/null || die "$python is needed: install Python 3.9 or later (apt install python3), or name one in PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || die "$python is too old: Python 3.9 or later is needed"
"$python" -c 'import numpy' 2>/dev/null || die "$python lacks numpy: pip install numpy, or apt install python3-numpy"

speckv=${SPECKV:-}
if [[ -z $speckv ]]; then
    heading "reference decoder: build speckv"
    cargo build --release -p speckv-cli
    speckv=${CARGO_TARGET_DIR:-target}/release/speckv
fi
[[ -x $speckv ]] || die "$speckv is not a program: build it with cargo build --release -p speckv-cli, or name one in SPECKV"

heading "reference decoder: golden streams"
"$python" docs/reference_decoder/check_golden.py codec-core/vectors
"$python" docs/reference_decoder/check_predictors.py predictor/vectors

heading "reference decoder: fresh streams"
# Threads would only fight over matrices this small.
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$python" docs/reference_decoder/check_streams.py "$speckv" .

heading "reference decoder: its command"
# What the checks above call as functions, once as a person would.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
profile=models/tiny-qwen3/profile.speckv text=models/calibration/code-python-library.txt
decode() { "$python" docs/reference_decoder/decode.py "$work/s.skv" --profile "$profile" -o "$work/$1.safetensors"; }
"$speckv" capture -q --model models/tiny-qwen3 --text "$text" --tokens 16 --format e4m3 -o "$work/c.safetensors"
"$speckv" compress -q "$work/c.safetensors" --profile "$profile" -o "$work/s.skv"
decode out
"$python" docs/reference_decoder/compare.py "$work/out.safetensors" "$work/c.safetensors"
printf 'x' >>"$work/s.skv"
if decode none 2>"$work/error"; then die "a stream with a byte too many was accepted"; fi
grep -q '^error: malformed: the stream must end with its last payload' "$work/error" || die "wrong refusal: $(cat "$work/error")"
[[ ! -e $work/none.safetensors ]] || die "a refused stream left a file behind"
note "reference decoder: all as the documents say"
