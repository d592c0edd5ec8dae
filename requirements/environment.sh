#!/bin/sh
# Makes or refreshes a private environment: environment.sh DIRECTORY LOCKFILE
# Called by the Makefile from the root of the repository. DIRECTORY/.ready marks success, so an
# interrupted run is repeated; DIRECTORY/.lock keeps what was installed, so that a change of
# pyproject.toml alone reinstalls only howk.
set -eu

directory=$1
lock=$2
unset PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf 'howk: %s\n' "$*" >&2; }

# Run, not merely found: a version manager's shim may exist for an interpreter that does not.
works() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        works "$PYTHON" && python=$PYTHON && return
        say "PYTHON=$PYTHON is not a Python 3.11 or newer with the venv and ensurepip modules."
        exit 1
    fi
    for python in python3.13 python3.12 python3.11 python3; do
        works "$python" && return
    done
    say "no Python 3.11 or newer with the venv and ensurepip modules was found."
    say "Install one (Debian: python3 python3-venv), or name it: make PYTHON=/path/to/python3 ..."
    exit 1
}

failed() {
    say "$1 failed: the reason is above. Nothing outside $directory was changed; run make again to retry."
    exit 1
}

rm -f "$directory/.ready"
if ! { cat "$lock" requirements/build.txt | cmp -s - "$directory/.lock" && works "$directory/bin/python"; }; then
    find_python
    say "making $directory with $("$python" -c 'import sys; print(sys.executable, sys.version.split()[0])')"
    rm -rf "$directory"
    "$python" -m venv "$directory" || failed "making $directory"
    say "installing $lock into $directory (the first time takes a minute)"
    "$directory/bin/python" -m pip install --quiet --require-hashes -r "$lock" -r requirements/build.txt ||
        failed "installing $lock"
    cat "$lock" requirements/build.txt >"$directory/.lock"
fi

say "installing howk itself into $directory"
"$directory/bin/python" -m pip install --quiet --no-index --no-deps --no-build-isolation --editable . ||
    failed "installing howk"
: >"$directory/.ready"
say "$directory is ready"
