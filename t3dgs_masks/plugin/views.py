"""The training views of a run as a sequence of frames, in the geometry that training sees."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import torch
from natsort import natsorted
from torch import Tensor

from t3dgs_masks.errors import UserError
from t3dgs_masks.types import Image

_SIZE_TOLERANCE = 0.02  # undistortion with intrinsics of its own crops a view by a pixel or two


@dataclass(frozen=True)
class View:
    """One training view."""

    camera_idx: int
    """Index in nerfstudio's training set."""
    name: str
    """Name of the frame and of its mask; no suffix, unique, with '/'."""
    file: Path
    """The image that was loaded (of a downscaled folder, if training uses one)."""


def ordered_views(files: Sequence[Path]) -> list[View]:
    """Views in natural order of their names, which are the paths below the folder they share."""
    shared = shared_folder(files)
    names = [PurePosixPath(file.relative_to(shared)).with_suffix("").as_posix() for file in files]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two training images are called {twice[0]}: rename one, masks go by name")
    views = [
        View(idx, name, file) for idx, (name, file) in enumerate(zip(names, files, strict=True))
    ]
    return natsorted(views, key=lambda view: view.name)


def common_size(sizes: Sequence[tuple[int, int]], views: Sequence[View]) -> tuple[int, int]:
    """The (height, width) that most views have.

    Raises:
        UserError: a view differs by more than undistortion accounts for.
    """
    (height, width), _ = Counter(sizes).most_common(1)[0]
    for view, size in zip(views, sizes, strict=True):
        if abs(size[0] - height) > max(1, _SIZE_TOLERANCE * height) or abs(size[1] - width) > max(
            1, _SIZE_TOLERANCE * width
        ):
            raise UserError(
                f"training images have two sizes: {view.name} has {size[1]}x{size[0]}, most have "
                f"{width}x{height}; refine needs one size (split the dataset, or rescale it)"
            )
    return height, width


class TrainingViews:
    """Cached training images as `SourceFrames`.

    Views that undistortion cropped a pixel more or less are brought to the common size.
    """

    def __init__(self, views: Sequence[View], images: Sequence[Tensor]) -> None:
        """Args:
        views: in the order of the sequence.
        images: per view, [H, W, 3 or 4] uint8 in 0..255 or float32 in [0, 1], on any device.
        """
        self.views = views
        self._images = images
        sizes = [(int(image.shape[0]), int(image.shape[1])) for image in images]
        self.height, self.width = common_size(sizes, views)

    @property
    def names(self) -> Sequence[str]:
        return [view.name for view in self.views]

    @property
    def source_height(self) -> int:
        return self.height

    @property
    def source_width(self) -> int:
        return self.width

    @property
    def fps(self) -> float | None:
        return None

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, frame_idx: int) -> Image:
        """[H, W, 3] uint8 RGB."""
        image = self._images[frame_idx][..., :3]
        if image.dtype != torch.uint8:
            image = (image * 255).round().clamp(0, 255).to(torch.uint8)
        pixels = image.cpu().numpy()
        if pixels.shape[:2] != (self.height, self.width):
            pixels = cv2.resize(pixels, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(pixels).astype(np.uint8, copy=False)

    def frame_digest(self, frame_idx: int) -> str:
        """sha256 (hexadecimal) of the frame's name and pixels."""
        digest = hashlib.sha256(self.names[frame_idx].encode())
        digest.update(self[frame_idx].tobytes())
        return digest.hexdigest()

    def content_digest(self) -> str:
        """sha256 (hexadecimal) of all names and pixels."""
        digest = hashlib.sha256()
        for frame_idx in range(len(self)):
            digest.update(self.frame_digest(frame_idx).encode())
        return digest.hexdigest()


def shared_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that all files are below."""
    return Path(os.path.commonpath([file.parent for file in files]))
