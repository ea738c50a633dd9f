"""How transient an object is, judged by coarse masks and residuals, and what is kept."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from t3dgs_masks import masks
from t3dgs_masks.refine.masklets import MaskletSet
from t3dgs_masks.types import BoolMask, FramePrompt


@dataclass(frozen=True)
class Verdict:
    """Whether an object belongs to the result, and why."""

    object_id: int
    kept: bool
    reason: str  # plain words, one line
    transience_score: float | None  # [0, 1]; None if it was not judged (promptless)


@dataclass(frozen=True)
class MaskFigures:
    """What the score of an object needs to know of one of its masks."""

    area: int  # pixels
    overlap: int  # pixels inside the coarse mask
    mean_residual: float | None  # [0, 1], over the mask; None without a residual

    @staticmethod
    def of(mask: BoolMask, prompt: FramePrompt) -> MaskFigures:
        """Of a (non-empty) [H, W] bool mask, True = object."""
        window, inside = masks.crop(mask)
        overlap = np.count_nonzero(inside & prompt.coarse[window])
        residual = None
        if prompt.residual is not None:
            residual = float(prompt.residual[window][inside].mean(dtype=np.float64))
        return MaskFigures(np.count_nonzero(inside), overlap, residual)

    @property
    def coverage(self) -> float:
        """Share of the mask that lies inside the coarse mask."""
        return self.overlap / self.area if self.area else 0.0


@dataclass(frozen=True)
class TransienceScore:
    """The transience score of one object and what it rests on."""

    value: float  # [0, 1]
    scored_frames: int  # frames whose terms were averaged
    covered_frames: int  # |T_k|: frames that lie inside the coarse mask
    used_residuals: bool


class TransienceScorer:
    """Collects the transience scores of all objects, mask by mask (TMR, arXiv 2412.00155).

    S_k = max_t |m_kt|; T_k = frames with |coarse_t ∧ m_kt| / |m_kt| > min_scoring_coverage.
    score_k = mean over T_k of  mean(d_t inside m_kt) * |coarse_t ∧ m_kt| / S_k ; 0 if T_k is empty.

    Of T_k, the frames that carry a residual d_t decide; if none does, d_t counts as 1.
    """

    def __init__(self, min_scoring_coverage: float) -> None:
        self._min_coverage = min_scoring_coverage
        self._max_area: dict[int, int] = {}
        self._overlaps: defaultdict[int, _Mean] = defaultdict(_Mean)
        self._residual_overlaps: defaultdict[int, _Mean] = defaultdict(_Mean)

    def add(self, object_id: int, figures: MaskFigures) -> None:
        """Take one mask of an object into account."""
        self._max_area[object_id] = max(self._max_area.get(object_id, 0), figures.area)
        if not figures.coverage > self._min_coverage:
            return
        self._overlaps[object_id].add(figures.overlap)
        if figures.mean_residual is not None:
            self._residual_overlaps[object_id].add(figures.mean_residual * figures.overlap)

    def score(self, object_id: int) -> TransienceScore:
        """The score of one object over all masks added so far."""
        overlaps, residual_overlaps = self._overlaps[object_id], self._residual_overlaps[object_id]
        terms = residual_overlaps if residual_overlaps.count else overlaps
        value = terms.value / self._max_area[object_id] if terms.count else 0.0
        return TransienceScore(value, terms.count, overlaps.count, residual_overlaps.count > 0)


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count


def judge(
    masklets: MaskletSet,
    scorer: TransienceScorer,
    *,
    filter_threshold: float,
    min_scoring_coverage: float,
) -> tuple[Verdict, ...]:
    """Verdicts in ascending order of object id: kept if the score is strictly above the
    threshold."""
    return tuple(
        _verdict(object_id, scorer.score(object_id), filter_threshold, min_scoring_coverage)
        for object_id in masklets.object_ids
    )


def keep_all(masklets: MaskletSet) -> tuple[Verdict, ...]:
    """Verdicts without prompts: there is nothing to judge by, every object is kept."""
    reason = "promptless: every object is kept"
    return tuple(Verdict(object_id, True, reason, None) for object_id in masklets.object_ids)


def _verdict(
    object_id: int, score: TransienceScore, threshold: float, min_coverage: float
) -> Verdict:
    kept = score.value > threshold
    if score.covered_frames == 0:
        reason = f"on no frame more than {min_coverage:.0%} inside the coarse mask"
    else:
        comparison = "above" if kept else "not above"
        frames = "1 frame" if score.scored_frames == 1 else f"{score.scored_frames} frames"
        reason = f"transience score {score.value:.4f} over {frames} is {comparison} {threshold:g}"
        if not score.used_residuals:
            reason += " (no residuals: judged by the coarse masks alone)"
    return Verdict(object_id, kept, reason, score.value)
