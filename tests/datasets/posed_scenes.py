"""Small posed datasets on disk, in the layouts that are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from PIL import Image

OPENCV = {"fl_x": 60.0, "fl_y": 61.0, "cx": 31.5, "cy": 24.25, "w": 64, "h": 48}
DISTORTION = {"k1": 0.1, "k2": -0.02, "p1": 0.001, "p2": -0.002}


def image_of(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """[height, width, 3] uint8 noise that no other number has."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def write_image(
    path: Path, number: int = 0, height: int = 48, width: int = 64, **save: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_of(number, height, width)).save(path, **save)
    return path


def pose_of(number: int) -> np.ndarray:
    """[4, 4] camera to world: a rotation about a slanted axis, and a place."""
    axis = np.array([0.3, 1.0, -0.2]) / np.linalg.norm([0.3, 1.0, -0.2])
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = 0.3 + 0.2 * number
    pose = np.eye(4)
    pose[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    pose[:3, 3] = (number, 0.5 - number, 2 + 0.1 * number)
    return pose


def frame_entry(file_path: str, number: int = 0, **more: Any) -> dict[str, Any]:
    return {"file_path": file_path, "transform_matrix": pose_of(number).tolist(), **more}


def write_transforms(
    root: Path,
    frames: Sequence[Mapping[str, Any]],
    *,
    images: bool = True,
    file: str = "transforms.json",
    **meta: Any,
) -> Path:
    """Write the JSON file and, unless told not to, every frame's image; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    if images:
        for number, frame in enumerate(frames):
            write_image(root / frame["file_path"], number)
    (root / file).write_text(json.dumps({"camera_model": "OPENCV", **meta, "frames": list(frames)}))
    return root


def write_nerfstudio_scene(root: Path, num_train: int = 4, num_eval: int = 2) -> Path:
    """`images/` with training and evaluation frames and a split that says which they are."""
    paths = [f"images/frame_{number + 1}.png" for number in range(num_train + num_eval)]
    return write_transforms(
        root,
        [frame_entry(path, number) for number, path in enumerate(paths)],
        **OPENCV,
        **DISTORTION,
        train_filenames=paths[:num_train],
        val_filenames=paths[num_train:],
        test_filenames=paths[num_train:],
    )


def write_colmap_scene(
    root: Path,
    image_names: Sequence[str] = ("a.png", "b.png", "c.png"),
    *,
    cameras: Sequence[tuple[str, Sequence[float]]] = (
        ("OPENCV", (60, 61, 31, 24, 0.1, -0.02, 0, 0)),
    ),
    model: str = "sparse/0",
    text: bool = False,
    images: bool = True,
) -> Path:
    """A COLMAP project of 64x48 images; image k has camera k, modulo their number."""
    reconstruction = pycolmap.Reconstruction()
    for number, (name, params) in enumerate(cameras, start=1):
        camera = pycolmap.Camera(
            model=name, width=64, height=48, params=list(params), camera_id=number
        )
        reconstruction.add_camera_with_trivial_rig(camera)
    for number, name in enumerate(image_names):
        image = pycolmap.Image(name=name, camera_id=number % len(cameras) + 1, image_id=number + 1)
        camera_to_world = pose_of(number)
        camera_to_world[:3, 1:3] *= -1  # OpenGL's axes to OpenCV's
        world_to_camera = np.linalg.inv(camera_to_world)[:3]
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(world_to_camera))
        if images:
            write_image(root / "images" / name, number)
    (root / model).mkdir(parents=True)
    (reconstruction.write_text if text else reconstruction.write_binary)(root / model)
    return root
