"""Where a refine does its small jobs (pictures, masks, video): beside the network, or between its
frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from t3dgs_masks.cores import usable_cores
from t3dgs_masks.io.side_work import Beside, InPauses, SideWork
from t3dgs_masks.refine.observer import PassesOn, RefineObserver, Stage

_MOST_WORKERS = 4  # decoding and encoding of pictures hardly gains from more
_CORES_A_PAGE_WORKER = 4  # where there are few cores, more only get into the network's way
_PAGE_AHEAD = 4  # jobs: each holds a frame or a prompt
_RESULT_WORKERS = 2  # more would take the interpreter from those who keep the network busy
_PAUSE_FRAMES = 4
"""A pause has the jobs of so many frames, to share them out evenly; with 16 it gains no more."""
_PAUSE_PIXELS = 1 << 22
"""Frames that wait for a pause are held in memory: no more of them than this."""


@dataclass(frozen=True)
class SideWorks:
    """Who does the small jobs of one refine."""

    of_page: SideWork
    of_results: SideWork

    @staticmethod
    def for_network(device: torch.device, height: int, width: int) -> SideWorks:
        """For a network on this device, whose CPU threads are set already, and frames of `height`
        by `width` pixels."""
        cores = usable_cores()
        if device.type == "cpu" and torch.get_num_threads() >= cores:
            every = max(1, min(_PAUSE_FRAMES, _PAUSE_PIXELS // (height * width)))
            pauses = InPauses(min(_MOST_WORKERS, cores), every)
            return SideWorks(pauses, pauses)
        page_workers = min(_MOST_WORKERS, max(1, cores // _CORES_A_PAGE_WORKER))
        return SideWorks(Beside(page_workers, _PAGE_AHEAD), Beside(_RESULT_WORKERS, ahead=None))

    @contextmanager
    def in_use(self) -> Iterator[SideWorks]:
        """When the block ends, whatever way, nothing is being done any more."""
        try:
            yield self
        finally:
            self.of_page.drop()
            self.of_results.drop()

    def observer(self, observer: RefineObserver) -> RefineObserver:
        """Passes on to `observer` what it is told, and uses the pauses if they are waited for."""
        if isinstance(self.of_results, InPauses):
            return _PausesAfterFrames(observer, self.of_results)
        return observer


class _PausesAfterFrames(PassesOn):
    """Uses the moment when a frame is done and the next one not begun."""

    def __init__(self, observer: RefineObserver, pauses: InPauses) -> None:
        super().__init__(observer)
        self._pauses = pauses

    def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None:
        super().frame_done(stage, frame_idx, num_objects)
        self._pauses.pause()
