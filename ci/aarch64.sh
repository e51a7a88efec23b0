#!/usr/bin/env bash
# Lint and test the integer crates for AArch64, under an emulator: another compiler back end, other instructions, the
# same bits. The path neon is forced by name, and must be the one that answered. What is missing is installed (Debian,
# rustup). On an AArch64 machine nothing is emulated: there ci/test.sh and ci/arms.sh are these tests.
#
#   ci/aarch64.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

if [[ $(uname -m) == aarch64 ]]; then
    note "this machine is AArch64: ci/test.sh and ci/arms.sh test it"
    exit
fi

target=aarch64-unknown-linux-gnu
root=/usr/aarch64-linux-gnu
# The emulated CPU: with every feature the emulator knows, dot products too, or one of 2015 without them.
all="qemu-aarch64 -L $root -cpu max"
old="qemu-aarch64 -L $root -cpu cortex-a72"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc

heading "AArch64: tools"
if ! { command -v aarch64-linux-gnu-gcc && command -v qemu-aarch64 && [[ -e $root/lib/crt1.o ]]; } >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
fi
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
aarch64-linux-gnu-gcc --version | head -n 1
qemu-aarch64 --version | head -n 1

log=$(mktemp)
trap 'rm -f "$log"' EXIT
total=0

# run RUNNER PACKAGE ARGUMENTS...: the tests of a package; the arguments are cargo's, then after `--` the tests' own.
run() {
    local runner=$1 package=$2
    shift 2
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$runner \
        cargo test --release --target "$target" -p "speckv-$package" "$@" >"$log" 2>&1
}

# passes WHAT RUNNER PACKAGE ARGUMENTS...: the tests must pass, and there must be some.
passes() {
    local what=$1 passed
    shift
    heading "AArch64: $what"
    run "$@" || { cat "$log" && die "$what: failed"; }
    passed=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    [[ $passed -gt 0 ]] || { cat "$log" && die "$what: no test ran"; }
    note "$passed tests passed"
    total=$((total + passed))
}

# answered PATH: the tests said that this path ran, and no other.
answered() {
    local paths
    paths=$(grep -Eo 'speckv-backend-cpu: path=[^ ]+' "$log" | sed 's/.*=//' | sort -u | tr '\n' ' ')
    [[ $paths == "$1 " ]] || { cat "$log" && die "path $1 was to answer, but these did: ${paths:-none}"; }
    note "path $1 answered"
}

# refused NAME WHY: the name must be refused by tests that know why, not because something did not compile.
refused() {
    ! SPECKV_CPU=$1 run "$old" backend-cpu --test conformance -- --nocapture the_forced_path_answers transfer ||
        { cat "$log" && die "SPECKV_CPU=$1 was accepted"; }
    { grep -q '^test result: FAILED' "$log" && grep -qF "$2" "$log"; } ||
        { cat "$log" && die "SPECKV_CPU=$1 failed, but not because: $2"; }
    note "SPECKV_CPU=$1 is refused: $2"
}

heading "AArch64: cargo clippy of what no other target compiles"
cargo clippy --target "$target" -p speckv-backend-cpu --all-targets -- -D warnings

# That test starts itself again, which an emulated program cannot; `refused` below does the same from outside.
export SPECKV_CPU=neon
passes "conformance of path neon" "$all" backend-cpu --test conformance -- --nocapture --skip an_unknown_name_is_an_error
answered neon
passes "streams by path neon" "$all" backend-cpu --test streams
passes "the coder, path by path" "$all" backend-cpu --lib -- --nocapture
grep -Eq '^coder neon: planes [0-9]+\.\.' "$log" || die "the coder of path neon was not among those tested"
unset SPECKV_CPU

heading "AArch64: a CPU without dot products"
refused neon "CPU path neon is not available: this CPU lacks dotprod"
refused nonsense 'Unknown("nonsense")'
passes "the path it gets instead" "$old" backend-cpu --test conformance -- --nocapture the_forced_path_answers
answered scalar

# Left out are two tests that spend minutes on averages over many streams of what others test one by one.
passes "speckv-codec-core" "$all" codec-core --tests -- --skip overhead_is_below_half_a_percent
passes "speckv-predictor" "$all" predictor --tests -- --skip noise_costs_hardly_more_than_raw

heading "AArch64: summary"
note "$total tests passed under emulation"
