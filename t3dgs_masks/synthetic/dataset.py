"""Write a capture and its prompts as a nerfstudio dataset.

    ROOT/transforms.json          poses, intrinsics, train and evaluation lists
    ROOT/seed_points.ply          sparse points on the static surfaces
    ROOT/images/frame_00001.png   the filmed sequence, and nothing else
    ROOT/images_eval/             clean evaluation views
    ROOT/clean/                   the filmed views without anybody in them
    ROOT/ground_truth/            transient masks, white = transient
    ROOT/prompts/masks/           coarse masks, white = transient
    ROOT/prompts/diffs/           residuals, grey: 255 = 1.0

Files that belong to one frame share its stem. `transforms.json` is written last: where it is, the
rest is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.synthetic.capture import Capture
from t3dgs_masks.synthetic.coarse import CoarsePrompts


@dataclass(frozen=True)
class DatasetPaths:
    """Where the parts of a written dataset are."""

    root: Path

    @property
    def transforms(self) -> Path:
        return self.root / "transforms.json"

    @property
    def seed_points(self) -> Path:
        return self.root / "seed_points.ply"

    @property
    def images(self) -> Path:
        """The sequence to refine (``--video-path``)."""
        return self.root / "images"

    @property
    def eval_images(self) -> Path:
        return self.root / "images_eval"

    @property
    def clean(self) -> Path:
        return self.root / "clean"

    @property
    def ground_truth(self) -> Path:
        return self.root / "ground_truth"

    @property
    def prompts(self) -> Path:
        """What ``--prompt-dir`` takes: ``masks/`` and ``diffs/``."""
        return self.root / "prompts"


def write_nerfstudio(capture: Capture, prompts: CoarsePrompts, root: Path) -> DatasetPaths:
    """Write everything under ``root``; an earlier capture there is replaced.

    Raises:
        OSError: from the file system; a folder that was new is gone again.
    """
    new_folders = [folder for folder in (root, *root.parents) if not os.path.lexists(folder)]
    try:
        root.mkdir(parents=True, exist_ok=True)
        return _write(capture, prompts, DatasetPaths(root))
    except BaseException:
        if new_folders:
            shutil.rmtree(new_folders[-1], ignore_errors=True)
        raise


def _write(capture: Capture, prompts: CoarsePrompts, paths: DatasetPaths) -> DatasetPaths:
    paths.transforms.unlink(missing_ok=True)
    frame_names = [f"frame_{index + 1:05d}.png" for index in range(capture.num_frames)]
    eval_names = [f"eval_{index + 1:04d}.png" for index in range(len(capture.eval_frames))]
    _write_images(paths.images, frame_names, capture.frames)
    _write_images(paths.eval_images, eval_names, capture.eval_frames)
    _write_images(paths.clean, frame_names, capture.static_frames)
    _write_images(paths.ground_truth, frame_names, _white_where(capture.transient_masks))
    _write_images(paths.prompts / "masks", frame_names, _white_where(prompts.coarse))
    grey = np.rint(np.clip(prompts.residual, 0, 1) * 255).astype(np.uint8)
    _write_images(paths.prompts / "diffs", frame_names, grey)
    _write_whole(
        paths.seed_points, _ply(capture.seed_points_xyz, capture.seed_points_rgb).encode("ascii")
    )
    transforms = _transforms(capture, paths, frame_names, eval_names)
    _write_whole(paths.transforms, json.dumps(transforms, indent=2).encode("utf-8"))
    return paths


def _transforms(
    capture: Capture, paths: DatasetPaths, frame_names: Sequence[str], eval_names: Sequence[str]
) -> dict[str, object]:
    """The content of `transforms.json`, as nerfstudio's parser reads it."""
    train = [f"{paths.images.name}/{name}" for name in frame_names]
    evaluation = [f"{paths.eval_images.name}/{name}" for name in eval_names]
    poses = [*capture.camera_to_worlds, *capture.eval_camera_to_worlds]
    intrinsics = capture.intrinsics
    return {
        "camera_model": "OPENCV",
        "fl_x": intrinsics.fl_x,
        "fl_y": intrinsics.fl_y,
        "cx": intrinsics.cx,
        "cy": intrinsics.cy,
        "w": intrinsics.width,
        "h": intrinsics.height,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "ply_file_path": paths.seed_points.name,
        "frames": [
            {"file_path": file_path, "transform_matrix": pose.tolist()}
            for file_path, pose in zip([*train, *evaluation], poses, strict=True)
        ],
        "train_filenames": train,
        "val_filenames": evaluation,
        "test_filenames": evaluation,
    }


def _white_where(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """[N, H, W] bool -> uint8, 255 = True."""
    return masks.astype(np.uint8) * np.uint8(255)


def _ply(
    xyz: NDArray[np.float32],  # [P, 3]
    rgb: NDArray[np.uint8],  # [P, 3]
) -> str:
    header = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(xyz)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        "end_header",
    ]
    points = [
        f"{x:.6f} {y:.6f} {z:.6f} {red} {green} {blue}"
        for (x, y, z), (red, green, blue) in zip(xyz, rgb, strict=True)
    ]
    return "\n".join([*header, *points, ""])


def _write_images(folder: Path, names: Sequence[str], images: NDArray[np.uint8]) -> None:
    """Write [N, H, W, 3] RGB or [N, H, W] grey as PNG, and drop those of an earlier capture."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("frame_*.png", "eval_*.png"):
        for stale in folder.glob(pattern):
            if stale.name not in names:
                stale.unlink()
    for name, image in zip(names, images, strict=True):
        bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        encoded, content = cv2.imencode(".png", bgr)
        if not encoded:
            raise RuntimeError(f"OpenCV could not encode {name}")
        _write_whole(folder / name, content.tobytes())


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside the target, then rename: a reader never meets half a file."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
