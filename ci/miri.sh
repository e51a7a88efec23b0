#!/usr/bin/env bash
# Golden streams of codec-core under Miri: every rejected one fails by name, and nothing on the way, the
# hashing crate's unsafe code included, is undefined. Needs a nightly toolchain with Miri; no part of .ci/run.
#
#   ci/miri.sh [TEST...]     default bad_streams_are_refused_by_the_exact_error (old_bytes_decode_to_the_input takes minutes)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

tests=("$@")
[[ $# -gt 0 ]] || tests=(bad_streams_are_refused_by_the_exact_error)

heading "miri"
cargo +nightly miri --version 2>/dev/null || {
    rustup toolchain install nightly --profile minimal --component miri,rust-src
    cargo +nightly miri --version
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The vectors are files.
MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p speckv-codec-core --test vectors -- --exact "${tests[@]}" |
    tee "$log"
# A name that matches nothing would pass.
ran=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' "$log")
[[ ${ran:-0} -eq ${#tests[@]} ]] || die "expected ${#tests[@]} tests, ran ${ran:-0}"
note "$ran tests under Miri"
