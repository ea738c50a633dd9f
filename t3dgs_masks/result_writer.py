"""Masks and overlay of a result, written while the network is still at work on other frames.

Which objects are kept is known when all frames are. Until then the writer goes by what the
result on a frame will probably be, as soon as the last pass has left it; in the end it compares,
and does again what has turned out otherwise. What is written is the same in any case.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

from t3dgs_masks.io.outputs import StagedResult
from t3dgs_masks.io.side_work import SideWork
from t3dgs_masks.io.threads import in_threads
from t3dgs_masks.refine.conclusion import FrameResult
from t3dgs_masks.refine.pipeline import RefineResult
from t3dgs_masks.report.overlay_video import OverlayVideo
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.types import FrameSequence


class ResultWriter:
    """Writes the frames of one result; an `EarlyFrames`.

    Use it as a context manager: when the block ends, nothing is being written any more.

    Args:
        staged: takes the files.
        frames: of the sequence, at the size of its masks.
        fps: of the overlay; None: there is none.
        progress: shows what is waited for.
        side_work: writes what can be written early; dropped if the block ends with an error.
    """

    def __init__(
        self,
        staged: StagedResult,
        frames: FrameSequence,
        fps: float | None,
        progress: RichProgress,
        side_work: SideWork,
    ) -> None:
        self._staged = staged
        self._size = frames.height, frames.width
        self._num_frames = len(frames)
        self._overlay = None
        if fps is not None:
            parts = staged.overlay_parts
            self._overlay = OverlayVideo(parts, frames, fps, lambda: not self._is_stopped)
        self._progress = progress
        self._written: dict[int, FrameResult] = {}
        self._side_work = side_work
        self._is_stopped = False
        self.seconds = 0.0
        """That others waited for the writer."""
        self.frames_written_late = 0
        """Masks that were not written early, or had turned out otherwise."""

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_stopped = True
        if error is None:
            self._side_work.finish()
        else:
            self._side_work.drop()
        if self._overlay is not None:
            self._overlay.drop()

    # --- along with the last pass

    def frame_left(self, frame_idx: int, look: Callable[[], FrameResult]) -> None:
        """See `EarlyFrames`.

        Raises:
            UserError: a file of an earlier frame could not be written, or its prompt not read.
        """
        self._side_work.do(partial(self._write_early, frame_idx, look))

    def finish(self) -> None:
        """See `EarlyFrames`; also writes what can be written early.

        Raises:
            UserError: as `frame_left`.
        """
        begin = time.perf_counter()
        with self._progress.stage("writing results"):
            self._side_work.finish()
        self.seconds += time.perf_counter() - begin

    def _write_early(self, frame_idx: int, look: Callable[[], FrameResult]) -> None:
        result = look()
        self._write_mask(frame_idx, result)
        if self._overlay is not None:
            self._overlay.show(frame_idx, result)

    # --- when the result is known

    def complete(self, result: RefineResult) -> None:
        """Bring all files up to the result.

        Raises:
            UserError: a file cannot be written.
        """
        begin = time.perf_counter()
        frames = [result.frame(t) for t in range(self._num_frames)]
        late = [t for t, frame in enumerate(frames) if self._written.get(t) != frame]
        self.frames_written_late = len(late)
        self._in_threads("writing masks", late, lambda t: self._write_mask(t, frames[t]))
        if self._overlay is not None:
            self._complete_overlay(self._overlay, frames)
        self.seconds += time.perf_counter() - begin

    def _complete_overlay(self, overlay: OverlayVideo, frames: list[FrameResult]) -> None:
        late = overlay.parts_to_complete(frames)
        self._in_threads("drawing the overlay", late, lambda part: overlay.complete(part, frames))
        overlay.join(self._staged.overlay_path)
        self._staged.drop_overlay_parts()

    def _in_threads(self, title: str, items: list[int], work: Callable[[int], None]) -> None:
        if not items:
            return
        with self._progress.stage(title, len(items)) as advance:
            for _ in in_threads(work, items):
                advance()

    def _write_mask(self, frame_idx: int, result: FrameResult) -> None:
        self._staged.write_mask(frame_idx, result.transient(*self._size))
        self._written[frame_idx] = result
