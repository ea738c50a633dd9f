"""Masks at work: one bit a pixel, so that overlaps are a few operations on words.

At 1920x1080 a mask is 259 kB instead of the 2 MB of a bool array, and what SAM2's masks are asked
on a frame (how much of them lies inside another mask, what two of them have in common) takes tens
of microseconds. Pixels lie column after column, as COCO's run lengths have them, so that the way
from and to an `Rle` needs no transposing.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from t3dgs_masks.types import BitMask, BoolMask, Rle

_WORD_BITS = 64


def pack(mask: BoolMask) -> BitMask:
    """[H, W] bool -> `BitMask`."""
    height, width = mask.shape
    return from_bytes(height, width, np.packbits(columns_first(mask), bitorder="little"))


def unpack(mask: BitMask) -> BoolMask:
    """`BitMask` -> [H, W] bool, columns first in memory."""
    size = mask.height * mask.width
    pixels = np.unpackbits(mask.words.view(np.uint8), count=size, bitorder="little")
    return pixels.view(np.bool_).reshape(mask.width, mask.height).T


def from_bytes(height: int, width: int, octets: NDArray[np.uint8]) -> BitMask:
    """A mask from bytes of eight pixels each, columns first, the first pixel in the lowest bit."""
    words = np.zeros(-(-height * width // _WORD_BITS), dtype=np.uint64)
    words.view(np.uint8)[: len(octets)] = octets
    return BitMask(height, width, words)


def count(mask: BitMask) -> int:
    """Number of True pixels."""
    return int(cv2.norm(mask.words.view(np.uint8), cv2.NORM_HAMMING))


def share(part: BitMask, region: BitMask) -> float:
    """Share of the pixels of `part` that lie inside `region`; 0 if it has none."""
    area = count(part)
    return count(part & region) / area if area else 0.0


def run_lengths(mask: BitMask) -> NDArray[np.int64]:
    """[R] int64 lengths of runs of equal pixels, columns first, beginning with those that are
    False (0 if there are none)."""
    words, size = mask.words, mask.height * mask.width
    before = words << np.uint64(1)  # every pixel's predecessor in its own place
    before[1:] |= words[:-1] >> np.uint64(_WORD_BITS - 1)
    changes = words ^ before
    # Most words lie inside an object or outside of all, where nothing changes.
    where = np.flatnonzero(changes)
    turns = np.flatnonzero(np.unpackbits(changes[where].view(np.uint8), bitorder="little"))
    places = where[turns // _WORD_BITS] * _WORD_BITS + turns % _WORD_BITS
    places = places[places < size]  # the end of the mask is no change
    return np.diff(places, prepend=0, append=size)


def encode(mask: BitMask) -> Rle:
    """`BitMask` -> `Rle`."""
    return encode_runs(run_lengths(mask), mask.height, mask.width)


def encode_runs(lengths: NDArray[np.int64], height: int, width: int) -> Rle:
    """[R] int64 lengths of runs of equal pixels, as of `run_lengths` -> `Rle`."""
    encoded: Any = coco.frPyObjects(
        {"size": [height, width], "counts": lengths.tolist()}, height, width
    )
    return Rle(height, width, bytes(encoded["counts"]))


def decode(rle: Rle) -> BitMask:
    """`Rle` -> `BitMask`.

    Raises:
        ValueError: it is no encoding of a mask of its size.
    """
    return from_bytes(rle.height, rle.width, np.packbits(run_pixels(rle), bitorder="little"))


def run_pixels(rle: Rle) -> NDArray[np.uint8]:
    """[H * W] uint8 in {0, 1}, columns first: what an `Rle` says.

    Raises:
        ValueError: it is no encoding of a mask of its size.
    """
    runs = parsed_run_lengths(rle.counts)
    if runs.min() < 0 or int(runs.sum()) != rle.height * rle.width:
        raise ValueError("broken run-length encoding")
    return np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs)


def columns_first(mask: BoolMask) -> NDArray[np.uint8]:
    """[H, W] bool -> [W, H] uint8 in {0, 1}, rows of it contiguous."""
    pixels = mask.view(np.uint8)
    if pixels.flags.f_contiguous:
        return pixels.T
    return _transposed(np.ascontiguousarray(pixels))


def rows_first(mask: BoolMask) -> NDArray[np.uint8]:
    """[H, W] bool -> [H, W] uint8 in {0, 1}, rows of it contiguous."""
    pixels = mask.view(np.uint8)
    if pixels.strides[0] == 1 and not pixels.flags.c_contiguous:
        return _transposed(pixels.T)
    return np.ascontiguousarray(pixels)


def _transposed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    turned = np.empty(pixels.shape[::-1], dtype=np.uint8)
    # An order of magnitude faster than what numpy does.
    cv2.transpose(pixels, turned)
    return turned


def parsed_run_lengths(counts: bytes) -> NDArray[np.int64]:
    """[R] int64 run lengths of COCO's compressed string, beginning with pixels that are False.

    Each run is a little-endian chain of 5-bit groups (bit 5: more follow; bit 4 of the last: sign);
    from the fourth run on it is the difference to the run two places before.

    Raises:
        ValueError: `counts` is not such a string. Nothing is said about what the runs add up to,
            nor that all are positive.
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("broken run-length encoding")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # more than 35 bits: no image is that large
        raise ValueError("broken run-length encoding")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    negative = codes[ends] & 16 != 0
    runs = np.where(negative, runs - (np.int64(1) << 5 * lengths), runs)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
