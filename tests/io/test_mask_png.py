"""Masks as PNG."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from t3dgs_masks.io.mask_png import mask_png

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(arrays(np.uint8, SIZES, elements=st.sampled_from([0, 7, 255])))
def test_is_read_back_as_it_was(pixels: np.ndarray) -> None:
    check_round_trip(pixels)


@pytest.mark.parametrize("order", ["C", "F"])
def test_so_are_large_ones(order: Literal["C", "F"]) -> None:
    check_round_trip(np.asarray(disc(480, 641), order=order))
    noise = np.random.default_rng(0).integers(0, 256, (400, 333), np.uint8)
    check_round_trip(np.asarray(noise, order=order))


def test_small_ones_are_smaller_than_the_usual_way() -> None:
    usual = BytesIO()
    Image.fromarray(disc(256, 300)).save(usual, "PNG")
    assert len(mask_png(disc(256, 300))) < 0.9 * len(usual.getvalue())


def check_round_trip(pixels: NDArray[np.uint8]) -> None:
    with Image.open(BytesIO(mask_png(pixels))) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(image), pixels)


def disc(height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(rows - 0.4 * height, columns - 0.5 * width) < 0.3 * height
    return inside.astype(np.uint8) * 255
