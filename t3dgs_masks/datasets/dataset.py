"""What a posed dataset holds, whichever layout it has on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown

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
    without its suffix, with '/' (``frame_00001``, ``cam0/frame_00001``). Unique, and never leads
    out of a folder, whatever `source` is."""
    source: str
    """The image as the dataset writes it, relative to the dataset's root, with '/' and without
    './' (``images/frame_00001.png``). See `inside_root`."""
    image: Path
    """The file (full resolution); it exists. Its pixels count as stored: trainers do not turn an
    image by its EXIF orientation."""
    split: Split | None
    """None: the dataset leaves the split to the trainer's flags. eval: a view for evaluation, or
    one that the dataset's split uses for nothing."""
    camera: Camera | None
    """None: a projection that `Camera` cannot express."""
    camera_to_world: tuple[tuple[float, float, float, float], ...] | None
    """[4, 4], OpenGL axes (x right, y up, looking along -z), in the dataset's own units."""
    mask: Path | None
    """The static mask that the dataset names for it now (white = keep), if any; whether the file
    exists and can be read is for those to find out who need it."""

    @property
    def inside_root(self) -> bool:
        """False: the dataset names this image by an absolute path, or by one that climbs out of
        its root with '..'. Such an image can be read, but nothing should be written by its name."""
        source = PurePosixPath(self.source)
        return not (source.is_absolute() or ".." in source.parts)


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk; `frames` are in natural order of their names."""

    root: Path
    kind: DatasetKind
    frames: Sequence[DatasetFrame]
    described_by: Path
    """What says so: the ``transforms.json`` (or another JSON file), or the folder of the COLMAP
    model."""


def frame_names(images: Sequence[Path], described_by: Path) -> list[str]:
    """Names of a dataset's frames: see `DatasetFrame.name`.

    Args:
        images: the image file of every frame; at least one.
        described_by: the file or folder that lists them, for the message.

    Raises:
        UserError: an image is listed twice, or two differ only in their suffix.
    """
    absolute = [Path(os.path.abspath(image)) for image in images]  # noqa: PTH100 (folds '..' away)
    shared = Path(os.path.commonpath([image.parent for image in absolute]))
    names = [image.relative_to(shared).with_suffix("").as_posix() for image in absolute]
    first_of: dict[str, Path] = {}
    for name, image in zip(names, absolute, strict=True):
        first = first_of.setdefault(name, image)
        if first is image:
            continue
        if first == image:
            raise UserError(
                f"{shown(described_by)} lists {shown(image)} twice: remove one of the entries"
            )
        raise UserError(
            f"{shown(first)} and {shown(image)} differ only in their suffix, so that their masks"
            " would have one name: rename or remove one of them"
        )
    return names


def missing_image(image: Path, described_by: Path) -> UserError:
    """What to raise where a dataset lists an image that is not there."""
    advice = "restore the file, or remove its entry"
    if not image.suffix:
        found = next(iter(_with_any_suffix(image)), None)
        if found is not None:
            advice = f"there is {shown(found.name)}: write the suffix into its entry"
    return UserError(f"{shown(described_by)} lists {shown(image)}, which does not exist; {advice}")


def _with_any_suffix(image: Path) -> Iterable[Path]:
    for suffix in (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG"):
        candidate = image.with_name(image.name + suffix)
        if os.path.isfile(candidate):  # noqa: PTH113 (never raises, whatever the name)
            yield candidate
