"""Masks as PNG."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from t3dgs_masks.io.mask_png import mask_png

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(arrays(np.uint8, SIZES, elements=st.sampled_from([0, 7, 255])))
def test_is_read_back_as_it_was(pixels: np.ndarray) -> None:
    with Image.open(BytesIO(mask_png(pixels))) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(image), pixels)


def test_smaller_than_the_usual_way() -> None:
    rows, columns = np.mgrid[:480, :640]
    disc = (np.hypot(rows - 200, columns - 300) < 150).astype(np.uint8) * 255
    usual = BytesIO()
    Image.fromarray(disc).save(usual, "PNG")
    assert len(mask_png(disc)) < 0.9 * len(usual.getvalue())
