"""Files that would run code if they were read carelessly."""

from __future__ import annotations

import os

BAIT = "was_executed"
"""The file that appears in the current folder if one of them was."""


class Bait:
    """Unpickling it makes a folder."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (BAIT,)
