"""The masks of a finished stage, as training uses them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from t3dgs_masks.errors import UserError
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.plugin.views import View


class RefinedMasks:
    """Reads the masks of training views from the `binary_masks` of a refine."""

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
