"""What the guard makes of a result: its second and third rule (`guard`), frame by frame.

What has to be known of a frame is looked up once, as figures and run lengths, so that nothing
dense is kept and the decisions, which need all frames, cost next to nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks import bits, masks
from t3dgs_masks.refine.evidence import FrameEvidence, ResidualLevels, ResidualUse
from t3dgs_masks.refine.guard import Doubt, Guard
from t3dgs_masks.refine.ordering import Ordering
from t3dgs_masks.refine.scoring import MaskFigures
from t3dgs_masks.types import FramePrompt, Rle

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
_STEPS = 255
"""Residuals are counted in steps of 1/255, those of 8-bit files."""

LINGERS = f"no coarse mask knew of it for more than {_LONGEST_MISS} frames; there are no residuals"
COARSE_REASON = "coarse masks where they look transient and no object was found"


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


# --- what is to be known of a frame ---------------------------------------------------------------


@dataclass(frozen=True)
class Rest:
    """What the second rule leaves of one mask, if its object is kept."""

    rle: Rle | None  # None: nothing
    doubt: str | None  # why it is not all of it
    area: int = 0  # pixels
    mean_residual: float | None = None  # [0, 1]; None where residuals say nothing

    @staticmethod
    def of(
        mask: Rle, figures: MaskFigures, guard: Guard, evidence: FrameEvidence, prompt: FramePrompt
    ) -> Rest:
        """Of a mask with these figures, on the frame of this evidence and prompt."""
        whole = bits.decode(mask)
        rest, doubt = guard.cut_back(evidence, whole)
        if rest is None:
            return Rest(None, doubt)
        if rest is not whole:
            mask, figures = bits.encode(rest), MaskFigures.of(bits.unpack(rest), prompt)
        says_nothing = evidence.above_static is None
        return Rest(mask, doubt, figures.area, None if says_nothing else figures.mean_residual)


@dataclass(frozen=True)
class LeftOut:
    """A component of a coarse mask that no kept object covers, and that is more than a rim."""

    pixels: Rle
    size: int
    mean_residual: float | None  # [0, 1]; None where residuals say nothing


@dataclass(frozen=True)
class Remainder:
    """What the objects leave of a frame's coarse mask."""

    left_out: tuple[LeftOut, ...]
    wanted: NDArray[np.uint32] | None = None
    """[256] pixels of the coarse mask by their residual in steps of 1/255; None where residuals say
    nothing."""
    found: NDArray[np.uint32] | None = None
    """[256] those that the objects cover."""

    @staticmethod
    def of(prompt: FramePrompt, evidence: FrameEvidence, covering: Iterable[Rle]) -> Remainder:
        """On the frame of this prompt and evidence, if its objects have these masks."""
        coarse = prompt.coarse
        residual = None if evidence.above_static is None else prompt.residual
        rles = list(covering)
        free = coarse
        if rles:
            covered = bits.rows_first(masks.decode(masks.union(rles))).view(np.bool_)
            free = coarse & ~covered
        left_out = tuple(
            LeftOut(
                masks.encode_pixels(pixels, *free.shape),
                len(pixels),
                None if residual is None else float(residual[tuple(pixels.T)].mean(dtype=float)),
            )
            for pixels in masks.components(free)
            if not _is_rim(pixels, free.shape)
        )
        if residual is None:
            return Remainder(left_out)
        wanted, rest = _by_residual(residual[coarse]), _by_residual(residual[free])
        return Remainder(left_out, wanted, wanted - rest)

    def fallen_back(self, decided: FallBack) -> list[LeftOut]:
        """The components that fall back to the coarse mask."""
        return [component for component in self.left_out if decided.applies_to(component)]


def _by_residual(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """[256] number of pixels by their residual, from the residuals of all."""
    steps = np.rint(np.clip(values, 0.0, 1.0) * _STEPS).astype(np.intp)
    return np.bincount(steps, minlength=_STEPS + 1).astype(np.uint32)


def _is_rim(pixels: NDArray[np.intp], shape: tuple[int, ...]) -> bool:
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


# --- what is decided for the sequence -------------------------------------------------------------


@dataclass(frozen=True)
class FallBack:
    """What a left-out component has to look like to fall back to the coarse mask."""

    level: float | None  # its residual is above it; None: residuals say nothing in this sequence
    least_area: float  # pixels, where residuals say nothing
    found_level: float | None = None  # see `GuardOutcome`
    found_share: float | None = None

    def applies_to(self, component: LeftOut) -> bool:
        if component.mean_residual is None or self.level is None:
            return component.size >= self.least_area
        return component.mean_residual > self.level


@dataclass
class ResidualCounts:
    """Pixels of all coarse masks by their residual, and those of them that objects cover."""

    wanted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_STEPS + 1, np.int64))
    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_STEPS + 1, np.int64))

    def add(self, remainder: Remainder) -> None:
        if remainder.wanted is not None and remainder.found is not None:
            self.wanted += remainder.wanted
            self.found += remainder.found

    def found_share(self, level: float) -> float:
        """Share that objects cover of the pixels with a residual above `level`."""
        above = np.arange(_STEPS + 1) > level * _STEPS
        wanted = int(self.wanted[above].sum())
        return int(self.found[above].sum()) / wanted if wanted else 1.0


def decide_fall_back(
    levels: ResidualLevels, rests: Sequence[Rest], counts: ResidualCounts
) -> FallBack:
    """From all masks of the kept objects, and the coarse masks."""
    areas = [rest.area for rest in rests]
    least_area = _LEAST_AREA * float(np.median(areas)) if areas else 0.0
    if not levels.speak:
        return FallBack(None, least_area)
    assert levels.static is not None
    residuals = [rest.mean_residual for rest in rests if rest.mean_residual is not None]
    if not residuals:
        return FallBack(levels.between, least_area)
    found_level = float(np.median(residuals))
    like_found = levels.static + _LIKE_FOUND * (found_level - levels.static)
    found_share = counts.found_share(like_found)
    level = levels.between
    if found_share >= _LEAST_FOUND:
        level = max(level, like_found)
    return FallBack(level, least_area, found_level, found_share)


def lingering_frames(coverages: Mapping[int, float]) -> list[int]:
    """Frames on which a video's object is not believed any more, without residuals.

    Args:
        coverages: frame index -> share of the object's mask that lies inside the coarse mask.
    """
    known = np.array(sorted(t for t, share in coverages.items() if share > _KNOWN_COVERAGE))
    if len(known) == 0:
        return []
    frames = np.array(list(coverages))
    after = np.searchsorted(known, frames)
    earlier, later = known[np.maximum(after - 1, 0)], known[np.minimum(after, len(known) - 1)]
    miss = np.minimum(np.abs(frames - earlier), np.abs(later - frames))
    return frames[miss > _LONGEST_MISS].tolist()
