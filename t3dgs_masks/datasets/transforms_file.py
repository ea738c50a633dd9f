"""The JSON file of a nerfstudio dataset: as the user has it, and with our mask paths in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from t3dgs_masks.datasets.apply_record import AppliedRecord, original_of
from t3dgs_masks.datasets.dataset import Dataset
from t3dgs_masks.datasets.transaction import digest, inside, writing
from t3dgs_masks.datasets.transforms_text import set_mask_paths
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown

TransformsState = Literal["applied", "before", "changed", "gone", "none"]


@dataclass(frozen=True)
class UserTransforms:
    """The JSON file as the user has it, without our masks."""

    name: str
    """Relative to the root."""
    path: Path
    """Where these bytes are."""
    content: bytes
    kept_as: str
    """Where it is kept while masks are applied, relative to the root."""
    mask_paths: dict[str, str]
    """`DatasetFrame.source` -> the user's mask path."""
    sources: list[str]
    """`DatasetFrame.source` of every item of ``frames``."""

    @classmethod
    def read(cls, dataset: Dataset, record: AppliedRecord | None) -> UserTransforms:
        name = transforms_name(dataset)
        path = dataset.root / name
        if record is not None:
            path = whole_original(dataset.root, record) or path
        try:
            content = path.read_bytes()
            frames = json.loads(content)["frames"]
            content.decode("utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {shown(path)}: write it anew as UTF-8 JSON") from error
        return cls(
            name,
            path,
            content,
            original_of(name),
            {_source(item): item["mask_path"] for item in frames if "mask_path" in item},
            [_source(item) for item in frames],
        )

    def with_mask_paths(self, mask_paths: Mapping[str, str]) -> bytes:
        """The file with a mask path for every frame."""
        text = self.content.decode("utf-8")
        new = {index: mask_paths[source] for index, source in enumerate(self.sources)}
        return set_mask_paths(text, new).encode("utf-8")

    def recorded(self, record: AppliedRecord, content: bytes) -> AppliedRecord:
        """The record with what happens to this file."""
        return replace(
            record,
            transforms=self.name,
            transforms_before=hashlib.sha256(self.content).hexdigest(),
            transforms_after=hashlib.sha256(content).hexdigest(),
        )


def transforms_name(dataset: Dataset) -> str:
    """The dataset's JSON file, relative to its root; where it is a link, what it leads to.

    Raises:
        UserError: that lies outside of the dataset.
    """
    root, path = Path(os.path.realpath(dataset.root)), Path(os.path.realpath(dataset.described_by))
    if not path.is_relative_to(root):
        raise UserError(
            f"{shown(dataset.described_by)} leads to {shown(path)}, outside of the dataset, where"
            " nothing will be changed: replace the link by a copy"
        )
    return path.relative_to(root).as_posix()


def transforms_state(root: Path, record: AppliedRecord) -> TransformsState:
    """Whether the JSON file is "applied" (as we left it), as "before", "changed" or "gone"; "none"
    in layouts without one."""
    if record.transforms is None:
        return "none"
    with writing(root):
        present = digest(inside(root, record.transforms))
    if present is None:
        return "gone"
    if present == record.transforms_after:
        return "applied"
    return "before" if present == record.transforms_before else "changed"


def whole_original(root: Path, record: AppliedRecord) -> Path | None:
    """The JSON file of before, if it is whole."""
    path = inside(root, record.original_transforms)
    with writing(root):
        return path if digest(path) == record.transforms_before else None


def without_ours(meta: Any, record: AppliedRecord) -> dict[int, str | None]:
    """For every frame whose mask is ours: the mask that it had before."""
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list):
        return {}
    return {
        index: record.user_masks.get(_source(values))
        for index, values in enumerate(frames)
        if isinstance(values, dict) and values.get("mask_path") in record.files
    }


def _source(values: Mapping[str, Any]) -> str:
    """`DatasetFrame.source` of an item of ``frames``."""
    return PurePosixPath(str(values.get("file_path"))).as_posix()
