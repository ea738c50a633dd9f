#!/usr/bin/env bash
# Sets up .venv if needed and runs every check: lint, types, import rules, tests.
# Arguments go to pytest: bash scripts/test.sh tests/refine -k merge
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright
.venv/bin/lint-imports --no-cache
# One thread per test process: small networks gain nothing from more, and lose on busy machines.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} .venv/bin/python -m pytest "$@"
