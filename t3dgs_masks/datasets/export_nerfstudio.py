"""A ``transforms.json`` in another folder, with our masks: images stay where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from t3dgs_masks.datasets.apply_record import read_record
from t3dgs_masks.datasets.dataset import Dataset
from t3dgs_masks.datasets.transforms_file import UserTransforms

_FILES_OF_FRAMES = ("file_path", "depth_file_path")
_FILES = ("ply_file_path",)
_LISTS = ("train_filenames", "val_filenames", "test_filenames")


def transforms_elsewhere(dataset: Dataset, mask_paths: Mapping[str, str]) -> bytes:
    """The dataset's JSON file for use in another folder.

    Args:
        dataset: a nerfstudio dataset, whether or not masks are applied to it.
        mask_paths: `DatasetFrame.source` -> the mask, relative to that folder.

    Raises:
        UserError: the file cannot be read.
    """
    text = UserTransforms.read(dataset, read_record(dataset.root)).content
    meta: dict[str, Any] = json.loads(text)
    for frame in meta["frames"]:
        frame["mask_path"] = mask_paths[PurePosixPath(frame["file_path"]).as_posix()]
        _make_absolute(frame, _FILES_OF_FRAMES, dataset.root)
    _make_absolute(meta, _FILES, dataset.root)
    for key in _LISTS:
        if key in meta:
            meta[key] = [_absolute(path, dataset.root) for path in meta[key]]
    return json.dumps(meta, indent=2).encode() + b"\n"


def _make_absolute(values: dict[str, Any], keys: tuple[str, ...], root: Path) -> None:
    for key in keys:
        if isinstance(values.get(key), str):
            values[key] = _absolute(values[key], root)


def _absolute(path: str, root: Path) -> str:
    return Path(os.path.abspath(root / path)).as_posix()  # noqa: PTH100 (follows no links)
