"""Prompts for a refine from a splat: residuals of its views, and coarse masks where they stand
out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from t3dgs_masks import masks
from t3dgs_masks.config import CoarseMaskConfig
from t3dgs_masks.io.prompt_files import read_residual, write_coarse, write_residual
from t3dgs_masks.plugin.robust import median_and_deviation, smoothed
from t3dgs_masks.types import BoolMask, FloatMap


@dataclass(frozen=True)
class ResidualLevel:
    """What residuals of the static scene look like, over all views."""

    median: float
    deviation: float

    def outlier(self, config: CoarseMaskConfig) -> float:
        """The level above which a smoothed residual counts."""
        return max(config.residual_floor, self.median + config.outlier_sigmas * self.deviation)


def write_prompts(
    prompt_dir: Path,
    residuals: Iterable[tuple[str, FloatMap]],
    config: CoarseMaskConfig,
    ignored: Callable[[str], BoolMask | None] = lambda name: None,
) -> None:
    """Write residuals and coarse masks of all views.

    Residuals go to disk one by one and are read back when the level of all views is known, so that
    only one is held at a time.

    Args:
        prompt_dir: where `masks/` and `diffs/` go.
        residuals: per view its name and [H, W] float32 in [0, 1].
        config: what makes a coarse mask.
        ignored: per view the pixels that no training looks at ([H, W] bool, True = ignored), whose
            residuals mean nothing; None: there are none.

    Raises:
        UserError: the folder cannot be written to.
    """
    names: list[str] = []
    levels: list[tuple[float, float]] = []
    for name, residual in residuals:
        write_residual(prompt_dir, name, residual)
        smooth = smoothed(torch.from_numpy(residual), config.smoothing)
        median, deviation = median_and_deviation(smooth)
        names.append(name)
        levels.append((float(median), float(deviation)))
    level = typical_level(levels)
    for name in names:
        coarse = coarse_mask(read_residual(prompt_dir, name), level, config)
        unseen = ignored(name)
        write_coarse(prompt_dir, name, coarse if unseen is None else coarse & ~unseen)


def typical_level(levels: Sequence[tuple[float, float]]) -> ResidualLevel:
    """The level of the views from (median, deviation) of each; a few odd views do not move it."""
    medians, deviations = zip(*levels, strict=True)
    return ResidualLevel(float(np.median(medians)), float(np.median(deviations)))


def coarse_mask(residual: FloatMap, level: ResidualLevel, config: CoarseMaskConfig) -> BoolMask:
    """[H, W] bool, True = transient: where the smoothed residual is an outlier.

    Args:
        residual: [H, W] float32 in [0, 1].
        level: of all views.
        config: thresholds.
    """
    smooth = smoothed(torch.from_numpy(residual), config.smoothing).numpy()
    found = smooth > level.outlier(config)
    return masks.drop_small(found, round(config.min_area * found.size))
