"""What the prompts of a sequence say about masks on its frames.

Residuals are high where the splat explains a photo badly. What static pixels of a frame look like
is read from those that are clear of its coarse mask.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from t3dgs_masks import bits, masks
from t3dgs_masks.types import BitMask, FramePrompt, PromptSource

ResidualUse = Literal["used", "none", "say nothing"]

_STATIC_QUANTILE = 0.75
"""Residuals above this quantile of the static pixels of a frame do not look static."""
_STATIC_MARGIN = 0.03
"""Static pixels keep this distance (of the shorter side) from the coarse mask."""
_LEAST_STATIC = 0.01
"""Share of the frame that has to be static to say what static looks like."""
_CLEAR_RATIO = 1.25
"""Residuals say something if they are so much higher inside coarse masks than outside."""
_LEVEL_FRAMES = 32
_SAMPLES_PER_SIDE = 256
_LEVEL_READERS = 4


@dataclass(frozen=True)
class FrameEvidence:
    """What one frame's prompt says about the pixels of a mask."""

    coarse: BitMask  # True = transient
    above_static: BitMask | None
    """Pixels with a higher residual than most static ones; None: not to be told."""
    static_share_above: float = 0.0
    """Share of the static pixels that are among them; below 1."""

    @staticmethod
    def of(prompt: FramePrompt, static: StaticResidual | None) -> FrameEvidence:
        """From the prompt of a frame, and what its static pixels look like, if that can be told."""
        coarse = bits.pack(prompt.coarse)
        if prompt.residual is None or static is None:
            return FrameEvidence(coarse, None)
        return FrameEvidence(coarse, bits.pack(prompt.residual > static.level), static.share_above)

    def support(self, part: BitMask) -> float | None:
        """Share of a part of the frame (not empty) that looks transient: 0 if its residuals are
        distributed like those of static pixels, 1 if all are above most of them.

        Of pixels that look static, some share is above the static level by chance; the estimate
        takes it off. None if the frame has no evidence.
        """
        if self.above_static is None:
            return None
        above = bits.share(part, self.above_static)
        return max(0.0, (above - self.static_share_above) / (1.0 - self.static_share_above))


@dataclass(frozen=True)
class StaticResidual:
    """The residuals of the static pixels of one frame."""

    level: float
    """Most of them are at or below it."""
    share_above: float
    """Of static pixels; below 1."""

    @staticmethod
    def of(prompt: FramePrompt) -> StaticResidual | None:
        """From the pixels clear of the coarse mask (a grid of them, in large frames); None if
        there are too few, or no residuals."""
        coarse, residual = prompt.coarse, prompt.residual
        if residual is None:
            return None
        stride = max(1, min(coarse.shape) // _SAMPLES_PER_SIDE)
        sampled = coarse[::stride, ::stride]
        margin = max(1, round(_STATIC_MARGIN * min(sampled.shape)))
        values = residual[::stride, ::stride][~masks.dilate(sampled, margin)]
        if len(values) < max(1.0, _LEAST_STATIC * sampled.size):
            return None
        level = float(np.quantile(values, _STATIC_QUANTILE))
        return StaticResidual(level, float(np.mean(values > level)))


@dataclass(frozen=True)
class ResidualLevels:
    """What residuals are like inside and outside of the coarse masks of a sequence."""

    use: ResidualUse
    static: float | None = None
    transient: float | None = None

    @property
    def speak(self) -> bool:
        return self.use == "used"

    @property
    def between(self) -> float:
        """Above it a region looks more like the coarse masks than like the rest."""
        assert self.static is not None
        assert self.transient is not None
        return (self.static + self.transient) / 2


def residual_levels(prompts: PromptSource, num_frames: int) -> ResidualLevels:
    """Levels from a sample of frames: medians, so that a few odd frames do not move them."""
    if not prompts.has_residuals:
        return ResidualLevels("none")
    count = min(num_frames, _LEVEL_FRAMES)
    sample = sorted({int(t) for t in np.linspace(0, num_frames - 1, count).round()})
    with ThreadPoolExecutor(_LEVEL_READERS, thread_name_prefix="prompts") as readers:
        found = list(readers.map(lambda t: _means(prompts[t]), sample))
    means = [both for both in found if both is not None]
    if not means:
        return ResidualLevels("say nothing")
    transient, static = (float(np.median(side)) for side in zip(*means, strict=True))
    speak = transient > 0 and transient >= _CLEAR_RATIO * static
    return ResidualLevels("used" if speak else "say nothing", static, transient)


def _means(prompt: FramePrompt) -> tuple[float, float] | None:
    """Of the residual inside and outside of the coarse mask; None if there is no such thing."""
    coarse, residual = prompt.coarse, prompt.residual
    if residual is None or not coarse.any() or coarse.all():
        return None
    inside, outside = residual[coarse], residual[~coarse]
    return float(inside.mean(dtype=np.float64)), float(outside.mean(dtype=np.float64))
