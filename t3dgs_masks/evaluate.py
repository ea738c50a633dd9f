"""How well transient masks agree with the truth: per frame, and over a sequence.

All masks here are [H, W] bool, True = transient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.types import BoolMask

BOUNDARY_TOLERANCE = 0.008  # of the diagonal; DAVIS's


@dataclass(frozen=True)
class TransientScores:
    """Agreement over a sequence, each in [0, 1].

    All three are means over frames, so that a large object on a few frames does not outweigh
    many small ones.
    """

    iou: float  # over frames where either mask has a transient pixel
    precision: float  # over frames where the predicted mask has one
    recall: float  # over frames where the true mask has one
    frames: int


@dataclass(frozen=True)
class FrameScores:
    """Agreement on one frame, each in [0, 1]; None where there is nothing to measure."""

    iou: float | None
    """Transient pixels of both over those of either; None if neither mask has one."""
    precision: float | None
    """Share of the predicted transient pixels that are; None if none is predicted."""
    recall: float | None
    """Share of the transient pixels that are predicted; None if there are none."""
    boundary_f: float | None
    """See `boundary_f`; None if neither mask has a transient pixel."""
    static_lost: float | None
    """Share of the static pixels that are masked, so that a trainer does not see them; None if
    there are none."""
    flicker: float | None
    """See `flicker`; None on the first frame."""


@dataclass(frozen=True)
class SequenceScores:
    """Means of `FrameScores` over those frames where each can be measured."""

    iou: float
    precision: float
    recall: float
    boundary_f: float
    static_lost: float
    flicker: float
    frames: int


def transient_scores(pairs: Iterable[tuple[BoolMask, BoolMask]]) -> TransientScores:
    """Compare (predicted, true) transient masks, [H, W] bool each, True = transient.

    A mean over no frames at all (nothing transient, nothing predicted) is 1.
    """
    scores = [_overlaps(predicted, truth) for predicted, truth in pairs]
    iou, precision, recall = (_mean([score[i] for score in scores], 1.0) for i in range(3))
    return TransientScores(iou, precision, recall, len(scores))


def frame_scores(pairs: Iterable[tuple[BoolMask, BoolMask]]) -> list[FrameScores]:
    """Scores of every frame of a sequence of (predicted, true) masks, in order, all of one size.

    At most two pairs are held at a time.
    """
    scores: list[FrameScores] = []
    before: tuple[BoolMask, BoolMask] | None = None
    for predicted, truth in pairs:
        iou, precision, recall = _overlaps(predicted, truth)
        num_static = truth.size - np.count_nonzero(truth)
        scores.append(
            FrameScores(
                iou,
                precision,
                recall,
                None if iou is None else boundary_f(predicted, truth),
                np.count_nonzero(predicted & ~truth) / num_static if num_static else None,
                None if before is None else flicker(before, (predicted, truth)),
            )
        )
        before = predicted, truth
    return scores


def sequence_scores(scores: Sequence[FrameScores]) -> SequenceScores:
    """The means. Over no frames at all, agreement is 1; what is lost and what flickers, 0."""

    def mean(name: str, of_none: float) -> float:
        return _mean([getattr(score, name) for score in scores], of_none)

    return SequenceScores(
        iou=mean("iou", 1.0),
        precision=mean("precision", 1.0),
        recall=mean("recall", 1.0),
        boundary_f=mean("boundary_f", 1.0),
        static_lost=mean("static_lost", 0.0),
        flicker=mean("flicker", 0.0),
        frames=len(scores),
    )


def boundary_f(predicted: BoolMask, truth: BoolMask) -> float:
    """The contour accuracy F of DAVIS (Perazzi et al., CVPR 2016), as its 2017 evaluation has it.

    Precision is the share of the predicted boundary that lies within the tolerance (0.8 % of the
    diagonal, rounded up to whole pixels) of the true one, recall the reverse; F is their harmonic
    mean. 1 if neither mask has a boundary, 0 if one alone does.
    """
    ours, theirs = boundary(predicted), boundary(truth)
    num_ours, num_theirs = np.count_nonzero(ours), np.count_nonzero(theirs)
    if not num_ours or not num_theirs:
        return float(num_ours == num_theirs)
    radius = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*truth.shape))
    precision = np.count_nonzero(ours & _within(theirs, radius)) / num_ours
    recall = np.count_nonzero(theirs & _within(ours, radius)) / num_theirs
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def boundary(mask: BoolMask) -> BoolMask:
    """[H, W] bool: pixels that differ from the one to the right, below, or right below.

    So has DAVIS it (`seg2bmap`): lines one pixel wide, half a pixel up and left of the true
    border. Where the image ends, there is no border.
    """
    height, width = mask.shape
    # A copy of the last row and column: what lies outside never differs.
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    result = np.zeros_like(mask)
    for down, right in ((0, 1), (1, 0), (1, 1)):
        result |= mask ^ padded[down : down + height, right : right + width]
    return result


def flicker(before: tuple[BoolMask, BoolMask], now: tuple[BoolMask, BoolMask]) -> float:
    """Share of the pixels whose predicted label changes otherwise than the true one does.

    With p and g the predicted and true masks as 0 and 1: the share of pixels where
    (p_t - p_{t-1}) differs from (g_t - g_{t-1}). It is the count behind dtSSD, the measure of
    temporal coherence in video matting (Erofeev et al., "Perceptually Motivated Benchmark for
    Video Matting", BMVC 2015), without its squares and root, which make no sense for labels. A
    mask that is wrong in the same way on both frames does not flicker; one that moves exactly as
    the truth does neither. Nothing is warped: an error that moves through the picture counts.

    Args:
        before: (predicted, true) of the frame before.
        now: the same of this frame.
    """
    was, is_now = (predicted.astype(np.int8) - truth for predicted, truth in (before, now))
    return np.count_nonzero(was != is_now) / was.size


def _overlaps(
    predicted: BoolMask, truth: BoolMask
) -> tuple[float | None, float | None, float | None]:
    """(IoU, precision, recall) of one frame."""
    common = np.count_nonzero(predicted & truth)
    num_predicted, num_true = np.count_nonzero(predicted), np.count_nonzero(truth)
    either = num_predicted + num_true - common
    return (
        common / either if either else None,
        common / num_predicted if num_predicted else None,
        common / num_true if num_true else None,
    )


def _within(line: BoolMask, radius: int) -> BoolMask:
    """[H, W] bool: pixels that are at most `radius` pixels (Euclidean) from a True one."""
    across = np.arange(-radius, radius + 1)
    disk = (across[:, None] ** 2 + across**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(line.astype(np.uint8), disk).astype(bool)


def _mean(values: Iterable[float | None], of_none: float) -> float:
    measured: NDArray[np.float64] = np.array([value for value in values if value is not None])
    return float(measured.mean()) if measured.size else of_none
