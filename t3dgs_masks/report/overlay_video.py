"""The overlay of a whole sequence, in parts that are encoded by themselves: a frame that is known
can be drawn before the others are, and if it changes, its part alone is made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock, local

import numpy as np

from t3dgs_masks import masks
from t3dgs_masks.refine.conclusion import FrameResult
from t3dgs_masks.report.overlay import overlay_frame
from t3dgs_masks.report.video import Picture, VideoWriter, cannot_write, join_videos
from t3dgs_masks.types import BoolMask, FrameSequence, Image, Rle

PART_FRAMES = 32
"""Each part begins with a whole picture, which costs bytes, and lets a player jump there."""
_PREPARED_FRAMES = 4
"""So many at most are drawn and wait for earlier ones, in each part."""
_BYTES_IN_MEMORY = 32 << 20
"""Parts beyond wait for the others in files."""


class OverlayVideo:
    """May be used by several threads at once.

    Args:
        folder: where parts are kept for which there is no room in memory.
        frames: to draw on.
        fps: frames per second.
        is_wanted: asked before each frame is drawn; False: leave it.
    """

    def __init__(
        self, folder: Path, frames: FrameSequence, fps: float, is_wanted: Callable[[], bool]
    ) -> None:
        self._finished = _FinishedParts(folder)
        painter = _Painter(frames)
        self._parts = [
            _Part(
                self._finished,
                painter,
                range(start, min(start + PART_FRAMES, len(frames))),
                fps,
                is_wanted,
            )
            for start in range(0, len(frames), PART_FRAMES)
        ]

    @property
    def num_parts(self) -> int:
        return len(self._parts)

    def show(self, frame_idx: int, result: FrameResult) -> None:
        """Say what a frame shows; draws it, and those that it held up.

        Raises:
            UserError: the file cannot be written.
        """
        self._parts[frame_idx // PART_FRAMES].show(frame_idx, result)

    def parts_to_complete(self, results: Sequence[FrameResult]) -> list[int]:
        """The parts that do not show these results of all frames."""
        return [index for index, part in enumerate(self._parts) if not part.shows(results)]

    def complete(self, part: int, results: Sequence[FrameResult]) -> None:
        """Let a part show its share of these results of all frames.

        Raises:
            UserError: the file cannot be written.
        """
        self._parts[part].complete(results)

    def join(self, path: Path) -> None:
        """Put all parts, which are complete, together into one video.

        Raises:
            UserError: the file cannot be written.
        """
        join_videos(self._finished.in_order(), path)

    def drop(self) -> None:
        """Leave what is being written."""
        for part in self._parts:
            part.drop()


class _FinishedParts:
    """Videos by the frame that they begin with. For several threads at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._videos: dict[int, bytes | Path] = {}
        self._lock = Lock()

    def put(self, start: int, video: bytes) -> None:
        """Keep a video, in place of what there may be.

        Raises:
            UserError: its file cannot be written.
        """
        with self._lock:
            self._videos.pop(start, None)
            held = sum(len(known) for known in self._videos.values() if isinstance(known, bytes))
            self._videos[start] = (
                video if held + len(video) <= _BYTES_IN_MEMORY else self._written(start, video)
            )

    def in_order(self) -> Iterator[bytes]:
        """The videos, by the frames that they begin with; OSError if one cannot be read."""
        for start in sorted(self._videos):
            known = self._videos[start]
            yield known if isinstance(known, bytes) else known.read_bytes()

    def _written(self, start: int, video: bytes) -> Path:
        path = self._folder / f"{start:06d}.mp4"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(video)
        except OSError as error:
            raise cannot_write(path, error) from error
        return path


class _Part:
    """Some frames in a row, in a video of their own."""

    def __init__(
        self,
        finished: _FinishedParts,
        painter: _Painter,
        span: range,
        fps: float,
        is_wanted: Callable[[], bool],
    ) -> None:
        self._finished = finished
        self._painter = painter
        self._span = span
        self._fps = fps
        self._is_wanted = is_wanted
        self._known: dict[int, FrameResult] = {}
        self._prepared: dict[int, tuple[FrameResult, Picture]] = {}  # of the next few frames
        self._shown: list[FrameResult] = []  # of the first frames of the span
        self._video: VideoWriter | None = None  # None: not begun, or finished
        self._encoding = Lock()

    def show(self, frame_idx: int, result: FrameResult) -> None:
        # Drawing is for all who come by; only encoding has to go frame by frame.
        if self._is_wanted() and len(self._prepared) < _PREPARED_FRAMES:
            self._prepared[frame_idx] = self._prepare(frame_idx, result)
        self._known[frame_idx] = result
        # Who is encoding goes on with this frame when it comes to it; if that was about to stop,
        # the second look sees it.
        while self._is_due() and self._encoding.acquire(blocking=False):
            try:
                self._encode()
            finally:
                self._encoding.release()

    def shows(self, results: Sequence[FrameResult]) -> bool:
        return self._shown == [results[t] for t in self._span] and self._video is None

    def complete(self, results: Sequence[FrameResult]) -> None:
        with self._encoding:
            wanted = [results[t] for t in self._span]
            if self._video is None or self._shown != wanted[: len(self._shown)]:
                self._begin_anew()
            self._known = dict(zip(self._span, wanted, strict=True))
            self._encode()

    def drop(self) -> None:
        with self._encoding:
            self._prepared.clear()
            self._begin_anew()

    def _next(self) -> int:
        return self._span.start + len(self._shown)

    def _is_due(self) -> bool:
        return self._next() in self._known and self._is_wanted()

    def _begin_anew(self) -> None:
        self._shown = []
        if self._video is not None:
            self._video.drop()
            self._video = None

    def _prepare(self, frame_idx: int, result: FrameResult) -> tuple[FrameResult, Picture]:
        return result, self._painter.picture(frame_idx, result)

    def _encode(self) -> None:
        """Encode the frames that are known, as far as none is missing."""
        while self._is_due():
            frame_idx = self._next()
            if self._video is None:
                self._video = VideoWriter(self._fps, *self._painter.size)
            result = self._known[frame_idx]
            prepared = self._prepared.pop(frame_idx, None)
            if prepared is None or prepared[0] != result:
                prepared = self._prepare(frame_idx, result)
            self._video.push(prepared[1])
            self._shown.append(result)
            if frame_idx == self._span[-1]:
                video, self._video = self._video.finish(), None
                try:
                    self._finished.put(self._span.start, video)
                except BaseException:
                    self._shown = []  # it shows nothing that could be found again
                    raise


class _Painter:
    """Draws results on their frames; for several threads at once.

    What each draws in is kept: to get so much memory takes a third as long as to draw.
    """

    def __init__(self, frames: FrameSequence) -> None:
        self._frames = frames
        self._of_thread = local()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self._frames.height, self._frames.width

    def picture(self, frame_idx: int, result: FrameResult) -> Picture:
        kept, rejected = _decoded(result.kept), _decoded(result.rejected)
        return Picture.of(
            overlay_frame(self._frames[frame_idx], kept, rejected, out=self._canvas())
        )

    def _canvas(self) -> Image:
        canvas: Image | None = getattr(self._of_thread, "canvas", None)
        if canvas is None:
            canvas = self._of_thread.canvas = np.empty((*self.size, 3), np.uint8)
        return canvas


def _decoded(found: Mapping[int, Rle]) -> Iterator[tuple[int, BoolMask]]:
    return ((object_id, masks.decode(mask)) for object_id, mask in found.items())
