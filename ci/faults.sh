#!/usr/bin/env bash
# What goes wrong outside the program: no space, no permission, a kill at any moment, inputs that are cut short or change
# while they are read, a pipe that ends early. Nothing half-written may ever stand under the final name, a file that was
# there stays, and what is said is one line with a documented exit code (`speckv --help`).
#
#   ci/faults.sh                  builds speckv first
#   SPECKV=path ci/faults.sh      uses that one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

speckv=${SPECKV:-}
if [[ -z $speckv ]]; then
    heading "faults: build speckv"
    cargo build --release -p speckv-cli
    speckv=${CARGO_TARGET_DIR:-target}/release/speckv
fi
speckv=$(realpath "$speckv")
work=$(mktemp -d)
small=$work/small
cleanup() {
    umount "$small" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
checks=0

# check WHAT COMMAND...: the command must succeed.
check() {
    local what=$1
    shift
    "$@" || die "$what"
    checks=$((checks + 1))
}
# fails CODE WORDS COMMAND...: it must fail with this code and one error line that has these words.
fails() {
    local code=$1 words=$2 found=0
    shift 2
    "$@" >"$work/out" 2>"$work/err" || found=$?
    [[ $found -eq $code ]] || die "expected exit code $code, found $found: $* ($(cat "$work/err"))"
    [[ $(grep -c '^error: ' "$work/err") -eq 1 ]] || die "expected one error line: $(cat "$work/err")"
    grep -qF -- "$words" "$work/err" || die "expected '$words' in: $(cat "$work/err")"
    checks=$((checks + 1))
}
# nothing FOLDER: not a file in it, hidden ones included.
nothing() { [[ -z $(ls -A "$1") ]] || die "left in $1: $(ls -A "$1")"; }

heading "faults: inputs"
profile=models/tiny-qwen3/profile.speckv text=models/calibration/code-python-library.txt
"$speckv" capture -q --model models/tiny-qwen3 --text $text --tokens 400 -o "$work/cache.safetensors"
"$speckv" compress -q "$work/cache.safetensors" -p $profile -o "$work/good.skv"
compress() { "$speckv" compress -q "$work/cache.safetensors" -p "${1:-$profile}" -o "$2"; }
decompress() { "$speckv" decompress -q "$1" -p "${3:-$profile}" -o "$2"; }
build() { "$speckv" build -q --model models/tiny-qwen3 --text $text --sequences 2 --tokens 64 --no-draft -o "$1"; }
sound() { "$speckv" verify -q "$1" -p $profile --cache "$work/cache.safetensors" >/dev/null; }
check "the inputs are sound" sound "$work/good.skv"

heading "faults: no space"
mkdir "$small"
if mount -t tmpfs -o size=64k tmpfs "$small" 2>/dev/null; then
    fails 1 "No space left on device" compress "" "$small/c.skv"
    fails 1 "No space left on device" decompress "$work/good.skv" "$small/c.safetensors"
    fails 1 "No space left on device" build "$small/p.speckv"
    nothing "$small"
    # An old file stays as it is.
    echo old >"$small/c.skv"
    fails 1 "No space left on device" compress "" "$small/c.skv"
    check "the old file stays" test "$(cat "$small/c.skv")" = old
    umount "$small"
else
    # No right to mount: a limit on the size of files fails the same writes.
    note "no tmpfs can be mounted here: a limit on file sizes stands for a full disk"
    limited() { (trap '' XFSZ && ulimit -f 32 && "$@"); }
    fails 1 "File too large" limited compress "" "$small/c.skv"
    fails 1 "File too large" limited decompress "$work/good.skv" "$small/c.safetensors"
    fails 1 "File too large" limited build "$small/p.speckv"
    nothing "$small"
fi
note "$checks checks"

heading "faults: no permission"
mkdir "$work/closed"
echo old >"$work/closed/c.skv"
if [[ $(id -u) -eq 0 ]]; then
    # Root may write everywhere: somebody else tries.
    chmod 755 "$work" "$work/closed"
    chmod a+r "$work"/*.*
    as_other() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
    cp "$speckv" "$work/speckv"
    cp $profile "$work/profile.speckv"
    chmod 755 "$work/speckv"
    check "the other can run it" as_other "$work/speckv" --version >/dev/null
    tried="$work/speckv" open=$work/profile.speckv
else
    chmod 555 "$work/closed"
    as_other() { "$@"; }
    tried=$speckv open=$profile
fi
fails 1 "Permission denied" as_other "$tried" compress -q "$work/cache.safetensors" -p "$open" -o "$work/closed/c.skv"
fails 1 "Permission denied" as_other "$tried" decompress -q "$work/good.skv" -p "$open" -o "$work/closed/new.safetensors"
check "the old file stays" test "$(ls -A "$work/closed") $(cat "$work/closed/c.skv")" = "c.skv old"
chmod 755 "$work/closed"
chmod 000 "$work/closed/c.skv"
fails 1 "Permission denied" as_other "$tried" verify -q "$work/closed/c.skv" -p "$open"
note "$checks checks"

heading "faults: killed at any moment"
# From before anything is read to after all is done; what each command takes is measured first.
span() { local t; t=$(date +%s%N) && "$@" && echo $((($(date +%s%N) - t) / 1000000 + 1)); }
killed=0 finished=0
kill_at() { # kill_at MILLISECONDS COMMAND...
    local ms=$1 code=0
    shift
    # In a shell of its own, which alone says "Killed"; with `exit` it is not replaced by what is killed.
    (
        timeout -s KILL "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))" "$@"
        exit $?
    ) 2>/dev/null || code=$?
    case $code in
    0) finished=$((finished + 1)) ;;
    137) killed=$((killed + 1)) ;;
    *) die "exit code $code of $*" ;;
    esac
}
# Functions cannot be run by `timeout`.
args_compress=("$speckv" compress -q "$work/cache.safetensors" -p $profile)
args_decompress=("$speckv" decompress -q "$work/good.skv" -p $profile)
args_build=("$speckv" build -q --model models/tiny-qwen3 --text $text --sequences 2 --tokens 64 --no-draft)
mkdir "$work/kill"
for what in compress decompress build; do
    declare -n args=args_$what
    all=$(span "${args[@]}" -o "$work/whole")
    tries=24
    [[ $what != build ]] || tries=8
    for ((i = 0; i < tries; i++)); do
        file=$work/kill/out
        rm -rf "$work/kill" && mkdir "$work/kill"
        [[ $((i % 2)) -eq 0 ]] || echo old >"$file"
        kill_at $((1 + all * 5 * i / (4 * tries))) "${args[@]}" -o "$file"
        # There is nothing, or what was there, or all of it.
        if [[ ! -e $file ]]; then
            check "no old file is lost" test $((i % 2)) -eq 0
        elif ! cmp -s "$file" <(echo old); then
            check "$what: all or nothing" cmp "$file" "$work/whole"
        fi
        # What a kill leaves besides has another name, and says whose it is.
        left=$(find "$work/kill" -mindepth 1 ! -name out ! -name '.speckv-*' ! -name '.tmp*')
        check "$what left $left" test -z "$left"
    done
done
[[ $killed -ge 10 && $finished -ge 3 ]] || die "kills that miss show nothing: $killed killed, $finished finished"
note "$killed killed, $finished finished before; $checks checks"

heading "faults: an input is cut short while it is read"
cut=0 through=0
all=$(span decompress "$work/good.skv" "$work/whole")
for ((i = 0; i < 40; i++)); do
    cp $profile "$work/cut.speckv"
    rm -f "$work/out.safetensors"
    decompress "$work/good.skv" "$work/out.safetensors" "$work/cut.speckv" >"$work/out" 2>"$work/err" &
    pid=$!
    sleep "$(printf '0.%03d' $((all * i / 40 % 1000)))"
    truncate -s 4096 "$work/cut.speckv"
    code=0
    wait $pid || code=$?
    if [[ $code -eq 0 ]]; then
        check "what is whole is right" cmp "$work/out.safetensors" "$work/whole"
        through=$((through + 1))
    else
        # Cut before it was mapped, it is a bad profile; after that, the program is told.
        [[ $code -eq 1 || $code -eq 3 ]] || die "exit code $code: $(cat "$work/err")"
        [[ $(grep -c '^error: ' "$work/err") -eq 1 ]] || die "expected one error line: $(cat "$work/err")"
        check "no output" test ! -e "$work/out.safetensors"
        [[ $code -eq 3 ]] || { grep -q "cut short" "$work/err" && cut=$((cut + 1)); }
    fi
done
[[ $cut -ge 1 ]] || die "no run was hit while it read ($through went through)"
note "$cut runs were hit while they read, $through were through before; $checks checks"

heading "faults: an input changes while it is read"
changed=0 through=0
for ((i = 0; i < 20; i++)); do
    cp "$work/good.skv" "$work/change.skv"
    rm -f "$work/out.safetensors"
    decompress "$work/change.skv" "$work/out.safetensors" >"$work/out" 2>"$work/err" &
    pid=$!
    sleep "$(printf '0.%03d' $((all * i / 20 % 1000)))"
    head -c 20000 /dev/urandom | dd of="$work/change.skv" bs=1000 seek=5 conv=notrunc status=none
    code=0
    wait $pid || code=$?
    if [[ $code -eq 0 ]]; then
        check "what is whole is right" cmp "$work/out.safetensors" "$work/whole"
        through=$((through + 1))
    else
        [[ $code -eq 4 ]] || die "exit code $code: $(cat "$work/err")"
        check "no output" test ! -e "$work/out.safetensors"
        changed=$((changed + 1))
    fi
done
[[ $changed -ge 1 ]] || die "no change was noticed"
note "$changed changes refused, $through runs were through before; $checks checks"

heading "faults: a stream on stdin that ends early"
size=$(wc -c <"$work/good.skv")
for part in 0 7 60 113 $((size / 2)) $((size - 1)); do
    rm -f "$work/out.safetensors"
    head -c "$part" "$work/good.skv" >"$work/front"
    piped() { cat "$work/front" | decompress /dev/stdin "$work/out.safetensors"; }
    fails 4 "truncated" piped
    check "no output" test ! -e "$work/out.safetensors"
done
whole() { cat "$work/good.skv" | decompress /dev/stdin "$work/out.safetensors"; }
check "a whole stream on stdin" whole
check "is restored" cmp "$work/out.safetensors" "$work/whole"

heading "faults: nobody reads stdout"
"$speckv" inspect "$work/good.skv" | head -c 1 >/dev/null || die "a closed pipe is no failure"
checks=$((checks + 1))
note "faults: $checks checks, nothing half-written"
