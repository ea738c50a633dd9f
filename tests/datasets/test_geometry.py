"""Masks go through nerfstudio's undistortion and come out as they were made."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3dgs_masks.datasets.dataset import Camera
from t3dgs_masks.datasets.geometry import (
    at_size,
    fits,
    scaled,
    shrunk_any,
    to_file_geometry,
    to_training_geometry,
)
from t3dgs_masks.masks import TransientMask, iou
from t3dgs_masks.types import BoolMask
from tests.datasets.scenes_to_mask import save

WIDTH, HEIGHT = 160, 120
LENSES: dict[str, dict[str, Any]] = {
    "barrel": {"k1": -0.15, "k2": 0.02, "p1": 0.003},
    "pincushion": {"k1": 0.12, "k2": -0.02, "p1": -0.002},
    "wide": {"k1": -0.3, "k2": 0.1, "k3": -0.02, "p2": 0.002},
    "fisheye": {"k1": 0.05, "k2": 0.01, "k3": 0.003, "k4": 0.001, "fisheye": True},
}


def camera_of(lens: str, focal: float = 120.0) -> Camera:
    return Camera(focal, focal, WIDTH / 2 + 1.5, HEIGHT / 2 - 2, WIDTH, HEIGHT, **LENSES[lens])


def ellipse(size: tuple[int, int], seed: int) -> BoolMask:
    rng = np.random.default_rng(seed)
    height, width = size
    centre = (int(rng.uniform(0.05, 0.95) * width), int(rng.uniform(0.05, 0.95) * height))
    axes = (int(0.15 * width), int(0.25 * height))
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, centre, axes, 30, 0, 360, 1, -1)
    return mask.astype(bool)


class Nerfstudio:
    """nerfstudio's own chain from a mask file to what it trains with."""

    def __init__(self, camera: Camera, scale: float, folder: Path) -> None:
        self._camera, self._scale, self._file = camera, scale, folder / "mask.png"
        empty = np.zeros((camera.height, camera.width), np.bool_)
        _, self.undistorted = self._run(empty)

    def transient(self, mask: TransientMask) -> BoolMask:
        return self._run(mask.pixels)[0]

    def _run(self, transient: BoolMask) -> tuple[BoolMask, Camera]:
        import torch
        from nerfstudio.cameras.cameras import Cameras, CameraType
        from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image
        from nerfstudio.data.utils.data_utils import get_image_mask_tensor_from_path

        save(self._file, TransientMask(transient).static())
        mask = get_image_mask_tensor_from_path(self._file, self._scale)
        c = self._camera
        cameras = Cameras(
            fx=c.fl_x,
            fy=c.fl_y,
            cx=c.cx,
            cy=c.cy,
            width=c.width,
            height=c.height,
            camera_to_worlds=torch.eye(4)[None, :3],
            distortion_params=torch.tensor([[c.k1, c.k2, c.k3, c.k4, c.p1, c.p2]]),
            camera_type=CameraType.FISHEYE if c.fisheye else CameraType.PERSPECTIVE,
        )
        cameras.rescale_output_resolution(self._scale)
        camera = cameras[0].reshape(())
        image = np.zeros((*mask.shape[:2], 3), np.uint8)
        matrix, image, static = _undistort_image(
            camera,
            camera.distortion_params.numpy(),
            {"mask": mask},
            image,
            camera.get_intrinsics_matrices().numpy(),
        )
        assert static is not None
        k = [float(matrix[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2))]
        return ~static.numpy()[..., 0], Camera(*k, image.shape[1], image.shape[0])


@pytest.mark.parametrize(
    ("lens", "focal", "factor", "scale"),
    list(product(LENSES, (140.0, 100.0), (1, 2), (1.0, 0.5))),
)
def test_nerfstudio_gets_back_what_it_masked(
    lens: str, focal: float, factor: int, scale: float, tmp_path: Path
) -> None:
    """Of the transient pixels none is lost; of the static ones next to them hardly any (at the
    resolution that masks are made at, IoU 0.98 to 0.99; if that is a camera_res_scale_factor
    below the file's, at least 0.85, of masks 24 to 48 pixels wide)."""
    source = camera_of(lens, focal)
    file = at_size(source, HEIGHT // factor, WIDTH // factor)
    chain = Nerfstudio(file, scale, tmp_path)
    view = chain.undistorted
    ious = []
    for seed in range(8):
        transient = ellipse((view.height, view.width), seed)
        written = to_file_geometry(
            TransientMask(transient), view, source, size=(file.height, file.width)
        )
        seen = chain.transient(written)
        assert not (transient & ~seen).any()
        ious.append(iou(transient, seen))
    assert np.mean(ious) > (0.98 if scale == 1 else 0.86)


@pytest.mark.parametrize("lens", LENSES)
def test_masks_made_at_full_size_hold_for_downscaled_copies(lens: str, tmp_path: Path) -> None:
    source = camera_of(lens)
    view = Nerfstudio(source, 1.0, tmp_path).undistorted
    half = at_size(source, HEIGHT // 2, WIDTH // 2)
    chain = Nerfstudio(half, 1.0, tmp_path)
    for seed in range(4):
        transient = TransientMask(ellipse((view.height, view.width), seed))
        small = to_file_geometry(transient, view, source, size=(half.height, half.width))
        seen = chain.transient(small)
        expected = to_file_geometry(transient, view, chain.undistorted).pixels
        assert np.count_nonzero(expected & ~seen) < 0.03 * np.count_nonzero(expected)
        assert iou(expected, seen) > 0.85


@pytest.mark.parametrize(("lens", "scale"), list(product(LENSES, (1.0, 0.5))))
def test_file_masks_are_seen_as_nerfstudio_sees_them(
    lens: str, scale: float, tmp_path: Path
) -> None:
    """Transient wins where nerfstudio's bilinear sampling lets static win: never less than it."""
    source = camera_of(lens)
    chain = Nerfstudio(source, scale, tmp_path)
    for seed in range(6):
        transient = TransientMask(ellipse((HEIGHT, WIDTH), seed))
        ours = to_training_geometry(transient, source, chain.undistorted).pixels
        theirs = chain.transient(transient)
        assert not (theirs & ~ours).any()
        grown = cv2.dilate(theirs.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=4)
        assert not (ours & ~grown.astype(bool)).any()


@pytest.mark.parametrize("lens", LENSES)
def test_there_and_back_loses_nothing(lens: str, tmp_path: Path) -> None:
    source = camera_of(lens)
    view = Nerfstudio(source, 1.0, tmp_path).undistorted
    for seed in range(6):
        transient = TransientMask(ellipse((view.height, view.width), seed))
        file = to_file_geometry(transient, view, source)
        back = to_training_geometry(file, source, view)
        assert not (transient.pixels & ~back.pixels).any()


@pytest.mark.parametrize("lens", LENSES)
def test_empty_and_large_masks(lens: str) -> None:
    source = at_size(camera_of(lens), 6 * HEIGHT, 3 * WIDTH)
    view = Camera(source.fl_x, source.fl_y, source.cx, source.cy, source.width, source.height)
    mask = np.zeros((view.height, view.width), np.bool_)
    assert not to_file_geometry(TransientMask(mask), view, source).pixels.any()
    mask[source.height // 2 :] = True
    file = to_file_geometry(TransientMask(mask), view, source)
    assert 0.3 < file.pixels.mean() < 0.7
    assert not (mask & ~to_training_geometry(file, source, view).pixels).any()


def test_what_the_view_does_not_show_is_static() -> None:
    source = Camera(60.0, 60.0, 80.0, 60.0, WIDTH, HEIGHT, k1=-0.35)  # folds back in the corners
    view = Camera(120.0, 120.0, 40.0, 30.0, 80, 60)
    everything = TransientMask(np.ones((60, 80), np.bool_))
    file = to_file_geometry(everything, view, source).pixels
    assert file[HEIGHT // 2, WIDTH // 2]
    assert not file[:25].any()
    assert not file[:, :30].any()
    assert not file[-25:].any()
    assert not file[:, -30:].any()


def test_crops_without_a_lens() -> None:
    source = Camera(100.0, 100.0, 40.0, 30.0, 80, 60)
    view = Camera(200.0, 200.0, 60.0, 40.0, 100, 80)  # pixels 10..60 x 10..50, twice as large
    mask = np.zeros((80, 100), np.bool_)
    mask[20:40, 10:30] = True
    file = to_file_geometry(TransientMask(mask), view, source).pixels
    expected = np.zeros((60, 80), np.bool_)
    expected[20:30, 15:25] = True
    assert np.array_equal(file, expected)
    assert np.array_equal(to_training_geometry(TransientMask(file), source, view).pixels, mask)


@pytest.mark.parametrize("size", [(60, 80), (30, 40), (29, 40), (15, 20)])
def test_without_lens_and_crop_it_is_scaling(size: tuple[int, int]) -> None:
    source = Camera(100.0, 100.0, 41.0, 29.0, 80, 60)
    view = at_size(source, *size)
    mask = TransientMask(ellipse(size, 3))
    file = to_file_geometry(mask, view, source)
    assert np.array_equal(file.pixels, scaled(mask, (60, 80)).pixels)


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(0, 99))
def test_scaling_takes_the_pixel_at_each_centre(
    size: tuple[int, int], new: tuple[int, int], seed: int
) -> None:
    mask = np.random.default_rng(seed).random(size) < 0.3
    rows = ((np.arange(new[0]) + 0.5) * size[0] / new[0]).astype(int)
    columns = ((np.arange(new[1]) + 0.5) * size[1] / new[1]).astype(int)
    got = scaled(TransientMask(mask), new).pixels
    # OpenCV's fixed point numbers may decide a tie the other way.
    if size[0] % new[0] == 0 and size[1] % new[1] == 0:
        assert np.array_equal(got, mask[np.ix_(rows, columns)])
    assert got.shape == new


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_shrinking_loses_no_transient_pixel(rows: int, columns: int, by: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((rows * by, columns * by)) < 0.1
    small = shrunk_any(TransientMask(mask), (rows, columns)).pixels
    assert np.array_equal(small, mask.reshape(rows, by, columns, by).any(axis=(1, 3)))


@settings(deadline=None)
@given(st.integers(8, 3000), st.integers(8, 3000), st.integers(1, 8))
def test_downscaled_sizes_fit_and_turned_ones_do_not(height: int, width: int, by: int) -> None:
    for size in (
        (height // by, width // by),
        (-(-height // by), -(-width // by)),
        (round(height / by), round(width / by)),
    ):
        assert fits(TransientMask(np.zeros(size, np.bool_)), (height, width))
    if abs(height - width) > 0.1 * max(height, width) and min(height, width) > 40:
        assert not fits(TransientMask(np.zeros((width, height), np.bool_)), (height, width))
