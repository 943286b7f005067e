#!/bin/sh
# Podman for the tests of the container runtime. Where it cannot be had they are skipped, and say so.
set -u
say() { printf '%s\n' "podman: $*"; }

if command -v podman >/dev/null 2>&1; then exit 0; fi
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
    say "not installed; the tests of the container runtime are skipped"
    exit 0
fi
say "installing podman and runc"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends podman runc; } >/dev/null 2>&1; then
    say "could not be installed; the tests of the container runtime are skipped"
fi
