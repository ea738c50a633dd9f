"""Scores against hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest

from t3dgs_masks.evaluate import transient_scores


def mask(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


EMPTY = mask("....", "....")
LEFT = mask("##..", "##..")
TOP = mask("####", "....")


@pytest.mark.parametrize(
    ("predicted", "truth", "iou", "precision", "recall"),
    [
        (LEFT, LEFT, 1, 1, 1),
        (LEFT, TOP, 2 / 6, 2 / 4, 2 / 4),
        (mask("#...", "...."), LEFT, 1 / 4, 1, 1 / 4),
        (LEFT, mask("#...", "...."), 1 / 4, 1 / 4, 1),
        (LEFT, ~LEFT, 0, 0, 0),
        (EMPTY, LEFT, 0, 1, 0),  # nothing was claimed, so nothing was claimed wrongly
        (LEFT, EMPTY, 0, 0, 1),
        (EMPTY, EMPTY, 1, 1, 1),
    ],
)
def test_one_frame(predicted, truth, iou, precision, recall):
    scores = transient_scores([(predicted, truth)])
    assert (scores.iou, scores.precision, scores.recall) == pytest.approx((iou, precision, recall))
    assert scores.frames == 1


def test_frames_count_alike_and_empty_ones_do_not():
    scores = transient_scores([(LEFT, LEFT), (LEFT, ~LEFT), (EMPTY, EMPTY)])
    assert (scores.iou, scores.precision, scores.recall) == (0.5, 0.5, 0.5)
    assert scores.frames == 3
