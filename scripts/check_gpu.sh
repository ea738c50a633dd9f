#!/usr/bin/env bash
# What only a CUDA device can show, on the machine that has one: the tests marked `gpu`, whether the
# device's memory grows with a sequence, and how fast the largest network is beside the stock
# predictor. The tables are printed; their rows go to a folder as JSON.
#   bash scripts/check_gpu.sh FOLDER        PYTHON=... chooses another interpreter than .venv's
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(realpath -m "${1:?which folder shall the figures go to?}")
python=${PYTHON:-.venv/bin/python}

"$python" -c 'import sys, torch
if not torch.cuda.is_available():
    sys.exit("check_gpu: PyTorch sees no CUDA device here")
print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)'
mkdir -p "$folder"
"$python" -m pytest -q -m gpu
"$python" scripts/benchmark.py --preset memory --device cuda --json "$folder/memory.json"
"$python" scripts/benchmark.py --preset cuda --official-up-to 4 --json "$folder/cuda.json"
