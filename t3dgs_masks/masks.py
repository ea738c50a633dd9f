"""Pure functions on binary masks: overlap, growth, components, run-length encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from t3dgs_masks import bits
from t3dgs_masks.bits import columns_first, rows_first, run_pixels
from t3dgs_masks.types import BoolMask, Rle

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


@dataclass(frozen=True)
class TransientMask:
    """Where one frame shows something that is not part of the static scene."""

    pixels: BoolMask  # [H, W] bool, True = transient

    def dilated(self, radius_px: int) -> TransientMask:
        """Grown by `radius_px` steps of the 4-connected cross; 0 returns the same pixels."""
        return TransientMask(dilate(self.pixels, radius_px))

    def static(self) -> NDArray[np.uint8]:
        """[H, W] uint8 as it goes to disk: 255 = static (keep), 0 = transient (ignore)."""
        return rows_first(self.pixels) - np.uint8(1)  # below 0 comes 255


def iou(first: BoolMask, second: BoolMask) -> float:
    """Intersection over union of two [H, W] bool masks; 0 if both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 0.0


def coverage(mask: BoolMask, region: BoolMask) -> float:
    """Share of `mask` that lies inside `region`, both [H, W] bool; 0 if `mask` is empty."""
    area = np.count_nonzero(mask)
    return np.count_nonzero(mask & region) / area if area else 0.0


def crop(mask: BoolMask) -> tuple[tuple[slice, slice], BoolMask]:
    """The rows and columns that hold all of a (non-empty) [H, W] bool mask, and the mask there,
    rows first in memory."""
    left, top, width, height = cv2.boundingRect(columns_first(mask))  # of the transposed
    window = slice(left, left + width), slice(top, top + height)
    return window, rows_first(mask[window]).view(np.bool_)


def dilate(mask: BoolMask, iterations: int) -> BoolMask:
    """[H, W] bool grown by `iterations` steps of the 4-connected cross."""
    if iterations <= 0 or not mask.any():
        return mask
    # Turned or not makes no difference to a cross; what is contiguous goes fastest.
    is_turned = mask.flags.f_contiguous
    pixels = columns_first(mask) if is_turned else rows_first(mask)
    left, top, width, height = cv2.boundingRect(pixels)
    window = (
        slice(max(0, top - iterations), top + height + iterations),
        slice(max(0, left - iterations), left + width + iterations),
    )
    grown = np.zeros_like(pixels)
    # The border counts as background (scipy's binary_dilation does the same).
    grown[window] = cv2.dilate(
        pixels[window],
        _CROSS,
        iterations=min(iterations, sum(mask.shape)),  # more cannot change anything
        borderType=cv2.BORDER_CONSTANT,
        borderValue=(0,),
    )
    return (grown.T if is_turned else grown).view(np.bool_)


def components(mask: BoolMask) -> list[NDArray[np.intp]]:
    """The 8-connected components of a [H, W] bool mask, in raster order of their first pixel.

    Returns:
        One [P, 2] integer array of (row, column) per component, pixels in raster order.
    """
    if not mask.any():
        return []
    window, inside = crop(mask)
    count, labels = cv2.connectedComponents(inside.view(np.uint8), connectivity=8)
    places = np.flatnonzero(inside)
    label_of_pixel = labels.ravel()[places]
    if count <= np.iinfo(np.uint16).max:
        label_of_pixel = label_of_pixel.astype(np.uint16)  # which numpy sorts in linear time
    places = places[np.argsort(label_of_pixel, kind="stable")]
    sizes = np.bincount(label_of_pixel, minlength=count)[1:]
    groups = [group for group in np.split(places, np.cumsum(sizes)[:-1]) if len(group)]
    # OpenCV's label order is an implementation detail of its algorithm; ours is not.
    groups.sort(key=lambda group: int(group[0]))
    corner = np.array([window[0].start, window[1].start])
    width = inside.shape[1]
    return [np.add(np.stack(np.divmod(group, width), axis=1), corner) for group in groups]


def fill_holes(mask: BoolMask, max_area: int) -> BoolMask:
    """[H, W] bool with enclosed background regions (4-connected) of up to `max_area` pixels filled.

    A background region that touches the image border is not a hole.
    """
    if max_area <= 0 or not mask.any():
        return mask
    count, label_map, stats, _ = cv2.connectedComponentsWithStats(
        (~mask).astype(np.uint8), connectivity=4
    )
    labels = np.asarray(label_map, dtype=np.intp)
    is_hole = stats[:, cv2.CC_STAT_AREA] <= min(max_area, mask.size)
    is_hole[0] = False
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    is_hole[np.unique(edge)] = False
    return mask | is_hole[labels] if count > 1 else mask


def drop_small(mask: BoolMask, min_area: int) -> BoolMask:
    """[H, W] bool without its 8-connected components of fewer than `min_area` pixels."""
    if min_area <= 1 or not mask.any():
        return mask
    _, label_map, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_kept = stats[:, cv2.CC_STAT_AREA] >= min(min_area, mask.size + 1)
    is_kept[0] = False  # the background
    return is_kept[np.asarray(label_map, dtype=np.intp)]


def encode(mask: BoolMask) -> Rle:
    """[H, W] bool -> `Rle`."""
    height, width = mask.shape
    encoded: Any = coco.encode(columns_first(mask).T)
    return Rle(height, width, bytes(encoded["counts"]))


def encode_pixels(pixels: NDArray[np.intp], height: int, width: int) -> Rle:
    """[P, 2] rows and columns of different pixels, at least one -> `Rle`, True = those."""
    places = np.sort(pixels[:, 1] * height + pixels[:, 0])  # columns first
    last = np.flatnonzero(np.diff(places, append=-1) != 1)  # of each run, in `places`
    first = np.concatenate([[0], last[:-1] + 1])
    turns = np.stack([places[first], places[last] + 1], axis=1).ravel()
    size = height * width
    turns = turns[turns < size]  # the end of the mask is no change
    return bits.encode_runs(np.diff(turns, prepend=0, append=size), height, width)


def decode(rle: Rle) -> BoolMask:
    """`Rle` -> [H, W] bool, columns first in memory.

    Raises:
        ValueError: it is no encoding of a mask of its size.
    """
    return run_pixels(rle).view(np.bool_).reshape(rle.width, rle.height).T


def area(rle: Rle) -> int:
    """Number of True pixels."""
    return int(coco.area(_as_coco(rle)))


def union(rles: Sequence[Rle]) -> Rle:
    """Pixels that are True in any of `rles`; at least one, all of one size."""
    merged: Any = coco.merge([_as_coco(rle) for rle in rles], intersect=False)
    return Rle(rles[0].height, rles[0].width, bytes(merged["counts"]))


def _as_coco(rle: Rle) -> Any:  # pycocotools' own type for it exists only in its stubs
    return {"size": [rle.height, rle.width], "counts": rle.counts}
