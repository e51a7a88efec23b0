#!/usr/bin/env bash
# Run the conformance tests of speckv-backend-cpu once for every code path, forced by name, and make sure that the
# path we asked for is the one that answered. A path this CPU cannot run is reported as not run, never as passed.
#
#   ci/arms.sh [cargo test arguments, for example --release]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# What each path needs (backend-cpu/src/path.rs), as /proc/cpuinfo spells it.
declare -A needs=(
    [scalar]=""
    [avx2]="avx2"
    [avx512vnni]="avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni"
    [amx]="avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni amx_tile amx_int8"
    [neon]="asimd asimddp"
)
paths=(scalar avx2 avx512vnni amx neon)

flags=
[[ ! -r /proc/cpuinfo ]] || flags=" $(awk -F: '/^(flags|Features)/ { print $2; exit }' /proc/cpuinfo) "

conformance() { # conformance NAME CARGO_ARGUMENTS...
    local name=$1
    shift
    SPECKV_CPU=$name cargo test "$@" -p speckv-backend-cpu --test conformance -- --nocapture
}

heading "conformance: build"
cargo test "$@" -p speckv-backend-cpu --test conformance --no-run

ran=()
not_run=()
for path in "${paths[@]}"; do
    heading "conformance: $path"
    lacks=
    for feature in ${needs[$path]}; do
        [[ $flags == *" $feature "* ]] || lacks+="${lacks:+, }$feature"
    done
    if [[ -n $lacks ]]; then
        note "$path: not run: CPU lacks $lacks"
        not_run+=("$path (CPU lacks $lacks)")
        continue
    fi
    conformance "$path" "$@" 2>&1 | tee "$log"
    # The harness may print "test name ... " before the line without a line end, so the start is not anchored.
    grep -Eq "speckv-backend-cpu: path=$path( |\$)" "$log" || die "$path was asked for, but no test said that it ran"
    others=$(grep -Eo 'speckv-backend-cpu: path=[^ ]+' "$log" | sort -u | grep -vx "speckv-backend-cpu: path=$path" || true)
    [[ -z $others ]] || die "$path was asked for, but also this ran: $others"
    passed=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    [[ $passed -gt 0 ]] || die "$path: no test ran"
    note "$path: $passed tests passed"
    ran+=("$path ($passed tests)")
done

heading "conformance: an unknown path must be an error"
if conformance nonsense "$@" >"$log" 2>&1; then
    cat "$log"
    die "SPECKV_CPU=nonsense was accepted"
fi
# It must fail in a test that knows why, not because something did not compile.
if ! { grep -q '^test result: FAILED' "$log" && grep -q nonsense "$log"; }; then
    cat "$log"
    die "SPECKV_CPU=nonsense failed, but not with a message that names it"
fi
note "SPECKV_CPU=nonsense is refused"

heading "conformance: summary"
for entry in "${ran[@]}"; do note "ran: $entry"; done
for entry in "${not_run[@]}"; do note "NOT RUN: $entry"; done
