#!/usr/bin/env bash
# Form, lints, documentation, and the no_std promise of the two inner crates. Runs no tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

target=thumbv7em-none-eabihf
inner=(-p speckv-codec-core -p speckv-predictor)

heading "cargo fmt"
cargo fmt --all --check
# The fuzz targets and the bare-metal program are workspaces of their own.
[[ ! -f fuzz/Cargo.toml ]] || cargo fmt --manifest-path fuzz/Cargo.toml --check
cargo fmt --manifest-path ci/no_std_smoke/Cargo.toml --check

heading "cargo clippy"
cargo clippy --workspace --all-targets -- -D warnings
cargo clippy --workspace --all-targets --all-features -- -D warnings

heading "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

heading "no_std"
# A build for a machine without an operating system is the proof; on a hosted target, std could slip in unnoticed.
if rustup target list --installed 2>/dev/null | grep -qx "$target" || rustup target add "$target"; then
    cargo build "${inner[@]}" --no-default-features --target "$target"
    note "no_std: built ${inner[*]} for bare metal ($target)"
else
    cargo build "${inner[@]}" --no-default-features
    note "no_std: NOT built for bare metal ($target cannot be installed here);" \
        "built ${inner[*]} --no-default-features for the host only"
fi
