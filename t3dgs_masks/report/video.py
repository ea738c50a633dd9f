"""Videos, frame by frame, and one video made of several that continue each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from numpy.typing import NDArray

from t3dgs_masks.errors import DISK_FULL, UserError
from t3dgs_masks.types import Image

# PyAV's own errors are not all OSErrors.
_WRITE_ERRORS = (OSError, FFmpegError)

_WORTH_THREADS = 1 << 19
"""Pixels of a frame: smaller ones take longer to hand out than to encode."""
_LARGE = 1 << 17
"""Pixels of a frame: of smaller ones it matters more how many bytes their video takes; of larger
ones, how long (without CABAC a fifth less, for a seventh more bytes)."""

_BT709 = 1  # the number of that standard in H.264's colour tables
_RED, _GREEN, _BLUE = 0.2126, 0.7152, 0.0722  # what it makes brightness of
_TO_BLUE, _TO_RED = 112 / (1 - _BLUE) / 255, 112 / (1 - _RED) / 255
_YUV_OF_RGB = np.array(
    [
        [219 / 255 * _RED, 219 / 255 * _GREEN, 219 / 255 * _BLUE, 16],
        [-_TO_BLUE * _RED, -_TO_BLUE * _GREEN, _TO_BLUE * (1 - _BLUE), 128],
        [_TO_RED * (1 - _RED), -_TO_RED * _GREEN, -_TO_RED * _BLUE, 128],
    ]
)
"""[3, 4] levels of BT.709 with the range of a video (16 to 235 and 16 to 240) from RGB and 1."""


@dataclass(frozen=True)
class Picture:
    """A frame as a video holds it."""

    size: tuple[int, int]
    """(height, width) of what it shows, pixels."""
    planes: NDArray[np.uint8]
    """[H + H // 2, W] uint8 with H and W even, BT.709: brightness (16 to 235), then the two colours
    at half the size (16 to 240)."""

    @staticmethod
    def of(image_rgb: Image) -> Picture:
        """Of an image, [H, W, 3] uint8 RGB."""
        even = _even(image_rgb)
        height, width = even.shape[:2]
        planes = np.empty((height + height // 2, width), np.uint8)
        # FFmpeg does the same in six times the time.
        planes[:height] = cv2.extractChannel(cv2.transform(even, _YUV_OF_RGB), 0)
        halved = cv2.resize(even, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        _, blue, red = cv2.split(cv2.transform(halved, _YUV_OF_RGB))
        planes[height:].reshape(2, height // 2, width // 2)[:] = blue, red
        return Picture((image_rgb.shape[0], image_rgb.shape[1]), planes)

    def frame(self) -> av.VideoFrame:
        """As FFmpeg holds it: a copy."""
        width = self.planes.shape[1]
        height = self.planes.shape[0] * 2 // 3
        frame = av.VideoFrame(width, height, "yuv420p")
        colours = self.planes[height:].reshape(2, height // 2, width // 2)
        # PyAV's `from_ndarray` does the same in four times the time.
        for plane, levels in zip(frame.planes, (self.planes[:height], *colours), strict=True):
            memory: Any = plane  # a buffer, which its annotation doesn't say
            rows = np.frombuffer(memory, np.uint8).reshape(plane.height, plane.line_size)
            rows[:, : plane.width] = levels
        frame.colorspace, frame.color_range = _BT709, ColorRange.MPEG
        return frame


_UNSEEN: Any = [{"skip_frame": "all"}]  # PyAV's annotation of it is not what it takes
"""Of a stream: FFmpeg would decode its first frame when it opens it, which takes milliseconds."""


class VideoWriter:
    """An H.264 video (MPEG-4 where PyAV has no x264) that frames are pushed to, one at a time.

    It is made in memory: a few dozen frames take a megabyte or two.
    """

    def __init__(self, fps: float, height: int, width: int) -> None:
        """Begin the video.

        Args:
            fps: frames per second, above 0.
            height: of the frames, pixels.
            width: of the frames, pixels.

        Raises:
            UserError: `fps` is not above 0, or frames of this size cannot be encoded.
        """
        if not 0 < fps < float("inf"):
            raise UserError(f"{fps} is not a frame rate; --fps must be above 0.")
        self._height, self._width = height, width
        self._num_frames = 0
        self._file = BytesIO()
        with _encoding():
            self._container = av.open(self._file, "w", format="mp4")
            self._stream = self._add_stream(Fraction(fps).limit_denominator(1001))

    def finish(self) -> bytes:
        """End the video, which has at least one frame: the mp4 file.

        Raises:
            UserError: frames cannot be encoded.
        """
        assert self._num_frames > 0
        with _encoding():
            self._container.mux(self._stream.encode(None))
            self._container.close()
        return self._file.getvalue()

    def drop(self) -> None:
        """End it with nothing to show for, whatever state it is in."""
        with suppress(*_WRITE_ERRORS, ValueError):
            self._container.close()

    def push(self, picture: Picture) -> None:
        """Append a frame.

        Raises:
            ValueError: it is not of the size given at the start.
            UserError: frames cannot be encoded.
        """
        if picture.size != (self._height, self._width):
            raise ValueError(
                f"frame of size {picture.size} in a video of {self._height} x {self._width}"
            )
        frame = picture.frame()
        frame.pts = self._num_frames
        frame.time_base = 1 / self._rate
        with _encoding():
            self._container.mux(self._stream.encode(frame))
        self._num_frames += 1

    def _add_stream(self, rate: Fraction) -> VideoStream:
        self._rate = rate
        has_x264 = "libx264" in av.codecs_available
        stream = self._container.add_stream("libx264" if has_x264 else "mpeg4", rate=rate)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = _next_even(self._height), _next_even(self._width)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / rate
        # Players guess by size what is not written down.
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        if has_x264:
            # What `veryfast` does beyond it takes twice as long, or four times where a camera's
            # noise moves, and gives no better picture for the bytes. (Nor, with its macroblock
            # tree, the same bytes from run to run.)
            is_large = stream.height * stream.width >= _LARGE
            params = f"cabac={0 if is_large else 1}:deblock=0,0:bframes=3"
            context.options = {"crf": "25", "preset": "ultrafast", "x264-params": params}
            if stream.height * stream.width < _WORTH_THREADS:
                context.thread_count = 1
        else:
            context.bit_rate = max(400_000, stream.height * stream.width * 4)
        return stream


def join_videos(parts: Iterable[bytes], path: Path) -> None:
    """Write one video that shows those `parts` (at least one) one after the other. Nothing is
    encoded anew.

    Args:
        parts: contents of mp4 files that `VideoWriter` made, of one size and frame rate.
        path: the mp4 file; what is there is replaced, by a whole file or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        # A file of our own: FFmpeg would read a name like `a:b.mp4` as an address.
        with temporary.open("wb") as file:
            joined = av.open(file, "w", format="mp4")
            try:
                _append_all(joined, parts)
                joined.close()
            except BaseException:
                with suppress(*_WRITE_ERRORS):
                    joined.close()  # which fails once more
                raise
        temporary.replace(path)
    except _WRITE_ERRORS as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _append_all(joined: OutputContainer, parts: Iterable[bytes]) -> None:
    stream: VideoStream | None = None
    begin = 0  # of the next part, in the units of its stream
    for part in parts:
        with av.open(BytesIO(part), "r", format="mp4", stream_options=_UNSEEN) as source:
            assert isinstance(source, InputContainer)
            video = source.streams.video[0]
            assert video.time_base is not None
            assert video.average_rate is not None
            if stream is None:
                stream = joined.add_stream_from_template(video)
                stream.time_base = video.time_base
            for packet in source.demux(video):
                if packet.dts is None or packet.pts is None:
                    continue  # the last one, which is empty
                packet.dts, packet.pts = packet.dts + begin, packet.pts + begin
                packet.stream = stream
                joined.mux(packet)
            begin += round(video.frames / video.average_rate / video.time_base)


@contextmanager
def _encoding() -> Iterator[None]:
    try:
        yield
    except _WRITE_ERRORS as error:
        raise UserError(
            f"cannot encode the video: {error.strerror or error}; --no-overlay leaves it out."
        ) from error


def cannot_write(path: Path, error: OSError | FFmpegError) -> UserError:
    """What to tell the user when a video's file cannot be written."""
    full = error.errno in DISK_FULL
    why = "the disk is full; free some space and retry" if full else error.strerror or error
    return UserError(f"cannot write the video {path}: {why}.")


def _next_even(length: int) -> int:
    return length + length % 2


def _even(image: Image) -> NDArray[np.uint8]:
    """[H, W, 3] with its last row and column repeated where H or W is odd (4:2:0 needs pairs)."""
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return np.ascontiguousarray(image)
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
