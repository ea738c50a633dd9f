"""Read nerfstudio's dataset format (``transforms.json``) the way nerfstudio's own parser does."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from t3dgs_masks.datasets.dataset import (
    Camera,
    Dataset,
    DatasetFrame,
    Split,
    frame_names,
    missing_image,
)
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import natural_key, shown

TRANSFORMS_NAME = "transforms.json"

_PERSPECTIVE = frozenset({"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"})
_FISHEYE = frozenset({"OPENCV_FISHEYE"})
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")  # in the order of `distortion_params`
# A `k4` alone at the top does not make the distortion global: so reads nerfstudio 1.1.5.
_GLOBAL_DISTORTION = ("k1", "k2", "k3", "p1", "p2", "distortion_params")


def open_nerfstudio(path: Path) -> Dataset:
    """Read a nerfstudio dataset; of the images nothing but their presence is checked.

    Intrinsics at the top of the file win over those of a frame, as in nerfstudio. `camera` is
    None for projections other than the pinhole and OpenCV's fisheye (equirectangular, VR,
    orthographic, FISHEYE624), and for a pinhole with k4, which nerfstudio cannot undistort.

    Args:
        path: the folder that holds ``transforms.json``, or a JSON file of that format.

    Raises:
        UserError: the file cannot be read or is not of that format; no frames; a frame without
            image, pose or intrinsics, or listed twice; a split that names unknown frames.
    """
    file = path if path.suffix == ".json" else path / TRANSFORMS_NAME
    root = file.parent
    meta = _read_json(file)
    entries = _entries(meta, file)
    images = [root / entry.file_path for entry in entries]
    for image in images:
        if not os.path.isfile(image):  # noqa: PTH113 (never raises, whatever the name)
            raise missing_image(image, file)
    names = frame_names(images, file)
    splits = _splits(meta, entries, file)
    frames = [
        DatasetFrame(
            name=name,
            source=entry.source,
            image=image,
            split=splits.get(entry.source) if splits is not None else None,
            camera=_camera(meta, entry, file),
            camera_to_world=_pose(entry, file),
            mask=_mask(entry, root, file),
        )
        for name, entry, image in zip(names, entries, images, strict=True)
    ]
    frames.sort(key=lambda frame: natural_key(frame.name))
    return Dataset(root, "nerfstudio", frames, described_by=file)


@dataclass(frozen=True)
class _Entry:
    """One item of ``frames``."""

    file_path: str
    values: Mapping[str, Any]

    @property
    def source(self) -> str:
        return PurePosixPath(self.file_path).as_posix()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        meta = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"cannot read {shown(file)}: {error.strerror}; check the path and its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{shown(file)} is not valid JSON ({_one_line(error)}): repair it, or write it anew"
        ) from error
    if not isinstance(meta, dict):
        raise UserError(
            f"{shown(file)} is no nerfstudio dataset: its top level is not an object with frames"
        )
    return meta


def _entries(meta: Mapping[str, Any], file: Path) -> list[_Entry]:
    listed = meta.get("frames")
    if not isinstance(listed, list):
        raise UserError(f"{shown(file)} is no nerfstudio dataset: it has no list `frames`")
    if not listed:
        raise UserError(f"{shown(file)} lists no frames: give a dataset with images")
    entries: list[_Entry] = []
    for index, values in enumerate(listed):
        file_path = values.get("file_path") if isinstance(values, dict) else None
        if not isinstance(file_path, str) or not _is_path(file_path):
            raise UserError(
                f"{shown(file)}: frame {index} (counted from 0) has no usable file_path: give it"
                " the path of its image"
            )
        entries.append(_Entry(file_path, values))
    return entries


def _is_path(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeError:
        return False
    return "\0" not in text and PurePosixPath(text).name not in ("", "..")


def _splits(
    meta: Mapping[str, Any], entries: Sequence[_Entry], file: Path
) -> dict[str, Split] | None:
    """Split by `source`; None if the dataset has none of its own.

    A frame that is listed for training and for evaluation is for training. If only evaluation
    frames are listed, all others are for training.
    """
    listed = {
        key: _file_list(meta, f"{key}_filenames", file)
        for key in ("train", "val", "test")
        if f"{key}_filenames" in meta
    }
    if not listed:
        return None
    sources = {entry.source for entry in entries}
    for key, paths in listed.items():
        unknown = sorted(paths - sources, key=natural_key)
        if unknown:
            raise UserError(
                f"{shown(file)}: {key}_filenames names {shown(unknown[0])}, which is not among"
                " its frames: correct the list"
            )
    evaluation = listed.get("val", set()) | listed.get("test", set())
    train = listed.get("train", sources - evaluation)
    return {source: "train" if source in train else "eval" for source in sources}


def _file_list(meta: Mapping[str, Any], key: str, file: Path) -> set[str]:
    paths = meta[key]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise UserError(f"{shown(file)}: {key} is not a list of file paths: correct it")
    return {PurePosixPath(path).as_posix() for path in paths}


def _camera(meta: Mapping[str, Any], entry: _Entry, file: Path) -> Camera | None:
    model = meta.get("camera_model", "OPENCV")
    if not isinstance(model, str) or model not in _PERSPECTIVE | _FISHEYE:
        return None

    def number(key: str, default: float | None = None) -> float:
        for values in (meta, entry.values):
            if key in values:
                return _finite(values[key], key, entry, file)
        if default is None:
            raise UserError(
                f"{shown(file)}: frame {shown(entry.file_path)} has no {key}, and neither has the"
                " file as a whole: add it"
            )
        return default

    width, height = int(number("w")), int(number("h"))
    focal_lengths = number("fl_x"), number("fl_y")
    if min(width, height) < 1 or min(focal_lengths) <= 0:
        raise UserError(
            f"{shown(file)}: frame {shown(entry.file_path)} has w {width}, h {height}, fl_x"
            f" {focal_lengths[0]:g}, fl_y {focal_lengths[1]:g}: they must be above 0"
        )
    distortion = _distortion(meta, entry, file)
    fisheye = model in _FISHEYE
    if not fisheye and distortion["k4"] != 0:
        return None
    return Camera(
        *focal_lengths,
        number("cx"),
        number("cy"),
        width,
        height,
        **distortion,
        fisheye=fisheye,
    )


def _distortion(meta: Mapping[str, Any], entry: _Entry, file: Path) -> dict[str, float]:
    values = meta if any(key in meta for key in _GLOBAL_DISTORTION) else entry.values
    if "distortion_params" not in values:
        return {key: _finite(values.get(key, 0.0), key, entry, file) for key in _DISTORTION}
    listed = values["distortion_params"]
    if not isinstance(listed, list) or len(listed) != len(_DISTORTION):
        raise UserError(
            f"{shown(file)}: distortion_params of frame {shown(entry.file_path)} is not the list"
            f" of the six numbers {', '.join(_DISTORTION)}: correct it"
        )
    return {
        key: _finite(value, f"distortion_params ({key})", entry, file)
        for key, value in zip(_DISTORTION, listed, strict=True)
    }


def _pose(entry: _Entry, file: Path) -> tuple[tuple[float, float, float, float], ...]:
    matrix = entry.values.get("transform_matrix")
    if matrix is None:
        raise UserError(
            f"{shown(file)}: frame {shown(entry.file_path)} has no transform_matrix: add its"
            " camera-to-world pose, or remove the frame"
        )
    is_4x4 = (
        isinstance(matrix, list)
        and len(matrix) == 4
        and all(isinstance(row, list) and len(row) == 4 for row in matrix)
    )
    if not is_4x4:
        raise UserError(
            f"{shown(file)}: transform_matrix of frame {shown(entry.file_path)} is not a list of"
            " 4 rows of 4 numbers: correct it"
        )
    rows = [[_finite(value, "transform_matrix", entry, file) for value in row] for row in matrix]
    return tuple((row[0], row[1], row[2], row[3]) for row in rows)


def _mask(entry: _Entry, root: Path, file: Path) -> Path | None:
    mask_path = entry.values.get("mask_path")
    if "mask_path" not in entry.values:
        return None
    if not isinstance(mask_path, str) or not _is_path(mask_path):
        raise UserError(
            f"{shown(file)}: mask_path of frame {shown(entry.file_path)} is not the path of a"
            " file: correct or remove it"
        )
    return root / mask_path


def _finite(value: object, key: str, entry: _Entry, file: Path) -> float:
    """A number, or text that is one (nerfstudio takes both)."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{shown(file)}: {key} of frame {shown(entry.file_path)} is not a finite number:"
            " correct it, or remove the frame"
        )
    return number


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
