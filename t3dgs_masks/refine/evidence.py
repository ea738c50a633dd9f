"""What the prompts of a sequence say about masks on its frames.

Residuals are high where the splat explains a photo badly. What static pixels of a frame look like
is read from those that are clear of its coarse mask.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
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
_FRAMES_AHEAD = 2
"""A large residual takes tens of milliseconds, longer than small networks on a GPU."""
_KEPT_BYTES = 32 << 20
_FEWEST_KEPT, _MOST_KEPT = 3, 5
"""Frames: with three those who look at a frame together read it once; those who come behind may be
a pause of four frames behind."""


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
    inside, outside = [], []
    count = min(num_frames, _LEVEL_FRAMES)
    for frame_idx in sorted({int(t) for t in np.linspace(0, num_frames - 1, count).round()}):
        prompt = prompts[frame_idx]
        if prompt.residual is None or not prompt.coarse.any() or prompt.coarse.all():
            continue
        inside.append(float(prompt.residual[prompt.coarse].mean(dtype=np.float64)))
        outside.append(float(prompt.residual[~prompt.coarse].mean(dtype=np.float64)))
    if not inside:
        return ResidualLevels("say nothing")
    transient, static = float(np.median(inside)), float(np.median(outside))
    speak = transient > 0 and transient >= _CLEAR_RATIO * static
    return ResidualLevels("used" if speak else "say nothing", static, transient)


class RememberedPrompts:
    """A `PromptSource` for those who go through a sequence frame by frame, together.

    The last frames are kept, so that they read each once; those that come next in their direction
    are read beside what they do with it. For one thread; others, who come along behind, have
    `FollowedPrompts`.
    """

    def __init__(self, prompts: PromptSource, num_frames: int) -> None:
        self._prompts = prompts
        self._num_frames = num_frames
        self._at: int | None = None  # where they are
        self._kept: dict[int, FramePrompt] = {}  # the last few; never changed, but replaced
        self._ahead: dict[int, Future[FramePrompt]] = {}
        self._readers = ThreadPoolExecutor(_FRAMES_AHEAD, thread_name_prefix="prompts")

    @property
    def has_residuals(self) -> bool:
        return self._prompts.has_residuals

    def __getitem__(self, frame_idx: int) -> FramePrompt:
        if frame_idx != self._at:
            prompt = self._kept.get(frame_idx) or self._read(frame_idx)
            others = [item for item in self._kept.items() if item[0] != frame_idx]
            room = _KEPT_BYTES // _num_bytes(prompt)
            num_kept = max(_FEWEST_KEPT, min(_MOST_KEPT, room))
            self._kept = dict([*others[1 - num_kept :], (frame_idx, prompt)])
            backward = self._at is not None and self._at > frame_idx
            self._at = frame_idx
            self._read_ahead(frame_idx, -1 if backward else 1)
        return self._kept[frame_idx]

    def _read(self, frame_idx: int) -> FramePrompt:
        ahead = self._ahead.get(frame_idx)
        return self._prompts[frame_idx] if ahead is None else ahead.result()

    def _read_ahead(self, frame_idx: int, step: int) -> None:
        ahead: dict[int, Future[FramePrompt]] = {}
        for distance in range(1, _FRAMES_AHEAD + 1):
            t = frame_idx + distance * step
            if 0 <= t < self._num_frames and t not in self._kept:
                ahead[t] = self._ahead.get(t) or self._readers.submit(self._prompts.__getitem__, t)
        self._ahead = ahead

    def kept(self, frame_idx: int) -> FramePrompt | None:
        """The prompt of one of the last frames, for any thread; None if it is not kept."""
        return self._kept.get(frame_idx)


class FollowedPrompts:
    """A `PromptSource` for other threads, who come along behind: what is kept is not read again.

    Args:
        prompts: of the sequence.
        remembered: the same, for those who go first.
    """

    def __init__(self, prompts: PromptSource, remembered: RememberedPrompts) -> None:
        self._prompts = prompts
        self._remembered = remembered

    @property
    def has_residuals(self) -> bool:
        return self._prompts.has_residuals

    def __getitem__(self, frame_idx: int) -> FramePrompt:
        return self._remembered.kept(frame_idx) or self._prompts[frame_idx]


def _num_bytes(prompt: FramePrompt) -> int:
    return prompt.coarse.nbytes + (0 if prompt.residual is None else prompt.residual.nbytes)
