"""The script that kills refines and applies, in small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "kill_and_resume.py"


def test_killed_runs_end_as_undisturbed_ones():
    counts = ["--refine", "6", "--apply", "10", "--training", "0", "--processes", "1"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *counts, "--frames", "5"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    refine, apply = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]
    ]
    assert (refine[:2], apply[:2]) == (["refine", "6"], ["apply", "10"])
    for row in (refine, apply):
        redone, mixed, differences = row[5], row[7], row[8]
        assert (redone, mixed, differences) == ("0", "0", "0")
