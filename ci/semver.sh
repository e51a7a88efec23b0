#!/usr/bin/env bash
# The public interfaces of the crates that others build on against those of the last release (its tag): a breaking change
# needs a new major version (below 1.0: minor). Installs cargo-semver-checks if there is a release to compare with.
#
#   ci/semver.sh [TAG]      default: the last tag vN.N.N that this commit descends from
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

heading "semver"
tag=${1:-$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true)}
if [[ -z $tag ]]; then
    # Nothing passed and nothing failed: there is nothing yet that could be broken.
    note "NOT RUN: there is no release yet to compare with (no tag v*)"
    exit
fi
git rev-parse --verify --quiet "$tag^{commit}" >/dev/null || die "there is no tag or commit $tag"
cargo semver-checks --version 2>/dev/null || cargo install cargo-semver-checks --locked --target-dir target/cargo-semver-checks
cargo semver-checks --baseline-rev "$tag" -p speckv-codec-core -p speckv-predictor -p speckv-backend-cpu -p speckv-capture -p speckv-build
