"""How OpenMP's threads wait: as we say, unless the user did."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from t3dgs_masks.openmp import let_threads_rest


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000"}),
        ({"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_what_the_user_settled_stays(given: dict[str, str], expected: dict[str, str]) -> None:
    let_threads_rest(given)
    assert given == expected


def test_the_command_line_settles_it_before_torch_is_there() -> None:
    code = (
        "import os, sys; import t3dgs_masks.cli as cli\n"
        "settled = lambda: os.environ['GOMP_SPINCOUNT'] == '10000' and 'torch' not in sys.modules\n"
        "cli.main = lambda: int(not settled())\n"
        "cli.entry_point()"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_W", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == 0
