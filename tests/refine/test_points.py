from __future__ import annotations

import numpy as np
import pytest

from t3dgs_masks.refine.points import coarse_points, grid_points, points_outside
from tests.refine.fakes import BOTTOM, LEFT, NOTHING, box


def test_ten_different_points_inside_a_small_component() -> None:
    points = coarse_points(LEFT, seed=0, frame_idx=3)
    assert points.shape == (10, 2)
    assert points.dtype == np.float32
    assert len(np.unique(points, axis=0)) == 10
    x, y = points.astype(int).T
    assert LEFT[y, x].all()


@pytest.mark.parametrize(
    ("size", "points"), [(9, 0), (10, 10), (999, 10), (1099, 10), (1100, 11), (1999, 19)]
)
def test_one_point_in_a_hundred_pixels_but_at_least_ten(size: int, points: int) -> None:
    coarse = np.zeros(2000, dtype=bool)
    coarse[:size] = True
    assert len(coarse_points(coarse.reshape(20, 100), seed=0, frame_idx=0)) == points


def test_every_component_gets_its_own_points() -> None:
    touching_corner = box(12, 12, 22, 22)  # 8-connected with LEFT: one component
    coarse = LEFT | touching_corner | BOTTOM | box(0, 55, 3, 58)  # the last has 9 pixels
    x, y = coarse_points(coarse, seed=0, frame_idx=0).astype(int).T
    assert len(x) == 20
    assert np.count_nonzero(BOTTOM[y, x]) == 10


def test_the_points_of_a_frame_depend_on_seed_and_frame_alone() -> None:
    def draw(seed: int, frame_idx: int) -> bytes:
        return coarse_points(LEFT, seed=seed, frame_idx=frame_idx).tobytes()

    assert draw(0, 1) == draw(0, 1)
    assert len({draw(0, 1), draw(0, 2), draw(1, 1), draw(1, 2)}) == 4


def test_no_points_without_a_coarse_mask() -> None:
    points = coarse_points(NOTHING, seed=0, frame_idx=0)
    assert (points.shape, points.dtype) == ((0, 2), np.float32)


def test_the_grid_lies_half_a_cell_inside_the_frame() -> None:
    expected = [[5, 2.5], [15, 2.5], [25, 2.5], [35, 2.5], [5, 7.5]]
    points = grid_points(4, height=20, width=40)
    assert points.shape == (16, 2)
    assert points.dtype == np.float32
    assert points[:5].tolist() == expected
    assert points[-1].tolist() == [35, 17.5]


def test_points_outside() -> None:
    points = np.array([[2, 2], [1, 2], [11.9, 11.9], [12, 11]], dtype=np.float32)
    assert points_outside(points, LEFT).tolist() == [[1, 2], [12, 11]]
    assert points_outside(points[:0], LEFT).shape == (0, 2)
