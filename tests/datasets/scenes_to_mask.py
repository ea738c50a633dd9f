"""Tiny datasets, masks for them, and what is on disk, for the tests of apply and revert."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from t3dgs_masks.datasets.apply_masks import FrameMask
from t3dgs_masks.datasets.dataset import Camera, DatasetFrame
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.types import BoolMask

HEIGHT, WIDTH = 36, 48
Tree = dict[str, bytes | None]

NAMES = tuple(f"images/f_{index}.png" for index in range(5))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def grey(size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.full((*size, 3), 128, np.uint8)


def static_file(transient: BoolMask) -> np.ndarray:
    """White = keep."""
    return np.where(transient, np.uint8(0), np.uint8(255))


def box(index: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> BoolMask:
    """A transient mask that differs from frame to frame."""
    mask = np.zeros(size, np.bool_)
    height, width = size
    top, left = height // 4, (5 * index + 3) % (width // 2)
    mask[top : top + height // 2, left : left + width // 3] = True
    return mask


def pose(index: int) -> list[list[float]]:
    angle = 0.3 * index
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return [
        [cos, 0.0, sin, 2 * sin],
        [sin, 0.0, -cos, -2 * cos],
        [0.0, 1.0, 0.0, 0.1 * index],
        [0.0, 0.0, 0.0, 1.0],
    ]


def write_scene(
    root: Path,
    *,
    names: Sequence[str] = NAMES,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    factors: Sequence[int] = (),
    user_masks: Mapping[str, str] | None = None,
    extra: Mapping[str, object] | None = None,
    evaluation: Sequence[str] | None = None,
    transforms: str = "transforms.json",
    indent: int | None = 2,
) -> Path:
    """A nerfstudio dataset. Intrinsics are per frame where `sizes` are given.

    Args:
        root: its folder.
        names: `file_path` of every frame.
        sizes: (height, width) of some images.
        factors: for which there are downscaled images.
        user_masks: `file_path` -> `mask_path`; the file is written with a column of its own.
        extra: further keys at the top.
        evaluation: frames for evaluation; None: the dataset does not say.
        transforms: name of the JSON file.
        indent: of the JSON file.
    """
    meta: dict[str, object] = {"camera_model": "OPENCV"}
    if not sizes:
        meta |= intrinsics(HEIGHT, WIDTH)
    meta |= extra or {}
    frames = []
    for index, name in enumerate(names):
        size = (sizes or {}).get(name, (HEIGHT, WIDTH))
        save(root / name, grey(size))
        for factor in factors:
            small = (size[0] // factor, size[1] // factor)
            save(root / f"images_{factor}" / Path(name).name, grey(small))
        frame: dict[str, object] = {"file_path": name, "transform_matrix": pose(index)}
        if sizes:
            frame |= intrinsics(*size)
        if user_masks and name in user_masks:
            frame["mask_path"] = user_masks[name]
            save(root / user_masks[name], static_file(user_column(size)))
        frames.append(frame)
    meta["frames"] = frames
    if evaluation is not None:
        meta["train_filenames"] = [name for name in names if name not in evaluation]
        meta["val_filenames"] = meta["test_filenames"] = list(evaluation)
    (root / transforms).write_text(json.dumps(meta, indent=indent))
    return root


def intrinsics(height: int, width: int) -> dict[str, object]:
    return {
        "fl_x": 0.9 * width,
        "fl_y": 0.9 * width,
        "cx": width / 2 + 0.5,
        "cy": height / 2 - 0.5,
        "w": width,
        "h": height,
    }


def user_column(size: tuple[int, int] = (HEIGHT, WIDTH)) -> BoolMask:
    """What the user masked out: the two leftmost columns."""
    mask = np.zeros(size, np.bool_)
    mask[:, :2] = True
    return mask


def write_colmap(
    root: Path,
    *,
    names: Sequence[str] = ("a_0.jpg", "a_1.jpg", "b/a_2.jpg", "b/a_3.jpg"),
    factors: Sequence[int] = (),
    user_masks: Sequence[str] = (),
    distortion: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    model: str = "sparse/0",
) -> Path:
    """A COLMAP project with one OPENCV camera."""
    sparse = root / model
    sparse.mkdir(parents=True)
    focal, cx, cy = 0.9 * WIDTH, WIDTH / 2 + 0.5, HEIGHT / 2 - 0.5
    numbers = " ".join(map(str, (focal, focal, cx, cy, *distortion)))
    (sparse / "cameras.txt").write_text(f"1 OPENCV {WIDTH} {HEIGHT} {numbers}\n")
    lines = []
    for index, name in enumerate(names):
        half = 0.1 * index
        lines.append(f"{index + 1} {np.cos(half)} 0 {np.sin(half)} 0 {index} 0 2 1 {name}\n\n")
        save(root / "images" / name, grey())
        for factor in factors:
            save(root / f"images_{factor}" / name, grey((HEIGHT // factor, WIDTH // factor)))
    for name in user_masks:
        save((root / "masks" / name).with_suffix(".png"), static_file(user_column()))
    (sparse / "images.txt").write_text("".join(lines))
    (sparse / "points3D.txt").write_text("1 0 0 1 200 100 50 0.5\n")
    return root


@dataclass
class GivenMasks:
    """A `MaskSource` of masks by `DatasetFrame.source`; all frames get a `box` without it."""

    transient: Mapping[str, BoolMask] | None = None
    camera: Camera | None = None
    asked: list[str] = field(default_factory=list)

    def mask_of(self, frame: DatasetFrame) -> FrameMask | None:
        self.asked.append(frame.source)
        if self.transient is not None:
            mask = self.transient.get(frame.source)
        else:
            with Image.open(frame.image) as image:
                mask = box(number_of(frame.source), (image.height, image.width))
        return None if mask is None else FrameMask(TransientMask(mask), self.camera)


def number_of(source: str) -> int:
    """The last number in a name."""
    return int(Path(source).stem.rpartition("_")[2])


def read_transient(path: Path) -> BoolMask:
    """A mask file as the trainers' conventions have it, checked to be strictly 0/255 in mode L."""
    with Image.open(path) as image:
        assert image.mode == "L"
        pixels = np.array(image)
    assert set(np.unique(pixels)) <= {0, 255}
    return pixels == 0


def tree(root: Path) -> Tree:
    """Everything below `root`: path -> bytes, the target of a link, or None for a folder."""
    content: Tree = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            content[name] = b"-> " + bytes(path.readlink())
        else:
            content[name] = path.read_bytes() if path.is_file() else None
    return content


def times(root: Path) -> dict[str, int]:
    """When each file was last written."""
    return {
        path.relative_to(root).as_posix(): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file()
    }
