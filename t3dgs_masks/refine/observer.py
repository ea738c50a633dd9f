"""How a refine tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from t3dgs_masks.refine.conclusion import FrameResult


class Stage(str, Enum):
    """The parts of a refine, in order; the values are the keys used in reports."""

    FORWARD = "forward"
    BACKWARD = "backward"
    FINAL = "final"
    FILTER = "filter"


class RefineObserver(Protocol):
    """Called by `refine` as it goes; a progress display implements it."""

    def stage_started(self, stage: Stage, num_frames: int) -> None:
        """A stage begins; `frame_done` will follow for each of `num_frames` frames."""
        ...

    def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None:
        """One frame of a stage is done; `num_objects` have been found in the sequence so far."""
        ...

    def stage_finished(self, stage: Stage) -> None: ...

    def notice(self, text: str) -> None:
        """One line that the user should read; the result lists all of them too."""
        ...


class EarlyFrames(Protocol):
    """Told about frames that the last pass has left, to make their outputs beside the network."""

    def frame_left(self, frame_idx: int, look: Callable[[], FrameResult]) -> None:
        """A frame will hardly change any more.

        Args:
            frame_idx: which one; each is named once.
            look: says what the result on it will probably be. To be called once, from any thread,
                and before `finish` returns.
        """
        ...

    def finish(self) -> None:
        """The last pass is over: return when every `look` has."""
        ...


class SilentObserver:
    """Says nothing."""

    def stage_started(self, stage: Stage, num_frames: int) -> None: ...

    def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None: ...

    def stage_finished(self, stage: Stage) -> None: ...

    def notice(self, text: str) -> None: ...


class PassesOn:
    """Tells another observer all that it is told; for those who want to know when."""

    def __init__(self, observer: RefineObserver) -> None:
        self._observer = observer

    def stage_started(self, stage: Stage, num_frames: int) -> None:
        self._observer.stage_started(stage, num_frames)

    def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None:
        self._observer.frame_done(stage, frame_idx, num_objects)

    def stage_finished(self, stage: Stage) -> None:
        self._observer.stage_finished(stage)

    def notice(self, text: str) -> None:
        self._observer.notice(text)
