"""Objects drawn over the frames, and the video made of that."""

from __future__ import annotations

import colorsys
import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from t3dgs_masks.errors import UserError
from t3dgs_masks.masks import bounding_box
from t3dgs_masks.types import BoolMask, Image

_TINT = 0.45
_GOLDEN_RATIO = 0.618033988749895

# Okabe and Ito's palette, told apart with every kind of colour vision; black is left out, and
# neighbours in the list differ in lightness too.
_FIRST_COLOURS = (
    (230, 159, 0),
    (0, 114, 178),
    (240, 228, 66),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (0, 158, 115),
)
_FIRST_FURTHER_HUE = 0.67  # the one that keeps the next twelve farthest from those and each other
_REJECTED_LIGHT = (190, 190, 190)
_REJECTED_DARK = (70, 70, 70)
_HATCH_PERIOD_PX = 8

# PyAV's own errors are not all OSErrors.
_WRITE_ERRORS = (OSError, FFmpegError)

_BT709 = 1  # the number of that standard in H.264's colour tables


def object_colour(object_id: int) -> tuple[int, int, int]:
    """RGB of an object, always the same one for the same id."""
    if 0 <= object_id < len(_FIRST_COLOURS):
        return _FIRST_COLOURS[object_id]
    # Multiples of the golden ratio keep hues apart however many there are.
    further = object_id - len(_FIRST_COLOURS)
    hue = (_FIRST_FURTHER_HUE + further * _GOLDEN_RATIO) % 1.0
    value = (0.6, 1.0)[further % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def overlay_frame(
    image_rgb: Image,
    kept: Iterable[tuple[int, BoolMask]],
    rejected: Iterable[tuple[int, BoolMask]] = (),
) -> Image:
    """Draw objects over a frame: kept ones tinted, rejected ones hatched in grey.

    Args:
        image_rgb: [H, W, 3] uint8; not changed.
        kept: object id and [H, W] bool mask, True = object.
        rejected: likewise.

    Returns:
        [H, W, 3] uint8 RGB, every object outlined and labelled with its id.

    Raises:
        ValueError: a mask is not of the size of the image.
    """
    canvas = np.ascontiguousarray(image_rgb).copy()
    labels: list[tuple[str, tuple[int, int]]] = []
    # Rejected ones first: nothing may hide an object that counts.
    for object_id, mask in rejected:
        if _is_seen(mask, canvas):
            _hatch(canvas, mask)
            _outline(canvas, mask, _REJECTED_LIGHT)
            labels.append((str(object_id), _inner_point(mask)))
    for object_id, mask in kept:
        if _is_seen(mask, canvas):
            colour = object_colour(object_id)
            _tint(canvas, mask, colour)
            _outline(canvas, mask, colour)
            labels.append((str(object_id), _inner_point(mask)))
    for text, point in labels:
        _label(canvas, text, point)
    return canvas


class OverlayWriter:
    """An H.264 video (MPEG-4 where PyAV has no x264) that frames are pushed to, one at a time.

    A context manager: the file is there once it ends well and has a frame, and not otherwise.
    """

    def __init__(self, path: Path, fps: float, height: int, width: int) -> None:
        """Open the video.

        Args:
            path: the mp4 file; its folder is made if need be.
            fps: frames per second, above 0.
            height: of the frames, pixels.
            width: of the frames, pixels.

        Raises:
            UserError: `fps` is not above 0, or the file cannot be written.
        """
        if not 0 < fps < float("inf"):
            raise UserError(f"{fps} is not a frame rate; --fps must be above 0.")
        self._path = path
        self._temporary = path.with_name(f".{os.getpid()}-{path.name}")
        self._height, self._width = height, width
        self._num_frames = 0
        self._file: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file of our own: FFmpeg would read a name like `a:b.mp4` as an address.
            self._file = self._temporary.open("wb")
            self._container = av.open(self._file, "w", format="mp4")
            self._stream = self._add_stream(Fraction(fps).limit_denominator(1001))
        except _WRITE_ERRORS as error:
            self._drop()
            raise self._user_error(error) from error

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None or self._num_frames == 0:
            self._drop()
            return
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._close_file()
            self._temporary.replace(self._path)
        except _WRITE_ERRORS as failure:
            self._drop()
            raise self._user_error(failure) from failure
        except BaseException:
            self._drop()
            raise

    def push(self, image_rgb: Image) -> None:
        """Append a frame, [H, W, 3] uint8 RGB.

        Raises:
            ValueError: it is not of the size given at the start.
            UserError: the file cannot be written.
        """
        if image_rgb.shape != (self._height, self._width, 3):
            raise ValueError(
                f"frame of shape {image_rgb.shape} in a video of {self._height} x {self._width}"
            )
        frame = av.VideoFrame.from_ndarray(_even(image_rgb), format="rgb24")
        converted = frame.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        converted.pts = self._num_frames
        converted.time_base = 1 / self._rate
        try:
            self._container.mux(self._stream.encode(converted))
        except _WRITE_ERRORS as error:
            raise self._user_error(error) from error
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
            # With its macroblock tree, x264 gives small frames other bytes from run to run.
            context.options = {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"}
        else:
            context.bit_rate = max(400_000, stream.height * stream.width * 4)
        return stream

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _drop(self) -> None:
        """Leave nothing behind, whatever state the container is in."""
        with suppress(*_WRITE_ERRORS, ValueError, AttributeError):
            self._container.close()
        with suppress(OSError):
            self._close_file()
        with suppress(OSError):
            self._temporary.unlink()

    def _user_error(self, error: OSError | FFmpegError) -> UserError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full; free some space and retry" if full else error.strerror or error
        return UserError(f"cannot write the video {self._path}: {why}.")


def _is_seen(mask: BoolMask, canvas: Image) -> bool:
    if mask.shape != canvas.shape[:2]:
        raise ValueError(f"mask of shape {mask.shape} on a frame of {canvas.shape[:2]}")
    return bool(mask.any())


def _tint(canvas: Image, mask: BoolMask, colour: tuple[int, int, int]) -> None:
    rows, columns = bounding_box(mask)
    part, inside = canvas[rows, columns], mask[rows, columns]
    # A pixel has one of 256 values a channel: looked up rather than computed.
    levels = np.arange(256)[:, None] * (1 - _TINT) + np.array(colour) * _TINT
    blended = levels.round().astype(np.uint8)
    part[inside] = blended[part[inside], (0, 1, 2)]


def _hatch(canvas: Image, mask: BoolMask) -> None:
    rows, columns = np.nonzero(mask)
    grey = canvas[rows, columns].mean(axis=1, keepdims=True)
    on_line = ((rows + columns) % _HATCH_PERIOD_PX < 2)[:, None]
    hatched = np.where(on_line, np.array(_REJECTED_LIGHT), grey * 0.5 + 64)
    canvas[rows, columns] = hatched.round().astype(np.uint8)


def _outline(canvas: Image, mask: BoolMask, colour: tuple[int, int, int]) -> None:
    rows, columns = bounding_box(mask)
    contours, _ = cv2.findContours(
        mask[rows, columns].astype(np.uint8),
        cv2.RETR_CCOMP,
        cv2.CHAIN_APPROX_NONE,
        offset=(columns.start, rows.start),
    )
    cv2.drawContours(canvas, contours, -1, colour, _line_width(canvas))


def _inner_point(mask: BoolMask) -> tuple[int, int]:
    """(x, y) of the pixel of a [H, W] bool mask that is farthest from its edge."""
    rows, columns = bounding_box(mask)
    top, left = rows.start, columns.start
    crop = mask[rows, columns]
    depth = cv2.distanceTransform(np.pad(crop, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return left + int(column) - 1, top + int(row) - 1


def _label(canvas: Image, text: str, centre_xy: tuple[int, int]) -> None:
    height, width = canvas.shape[:2]
    scale = max(0.35, min(height, width) / 650)
    thickness = _line_width(canvas)
    (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    # Wholly inside the frame, if it fits at all.
    x = max(0, min(centre_xy[0] - text_width // 2, width - text_width))
    y = min(height - 1, max(centre_xy[1] + text_height // 2, text_height))
    for shade, stroke in (((0, 0, 0), 3 * thickness), ((255, 255, 255), thickness)):
        cv2.putText(
            canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, shade, stroke, cv2.LINE_AA
        )


def _line_width(canvas: Image) -> int:
    return max(1, round(min(canvas.shape[:2]) / 240))


def _next_even(length: int) -> int:
    return length + length % 2


def _even(image: Image) -> NDArray[np.uint8]:
    """[H, W, 3] with its last row and column repeated where H or W is odd (4:2:0 needs pairs)."""
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return np.ascontiguousarray(image)
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
