"""Residuals of a splat to transient masks: per training step, and for the prompts of a refine.

Where a render and its photo disagree more than the scene as a whole does, something transient is
likely. RobustNeRF (arXiv 2302.00833) and SpotLessSplats (arXiv 2406.20055) train on that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass
class RobustLossConfig:
    """When the loss ignores what the splat explains badly, before refined masks are there."""

    enabled: bool = True
    """Ignore pixels with outlying residuals until the first refine."""
    warmup_steps: int = 500
    """Train on all pixels for this many steps first; residuals mean little before."""
    outlier_sigmas: float = 4.0
    """A residual is an outlier this many (robust) standard deviations above the median of recent
    images."""
    residual_floor: float = 0.08
    """Residuals (mean over colour channels, 0 to 1) up to this are never outliers."""
    max_masked_share: float = 0.3
    """Never ignore more than this share of an image (0 to 1); of more, the worst are ignored."""
    smoothing: float = 0.02
    """Residuals are averaged over a square of this share of the image's shorter side."""
    memory: float = 0.98
    """Weight of the past in the running median and deviation (0 to 1)."""


class RobustMask:
    """Says, step by step, which pixels the loss should ignore.

    Holds a running median and deviation of residuals over the images of recent steps, so that an
    image without anybody in it loses little: its residuals are compared with those of all images.
    """

    def __init__(self, config: RobustLossConfig) -> None:
        self.config = config
        self._median: Tensor | None = None  # [] float32
        self._deviation: Tensor | None = None  # [] float32

    @torch.no_grad()
    def transient(self, residual: Tensor) -> Tensor:
        """Outlying pixels of one image.

        Args:
            residual: [H, W] float32 in [0, 1], mean over colour channels of |render - photo|.

        Returns:
            [H, W] bool, True = ignore; at most `max_masked_share` of it (but for ties).
        """
        smooth = smoothed(residual, self.config.smoothing)
        threshold = self._threshold(smooth).clamp_min(self.config.residual_floor)
        worst = quantile(smooth, 1 - self.config.max_masked_share)
        return smooth > torch.maximum(threshold, worst)

    def _threshold(self, smooth: Tensor) -> Tensor:
        """Update the running figures with one image, and give the level of an outlier, []."""
        median, deviation = median_and_deviation(smooth)
        if self._median is None or self._deviation is None:
            self._median, self._deviation = median, deviation
        else:
            weight = 1 - self.config.memory
            self._median = torch.lerp(self._median, median, weight)
            self._deviation = torch.lerp(self._deviation, deviation, weight)
        return self._median + self.config.outlier_sigmas * self._deviation


def smoothed(residual: Tensor, share: float) -> Tensor:
    """[H, W] averaged over an odd square of about `share` of the shorter side, at least 3 px."""
    side = max(3, 2 * round(share * min(residual.shape) / 2) + 1)
    side = min(side, 2 * ((min(residual.shape) - 1) // 2) + 1)
    averaged = functional.avg_pool2d(
        residual[None, None], side, stride=1, padding=side // 2, count_include_pad=False
    )
    return averaged[0, 0]


def median_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median and robust standard deviation (from the median absolute deviation), both []."""
    median = values.median()
    return median, (values - median).abs().median() * _MAD_TO_SIGMA


def quantile(values: Tensor, share: float) -> Tensor:
    """[]: a value that at most 1 - `share` of the values lie above. Works at any size, unlike
    `torch.quantile`."""
    rank = min(values.numel(), max(1, -int(-share * values.numel() // 1)))
    return values.flatten().kthvalue(rank).values
