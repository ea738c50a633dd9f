"""Objects drawn over the frames."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.masks import crop
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
_LABEL_STEPS = 64  # as finely is the longer side of an object searched for a place for its label


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
    *,
    out: Image | None = None,
) -> Image:
    """Draw objects over a frame: kept ones tinted, rejected ones hatched in grey.

    Args:
        image_rgb: [H, W, 3] uint8; not changed.
        kept: object id and [H, W] bool mask, True = object.
        rejected: likewise.
        out: where to draw; default: in an array of its own.

    Returns:
        [H, W, 3] uint8 RGB, every object outlined and labelled with its id.

    Raises:
        ValueError: a mask is not of the size of the image.
    """
    canvas = np.empty(image_rgb.shape, np.uint8) if out is None else out
    np.copyto(canvas, image_rgb)
    labels: list[tuple[str, tuple[int, int]]] = []
    # Rejected ones first: nothing may hide an object that counts.
    for object_id, mask in rejected:
        if (shape := _seen(mask, canvas)) is not None:
            _hatch(canvas, shape)
            _outline(canvas, shape, _REJECTED_LIGHT)
            labels.append((str(object_id), _inner_point(shape)))
    for object_id, mask in kept:
        if (shape := _seen(mask, canvas)) is not None:
            colour = object_colour(object_id)
            _tint(canvas, shape, colour)
            _outline(canvas, shape, colour)
            labels.append((str(object_id), _inner_point(shape)))
    for text, point in labels:
        _label(canvas, text, point)
    return canvas


@dataclass(frozen=True)
class _Shape:
    """The part of a frame that an object takes up."""

    rows: slice
    columns: slice
    inside: NDArray[np.uint8]
    """[h, w], rows first in memory, 1 = object."""


def _seen(mask: BoolMask, canvas: Image) -> _Shape | None:
    if mask.shape != canvas.shape[:2]:
        raise ValueError(f"mask of shape {mask.shape} on a frame of {canvas.shape[:2]}")
    if not mask.any():
        return None
    (rows, columns), inside = crop(mask)
    return _Shape(rows, columns, inside.view(np.uint8))


def _tint(canvas: Image, shape: _Shape, colour: tuple[int, int, int]) -> None:
    part = canvas[shape.rows, shape.columns]
    # A pixel has one of 256 values a channel: looked up rather than computed.
    levels = np.arange(256)[:, None] * (1 - _TINT) + np.array(colour) * _TINT
    cv2.copyTo(cv2.LUT(part, levels.round().astype(np.uint8)[None]), shape.inside, part)


def _hatch(canvas: Image, shape: _Shape) -> None:
    part = canvas[shape.rows, shape.columns]
    grey = cv2.transform(part, np.array([[*[0.5 / 3] * 3, 64.0]] * 3))  # the mean, darker
    height, width = shape.inside.shape
    sums = np.arange(height + width - 1) + shape.rows.start + shape.columns.start
    lines = (sums % _HATCH_PERIOD_PX < 2).view(np.uint8)  # by row + column
    on_line = np.lib.stride_tricks.sliding_window_view(lines, width)  # [h, w]
    cv2.copyTo(grey, shape.inside, part)
    cv2.copyTo(np.full_like(part, _REJECTED_LIGHT), shape.inside & on_line, part)


def _outline(canvas: Image, shape: _Shape, colour: tuple[int, int, int]) -> None:
    contours, _ = cv2.findContours(
        shape.inside,
        cv2.RETR_CCOMP,
        cv2.CHAIN_APPROX_SIMPLE,
        offset=(shape.columns.start, shape.rows.start),
    )
    cv2.drawContours(canvas, contours, -1, colour, _line_width(canvas))


def _inner_point(shape: _Shape) -> tuple[int, int]:
    """(x, y) of the pixel of an object that is farthest from its edge, or close to it."""
    stride = max(1, max(shape.inside.shape) // _LABEL_STEPS)
    sampled = shape.inside[::stride, ::stride]
    if not sampled.any():  # it is that thin
        stride, sampled = 1, shape.inside
    depth = cv2.distanceTransform(np.pad(sampled, 1), cv2.DIST_L2, cv2.DIST_MASK_3)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    x, y = stride * (int(column) - 1), stride * (int(row) - 1)
    return shape.columns.start + x, shape.rows.start + y


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
