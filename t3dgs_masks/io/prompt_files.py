"""Writes the prompts of a refine, in the layout that `open_prompts` reads (and T-3DGS writes).

PROMPTS/masks/<frame name>.png    coarse mask, 8-bit, white = transient
PROMPTS/diffs/<frame name>.png    residual, 16-bit grey, 65535 = 1.0
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.whole_file import write_whole
from t3dgs_masks.types import BoolMask, FloatMap

_WHITE_16 = 65535


def write_coarse(prompt_dir: Path, name: str, coarse: BoolMask) -> None:
    """Write the coarse mask ([H, W] bool, True = transient) of the frame `name`.

    Raises:
        UserError: it cannot be written.
    """
    _write(prompt_dir / "masks" / f"{name}.png", coarse.astype(np.uint8) * np.uint8(255))


def write_residual(prompt_dir: Path, name: str, residual: FloatMap) -> None:
    """Write the residual ([H, W] float32 in [0, 1]) of the frame `name`.

    Raises:
        UserError: it cannot be written.
    """
    grey = np.rint(np.clip(residual, 0, 1) * _WHITE_16).astype(np.uint16)
    _write(prompt_dir / "diffs" / f"{name}.png", grey)


def read_residual(prompt_dir: Path, name: str) -> FloatMap:
    """Read back what `write_residual` wrote: [H, W] float32 in [0, 1]."""
    path = prompt_dir / "diffs" / f"{name}.png"
    grey = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if grey is None:
        raise UserError(f"the residual {path} cannot be read back")
    return grey.astype(np.float32) / np.float32(_WHITE_16)


def _write(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    encoded, content = cv2.imencode(".png", pixels)
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode {path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.tobytes())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
