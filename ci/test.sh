#!/usr/bin/env bash
# The tests, by exactly the command that README.md tells people to use.
#
#   ci/test.sh            run it
#   ci/test.sh --print    only print it
#
# README.md marks it with the line `<!-- test-command -->`; the next fenced code block is the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lib.sh
source ci/lib.sh

readme=README.md
[[ -r $readme ]] || die "$readme is missing"
markers=$(grep -c '^[[:space:]]*<!--[[:space:]]*test-command[[:space:]]*-->[[:space:]]*$' "$readme" || true)
[[ $markers -eq 1 ]] || die "$readme must have the line <!-- test-command --> exactly once, not $markers times"

# Everything in the first fenced block after the marker. Anything but empty lines between the two is an error, so that
# the marker cannot drift away from its block.
command=$(awk '
    { sub(/\r$/, "") }
    state == 0 && /^[ \t]*<!--[ \t]*test-command[ \t]*-->[ \t]*$/ { state = 1; next }
    state == 1 && /^[ \t]*(```+|~~~+)/ { fence = substr($1, 1, 3); state = 2; next }
    state == 1 && /[^ \t]/ { exit }
    state == 2 && index($1, fence) == 1 { state = 3; exit }
    state == 2 { sub(/^[ \t]*\$ /, ""); print }
    END { if (state != 3) exit 1 }
' "$readme") || die "$readme: no complete code block follows <!-- test-command -->"
[[ $command =~ [^[:space:]] ]] || die "$readme: the code block after <!-- test-command --> is empty"

if [[ ${1:-} == --print ]]; then
    printf '%s\n' "$command"
    exit
fi
heading "$command"
bash -euo pipefail -c "$command"
