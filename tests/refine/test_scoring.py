"""The transience score on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from t3dgs_masks import masks
from t3dgs_masks.refine import MaskFigures, MaskletSet, TransienceScorer, judge
from t3dgs_masks.types import BoolMask, FloatMap, FramePrompt
from tests.refine.fakes import HEIGHT, LEFT, NOTHING, RIGHT, WIDTH, box

Frame = tuple[BoolMask, BoolMask, "float | None"]  # object mask, coarse mask, residual inside


def flat(value: float) -> FloatMap:
    return np.full((HEIGHT, WIDTH), value, dtype=np.float32)


def score(frames: list[Frame], min_coverage: float = 0.7):
    scorer = TransienceScorer(min_coverage)
    for mask, coarse, residual in frames:
        prompt = FramePrompt(coarse, None if residual is None else flat(residual))
        scorer.add(1, MaskFigures.of(mask, prompt))
    return scorer.score(1)


EIGHTY = box(2, 2, 10, 12)  # 80 of the 100 pixels of LEFT
SEVENTY = box(2, 2, 9, 12)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([(LEFT, LEFT, 0.5)], 0.5),
        ([(LEFT, EIGHTY, 0.5)], 0.5 * 80 / 100),
        ([(LEFT, SEVENTY, 0.5)], 0.0),  # coverage 0.7 is not above 0.7
        ([(LEFT, NOTHING, 0.5)], 0.0),
        # Frames outside T_k count neither in the mean nor against it, but S_k is over all frames.
        ([(LEFT, LEFT, 0.5), (LEFT, NOTHING, 1.0)], 0.5),
        ([(LEFT, NOTHING, 0.5), (EIGHTY, LEFT, 0.5)], 0.5 * 80 / 100),
        ([(LEFT, LEFT, 0.25), (EIGHTY, LEFT, 0.75)], (0.25 + 0.75 * 0.8) / 2),
        # Without residuals the term is 1.
        ([(LEFT, LEFT, None)], 1.0),
        ([(LEFT, EIGHTY, None), (LEFT, LEFT, None)], 0.9),
        # Where only some frames carry one, those decide.
        ([(LEFT, LEFT, None), (LEFT, LEFT, 0.25)], 0.25),
        # A residual outside T_k does not help.
        ([(LEFT, LEFT, None), (LEFT, NOTHING, 0.25)], 1.0),
    ],
)
def test_transience_score(frames: list[Frame], expected: float) -> None:
    assert score(frames).value == pytest.approx(expected)


def test_the_mean_residual_is_over_the_whole_object() -> None:
    residual = np.where(EIGHTY, np.float32(1), np.float32(0))
    scorer = TransienceScorer(0.7)
    scorer.add(1, MaskFigures.of(LEFT, FramePrompt(EIGHTY, residual)))
    assert scorer.score(1).value == pytest.approx(0.8 * 0.8)


def test_what_a_score_rests_on() -> None:
    found = score([(LEFT, LEFT, None), (LEFT, LEFT, 0.25), (LEFT, NOTHING, 0.25)])
    assert (found.scored_frames, found.covered_frames, found.used_residuals) == (1, 2, True)


def _verdicts(threshold: float):
    found = MaskletSet()
    found.add(0, masks.encode(LEFT))
    found.add(0, masks.encode(RIGHT))
    scorer = TransienceScorer(0.7)
    prompt = FramePrompt(LEFT, flat(0.25))
    for object_id, mask in ((1, LEFT), (2, RIGHT)):
        scorer.add(object_id, MaskFigures.of(mask, prompt))
    return judge(found, scorer, filter_threshold=threshold, min_scoring_coverage=0.7)


def test_kept_only_strictly_above_the_threshold() -> None:
    assert [v.kept for v in _verdicts(0.25)] == [False, False]
    assert [v.kept for v in _verdicts(0.2499)] == [True, False]


def test_reasons_are_plain_words() -> None:
    kept, never_inside = _verdicts(0.08)
    assert kept.reason == "transience score 0.2500 over 1 frame is above 0.08"
    assert never_inside.reason == "on no frame more than 70% inside the coarse mask"
    assert never_inside.transience_score == 0.0
    rejected = _verdicts(0.5)[0]
    assert rejected.reason == "transience score 0.2500 over 1 frame is not above 0.5"
