"""Memory that Python has freed, given back to the system.

glibc keeps what a thread has freed for that thread. Networks, decoders and encoders in several
threads leave a hundred megabytes and more lying about so, which is a lot beside what a refine uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from t3dgs_masks.refine.observer import PassesOn, RefineObserver, Stage

_EVERY_FRAMES = 32
"""It takes a few milliseconds."""


def give_back_memory() -> None:
    """Let the system have what was freed; does nothing where the C library cannot."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # glibc's
    except (OSError, AttributeError, TypeError):
        return None


class GivesBackMemory(PassesOn):
    """A `RefineObserver` that passes on what it is told, and gives back memory now and then.

    Args:
        observer: who is told.
        give_back: what does it, for tests.
    """

    def __init__(
        self, observer: RefineObserver, give_back: Callable[[], object] = give_back_memory
    ) -> None:
        super().__init__(observer)
        self._give_back = give_back
        self._frames_since = 0

    def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None:
        super().frame_done(stage, frame_idx, num_objects)
        self._frames_since += 1
        if self._frames_since == _EVERY_FRAMES:
            self._frames_since = 0
            self._give_back()

    def stage_finished(self, stage: Stage) -> None:
        super().stage_finished(stage)
        self._give_back()
