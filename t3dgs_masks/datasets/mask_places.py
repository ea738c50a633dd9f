"""Where the masks of a dataset's frames go: trainers find them, and nothing is in the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath

from t3dgs_masks.datasets.apply_record import UserMasks
from t3dgs_masks.datasets.colmap import IMAGES_FOLDER, MASKS_FOLDER
from t3dgs_masks.datasets.dataset import Dataset, DatasetFrame
from t3dgs_masks.datasets.transaction import inside, writing

_OURS = "t3dgs"
_LONGEST_NAME = 200  # bytes of a mask's name without its suffix; file systems allow 255


@dataclass(frozen=True)
class Place:
    """One mask file to write."""

    path: str
    """Relative to the root."""
    image: Path
    """Whose size it has."""
    user_mask: Path | None
    """The user's own mask for it; the first place of a frame (full size) always names it."""


class MaskPlaces:
    """Names of the mask files of a dataset."""

    def __init__(self, dataset: Dataset, user_masks: UserMasks, ours: Collection[str]) -> None:
        self._dataset = dataset
        self._user_masks = user_masks
        self._ours = ours
        self._factors = _factors(dataset.root)
        self._flat = flat_names([frame.name for frame in dataset.frames])
        tags = ("" if n == 0 else _OURS if n == 1 else f"{_OURS}_{n}" for n in count())
        self._tag = next(tag for tag in tags if self._is_free(tag))

    @property
    def folder(self) -> str:
        """Where the masks of full-size images go."""
        return self._folder(self._tag)

    def of(self, index: int, user_mask: Path | None) -> list[Place]:
        """Mask files of the frame at `index`, that of the full-size image first."""
        frame = self._dataset.frames[index]
        places = [Place(self._path(self._tag, index), frame.image, user_mask)]
        for factor in self._factors:
            image = self._downscaled_image(frame, factor)
            if image.is_file():
                path = self._path(self._tag, index, factor)
                places.append(Place(path, image, self._downscaled_user_mask(user_mask, factor)))
        return places

    def _is_free(self, tag: str) -> bool:
        """Whether nothing but ours is where masks would go."""
        root = self._dataset.root
        folder = inside(root, f"{self._folder(tag)}/any").parent
        if not all(path in self._ours for path in _files_in(folder, root)):
            return False
        for index in range(len(self._dataset.frames)):
            for factor in (1, *self._factors):
                path = self._path(tag, index, factor)
                if path not in self._ours and os.path.lexists(root / path):
                    return False
        return True

    def _folder(self, tag: str, factor: int = 1) -> str:
        if self._dataset.kind == "nerfstudio" and factor > 1:
            # Whatever the folder of the other masks is called: so nerfstudio has it.
            return f"{MASKS_FOLDER}_{factor}"
        folder = f"{MASKS_FOLDER}_{tag}" if tag else MASKS_FOLDER
        return folder if factor == 1 else f"{folder}_{factor}"

    def _path(self, tag: str, index: int, factor: int = 1) -> str:
        folder = self._folder(tag, factor)
        if self._dataset.kind == "nerfstudio":
            prefix = f"{tag}_" if tag else ""
            return f"{folder}/{prefix}{self._flat[index]}.png"
        name = PurePosixPath(self._dataset.frames[index].source).relative_to(IMAGES_FOLDER)
        return (folder / name.with_suffix(".png")).as_posix()

    def _downscaled_image(self, frame: DatasetFrame, factor: int) -> Path:
        folder = self._dataset.root / f"{IMAGES_FOLDER}_{factor}"
        source = PurePosixPath(frame.source)
        if self._dataset.kind == "nerfstudio":
            return folder / source.name
        return folder / source.relative_to(IMAGES_FOLDER)

    def _downscaled_user_mask(self, user_mask: Path | None, factor: int) -> Path | None:
        if user_mask is None:
            return None
        root = self._dataset.root
        name = user_mask.name
        if self._dataset.kind == "colmap":
            name = user_mask.relative_to(root / MASKS_FOLDER)
        path = root / f"{MASKS_FOLDER}_{factor}" / name
        return path if path.is_file() and not self._user_masks.is_ours(path) else None


def _factors(root: Path) -> list[int]:
    """Downscale factors that the dataset has images for."""
    prefix = f"{IMAGES_FOLDER}_"
    with writing(root):
        suffixes = [
            entry.name.removeprefix(prefix)
            for entry in root.iterdir()
            if entry.name.startswith(prefix) and entry.is_dir()
        ]
    numbers = {int(text) for text in suffixes if text.isascii() and text.isdigit()}
    return sorted(number for number in numbers if number > 1)


def _files_in(folder: Path, root: Path) -> Iterator[str]:
    """What lies below `folder`, relative to `root`; the folder itself if it is none."""
    if os.path.lexists(folder) and not folder.is_dir():
        yield folder.relative_to(root).as_posix()
    for parent, _, names in os.walk(folder):
        for name in names:
            yield (Path(parent) / name).relative_to(root).as_posix()


def flat_names(names: Sequence[str]) -> list[str]:
    """Frame names as unique names for files of one folder: ``cam0/a`` -> ``cam0_a``.

    nerfstudio drops subfolders where it looks for downscaled masks. Names differ in more than
    case, and are short enough for every file system.
    """
    flat: list[str] = []
    used: set[str] = set()
    for name in names:
        base = name.replace("/", "_").replace("\\", "_")
        if len(os.fsencode(base)) > _LONGEST_NAME:
            tag = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
            base = os.fsdecode(os.fsencode(base)[: _LONGEST_NAME // 2]) + f"_{tag}"
        candidates = (base if number == 1 else f"{base}_{number}" for number in count(1))
        chosen = next(candidate for candidate in candidates if candidate.casefold() not in used)
        used.add(chosen.casefold())
        flat.append(chosen)
    return flat
