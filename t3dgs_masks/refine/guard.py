"""Never worse than the input: how far tracked masks are believed, judged by each frame's own
coarse mask and residual.

A tracker follows an object to where it is no more: behind furniture, out of the view, into the
next photo of a set that is no video. What it then covers looks to the splat like the rest of the
static scene, which the residual tells without any ground truth. Three rules follow from that:

1. During the passes, a tracked mask counts on a frame only if the residual there supports it, and
   of what it would add to a mask found before only what is supported. What is not believed is not
   stored, so that nothing is conditioned on it, and the frame looks for objects of its own there.
2. After the filter, what an object covers beyond the coarse mask has to be supported as well; if
   it is not, the object falls back to the part that the coarse mask confirms.
3. What the coarse mask knows and no object covers must not look like the objects that were found:
   every component that does falls back to the coarse mask. That it looks transient is not enough,
   as long as most of what looks like them was found: a splat that has learnt people shows ghosts
   of them where they are not, and all that is wrong in its renders is in the coarse masks.

All three judge object by object and component by component, so that a good mask is not given up
for a bad one. A decision depends on one frame and on levels of the sequence that are read before
the passes begin: it is the same in a run that was interrupted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cv2
import numpy as np

from t3dgs_masks import masks
from t3dgs_masks.refine.masklets import MaskletSet
from t3dgs_masks.refine.ordering import Ordering
from t3dgs_masks.refine.scoring import Verdict
from t3dgs_masks.types import BoolMask, FloatMap, FramePrompt, PromptSource

ResidualUse = Literal["used", "none", "say nothing"]

_MIN_SUPPORT = 0.4
"""Share of a mask that has to look transient, in a video..."""
_MIN_SUPPORT_UNORDERED = 0.5
"""... and where nothing but the frame itself speaks for it."""
_MIN_COVERAGE_UNORDERED = 0.7
"""Of a photo without a residual: share inside the coarse mask."""
_MIN_ADDED = 0.1
"""What an object covers beyond the coarse mask is judged if it is more than this share of it: less
is its outline."""
_STATIC_QUANTILE = 0.75
"""Residuals above this quantile of the static pixels of a frame do not look static."""
_STATIC_MARGIN = 0.03
"""Static pixels keep this distance (of the shorter side) from the coarse mask."""
_LEAST_STATIC = 0.01
"""Share of the frame that has to be static to say what static looks like."""
_CLEAR_RATIO = 1.25
"""Residuals say something if they are so much higher inside coarse masks than outside."""
_LONGEST_MISS = 6
"""Without residuals: frames for which a video's object is believed with no coarse mask near..."""
_KNOWN_COVERAGE = 0.5
"""... that is, with no more than this share inside one."""
_LIKE_FOUND = 0.8
"""A left-out component looks like the objects found if its residual comes this far from the static
level to theirs. Ghosts come half or two thirds of the way."""
_LEAST_FOUND = 0.8
"""Where less than this share of what looks like the objects found is covered by them, the network
does not follow the sequence, and left-out components only have to look more transient than not."""
_LEAST_RADIUS = 0.015
"""Of the shorter side: a left-out component counts if a circle of this radius fits into it. Less
is a rim, between the outlines of coarse mask and object."""
_LEAST_RADIUS_PX = 1.5
"""In small frames."""
_LEAST_AREA = 0.25
"""Without residuals, a left-out component counts if it has this share of a typical object's area:
mistakes of coarse masks are mostly small."""
_LEVEL_FRAMES = 32
_SAMPLES_PER_SIDE = 256

LOOKS_STATIC = "the residual there is that of the static scene"
ADDS_STATIC = "what it adds there has the residual of the static scene"
UNCOVERED = "too much is outside the coarse mask; there is no residual, and it is no video"
LINGERS = f"no coarse mask knew of it for more than {_LONGEST_MISS} frames; there are no residuals"
COARSE_REASON = "coarse masks where they look transient and no object was found"


@dataclass(frozen=True)
class Doubt:
    """One mask of one object that was not believed, or not all of it."""

    frame_idx: int
    object_id: int
    reason: str
    where: Literal["passes", "result"]
    """During the passes, or when the result was made."""


@dataclass(frozen=True)
class GuardOutcome:
    """What the guard went by and what it did."""

    ordering: Ordering
    residuals: ResidualUse
    static_level: float | None
    """Typical residual outside of coarse masks, 0 to 1; None without residuals."""
    transient_level: float | None
    """Typical residual inside."""
    doubts: tuple[Doubt, ...]
    """In order of frames; objects that were merged away later are among them."""
    coarse_object_id: int | None
    """The object that holds what fell back to the coarse masks; None if nothing did."""
    coarse_components: Mapping[int, int]
    """Frame index -> number of components that fell back to the coarse mask."""
    found_level: float | None
    """Typical residual of the objects found; None without residuals or objects."""
    found_share: float | None
    """Share, of the coarse masks' pixels with residuals like theirs, that these objects cover."""
    fall_back_level: float | None
    """Components of coarse masks that no object covers fell back if their residual was above it;
    None without residuals."""
    left_out_components: Mapping[int, int]
    """Frame index -> number of such components that did not fall back; rims are not counted."""

    def doubts_about(self, object_id: int) -> dict[str, list[int]]:
        """Reason -> frames on which a mask of this object was not believed, or not all of it."""
        frames: dict[str, list[int]] = {}
        for doubt in self.doubts:
            if doubt.object_id == object_id:
                listed = frames.setdefault(doubt.reason, [])
                if doubt.frame_idx not in listed:  # one per pass
                    listed.append(doubt.frame_idx)
        return frames

    def as_json(self) -> dict[str, Any]:
        """What goes into a report: figures and counts."""
        counts = Counter((doubt.where, doubt.reason) for doubt in self.doubts)
        return {
            "ordered": self.ordering.ordered,
            "ordered_reason": self.ordering.reason,
            "residuals": self.residuals,
            "static_level": self.static_level,
            "transient_level": self.transient_level,
            "doubts": [
                {"where": where, "reason": reason, "masks": count}
                for (where, reason), count in sorted(counts.items())
            ],
            "coarse_object_id": self.coarse_object_id,
            "coarse_components": {str(t): count for t, count in self.coarse_components.items()},
            "found_level": self.found_level,
            "found_share": self.found_share,
            "fall_back_level": self.fall_back_level,
            "left_out_components": {str(t): count for t, count in self.left_out_components.items()},
        }


class Guard:
    """The rules, for one sequence. Frames are best asked for one after the other."""

    def __init__(self, prompts: PromptSource, num_frames: int, ordering: Ordering) -> None:
        """
        Args:
            prompts: of the sequence; a sample of them is read here.
            num_frames: frames that the run works on, from the first.
            ordering: whether the sequence is a video.
        """
        self.prompts = RememberedPrompts(prompts)
        self.ordering = ordering
        self._num_frames = num_frames
        self._levels = residual_levels(prompts, num_frames)
        self._evidence: tuple[int, FrameEvidence] | None = None
        ordered = ordering.ordered
        self._min_support = _MIN_SUPPORT if ordered else _MIN_SUPPORT_UNORDERED

    def believed(
        self, frame_idx: int, mask: BoolMask, held: BoolMask | None
    ) -> tuple[BoolMask | None, str | None]:
        """Rule 1.

        Args:
            frame_idx: where the tracker is.
            mask: [H, W] bool, True = object, with at least one pixel.
            held: what the object is already known to cover there ([H, W] bool), if anything.

        Returns:
            What of `mask` counts (None: nothing), and why it is not all of it.
        """
        evidence = self.evidence(frame_idx)
        doubt = self._doubt(evidence, mask)
        if held is None:
            return (None, doubt) if doubt else (mask, None)
        added = mask & ~held
        if doubt is None and (not added.any() or self._is_supported(evidence, added)):
            return mask, None
        confirmed = mask & held
        return (confirmed if confirmed.any() else None), doubt or ADDS_STATIC

    def settle(
        self, masklets: MaskletSet, verdicts: Sequence[Verdict], doubts: Sequence[Doubt]
    ) -> tuple[tuple[Verdict, ...], GuardOutcome]:
        """Rules 2 and 3, on the objects that passed the filter; changes `masklets` in place.

        Args:
            masklets: after all passes.
            verdicts: of the filter, one per object.
            doubts: of the passes.

        Returns:
            Verdicts of all objects, with one for the object that holds what fell back to the
            coarse masks, and what was done.
        """
        settling = _Settling(masklets, {v.object_id for v in verdicts if v.kept}, list(doubts))
        if not self._levels.speak:
            self._end_lives(settling)
        for frame_idx in range(self._num_frames):
            self._cut_back(settling, frame_idx)
        areas = [
            masks.area(mask)
            for object_id in settling.kept
            for mask in masklets[object_id].segmentations.values()
        ]
        least_area = _LEAST_AREA * float(np.median(areas)) if areas else 0.0
        if self._levels.speak:
            self._set_fall_back_level(settling)
        for frame_idx in range(self._num_frames):
            self._fall_back(settling, frame_idx, least_area)
        return self._verdicts(settling, verdicts), self._outcome(settling)

    def evidence(self, frame_idx: int) -> FrameEvidence:
        """What the prompt of a frame says; the last one is remembered."""
        if self._evidence is None or self._evidence[0] != frame_idx:
            prompt = self.prompts[frame_idx]
            if not self._levels.speak:
                prompt = replace(prompt, residual=None)
            self._evidence = frame_idx, FrameEvidence.of(prompt)
        return self._evidence[1]

    def _doubt(self, evidence: FrameEvidence, mask: BoolMask) -> str | None:
        """Why a whole mask is not believed on its frame; None if it is."""
        if evidence.static is not None:
            return None if self._is_supported(evidence, mask) else LOOKS_STATIC
        if self.ordering.ordered:
            return None
        covered = masks.coverage(mask, evidence.coarse) > _MIN_COVERAGE_UNORDERED
        return None if covered else UNCOVERED

    def _is_supported(self, evidence: FrameEvidence, part: BoolMask) -> bool:
        """Whether enough of a (non-empty) part of a mask looks transient, as far as one knows."""
        support = evidence.support(part)
        return support is None or support >= self._min_support

    def _end_lives(self, settling: _Settling) -> None:
        """Without residuals: a video's object ends where coarse masks stop knowing of it."""
        if not self.ordering.ordered:
            return
        for object_id in settling.kept:
            segmentations = settling.masklets[object_id].segmentations
            known = [
                t
                for t, mask in segmentations.items()
                if masks.coverage(masks.decode(mask), self.prompts[t].coarse) > _KNOWN_COVERAGE
            ]
            for t in segmentations:
                if known and min(abs(t - other) for other in known) > _LONGEST_MISS:
                    settling.leave_out(t, object_id, LINGERS)

    def _cut_back(self, settling: _Settling, frame_idx: int) -> None:
        evidence = self.evidence(frame_idx)
        for object_id, rle in settling.masklets.at_frame(frame_idx).items():
            if object_id not in settling.kept:
                continue
            mask = masks.decode(rle)
            doubt = self._doubt(evidence, mask)
            if doubt is not None:
                settling.leave_out(frame_idx, object_id, doubt)
                continue
            added = mask & ~evidence.coarse
            is_outline = np.count_nonzero(added) <= _MIN_ADDED * np.count_nonzero(mask)
            if not is_outline and not self._is_supported(evidence, added):
                mask = mask & evidence.coarse
                settling.cut_back(frame_idx, object_id, mask, ADDS_STATIC)
            if evidence.residual is not None and mask.any():
                settling.residuals.append(float(evidence.residual[mask].mean(dtype=np.float64)))

    def _set_fall_back_level(self, settling: _Settling) -> None:
        """Settle what a left-out component has to look like, when the objects are settled."""
        static = self._levels.static
        assert static is not None
        settling.fall_back_level = self._levels.between
        if not settling.residuals:
            return
        settling.found_level = float(np.median(settling.residuals))
        like_found = static + _LIKE_FOUND * (settling.found_level - static)
        wanted = found = 0
        for frame_idx in range(self._num_frames):
            evidence = self.evidence(frame_idx)
            if evidence.residual is None:
                continue
            looks_found = evidence.coarse & (evidence.residual > like_found)
            wanted += np.count_nonzero(looks_found)
            found += np.count_nonzero(looks_found & settling.covered(frame_idx))
        settling.found_share = found / wanted if wanted else 1.0
        if settling.found_share >= _LEAST_FOUND:
            settling.fall_back_level = max(self._levels.between, like_found)

    def _fall_back(self, settling: _Settling, frame_idx: int, least_area: float) -> None:
        evidence = self.evidence(frame_idx)
        left_out = evidence.coarse & ~settling.covered(frame_idx)
        restored = np.zeros_like(left_out)
        count = others = 0
        for pixels in masks.components(left_out):
            rows, columns = pixels.T
            if evidence.residual is not None:
                level = float(evidence.residual[rows, columns].mean(dtype=np.float64))
                assert settling.fall_back_level is not None, "there are residuals"
                is_wanted = level > settling.fall_back_level
            else:
                is_wanted = len(pixels) >= least_area
            if _is_rim(pixels, left_out.shape):
                continue
            if is_wanted:
                restored[rows, columns] = True
                count += 1
            else:
                others += 1
        if count:
            settling.restored[frame_idx] = restored, count
        if others:
            settling.left_out[frame_idx] = others

    def _verdicts(self, settling: _Settling, verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
        settled = [
            replace(verdict, kept=False, reason=f"{verdict.reason}; believed on no frame")
            if verdict.kept and not settling.masklets[verdict.object_id].segmentations
            else verdict
            for verdict in verdicts
        ]
        coarse_id = settling.store_restored()
        if coarse_id is not None:
            settled.append(Verdict(coarse_id, True, COARSE_REASON, None))
        return tuple(settled)

    def _outcome(self, settling: _Settling) -> GuardOutcome:
        return GuardOutcome(
            ordering=self.ordering,
            residuals=self._levels.use,
            static_level=self._levels.static,
            transient_level=self._levels.transient,
            doubts=tuple(sorted(settling.doubts, key=lambda d: (d.frame_idx, d.object_id))),
            coarse_object_id=settling.coarse_object_id,
            coarse_components={t: count for t, (_, count) in settling.restored.items()},
            found_level=settling.found_level,
            found_share=settling.found_share,
            fall_back_level=settling.fall_back_level,
            left_out_components=settling.left_out,
        )


# --- what a frame says ----------------------------------------------------------------------------


@dataclass(frozen=True)
class FrameEvidence:
    """What one frame's prompt says about the pixels of a mask."""

    coarse: BoolMask  # [H, W] bool, True = transient
    residual: FloatMap | None  # [H, W] in [0, 1]; None: there is none, or it says nothing
    static: StaticResidual | None
    """None: not to be told."""

    @staticmethod
    def of(prompt: FramePrompt) -> FrameEvidence:
        residual = prompt.residual
        static = None if residual is None else StaticResidual.of(prompt.coarse, residual)
        return FrameEvidence(prompt.coarse, None if static is None else residual, static)

    def support(self, part: BoolMask) -> float | None:
        """Share of a part of the frame ([H, W] bool, not empty) that looks transient: 0 if its
        residuals are distributed like those of static pixels, 1 if all are above most of them.

        Of pixels that look static, some share is above the static level by chance; the estimate
        takes it off. None if the frame has no evidence.
        """
        if self.residual is None or self.static is None:
            return None
        above = float(np.mean(self.residual[part] > self.static.level))
        return max(0.0, (above - self.static.share_above) / (1.0 - self.static.share_above))


@dataclass(frozen=True)
class StaticResidual:
    """The residuals of the static pixels of one frame."""

    level: float
    """Most of them are at or below it."""
    share_above: float
    """Of static pixels; below 1."""

    @staticmethod
    def of(coarse: BoolMask, residual: FloatMap) -> StaticResidual | None:
        """From the pixels clear of the coarse mask (a grid of them, in large frames); None if
        there are too few."""
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
    """A `PromptSource` that keeps the last frame it was asked for: those who look at one frame
    together read it once."""

    def __init__(self, prompts: PromptSource) -> None:
        self._prompts = prompts
        self._last: tuple[int, FramePrompt] | None = None

    @property
    def has_residuals(self) -> bool:
        return self._prompts.has_residuals

    def __getitem__(self, frame_idx: int) -> FramePrompt:
        if self._last is None or self._last[0] != frame_idx:
            self._last = frame_idx, self._prompts[frame_idx]
        return self._last[1]


# --- what is done ---------------------------------------------------------------------------------


@dataclass
class _Settling:
    """The objects of a result while the guard goes over them."""

    masklets: MaskletSet
    kept: set[int]
    doubts: list[Doubt]
    restored: dict[int, tuple[BoolMask, int]] = field(default_factory=dict)
    """frame_idx -> pixels that fall back to the coarse mask, and of how many components."""
    left_out: dict[int, int] = field(default_factory=dict)
    """frame_idx -> number of components that do not."""
    residuals: list[float] = field(default_factory=list)
    """Mean residual inside every mask of every kept object."""
    found_level: float | None = None
    found_share: float | None = None
    fall_back_level: float | None = None
    coarse_object_id: int | None = None

    def covered(self, frame_idx: int) -> BoolMask | np.bool_:
        """What the kept objects cover on a frame: [H, W] bool, or plain False for nothing."""
        found = self.masklets.at_frame(frame_idx)
        kept = [mask for object_id, mask in found.items() if object_id in self.kept]
        return masks.decode(masks.union(kept)) if kept else np.False_

    def leave_out(self, frame_idx: int, object_id: int, reason: str) -> None:
        self.masklets.remove(frame_idx, object_id)
        self.doubts.append(Doubt(frame_idx, object_id, reason, "result"))

    def cut_back(self, frame_idx: int, object_id: int, mask: BoolMask, reason: str) -> None:
        if not mask.any():
            self.leave_out(frame_idx, object_id, reason)
            return
        self.masklets.set(frame_idx, object_id, masks.encode(mask))
        self.doubts.append(Doubt(frame_idx, object_id, reason, "result"))

    def store_restored(self) -> int | None:
        """Make an object of what fell back, so that all masks are made of objects."""
        for frame_idx, (pixels, _) in self.restored.items():
            rle = masks.encode(pixels)
            if self.coarse_object_id is None:
                self.coarse_object_id = self.masklets.add(frame_idx, rle)
            else:
                self.masklets.set(frame_idx, self.coarse_object_id, rle)
        return self.coarse_object_id


def _is_rim(pixels: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a component ([P, 2] rows and columns) is too thin to be more than a rim."""
    least = max(_LEAST_RADIUS_PX, _LEAST_RADIUS * min(shape))
    if len(pixels) < least**2:
        return True
    top, left = pixels.min(axis=0)
    height, width = pixels.max(axis=0) - (top, left) + 1
    # One empty pixel around it: distances are those to the outside.
    patch = np.zeros((height + 2, width + 2), np.uint8)
    patch[pixels[:, 0] - top + 1, pixels[:, 1] - left + 1] = 1
    return float(cv2.distanceTransform(patch, cv2.DIST_L2, 3).max()) < least
