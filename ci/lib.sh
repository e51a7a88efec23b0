# Sourced by the scripts beside it: headings with elapsed times, and errors that say where.
# shellcheck shell=bash

# Exported, so that scripts called by scripts count from the same start.
export SPECKV_CI_START=${SPECKV_CI_START:-$(date +%s)}

# heading TEXT: what comes next, and the time since the first script started.
heading() {
    local elapsed=$(($(date +%s) - SPECKV_CI_START))
    printf '\n== [%d:%02d] %s\n' $((elapsed / 60)) $((elapsed % 60)) "$*"
}

note() { printf -- '-- %s\n' "$*"; }

die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}
