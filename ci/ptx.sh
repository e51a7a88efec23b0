#!/usr/bin/env bash
# Compiles backend-cuda/kernels/*.cu to the PTX committed in backend-cuda/ptx. With --check: compiles to a temporary folder and compares.
# Kernels include no CUDA header, so Debian's clang is all that is needed; its version is pinned, since another one words the same code otherwise.
# A file whose name ends in _sm90a is for that architecture alone (wgmma); all others serve sm_80 and everything after it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

CLANG=${CLANG:-clang-19}
VERSION=19.1.7
command -v "$CLANG" >/dev/null || die "$CLANG is needed: apt-get install -y --no-install-recommends clang-19"
found=$("$CLANG" -dumpversion)
[ "$found" = "$VERSION" ] || die "PTX is made by clang $VERSION, this is $found"

out=backend-cuda/ptx
if [ "${1:-}" = --check ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
elif [ $# -gt 0 ]; then
    die "usage: ci/ptx.sh [--check]"
fi

count=0
for source in backend-cuda/kernels/*.cu; do
    name=$(basename "$source" .cu)
    case "$name" in
    *_sm90a) arch=sm_90a ptx=ptx80 ;;
    *) arch=sm_80 ptx=ptx70 ;;
    esac
    # -g0 and relative paths: the text does not depend on where it is made.
    "$CLANG" -x cuda --cuda-device-only --cuda-gpu-arch=$arch -Xclang -target-feature -Xclang +$ptx \
        -nocudainc -nocudalib -std=c++17 -O3 -g0 -Wall -Wextra -Werror -S "$source" -o "$out/$name.ptx"
    if [ "$out" != backend-cuda/ptx ]; then
        cmp "$out/$name.ptx" "backend-cuda/ptx/$name.ptx" || die "$name.ptx is not what $source compiles to: run ci/ptx.sh"
    fi
    count=$((count + 1))
done
[ "$count" -gt 0 ] || die "no kernels found"
echo "$count kernel files: PTX $([ "$out" = backend-cuda/ptx ] && echo written || echo up to date)"
