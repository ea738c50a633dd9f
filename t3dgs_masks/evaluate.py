"""How well transient masks agree with the truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from t3dgs_masks.types import BoolMask


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


def transient_scores(pairs: Iterable[tuple[BoolMask, BoolMask]]) -> TransientScores:
    """Compare (predicted, true) transient masks, [H, W] bool each, True = transient.

    A mean over no frames at all (nothing transient, nothing predicted) is 1.
    """
    ious, precisions, recalls = [], [], []
    frames = 0
    for predicted, truth in pairs:
        frames += 1
        common = np.count_nonzero(predicted & truth)
        num_predicted, num_true = np.count_nonzero(predicted), np.count_nonzero(truth)
        if num_predicted or num_true:
            ious.append(common / (num_predicted + num_true - common))
        if num_predicted:
            precisions.append(common / num_predicted)
        if num_true:
            recalls.append(common / num_true)
    return TransientScores(_mean(ious), _mean(precisions), _mean(recalls), frames)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 1.0
