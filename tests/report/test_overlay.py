"""The overlay: what is drawn."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from t3dgs_masks.report import overlay
from t3dgs_masks.report.overlay import object_colour, overlay_frame

HEIGHT, WIDTH = 120, 160


def disc(centre_y: int, centre_x: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - centre_y) ** 2 + (columns - centre_x) ** 2 <= radius**2


def grey(level: int = 100) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)


def test_colours_are_stable_and_far_apart() -> None:
    assert object_colour(3) == object_colour(3)
    colours = np.array([[object_colour(object_id) for object_id in range(200)]], np.float32) / 255
    perceived = cv2.cvtColor(colours, cv2.COLOR_RGB2LAB)[0]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(perceived[:19], 2)]
    assert min(apart) > 15
    assert len(np.unique(perceived, axis=0)) > 190


def test_a_kept_object_is_tinted_in_its_colour_and_nothing_else_changes() -> None:
    image = grey()
    mask = disc(60, 80, 40)
    drawn = overlay_frame(image, [(5, mask)])
    assert np.array_equal(image, grey())
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn[~mask], image[~mask])
    tint = np.round(100 * 0.55 + np.array(object_colour(5)) * 0.45)
    assert np.abs(drawn[60, 60] - tint).max() <= 1  # inside, away from outline and label
    assert tuple(drawn[60, 40]) == object_colour(5)  # the leftmost pixel is on the outline


def test_the_id_is_written_on_the_object() -> None:
    mask = disc(60, 80, 40)
    first = overlay_frame(grey(), [(11, mask)])
    tint = np.round(100 * 0.55 + np.array(object_colour(11)) * 0.45)
    near_centre = first[50:70, 65:95].astype(int)
    assert (np.abs(near_centre - tint).max(axis=2) > 40).sum() > 20


def test_a_rejected_object_is_hatched_in_grey() -> None:
    image = grey()
    image[..., 0] = 220
    mask = disc(60, 80, 40)
    drawn = overlay_frame(image, [], [(5, mask)]).astype(int)
    left = drawn[55:65, 45:65].reshape(-1, 3)  # away from outline and label
    assert (left.max(axis=1) - left.min(axis=1)).max() <= 1  # no colour is left
    assert 0.15 < (left[:, 0] == 190).mean() < 0.35  # two pixels of eight are on a line
    assert np.array_equal(drawn[~mask], image[~mask])


def shaped(image: np.ndarray, mask: np.ndarray) -> overlay._Shape:
    shape = overlay._seen(mask, image)
    assert shape is not None
    return shape


def assert_tinted(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    drawn = image.copy()
    overlay._tint(drawn, shaped(image, mask), colour)
    mixed = image[mask] * (1 - overlay._TINT) + np.array(colour) * overlay._TINT
    assert np.array_equal(drawn[mask], mixed.round().astype(np.uint8))
    assert np.array_equal(drawn[~mask], image[~mask])


def assert_hatched(image: np.ndarray, mask: np.ndarray) -> None:
    """Lines go on from one object to the next, wherever their boxes begin."""
    drawn = image.copy()
    overlay._hatch(drawn, shaped(image, mask))
    expected = image.astype(float)
    for row, column in zip(*np.nonzero(mask), strict=True):
        on_line = (row + column) % 8 < 2
        expected[row, column] = 190 if on_line else image[row, column].mean() / 2 + 64
    assert np.abs(drawn - expected).max() <= 1
    assert np.array_equal(drawn[~mask], image[~mask])


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (2, 3), (90, 1), (1, 120), (90, 120)])
@pytest.mark.parametrize("corner", [(0, 0), (37, 52)])
def test_boxes_however_narrow_are_tinted_and_hatched(size, corner):
    image = np.random.default_rng(2).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    mask = np.zeros((90, 120), bool)
    mask[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = True
    assert_tinted(image, mask, (10, 20, 30))
    assert_hatched(image, mask)


@pytest.mark.parametrize("order", ["C", "F"])
def test_discs_are_tinted_and_hatched(order):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    mask = np.asarray(disc(43, 71, 25)[:90, :120], order=order)
    assert_tinted(image, mask, (230, 159, 0))
    assert_hatched(image, mask)


@pytest.mark.parametrize("thickness", [1, 2, 40])
def test_the_place_for_a_label_is_on_the_object(thickness):
    """Also where sampling misses all of it: a line between two samples."""
    mask = np.zeros((400, 300), bool)
    mask[10:390, 101 : 101 + thickness] = True
    x, y = overlay._inner_point(shaped(np.zeros((400, 300, 3), np.uint8), mask))
    assert mask[y, x]
    depth = min(x - 100, 101 + thickness - x)
    assert depth >= thickness / 2 - 6, "or close to the deepest one"


def test_drawing_in_given_memory() -> None:
    image, mask, memory = grey(), disc(60, 80, 40), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    drawn = overlay_frame(image, [(5, mask)], out=memory)
    assert drawn is memory
    assert np.array_equal(drawn, overlay_frame(image, [(5, mask)]))
    assert np.array_equal(image, grey())


def test_a_rejected_object_never_hides_a_kept_one() -> None:
    mask = disc(60, 80, 40)
    drawn = overlay_frame(grey(), [(0, disc(60, 80, 20))], [(1, mask)])
    assert tuple(drawn[60, 60]) == object_colour(0)


def test_no_objects_empty_masks_and_a_single_pixel() -> None:
    assert np.array_equal(overlay_frame(grey(), [], []), grey())
    nothing = np.zeros((HEIGHT, WIDTH), dtype=bool)
    assert np.array_equal(overlay_frame(grey(), [(0, nothing)], [(1, nothing)]), grey())
    pixel = np.ones((1, 1), dtype=bool)
    assert overlay_frame(np.zeros((1, 1, 3), np.uint8), [(0, pixel)]).shape == (1, 1, 3)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="mask of shape"):
        overlay_frame(grey(), [(0, np.ones((3, 3), dtype=bool))])
