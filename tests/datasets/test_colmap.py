from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from t3dgs_masks.datasets.colmap import find_model, open_colmap
from t3dgs_masks.datasets.dataset import Camera
from t3dgs_masks.errors import UserError
from tests.datasets.posed_scenes import pose_of, write_colmap_scene, write_image

INTRINSICS = {"cx": 31, "cy": 24, "width": 64, "height": 48}


@pytest.mark.parametrize("text", [False, True])
def test_registered_images_are_the_frames(tmp_path: Path, text: bool) -> None:
    write_colmap_scene(tmp_path, ["cam/f10.png", "cam/f9.png"], text=text)
    write_image(tmp_path / "images" / "cam" / "unregistered.png")
    dataset = open_colmap(tmp_path)
    assert (dataset.kind, dataset.root) == ("colmap", tmp_path)
    assert dataset.described_by == tmp_path / "sparse/0"
    assert [frame.name for frame in dataset.frames] == ["f9", "f10"]
    first = dataset.frames[0]
    assert first.source == "images/cam/f9.png"
    assert first.image == tmp_path / "images/cam/f9.png"
    assert first.camera == Camera(60, 61, **INTRINSICS, k1=0.1, k2=-0.02)
    assert first.split is None
    assert first.mask is None
    np.testing.assert_allclose(first.camera_to_world, pose_of(1), atol=1e-12)


@pytest.mark.parametrize(
    ("model", "params", "expected"),
    [
        ("SIMPLE_PINHOLE", (60, 31, 24), Camera(60, 60, **INTRINSICS)),
        ("PINHOLE", (60, 61, 31, 24), Camera(60, 61, **INTRINSICS)),
        ("SIMPLE_RADIAL", (60, 31, 24, 0.1), Camera(60, 60, **INTRINSICS, k1=0.1)),
        ("RADIAL", (60, 31, 24, 0.1, 0.2), Camera(60, 60, **INTRINSICS, k1=0.1, k2=0.2)),
        (
            "OPENCV",
            (60, 61, 31, 24, 0.1, 0.2, 0.3, 0.4),
            Camera(60, 61, **INTRINSICS, k1=0.1, k2=0.2, p1=0.3, p2=0.4),
        ),
        (
            "FULL_OPENCV",
            (60, 61, 31, 24, 0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0),
            Camera(60, 61, **INTRINSICS, k1=0.1, k2=0.2, p1=0.3, p2=0.4, k3=0.5),
        ),
        ("FULL_OPENCV", (60, 61, 31, 24, 0.1, 0.2, 0.3, 0.4, 0.5, 0.1, 0, 0), None),
        (
            "SIMPLE_RADIAL_FISHEYE",
            (60, 31, 24, 0.1),
            Camera(60, 60, **INTRINSICS, k1=0.1, fisheye=True),
        ),
        (
            "RADIAL_FISHEYE",
            (60, 31, 24, 0.1, 0.2),
            Camera(60, 60, **INTRINSICS, k1=0.1, k2=0.2, fisheye=True),
        ),
        (
            "OPENCV_FISHEYE",
            (60, 61, 31, 24, 0.1, 0.2, 0.3, 0.4),
            Camera(60, 61, **INTRINSICS, k1=0.1, k2=0.2, k3=0.3, k4=0.4, fisheye=True),
        ),
        ("FOV", (60, 61, 31, 24, 0.5), None),
        ("THIN_PRISM_FISHEYE", (60, 61, 31, 24, *[0.01] * 8), None),
    ],
)
def test_camera_models(tmp_path: Path, model: str, params: tuple, expected: Camera | None) -> None:
    write_colmap_scene(tmp_path, cameras=[(model, params)])
    assert [frame.camera for frame in open_colmap(tmp_path).frames] == [expected] * 3


def test_every_image_has_its_own_camera(tmp_path: Path) -> None:
    cameras = [("SIMPLE_PINHOLE", (60, 31, 24)), ("SIMPLE_PINHOLE", (70, 31, 24))]
    write_colmap_scene(tmp_path, cameras=cameras)
    found = [frame.camera.fl_x for frame in open_colmap(tmp_path).frames if frame.camera]
    assert found == [60, 70, 60]


@pytest.mark.parametrize("model", ["sparse", "sparse/0", "colmap/sparse/0"])
def test_where_models_lie(tmp_path: Path, model: str) -> None:
    write_colmap_scene(tmp_path, model=model)
    assert find_model(tmp_path) == tmp_path / model
    assert len(open_colmap(tmp_path).frames) == 3


def test_models_of_older_colmap_have_no_rigs(tmp_path: Path) -> None:
    write_colmap_scene(tmp_path)
    for name in ("rigs.bin", "frames.bin"):
        (tmp_path / "sparse/0" / name).unlink()
    assert len(open_colmap(tmp_path).frames) == 3


def test_no_images_folder_is_no_project(tmp_path: Path) -> None:
    write_colmap_scene(tmp_path)
    shutil.rmtree(tmp_path / "images")
    assert find_model(tmp_path) is None
    with pytest.raises(UserError, match="is no COLMAP project"):
        open_colmap(tmp_path)


def test_masks_that_exist(tmp_path: Path) -> None:
    write_colmap_scene(tmp_path, ["cam/a.jpg", "cam/b.jpg"])
    mask = write_image(tmp_path / "masks/cam/a.png")
    assert [frame.mask for frame in open_colmap(tmp_path).frames] == [mask, None]


def test_lists_give_the_split(tmp_path: Path) -> None:
    write_colmap_scene(tmp_path)
    (tmp_path / "test_list.txt").write_text("b.png\n")
    splits = [frame.split for frame in open_colmap(tmp_path).frames]
    assert splits == ["train", "eval", "train"]
    (tmp_path / "train_list.txt").write_text("a.png\n")
    splits = [frame.split for frame in open_colmap(tmp_path).frames]
    assert splits == ["train", "eval", "eval"]


def _truncate(name: str) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        file = root / "sparse/0" / name
        file.write_bytes(file.read_bytes()[:-40])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_truncate("images.bin"), "cannot read the COLMAP model"),
        (_truncate("cameras.bin"), "cannot read the COLMAP model"),
        (lambda root: (root / "sparse/0/points3D.bin").unlink(), "cannot read the COLMAP model"),
        (lambda root: (root / "images/b.png").unlink(), "images/b.png, which does not exist"),
        (lambda root: (root / "test_list.txt").write_text("x.png"), "test_list.txt names x.png"),
        (lambda root: (root / "test_list.txt").write_bytes(b"\xff"), "not UTF-8 text"),
    ],
)
def test_bad_projects_have_one_line(tmp_path: Path, spoil: Callable, said: str) -> None:
    spoil(write_colmap_scene(tmp_path))
    with pytest.raises(UserError) as raised:
        open_colmap(tmp_path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_model_without_images(tmp_path: Path) -> None:
    write_colmap_scene(tmp_path, [])
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="no registered images"):
        open_colmap(tmp_path)


def test_nan_pose(tmp_path: Path) -> None:
    write_colmap_scene(tmp_path, ["a.png"], text=True)
    file = tmp_path / "sparse/0/images.txt"
    lines = [
        line if line.startswith("#") or "a.png" not in line else "1 1 0 0 0 nan 0 0 1 a.png"
        for line in file.read_text().splitlines()
    ]
    file.write_text("\n".join(lines) + "\n\n")
    for name in ("rigs.txt", "frames.txt"):
        (tmp_path / "sparse/0" / name).unlink()
    with pytest.raises(UserError, match=r"a.png|COLMAP model"):
        open_colmap(tmp_path)
