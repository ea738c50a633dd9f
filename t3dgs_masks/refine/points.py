"""Where to prompt: point prompts from coarse masks, or from a regular grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from t3dgs_masks import masks
from t3dgs_masks.types import BoolMask

_MIN_POINTS_PER_COMPONENT = 10
_POINTS_PER_PIXEL = 0.01

PointsXY = NDArray[np.float32]  # [P, 2], pixel coordinates (x, y)


def coarse_points(coarse: BoolMask, *, seed: int, frame_idx: int) -> PointsXY:
    """Random points inside every component of a coarse mask (TMR, arXiv 2412.00155).

    Each 8-connected component of `size` pixels gives max(10, int(0.01 * size)) different pixels;
    a component with fewer pixels than that gives none.

    The generator is seeded per frame, with (seed, frame_idx). The reference draws from one global
    generator, so that its points depend on all that was drawn before; here a frame's points are
    the same whatever was processed before it, and a resumed run equals an undisturbed one.

    Args:
        coarse: [H, W] bool, True = transient.

    Returns:
        [P, 2] float32 (x, y), whole pixel coordinates, components in raster order.
    """
    rng = np.random.default_rng([seed, frame_idx])
    drawn = [_pixels_of_component(pixels, rng) for pixels in masks.components(coarse)]
    if not drawn:
        return np.zeros((0, 2), dtype=np.float32)
    rows_columns = np.concatenate(drawn)
    return rows_columns[:, ::-1].astype(np.float32)


def _pixels_of_component(pixels: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    count = max(_MIN_POINTS_PER_COMPONENT, int(_POINTS_PER_PIXEL * len(pixels)))
    if len(pixels) < count:
        return pixels[:0]
    return pixels[rng.choice(len(pixels), size=count, replace=False)]


def grid_points(points_per_side: int, height: int, width: int) -> PointsXY:
    """A regular grid over the frame, half a cell away from the borders (SAM's own grid).

    Returns:
        [points_per_side**2, 2] float32 (x, y), x fastest.
    """
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(centres * width, centres * height)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def points_outside(points_xy: PointsXY, region: BoolMask) -> PointsXY:
    """The points whose pixel is False in `region` ([H, W] bool)."""
    columns, rows = points_xy.astype(np.intp).T
    return points_xy[~region[rows, columns]]
