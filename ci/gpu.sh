#!/usr/bin/env bash
# Proves the CUDA backend on a machine with a GPU, which needs neither Rust nor CUDA's toolkit, only the driver.
#
#   ci/gpu.sh pack DIR          here: builds the tests, the examples and the program with CUDA, and puts them into DIR
#   ci/gpu.sh run DIR OUT       there, in a checkout of the same commit: runs all of it and writes OUT (committed as backend-cuda/proven.txt)
#   ci/gpu.sh check             anywhere: that what was proven are the kernels and the golden streams that lie here
#
# `run` fails if anything differs, if there is no device, or if no test ran. Where compute-sanitizer is installed, memory and races are checked too: what
# is not clean is named in OUT, and a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

pack() {
    mkdir -p "$1"
    local tests
    tests=$(cargo test --release --locked -p speckv-backend-cuda --features cuda --no-run --message-format=json |
        sed -n 's/.*"target":{"kind":\["test"\].*"name":"\([a-z]*\)".*"executable":"\([^"]*\)".*/\1 \2/p')
    [[ -n $tests ]] || die "no test was built"
    while read -r name path; do
        cp "$path" "$1/$name.test"
    done <<<"$tests"
    cargo build --release --locked -p speckv-cli --features cuda
    cp target/release/speckv "$1/"
    # Examples measure; `run` does not need them.
    local examples=(backend-cuda/examples/*.rs) example
    cargo build --release --locked -p speckv-backend-cuda --features cuda --examples
    for example in "${examples[@]}"; do
        example=$(basename "$example" .rs)
        cp "target/release/examples/$example" "$1/"
        strip "$1/$example"
    done
    strip "$1"/*.test "$1/speckv"
    ls -l "$1"
}

# Every ignored test of a program, each in a process of its own: a fault of one would end the context of all.
suite() {
    local program=$1 name count=0
    for name in $("$program" --list --ignored 2>/dev/null | sed -n 's/: test$//p'); do
        "$program" --ignored --exact "$name" >"$scratch/log" 2>&1 || {
            tail -30 "$scratch/log" >&2
            die "${program##*/} $name failed"
        }
        grep -q '^test result: ok. 1 passed' "$scratch/log" || die "${program##*/} $name ran nothing"
        count=$((count + 1))
    done
    echo "$count"
}

run() {
    local bin out=$2 speckv profile=models/tiny-qwen3/profile.speckv
    bin=$(cd "$1" && pwd)
    speckv=$bin/speckv
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    local device
    device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1) || die "no device"

    heading "conformance"
    local operations vectors resident streams=0 sanitized=none unclean=
    operations=$(suite "$bin/conformance.test")
    vectors=$(suite "$bin/vectors.test")
    resident=$(suite "$bin/resident.test")
    [[ $operations -gt 0 && $vectors -gt 0 && $resident -gt 0 ]] || die "no test ran"

    heading "tiny-qwen3: each side reads the other's streams"
    local format cache kind
    for format in bf16 e4m3 e5m2; do
        cache=$scratch/$format.safetensors
        "$speckv" capture --model models/tiny-qwen3 --text cli/assets/demo.txt --format $format -o "$cache" >/dev/null
        for kind in static chain draft; do
            for side in cpu cuda; do
                "$speckv" compress "$cache" --profile $profile --predictor $kind --backend $side -o "$scratch/$side.skv" >/dev/null
            done
            cmp "$scratch/cpu.skv" "$scratch/cuda.skv" || die "$format $kind: CPU and GPU write other bytes"
            "$speckv" verify "$scratch/cuda.skv" --profile $profile --backends cpu,cuda --cache "$cache" >/dev/null
            streams=$((streams + 1))
        done
    done

    if command -v compute-sanitizer >/dev/null; then
        heading "compute-sanitizer"
        local tool name job jobs=()
        for tool in memcheck racecheck; do
            for name in quantise gemm large attention encode_and_decode decode_damaged observe learn; do
                jobs+=("$tool $name")
            done
        done
        printf '%s\n' "${jobs[@]}" | xargs -P 4 -L 1 bash -c '
            compute-sanitizer --error-exitcode 9 --tool "$2" "$0/conformance.test" --ignored --exact "$3" >"$1/$2.$3" 2>&1 &&
                grep -q "1 passed" "$1/$2.$3" && : >"$1/$2.$3.clean" || :' "$bin" "$scratch"
        sanitized= unclean=
        for job in "${jobs[@]}"; do
            name=$scratch/${job/ /.}
            if [[ -e $name.clean ]]; then
                sanitized+="${job/ /:} "
            else
                unclean+="${job/ /:} "
                echo "$job: not clean" >&2
                grep -E '=====' "$name" | head -12 >&2 || true
            fi
        done
    fi

    {
        echo "date: $(date -u +%F)"
        echo "device, driver: $device"
        echo "tests of operations and streams: $operations"
        echo "tests of golden streams: $vectors"
        echo "tests of caches in device memory: $resident"
        echo "caches of tiny-qwen3 written by both sides, read by both: $streams"
        echo "compute-sanitizer: $sanitized"
        [[ -z $unclean ]] || echo "compute-sanitizer, not clean: $unclean"
        digests
    } | tee "$out"
    [[ -z $unclean ]] || die "not clean: $unclean"
}

# What a run proves: kernels as they are committed, on streams that the manifests name by their digests. The tests of golden streams hold every
# other backend, the definition first, to the same manifests.
digests() {
    for file in predictor/vectors/MANIFEST.json codec-core/vectors/MANIFEST.json backend-cuda/ptx/*.ptx; do
        echo "sha256 $(sha256sum "$file")"
    done
}

check() {
    local proven=backend-cuda/proven.txt
    [[ -f $proven ]] || die "$proven is missing: no run on a GPU is on record"
    ! grep 'not clean' "$proven" || die "$proven is of a run that compute-sanitizer found fault with"
    diff <(grep '^sha256 ' "$proven") <(digests) ||
        die "kernels or golden streams (>) are not those that ran on a GPU (<): run ci/gpu.sh pack and run, commit the result as $proven"
    echo "proven on $(sed -n 's/^device, driver: //p' "$proven"), $(sed -n 's/^date: //p' "$proven")"
}

case "${1:-}" in
pack) [[ $# -eq 2 ]] || die "usage: ci/gpu.sh pack DIR"; pack "$2" ;;
run) [[ $# -eq 3 ]] || die "usage: ci/gpu.sh run DIR OUT"; run "$2" "$3" ;;
check) [[ $# -eq 1 ]] || die "usage: ci/gpu.sh check"; check ;;
*) die "usage: ci/gpu.sh pack DIR | run DIR OUT | check" ;;
esac
