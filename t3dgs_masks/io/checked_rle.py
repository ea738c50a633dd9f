"""Run-length encodings from files: checked before anything decodes them."""

from __future__ import annotations

from t3dgs_masks.bits import parsed_run_lengths
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
    runs = parsed_run_lengths(counts)
    # pycocotools, which unites masks, trusts the runs: one that is wrong would write outside of its
    # buffer.
    if runs.min(initial=0) < 0 or int(runs.sum()) != height * width:
        raise ValueError("broken run-length encoding")
    return Rle(height, width, counts)
