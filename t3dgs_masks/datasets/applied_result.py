"""Whether the masks that are applied to a dataset are those of a certain result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from t3dgs_masks.datasets.apply_masks import open_dataset_at
from t3dgs_masks.datasets.apply_record import AppliedRecord, changed_files, read_record
from t3dgs_masks.datasets.colmap import IMAGES_FOLDER
from t3dgs_masks.datasets.dataset import Dataset
from t3dgs_masks.datasets.export_source import DatasetMasks
from t3dgs_masks.datasets.manifest import read_manifest
from t3dgs_masks.datasets.transforms_file import transforms_state
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import read_planes, shown
from t3dgs_masks.types import BoolMask

_MOST_DILATION = 100  # pixels that are tried
_COMPARED = 5  # frames


@dataclass(frozen=True)
class AppliedResult:
    """How a result is, or is to be, applied to a dataset."""

    data: Path
    """The dataset: its folder or JSON file."""
    dilate: int = 0
    include_eval: bool = False


def find_applied(
    result: Path, wanted: Literal["auto", "yes", "no"]
) -> tuple[AppliedResult | None, list[str]]:
    """Where the masks of a result have to be applied again when they change.

    `apply` does not note whose masks it wrote. Those in the dataset are the result's if they are
    the same pixels, for one dilation.

    Args:
        result: a result folder, its masks as they were applied.
        wanted: ``auto``: only if they are applied. ``yes``: in any case; ``no``: not.

    Returns:
        Where and how (None: nowhere), and notices for the user.

    Raises:
        UserError: they have to be applied, but cannot be.
    """
    if wanted == "no":
        return None, []
    manifest = read_manifest(result)
    root = None
    if manifest is not None and manifest.kind in ("nerfstudio", "colmap"):
        root = Path(manifest.root)
    if root is None or not root.is_dir():
        if wanted == "auto":
            return None, []
        raise UserError(
            f"{shown(result)} does not lead to a dataset: apply its masks with `t3dgs-masks apply"
            f" --data ... --masks {shown(result)}`"
        )
    record = read_record(root)
    if record is None:
        return (AppliedResult(root) if wanted == "yes" else None), []
    data = root if record.transforms is None else root / record.transforms
    if _is_changed(root, record):
        problem = f"the dataset {shown(root)} was changed since masks were applied to it"
        if wanted == "yes":
            raise UserError(f"{problem}: `t3dgs-masks revert --force --data {shown(root)}` first")
        return None, [f"{problem}: it is left as it is"]
    found = _as_applied(open_dataset_at(data), data, record, result)
    if found is not None or wanted == "yes":
        return found or AppliedResult(data), []
    return None, [
        f"other masks than this result's are applied to {shown(root)}: it is left as it is"
        f" (`t3dgs-masks apply --data {shown(data)} --masks {shown(result)}` applies these)"
    ]


def _is_changed(root: Path, record: AppliedRecord) -> bool:
    state = transforms_state(root, record)
    return state in ("changed", "gone") or bool(changed_files(root, record))


def _as_applied(
    dataset: Dataset, data: Path, record: AppliedRecord, result: Path
) -> AppliedResult | None:
    """How this result is applied; None if it is not."""
    try:
        ours = DatasetMasks(result, dataset, lambda _: None)
    except UserError:
        return None  # masks of other frames
    files = _applied_files(dataset, record)
    evaluation = [item for item in files if ours.images[item[0]].is_eval]
    compared = _telling([item for item in files if not ours.images[item[0]].is_eval])
    if not compared:
        return None
    dilate = _dilation(ours, *compared[0])
    if dilate is None:
        return None

    def is_same(index: int, applied: BoolMask, *, whole: bool = False) -> bool:
        return np.array_equal(ours.mask(index, dilate=dilate, whole=whole).pixels, applied)

    if not all(is_same(index, applied) for index, applied in compared):
        return None
    include_eval = any(
        is_same(index, applied) and not is_same(index, applied, whole=True)
        for index, applied in _telling(evaluation)
    )
    return AppliedResult(data, dilate, include_eval)


def _dilation(ours: DatasetMasks, index: int, applied: BoolMask) -> int | None:
    """The least dilation that gives the applied mask of a frame."""
    area = np.count_nonzero(applied)
    for dilate in range(_MOST_DILATION + 1):
        mask = ours.mask(index, dilate=dilate).pixels
        if np.array_equal(mask, applied):
            return dilate
        if np.count_nonzero(mask) >= area:
            return None
    return None


def _applied_files(dataset: Dataset, record: AppliedRecord) -> list[tuple[int, Path]]:
    """(frame, full-size mask that `apply` wrote)."""
    files: list[tuple[int, Path]] = []
    for index, frame in enumerate(dataset.frames):
        path = frame.mask
        if record.layout == "colmap":
            image = PurePosixPath(frame.source).relative_to(IMAGES_FOLDER)
            path = dataset.root / record.masks_folder / image.with_suffix(".png")
        if path is not None and path.is_file():
            files.append((index, path))
    return files


def _telling(files: Sequence[tuple[int, Path]]) -> list[tuple[int, BoolMask]]:
    """A few masks ([H, W] bool, True = transient) with something transient, from all over; of
    those without, if there are no others."""
    step = max(1, len(files) // _COMPARED)
    telling: list[tuple[int, BoolMask]] = []
    empty: list[tuple[int, BoolMask]] = []
    for index, path in (item for first in range(step) for item in files[first::step]):
        applied = read_planes(path).luminance() <= 127
        if applied.any():
            telling.append((index, applied))
        elif len(empty) < _COMPARED:
            empty.append((index, applied))
        if len(telling) == _COMPARED:
            break
    return telling or empty
