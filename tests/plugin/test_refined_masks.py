"""Masks of a stage, read from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t3dgs_masks.errors import UserError
from t3dgs_masks.plugin.refined_masks import RefinedMasks
from t3dgs_masks.plugin.views import ordered_views

VIEWS = ordered_views([Path(f"/d/images/cam0/{name}.png") for name in "ab"] + [Path("/d/images/c")])


def write(folder: Path, name: str, static: np.ndarray) -> None:
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(static.astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    static = np.full((9, 12), 255)
    static[4, 5] = 0
    for view in VIEWS:
        write(tmp_path, view.name, static)
    return tmp_path


def test_black_is_transient(folder: Path) -> None:
    transient = RefinedMasks(folder, VIEWS, dilate=0).transient(0)
    assert np.argwhere(transient.pixels).tolist() == [[4, 5]]


def test_masks_grow(folder: Path) -> None:
    masks = RefinedMasks(folder, VIEWS, dilate=2)
    grown = masks.transient(0).pixels
    rows, columns = np.nonzero(grown)
    assert grown[4, 3:8].all()
    assert grown[2:7, 5].all()
    assert (np.abs(rows - 4) + np.abs(columns - 5) <= 4).all()
    assert rows.min() == 2
    assert columns.max() == 7


def test_each_camera_gets_its_own_mask(folder: Path) -> None:
    names = {view.camera_idx: view.name for view in VIEWS}
    write(folder, names[1], np.zeros((9, 12)))
    masks = RefinedMasks(folder, VIEWS, dilate=0)
    assert [int(masks.transient(idx).pixels.sum()) for idx in range(3)] == [1, 9 * 12, 1]


def test_missing_masks_are_named_at_once(folder: Path) -> None:
    (folder / "cam0" / "b.png").unlink()
    with pytest.raises(UserError, match=r"1 of 3 training images have no mask .*b\.png is one"):
        RefinedMasks(folder, VIEWS, dilate=0)
