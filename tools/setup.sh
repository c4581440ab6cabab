#!/bin/sh
# Builds .venv from requirements.lock. The Makefile calls it; nobody has to.
#   setup.sh pick     prints the Python to use, "current" when .venv needs nothing, or "!" and why there is none
#   setup.sh build    brings .venv up to date
# PYTHON       the Python to use; without it the first of python3, python3.13, python3.12, python3.11 that is new enough
# TORCH_INDEX  a package index whose torch is wanted instead of PyPI's, for instance the CPU-only one
#
# .venv/.stamp says what a finished build was made of. It is written last, so a build that was interrupted
# has none, and is made again from nothing: pip cannot be trusted to finish what it left half unpacked.
set -eu
cd "$(dirname "$0")/.."
VENV=.venv
STAMP=$VENV/.stamp
PYTHON=${PYTHON:-}
recorded_index() { sed -n 's/.* index //p' "$STAMP" 2>/dev/null || true; }
INDEX=${TORCH_INDEX:-$(recorded_index)}   # once a CPU-only .venv is built, later makes keep to it
INDEX=${INDEX:-default}
GPU_ONLY='^(nvidia-|cuda-|triton==)'       # what the lock has for torch's sake on a GPU

runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo "not there"; }

made_of() {  # what a .venv made by Python $1 here and now would be made of
    "$1" - "$INDEX" <<'PY'
import hashlib, os, pathlib, platform, sys
lock = hashlib.sha256(pathlib.Path("requirements.lock").read_bytes()).hexdigest()
python = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}-{platform.machine()}"
print("lock", lock, "python", python, "at", os.getcwd(), "index", sys.argv[1])
PY
}

current() {
    [ -f "$STAMP" ] && runs "$VENV/bin/python" && [ "$(made_of "$VENV/bin/python")" = "$(cat "$STAMP")" ] || return 1
    [ -z "$PYTHON" ] || { runs "$PYTHON" && [ "$(made_of "$PYTHON")" = "$(cat "$STAMP")" ]; }
}

pick() {
    if current; then echo current; return; fi
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        # A pyenv shim of a version that is not installed exists and fails, so each candidate is run.
        runs "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then echo "$candidate"
        else echo "!$candidate ($(version_of "$candidate")) cannot make a virtual environment: install its venv package (Debian: apt-get install python3-venv)"; fi
        return
    done
    first=${PYTHON:-python3}
    echo "!finetune_book needs Python 3.11 or newer and $first is $(version_of "$first"): install one, or name it: make PYTHON=/path/to/python3.11"
}

# --no-compile: most of the files are never imported; those that are get compiled then.
PIP_INSTALL="$VENV/bin/python -m pip install --quiet --disable-pip-version-check --no-compile"

build_environment() {
    echo "building $VENV from requirements.lock with $1 (a few minutes; about 7 GB, or 2 GB with a CPU-only torch, see README)"
    rm -rf "$VENV"
    "$1" -m venv "$VENV"
    grep -E "$GPU_ONLY" requirements.lock > "$VENV/gpu.lock" || true
    grep -Ev "$GPU_ONLY" requirements.lock > "$VENV/rest.lock" || true
    if [ "$INDEX" = default ]; then
        # Two at once: unpacking is most of the time, the GPU's libraries are most of the bytes, and nothing else writes to their folders.
        $PIP_INSTALL --no-deps -r "$VENV/gpu.lock" & gpu=$!
        # What a shell starts with & ignores Ctrl-C, so it has to be told; else it would go on writing into .venv.
        trap 'kill "$gpu" 2>/dev/null' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM
        $PIP_INSTALL --no-deps -r "$VENV/rest.lock"
        wait "$gpu"
        trap - EXIT INT TERM
    else
        # A CPU-only torch needs none of them; its version (2.15.0+cpu) still satisfies the lock's ==2.15.0.
        $PIP_INSTALL --extra-index-url "$INDEX" -r "$VENV/rest.lock"
    fi
    made_of "$VENV/bin/python" > "$STAMP.tmp"
    mv "$STAMP.tmp" "$STAMP"
}

build_package() {  # the book itself, editable; again only when its packaging changed
    what=$(cksum pyproject.toml)
    [ "$(cat "$VENV/.stamp-package" 2>/dev/null)" = "$what" ] && return
    $PIP_INSTALL --no-deps --no-build-isolation -e .   # setuptools comes from the lock, so this needs no network
    echo "$what" > "$VENV/.stamp-package"
}

build() {
    # Two makes at once: the second waits here, then finds the work done.
    if command -v flock >/dev/null 2>&1; then exec 9>.venv.lock; flock 9; fi
    python=$(pick)
    case $python in
        current) ;;
        !*) echo "${python#!}" >&2; exit 2 ;;
        *) build_environment "$python" ;;
    esac
    build_package
}

case ${1:-} in
    pick) pick ;;
    build) build ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
