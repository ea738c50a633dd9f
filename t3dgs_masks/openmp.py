"""How the threads that PyTorch computes with wait for each other.

Between two operations they turn in circles, so that they are there at once when the next one comes:
up to 300,000 times with GNU's OpenMP, which is milliseconds. Meanwhile they take a core from others
who have work, such as objects with a thread of their own (`sam.side_by_side`), and the pictures of
the report.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_SPINS = "10000"
"""A few tenths of a millisecond: longer than it takes to begin the next operation."""


def let_threads_rest(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep soon when there is nothing to do, unless the user settled how they wait.

    OpenMP reads it when it is loaded, so this is for before torch is imported, or for the
    environment of another process.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
