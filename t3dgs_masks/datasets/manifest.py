"""`manifest.json`: leads every frame of a folder back to where it came from.

It lies beside prepared frames, and in every result and prompt folder that was made from a dataset,
so that `apply` knows which file a mask belongs to and which geometry it has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from t3dgs_masks.datasets.dataset import Camera, DatasetKind, Split

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1


@dataclass(frozen=True)
class ManifestFrame:
    """Where one frame came from."""

    name: str
    """Name of the frame, and of its mask, in this folder (no suffix)."""
    source: str
    """Image file relative to the dataset's root, with '/'; of a video, ``<file name>#<index>``."""
    split: Split | None = None
    camera: Camera | None = None
    """Of the source image file."""
    undistorted: Camera | None = None
    """Set if this folder's images show the source *undistorted* (and cropped, rescaled): the
    pinhole camera that they show it with. None: same geometry as the source file, whatever the
    scale."""


@dataclass(frozen=True)
class Manifest:
    """All frames of a folder, in order."""

    root: str
    """The dataset's root (or the video file), absolute."""
    kind: DatasetKind
    frames: Sequence[ManifestFrame]

    def to_json(self) -> dict[str, object]:
        return {"version": MANIFEST_VERSION, **asdict(self)}


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """Write `folder/manifest.json`, whole or not at all; returns its path."""
    path = folder / MANIFEST_NAME
    temporary = path.with_name(f".{MANIFEST_NAME}.part")
    temporary.write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path
