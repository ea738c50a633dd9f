"""The masks of a finished stage, as training uses them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PilImage
from torch import Tensor

from t3dgs_masks.errors import UserError
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.plugin.views import View


class RefinedMasks:
    """Reads the masks of training views from a refine's `binary_masks`, each once."""

    def __init__(self, folder: Path, views: Sequence[View], dilate: int) -> None:
        """Args:
        folder: holds `<view name>.png`, white = static.
        views: of the training set.
        dilate: grow what is transient by this many pixels.

        Raises:
            UserError: a view has no mask there.
        """
        self._files = {view.camera_idx: folder / f"{view.name}.png" for view in views}
        self._dilate = dilate
        self._cache: dict[int, Tensor] = {}
        missing = [file for file in self._files.values() if not file.is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(self._files)} training images have no mask in {folder} "
                f"({missing[0].name} is one): the masks are of another dataset or split"
            )

    def transient(self, camera_idx: int) -> TransientMask:
        """The mask of a training view, grown."""
        with PilImage.open(self._files[camera_idx]) as image:
            static = np.asarray(image.convert("L"))
        return TransientMask(static < 128).dilated(self._dilate)

    def static(self, camera_idx: int) -> Tensor:
        """[H, W, 1] bool on the CPU, True = static, of a training view."""
        if camera_idx not in self._cache:
            transient = self.transient(camera_idx).pixels
            self._cache[camera_idx] = torch.from_numpy(~transient)[..., None]
        return self._cache[camera_idx]

    def transient_share(self) -> float:
        """Share of all training pixels that is masked, 0 to 1."""
        shares = [1 - self.static(idx).float().mean().item() for idx in self._files]
        return float(np.mean(shares))
