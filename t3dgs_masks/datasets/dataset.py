"""What a posed dataset holds, whichever layout it has on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DatasetKind = Literal["nerfstudio", "colmap", "folder", "video"]
Split = Literal["train", "eval"]


@dataclass(frozen=True)
class Camera:
    """Intrinsics of an image file, in pixels of that file; pixel centres are at +0.5.

    The parameters are nerfstudio's: OpenCV's pinhole (k1..k3, p1, p2) or fisheye (k1..k4) model.
    """

    fl_x: float
    fl_y: float
    cx: float
    cy: float
    width: int
    height: int
    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    fisheye: bool = False

    @property
    def is_distorted(self) -> bool:
        return any((self.k1, self.k2, self.k3, self.k4, self.p1, self.p2))


@dataclass(frozen=True)
class DatasetFrame:
    """One image of a dataset."""

    name: str
    """What results call it: `source` below the folder that all frames of the dataset share,
    without its suffix, with '/' (``frame_00001``, ``cam0/frame_00001``)."""
    source: str
    """The image as the dataset writes it, relative to the dataset's root, with '/'
    (``images/frame_00001.png``)."""
    image: Path
    """The file (full resolution)."""
    split: Split | None
    """None: the dataset leaves the split to the trainer's flags."""
    camera: Camera | None
    camera_to_world: tuple[tuple[float, float, float, float], ...] | None
    """[4, 4], OpenGL axes (x right, y up, looking along -z), in the dataset's own units."""
    mask: Path | None
    """The static mask that the dataset has for it now (white = keep), if any."""


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk; `frames` are in natural order of their names."""

    root: Path
    kind: DatasetKind
    frames: Sequence[DatasetFrame]
