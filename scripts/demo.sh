#!/usr/bin/env bash
# Sets up .venv if needed, films a small synthetic capture and refines its masks.
# Arguments go to `t3dgs-masks demo`: bash scripts/demo.sh --seed 3
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

.venv/bin/t3dgs-masks demo "$@"
