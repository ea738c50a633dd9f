"""Run-length encodings from files: checked before anything decodes them."""

from __future__ import annotations

import numpy as np

from t3dgs_masks.types import Rle


def checked_rle(height: int, width: int, counts: bytes) -> Rle:
    """A mask as it was found in a file.

    Args:
        height: of the mask, pixels.
        width: likewise.
        counts: COCO's compressed string.

    Raises:
        TypeError: `counts` is not made of bytes.
        ValueError: it is no encoding of a mask of that size.
    """
    if not isinstance(counts, bytes):
        raise TypeError("run-length encoding is not made of bytes")
    runs = _run_lengths(counts)
    # pycocotools trusts the runs, so one that is wrong would write outside of its buffer.
    if runs.min(initial=0) < 0 or int(runs.sum()) != height * width:
        raise ValueError("broken run-length encoding")
    return Rle(height, width, counts)


def _run_lengths(counts: bytes) -> np.ndarray:
    """[R] int64 run lengths of COCO's compressed string.

    Each run is a little-endian chain of 5-bit groups (bit 5: more follow; bit 4 of the last: sign);
    from the fourth run on it is the difference to the run two places before.

    Raises:
        ValueError: `counts` is not such a string.
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
