#!/usr/bin/env bash
# The golden streams of container and predictors on machines of another kind, under an emulator: one that is big-endian
# (s390x) and one of 32 bits (armv7). Old bytes give their values, values their old bytes, bad ones the exact error. What
# is missing is installed (Debian, rustup). codec-core without an operating system: ci/no_std_smoke.sh; AArch64: ci/aarch64.sh.
#
#   ci/other_machines.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

# rustup's target, Debian's architecture, the compiler's prefix, the emulator's name, what the machine is.
machines=(
    "s390x-unknown-linux-gnu s390x s390x-linux-gnu qemu-s390x big-endian"
    "armv7-unknown-linux-gnueabihf armhf arm-linux-gnueabihf qemu-arm 32-bit"
)

heading "other machines: tools"
packages=()
for machine in "${machines[@]}"; do
    read -r target arch prefix emulator _ <<<"$machine"
    rustup target list --installed | grep -qx "$target" || rustup target add "$target"
    { command -v "$prefix-gcc" && command -v "$emulator" && [[ -e /usr/$prefix/lib/crt1.o ]]; } >/dev/null ||
        packages+=("gcc-$prefix" "libc6-dev-$arch-cross" qemu-user)
done
if [[ ${#packages[@]} -gt 0 ]]; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for machine in "${machines[@]}"; do
    read -r target _ prefix emulator what <<<"$machine"
    heading "other machines: $target ($what)"
    name=${target//-/_}
    env "CARGO_TARGET_${name^^}_LINKER=$prefix-gcc" "CARGO_TARGET_${name^^}_RUNNER=$emulator -L /usr/$prefix" \
        cargo test --release --target "$target" -p speckv-codec-core -p speckv-predictor --test vectors >"$log" 2>&1 ||
        { cat "$log" && die "$target: failed"; }
    passed=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    # Both crates' tests, or a filter has gone wrong.
    [[ $passed -ge 10 ]] || { cat "$log" && die "$target: only $passed tests ran"; }
    note "$target: $passed tests passed"
done
