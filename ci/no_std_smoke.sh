#!/usr/bin/env bash
# codec-core where there is no operating system: a program linked for a Cortex-M4 (32 bits, no std, its own start, allocator
# and panic handler) that encodes, compares, decodes and refuses, run on an emulated board. What is missing is installed.
#
#   ci/no_std_smoke.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=ci/lib.sh
source ./lib.sh
cd no_std_smoke

target=thumbv7em-none-eabihf
heading "bare metal: tools"
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
command -v qemu-system-arm >/dev/null || {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends qemu-system-arm
}
qemu-system-arm --version | head -n 1

heading "bare metal: build and run"
cargo build --locked --release
program=target/$target/release/no-std-smoke
timeout 60 cargo run --locked --release -q || die "the program ended with $?: 1 is a wrong comparison, 2 a panic, 124 too long"
note "$program: exit 0"

heading "bare metal: the same, expecting another stream"
code=0
timeout 60 cargo run --locked --release -q --features spoiled || code=$?
[[ $code -eq 1 ]] || die "a wrong comparison must end with 1, not $code"
note "exit 1, as it must be"
