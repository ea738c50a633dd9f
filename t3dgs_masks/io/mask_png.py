"""Masks as PNG files."""

from __future__ import annotations

from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

_Z_RLE = 3  # of zlib's strategies: repeats of the last byte alone, which is what masks are made of
_LARGE = 1 << 17
"""Pixels. Of smaller masks it matters more how many bytes they take; of larger ones, how long:
OpenCV takes half the time or less, and a quarter more bytes (it has one filter, Pillow tries all).
"""


def mask_png(pixels: NDArray[np.uint8]) -> bytes:
    """An 8-bit grey PNG file; small ones take a fifth less than with zlib's usual strategy.

    Args:
        pixels: [H, W] uint8, written as they are: whether 255 is static or transient is up to the
            caller.
    """
    if pixels.size >= _LARGE:
        _, encoded = cv2.imencode(".png", pixels)
        return encoded.tobytes()
    buffer = BytesIO()
    PilImage.fromarray(pixels).save(buffer, format="PNG", compress_type=_Z_RLE)
    return buffer.getvalue()
