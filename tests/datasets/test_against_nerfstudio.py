"""What is read is what nerfstudio's own parsers read: images, split, intrinsics, poses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from t3dgs_masks.datasets.colmap import open_colmap
from t3dgs_masks.datasets.dataset import DatasetFrame
from t3dgs_masks.datasets.nerfstudio import open_nerfstudio
from tests.datasets.posed_scenes import (
    DISTORTION,
    OPENCV,
    frame_entry,
    write_colmap_scene,
    write_image,
    write_nerfstudio_scene,
    write_transforms,
)

PLAIN: dict[str, Any] = {
    "orientation_method": "none",
    "center_method": "none",
    "auto_scale_poses": False,
    "downscale_factor": 1,
}


def assert_same(frames: Sequence[DatasetFrame], outputs: DataparserOutputs) -> None:
    """`frames` are what a parser gave, up to the order."""
    ours = {frame.image: frame for frame in frames}
    assert set(ours) == set(outputs.image_filenames)
    assert len(ours) == len(outputs.image_filenames)
    cameras = outputs.cameras
    for index, image in enumerate(outputs.image_filenames):
        frame = ours[image]
        camera = frame.camera
        assert camera is not None
        theirs = cameras[index]
        intrinsics = [theirs.fx, theirs.fy, theirs.cx, theirs.cy, theirs.width, theirs.height]
        np.testing.assert_allclose(
            [camera.fl_x, camera.fl_y, camera.cx, camera.cy, camera.width, camera.height],
            [float(value) for value in intrinsics],
        )
        assert theirs.distortion_params is not None
        np.testing.assert_allclose(
            [camera.k1, camera.k2, camera.k3, camera.k4, camera.p1, camera.p2],
            theirs.distortion_params.numpy(),
            rtol=1e-6,
        )
        kind = CameraType.FISHEYE if camera.fisheye else CameraType.PERSPECTIVE
        assert int(theirs.camera_type) == kind.value
        assert frame.camera_to_world is not None
        np.testing.assert_allclose(
            np.array(frame.camera_to_world)[:3], theirs.camera_to_worlds.numpy(), atol=1e-6
        )


def check_nerfstudio(root: Path, **config: Any) -> None:
    frames = open_nerfstudio(root).frames
    parser = NerfstudioDataParserConfig(data=root, **PLAIN, **config).setup()
    for split, ours in (("train", "train"), ("val", "eval")):
        outputs = parser.get_dataparser_outputs(split)
        of_split = [frame for frame in frames if frame.split in (ours, None)]
        assert_same(of_split, outputs)
        if outputs.mask_filenames is not None:
            assert {frame.mask for frame in of_split} == set(outputs.mask_filenames)


def test_a_split_scene_with_distortion(tmp_path: Path) -> None:
    check_nerfstudio(write_nerfstudio_scene(tmp_path))


def test_intrinsics_of_every_frame_and_masks(tmp_path: Path) -> None:
    frames = [
        frame_entry(
            f"images/cam{number}/a.png",
            number,
            mask_path=f"masks/{number}.png",
            **{**OPENCV, "fl_x": 50.5 + number},
            **DISTORTION,
        )
        for number in range(3)
    ]
    check_nerfstudio(write_transforms(tmp_path, frames), eval_mode="all")


@pytest.mark.parametrize(
    ("meta", "frame"),
    [
        ({**OPENCV, "k2": 0.25}, {"k1": 0.5, "fl_x": 99.0, "distortion_params": [1] * 6}),
        ({**OPENCV, "k4": 0.25}, {"k1": 0.5, "k3": 0.1}),
        ({**OPENCV, "distortion_params": [0.1, 0.2, 0.3, 0, 0.5, 0.6], "k1": 7}, {"k1": 0.5}),
        ({**OPENCV}, {"distortion_params": [0.1, 0.2, 0.3, 0, 0.5, 0.6], "k1": 0.5}),
        ({**OPENCV, "camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.4}, {}),
        ({**OPENCV, "w": 64.0, "fl_x": "60.5", "camera_model": "SIMPLE_RADIAL"}, {}),
    ],
)
def test_which_value_counts(tmp_path: Path, meta: dict[str, Any], frame: dict[str, Any]) -> None:
    frames = [frame_entry(f"images/{number}.png", number, **frame) for number in range(2)]
    check_nerfstudio(write_transforms(tmp_path, frames, **meta), eval_mode="all")


def test_images_outside_of_the_root(tmp_path: Path) -> None:
    write_image(tmp_path / "shared/a.png")
    write_image(tmp_path / "scene/images/b.png")
    absolute = str(tmp_path / "shared/a.png")
    frames = [frame_entry(absolute), frame_entry("./images//b.png", 1)]
    root = write_transforms(tmp_path / "scene", frames, images=False, **OPENCV)
    check_nerfstudio(root, eval_mode="all")


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    "camera",
    [
        ("SIMPLE_RADIAL", (60, 31, 24, 0.1)),
        ("OPENCV", (60, 61, 31, 24, 0.1, 0.2, 0.01, 0.02)),
        ("OPENCV_FISHEYE", (60, 61, 31, 24, 0.1, 0.2, 0.3, 0)),  # its parser refuses a k4
        ("RADIAL_FISHEYE", (60, 31, 24, 0.1, 0.2)),
    ],
)
def test_colmap_projects(tmp_path: Path, camera: tuple, text: bool) -> None:
    names = [f"cam/f{number}.png" for number in range(5)]
    root = write_colmap_scene(tmp_path, names, cameras=[camera], text=text)
    (root / "train_list.txt").write_text("\n".join(names[:3]))
    (root / "val_list.txt").write_text("\n".join(names[3:]))
    (root / "test_list.txt").write_text("\n".join(names[3:]))
    parser = ColmapDataParserConfig(
        data=root,
        colmap_path=Path("sparse/0"),
        assume_colmap_world_coordinate_convention=False,
        load_3D_points=False,
        **PLAIN,
    ).setup()
    frames = open_colmap(root).frames
    for split, ours in (("train", "train"), ("val", "eval")):
        of_split = [frame for frame in frames if frame.split == ours]
        assert_same(of_split, parser.get_dataparser_outputs(split))
