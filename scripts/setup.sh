#!/usr/bin/env bash
# Makes .venv with the package and its development tools in it; does nothing if it is up to date.
# Sourced by demo.sh and test.sh; can also be run on its own. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python of version 3.11 or newer (with the venv module) was found" >&2
    return 1
}

wanted=$(cat pyproject.toml scripts/constraints.txt scripts/setup.sh | cksum)
if [ "$(cat .venv/.set-up-for 2>/dev/null)" != "$wanted" ]; then
    python=$(find_python)
    echo "setup: installing into .venv (a few minutes; PyTorch is large)" >&2
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    # The pip that comes with Python resolves this many packages several times slower.
    .venv/bin/python -m pip install -q --upgrade 'pip>=25'
    # torch and torchvision in one command, so that their builds fit each other.
    .venv/bin/python -m pip install -q -c scripts/constraints.txt torch torchvision setuptools wheel
    # SAM2 is built from source. Against the torch just installed, or pip would fetch another copy
    # of it for the build; without the CUDA extension, which nothing here uses.
    SAM2_BUILD_CUDA=0 .venv/bin/python -m pip install -q -c scripts/constraints.txt \
        --no-build-isolation --no-deps sam2
    .venv/bin/python -m pip install -q -c scripts/constraints.txt -e '.[dev]'
    # open3d (nerfstudio's) looks for libusb here before it looks in the system, which may have none.
    usb=$(.venv/bin/python -c 'import libusb_package as p; print(p.get_library_path() or "")' 2>/dev/null || true)
    [ -z "$usb" ] || ln -sf "$usb" .venv/lib/libusb-1.0.so.0
    echo "$wanted" > .venv/.set-up-for
fi
