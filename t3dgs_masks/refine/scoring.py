"""How transient an object is, judged by coarse masks and residuals, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from t3dgs_masks import masks
from t3dgs_masks.refine.masklets import MaskletSet
from t3dgs_masks.types import FramePrompt, Rle


@dataclass(frozen=True)
class Verdict:
    """Whether an object belongs to the result, and why."""

    object_id: int
    kept: bool
    reason: str  # plain words, one line
    transience_score: float | None  # [0, 1]; None if it was not judged (promptless)


@dataclass(frozen=True)
class TransienceScore:
    """The transience score of one object and what it rests on."""

    value: float  # [0, 1]
    scored_frames: int  # frames whose terms were averaged
    covered_frames: int  # |T_k|: frames that lie inside the coarse mask
    used_residuals: bool


class TransienceScorer:
    """Collects the transience scores of all objects, frame by frame (TMR, arXiv 2412.00155).

    S_k = max_t |m_kt|; T_k = frames with |coarse_t ∧ m_kt| / |m_kt| > min_scoring_coverage.
    score_k = mean over T_k of  mean(d_t inside m_kt) * |coarse_t ∧ m_kt| / S_k ; 0 if T_k is empty.

    Of T_k, the frames that carry a residual d_t decide; if none does, d_t counts as 1.
    """

    def __init__(self, min_scoring_coverage: float) -> None:
        self._min_coverage = min_scoring_coverage
        self._max_area: dict[int, int] = {}
        self._overlaps: dict[int, list[int]] = {}
        self._residual_overlaps: dict[int, list[float]] = {}

    def add_frame(self, found: Mapping[int, Rle], prompt: FramePrompt) -> None:
        """Take the masks (object_id -> mask) and the prompt of one frame into account."""
        for object_id, mask in found.items():
            self._add(object_id, mask, prompt)

    def _add(self, object_id: int, rle: Rle, prompt: FramePrompt) -> None:
        mask = masks.decode(rle)
        area = int(np.count_nonzero(mask))
        self._max_area[object_id] = max(self._max_area.get(object_id, 0), area)
        overlap = int(np.count_nonzero(mask & prompt.coarse))
        if area == 0 or not overlap / area > self._min_coverage:
            return
        self._overlaps.setdefault(object_id, []).append(overlap)
        if prompt.residual is not None:
            mean_residual = float(prompt.residual[mask].mean(dtype=np.float64))
            self._residual_overlaps.setdefault(object_id, []).append(mean_residual * overlap)

    def score(self, object_id: int) -> TransienceScore:
        """The score of one object over all frames added so far."""
        overlaps = self._overlaps.get(object_id, [])
        residual_overlaps = self._residual_overlaps.get(object_id, [])
        terms = residual_overlaps or overlaps
        value = float(np.mean(terms)) / self._max_area[object_id] if terms else 0.0
        return TransienceScore(value, len(terms), len(overlaps), bool(residual_overlaps))


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
