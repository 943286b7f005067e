#!/bin/sh
# Make .venv from the pinned requirements, and install what the system lacks where we may.
set -eu
PYTHON=${PYTHON:-python3}

say() { printf '%s\n' "setup: $*"; }
has() { command -v "$1" >/dev/null 2>&1; }

missing=""
has bwrap || missing="$missing bubblewrap"
has git || missing="$missing git"
# networks of their own for the other machines of tests/acceptance/test_remote_dispatcher.py
has ip || missing="$missing iproute2"
has "$PYTHON" || missing="$missing python3"
if ! has "$PYTHON" || ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then missing="$missing python3-venv"; fi
# clocks that jump, for `make test-faults` and `make soak`
if has dpkg && ! dpkg -s libfaketime >/dev/null 2>&1; then missing="$missing libfaketime"; fi
if has ldconfig && ! ldconfig -p 2>/dev/null | grep -q 'libseccomp\.so\.2'; then missing="$missing libseccomp2"; fi

if [ -n "$missing" ]; then
    if has apt-get && [ "$(id -u)" = 0 ]; then
        say "installing$missing"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update
        # shellcheck disable=SC2086 # a list of names, on purpose
        apt-get -qq install -y --no-install-recommends $missing >/dev/null
    else
        say "the system lacks$missing. Run this once:  sudo apt-get install -y$missing"
    fi
fi

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "Python 3.11 or newer is needed; name one with: make setup PYTHON=/path/to/python3.11"
    exit 1
fi
if ! "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
    say "python3-venv is needed to make the virtual environment (see the command above)"
    exit 1
fi

# A half-made environment, or one whose Python has gone, is made again.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$PYTHON" -m venv .venv
fi
say "installing the pinned packages"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -r requirements-dev.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --editable .
.venv/bin/python -m compileall -q src  # so that the first start is not slower than the others
say "done: .venv is ready"
