#!/usr/bin/env bash
# Sets up .venv if needed and runs every check: lint, types, import rules, tests.
# Arguments go to pytest: bash scripts/test.sh tests/refine -k merge
# (-n 8: on a larger machine; -n 0: in one process, to debug)
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright
.venv/bin/lint-imports --no-cache
# One thread per test process: small networks gain nothing from more, and lose on busy machines.
# Each of the two may take 3 GB. Slow files come first (tests/conftest.py), hence no reordering.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} .venv/bin/python -m pytest \
    -n 2 --dist loadgroup --no-loadscope-reorder "$@"
