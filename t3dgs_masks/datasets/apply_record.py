"""What `apply` remembers of a dataset: what it wrote there, and what was there before."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from t3dgs_masks.datasets.dataset import DatasetFrame
from t3dgs_masks.datasets.transaction import STATE, digest, inside, writing
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown

RECORD = f"{STATE}/applied.json"
ORIGINALS = f"{STATE}/original"

_VERSION = 1

Layout = Literal["nerfstudio", "colmap"]


@dataclass(frozen=True)
class AppliedRecord:
    """The contents of ``.t3dgs_masks/applied.json``. All paths are relative to the dataset's
    root, with '/'."""

    layout: Layout
    masks_folder: str
    """Where the masks of the full-size images are."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Every mask file that was written -> sha256."""
    folders: Sequence[str] = ()
    """Folders that were made for them."""
    user_masks: Mapping[str, str] = field(default_factory=dict)
    """`DatasetFrame.source` -> the mask that the dataset had for it before (as written there)."""
    transforms: str | None = None
    """The JSON file that was changed."""
    transforms_before: str | None = None
    """sha256 of what it was."""
    transforms_after: str | None = None
    """sha256 of what was written."""

    @property
    def original_transforms(self) -> str:
        """Where the JSON file of before is kept."""
        return original_of(self.transforms or "")

    def to_json(self) -> bytes:
        content = {"program": "t3dgs_masks", "version": _VERSION, **asdict(self)}
        return json.dumps(content, indent=1).encode() + b"\n"


def original_of(transforms: str) -> str:
    """Where the JSON file of before is kept, relative to the root."""
    return f"{ORIGINALS}/{PurePosixPath(transforms).name}"


def read_record(root: Path) -> AppliedRecord | None:
    """What is applied to the dataset in `root` now; None: nothing.

    Raises:
        UserError: the record is damaged, or names files outside of the dataset.
    """
    path = inside(root, RECORD)
    with writing(root):
        if not path.is_file():
            return None
        content = path.read_bytes()
    try:
        record = _parse(json.loads(content))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{shown(path)} was damaged, so that it is not known what was applied: what was there"
            f" before is in {shown(root / ORIGINALS)}"
        ) from error
    names = [*record.files, *record.folders]
    if record.transforms is not None:
        names += [record.transforms, record.original_transforms]
    for name in names:
        inside(root, name)
    return record


def user_mask_of(root: Path, frame: DatasetFrame) -> Path | None:
    """The mask that the dataset itself has for a frame, whether or not ours are applied now.

    What a frame's `mask` names may be what `apply` wrote. Whoever combines new masks with the
    user's needs the user's, or masks could only grow.

    Args:
        root: of the dataset that `frame` is from.
        frame: as the dataset has it now.

    Raises:
        UserError: the record of what was applied is damaged.
    """
    return UserMasks(root, read_record(root)).of(frame)


class UserMasks:
    """`user_mask_of` for many frames."""

    def __init__(self, root: Path, record: AppliedRecord | None) -> None:
        self._root = root
        self._record = record
        self._ours = {_normal(root / name) for name in record.files} if record else frozenset()

    def of(self, frame: DatasetFrame) -> Path | None:
        """The user's own mask file of a frame, which need not exist."""
        if frame.mask is None or self._record is None or not self.is_ours(frame.mask):
            return frame.mask
        text = self._record.user_masks.get(frame.source)
        return None if text is None else self._root / text

    def is_ours(self, path: Path) -> bool:
        """Whether `apply` wrote this file."""
        return _normal(path) in self._ours


def changed_files(root: Path, record: AppliedRecord) -> list[str]:
    """Mask files that are not as they were written; those that are gone do not count."""
    with writing(root):
        return [
            name
            for name, written in record.files.items()
            if digest(inside(root, name)) not in (written, None)
        ]


def _normal(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (folds '..' away, follows no links)


def _parse(content: Any) -> AppliedRecord:
    if content["version"] != _VERSION:
        raise ValueError(f"version {content['version']}")
    if content["layout"] not in ("nerfstudio", "colmap"):
        raise ValueError(content["layout"])
    record = AppliedRecord(
        layout=content["layout"],
        masks_folder=content["masks_folder"],
        files=dict(content["files"]),
        folders=list(content["folders"]),
        user_masks=dict(content["user_masks"]),
        transforms=content["transforms"],
        transforms_before=content["transforms_before"],
        transforms_after=content["transforms_after"],
    )
    texts = [record.masks_folder, *record.files, *record.files.values(), *record.folders]
    texts += [*record.user_masks, *record.user_masks.values()]
    if record.transforms is not None:
        texts += [record.transforms, record.transforms_before, record.transforms_after]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a path is not a text")
    return record
