"""Mask functions: small tables, and properties against slow, obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from t3dgs_masks import masks
from t3dgs_masks.masks import TransientMask
from tests.refine.reference import slow_components, slow_dilate

shapes = st.tuples(st.integers(1, 9), st.integers(1, 11))
any_mask = shapes.flatmap(lambda shape: arrays(bool, shape))
stacks = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7)).flatmap(
    lambda shape: arrays(bool, shape)
)


def drawn(*rows: str) -> NDArray[np.bool_]:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


# -- overlap


@pytest.mark.parametrize(
    ("first", "second", "iou", "coverage"),
    [
        (drawn("##.."), drawn(".##."), 1 / 3, 1 / 2),
        (drawn("##.."), drawn("####"), 1 / 2, 1.0),
        (drawn("####"), drawn("##.."), 1 / 2, 1 / 2),
        (drawn("##.."), drawn("..##"), 0.0, 0.0),
        (drawn("...."), drawn("...."), 0.0, 0.0),
        (drawn("...."), drawn("####"), 0.0, 0.0),
        (drawn("####"), drawn("####"), 1.0, 1.0),
    ],
)
def test_iou_and_coverage(first, second, iou: float, coverage: float) -> None:
    assert masks.iou(first, second) == pytest.approx(iou)
    assert masks.coverage(first, second) == pytest.approx(coverage)


@given(any_mask.filter(np.any))
def test_crop_is_as_small_as_can_be(mask) -> None:
    for laid_out in (mask, np.asfortranarray(mask)):
        window, inside = masks.crop(laid_out)
        assert np.array_equal(inside, mask[window])
        assert inside.flags.c_contiguous
        assert inside.sum() == mask.sum()
        assert inside[[0, -1]].any(axis=1).all()
        assert inside[:, [0, -1]].any(axis=0).all()


# -- run-length encoding


@given(any_mask)
def test_encoding_round_trip(mask) -> None:
    rle = masks.encode(mask)
    assert (rle.height, rle.width) == mask.shape
    decoded = masks.decode(rle)
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, mask)
    assert masks.area(rle) == mask.sum()


@given(any_mask)
def test_encoding_depends_on_the_pixels_alone(mask) -> None:
    rle = masks.encode(mask)
    assert masks.encode(np.asfortranarray(mask)) == rle
    assert masks.encode(np.repeat(mask, 2, axis=1)[:, ::2]) == rle
    assert hash(masks.encode(mask.copy())) == hash(rle)


@given(stacks)
def test_union_equals_the_encoding_of_the_dense_union(stack) -> None:
    assert masks.union([masks.encode(mask) for mask in stack]) == masks.encode(stack.any(axis=0))


# -- growth


def test_dilate_by_the_cross() -> None:
    dot = drawn(".....", ".....", "..#..", ".....", ".....")
    assert np.array_equal(masks.dilate(dot, 2), drawn("..#..", ".###.", "#####", ".###.", "..#.."))
    assert np.array_equal(masks.dilate(dot, 0), dot)


@given(any_mask, st.integers(0, 12))
def test_dilate_equals_slow_dilate(mask, iterations: int) -> None:
    grown = masks.dilate(mask, iterations)
    assert grown.dtype == np.bool_
    assert np.array_equal(grown, slow_dilate(mask, iterations))


# -- components


def test_components_touch_at_corners() -> None:
    found = masks.components(drawn("#..#", ".#..", "...#"))
    assert [component.tolist() for component in found] == [
        [[0, 0], [1, 1]],
        [[0, 3]],
        [[2, 3]],
    ]


def test_no_components() -> None:
    assert masks.components(drawn("...", "...")) == []


@given(any_mask)
def test_components_equal_flood_fill(mask) -> None:
    found = masks.components(mask)
    assert [[tuple(pixel) for pixel in c.tolist()] for c in found] == slow_components(mask)


# -- holes


RING = drawn(
    ".......",
    ".#####.",
    ".#.#.#.",
    ".#.###.",
    ".#####.",
    ".......",
)  # holes of 2 pixels and of 1


@pytest.mark.parametrize(("max_area", "filled"), [(0, 0), (1, 1), (2, 3), (99, 3)])
def test_fill_holes(max_area: int, filled: int) -> None:
    result = masks.fill_holes(RING, max_area)
    assert (result & RING).sum() == RING.sum()
    assert result.sum() - RING.sum() == filled


@pytest.mark.parametrize(
    "mask",
    [
        drawn("###", "#.#", "#.#"),  # open to the border
        drawn("#.#", "###", "###"),
        drawn("...", "...", "..."),
        drawn("###", "###", "###"),
        drawn("#"),
        drawn("."),
    ],
)
def test_fill_holes_leaves_alone(mask) -> None:
    assert np.array_equal(masks.fill_holes(mask, 99), mask)


def test_holes_are_4_connected() -> None:
    two_holes = drawn("####", "#.##", "##.#", "####")
    assert masks.fill_holes(two_holes, 1).all()


@given(any_mask, st.integers(0, 20))
def test_fill_holes_fills_only_enclosed_regions(mask, max_area: int) -> None:
    result = masks.fill_holes(mask, max_area)
    expected = mask.copy()
    for region in _background_regions(mask):
        rows, columns = np.array(region).T
        at_border = (
            rows.min() == 0
            or columns.min() == 0
            or rows.max() == mask.shape[0] - 1
            or columns.max() == mask.shape[1] - 1
        )
        if not at_border and len(region) <= max_area:
            expected[rows, columns] = True
    assert np.array_equal(result, expected)


def _background_regions(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """4-connected regions of False pixels: grow from each by the cross within the background."""
    left, regions = ~mask, []
    while left.any():
        region = np.zeros_like(mask)
        region[tuple(np.argwhere(left)[0])] = True
        while True:
            grown = slow_dilate(region, 1) & ~mask
            if (grown == region).all():
                break
            region = grown
        regions.append([(int(r), int(c)) for r, c in np.argwhere(region)])
        left &= ~region
    return regions


# -- decoded masks are not C-contiguous; every function takes them


@given(any_mask)
def test_functions_take_decoded_masks(mask) -> None:
    decoded = masks.decode(masks.encode(mask))
    assert np.array_equal(masks.dilate(decoded, 2), masks.dilate(mask, 2))
    assert np.array_equal(masks.fill_holes(decoded, 3), masks.fill_holes(mask, 3))
    assert len(masks.components(decoded)) == len(masks.components(mask))


@given(any_mask.filter(np.any))
def test_pixels_are_encoded_like_the_mask_of_them(mask) -> None:
    pixels = np.random.default_rng(0).permutation(np.argwhere(mask))
    assert masks.encode_pixels(pixels, *mask.shape) == masks.encode(mask)


# -- what goes to disk


def test_static_is_white_where_nothing_is_transient() -> None:
    static = TransientMask(drawn("#.", "..")).static()
    assert static.dtype == np.uint8
    assert static.tolist() == [[0, 255], [255, 255]]


@given(any_mask)
def test_static_is_the_same_however_masks_lie_in_memory(mask) -> None:
    for laid_out in (mask, np.asfortranarray(mask)):
        static = TransientMask(laid_out).static()
        assert static.flags.c_contiguous
        assert np.array_equal(static, np.where(mask, 0, 255))


def test_transient_dilated() -> None:
    transient = TransientMask(drawn("...", ".#.", "..."))
    assert np.array_equal(transient.dilated(1).pixels, drawn(".#.", "###", ".#."))
    assert np.array_equal(transient.dilated(0).pixels, transient.pixels)
