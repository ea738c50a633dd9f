"""Scores against hand-computed cases, and against a slow implementation of their definitions."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from t3dgs_masks.evaluate import (
    FrameScores,
    boundary,
    boundary_f,
    flicker,
    frame_scores,
    sequence_scores,
    transient_scores,
)
from t3dgs_masks.types import BoolMask


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


# -- boundary F


def test_boundaries_lie_above_and_left_of_the_border():
    drawn = mask("......", "..##..", "..##..", "......")
    assert np.array_equal(boundary(drawn), mask(".###..", ".#.#..", ".###..", "......"))
    # Where the image ends, nothing does.
    assert np.array_equal(boundary(mask("..##", "..##")), mask(".#..", ".#.."))
    assert not boundary(mask("####", "####")).any()


def square(left: int, size: int = 125) -> BoolMask:
    drawn = np.zeros((size, size), bool)
    drawn[40:80, left : left + 40] = True
    return drawn


def test_boundary_f_by_hand():
    # The diagonal is 176.8 pixels, 0.8 % of it 1.41: lines match up to 2 pixels apart.
    assert boundary_f(square(40), square(40)) == 1
    assert boundary_f(square(40), square(42)) == 1
    # 3 pixels apart, the upright lines do not match any more, but for their ends: those are within
    # 2 pixels of the level lines. Of the 160 pixels of a boundary (41 + 41 in the level lines, 39 +
    # 39 between them), 2 at either end of each upright line (rows 1 and 2 below the line) match if
    # the other's level line passes there: the left line lies 3 left of where that begins, so only
    # the right one's ends do.
    level = 41 + 41 - 2  # without the leftmost pixel of each, 3 away
    ends = 2 + 2
    assert boundary_f(square(40), square(43)) == pytest.approx((level + ends) / 160)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [(EMPTY, EMPTY, 1), (LEFT, EMPTY, 0), (EMPTY, LEFT, 0), (LEFT, LEFT, 1), (LEFT, ~LEFT, 1)],
)
def test_boundary_f_without_boundaries(predicted, truth, expected):
    assert boundary_f(predicted, truth) == expected


# -- flicker


def test_flicker_counts_changes_that_the_truth_does_not_make():
    still = (LEFT, LEFT)
    assert flicker(still, still) == 0
    assert flicker(still, (TOP, TOP)) == 0  # moves as the truth does
    assert flicker((EMPTY, LEFT), (EMPTY, LEFT)) == 0  # wrong, but steadily
    assert flicker(still, (EMPTY, LEFT)) == 4 / 8
    assert flicker((EMPTY, LEFT), still) == 4 / 8
    assert flicker((LEFT, EMPTY), (EMPTY, LEFT)) == 4 / 8  # from one error to the opposite one
    assert flicker(still, (LEFT, TOP)) == 4 / 8  # the truth moves, the prediction does not


def test_a_halo_that_stays_does_not_flicker_and_one_that_comes_and_goes_does():
    wide, narrow = mask(".####."), mask("..##..")
    steady = frame_scores([(wide, narrow)] * 4)
    nervous = frame_scores([(wide, narrow), (narrow, narrow)] * 2)
    assert [score.flicker for score in steady] == [None, 0, 0, 0]
    assert [score.flicker for score in nervous] == [None, 2 / 6, 2 / 6, 2 / 6]


# -- frames and sequences


def test_what_cannot_be_measured_is_none():
    (nothing,) = frame_scores([(EMPTY, EMPTY)])
    assert nothing == FrameScores(None, None, None, None, 0, None)
    (all_transient,) = frame_scores([(LEFT, ~EMPTY)])
    assert all_transient.static_lost is None
    assert frame_scores([(EMPTY, LEFT)])[0].precision is None
    assert frame_scores([(LEFT, EMPTY)])[0].recall is None


def test_static_area_lost():
    (score,) = frame_scores([(TOP, LEFT)])
    assert score.static_lost == 2 / 4


def test_totals_are_means_over_what_was_measured():
    pairs = [(LEFT, LEFT), (EMPTY, EMPTY), (TOP, LEFT)]
    total = sequence_scores(frame_scores(pairs))
    assert total.iou == pytest.approx((1 + 2 / 6) / 2)
    assert total.precision == pytest.approx((1 + 2 / 4) / 2)
    assert total.static_lost == pytest.approx((0 + 0 + 2 / 4) / 3)
    # The truth comes and goes with the prediction; then 2 come too many and 2 too few.
    assert total.flicker == pytest.approx((0 + 4 / 8) / 2)
    assert total.frames == 3
    scores = transient_scores(pairs)
    assert (total.iou, total.precision, total.recall) == (
        scores.iou,
        scores.precision,
        scores.recall,
    )
    assert astuple(sequence_scores([])) == (1, 1, 1, 1, 0, 0, 0)


# -- against the definitions, pixel by pixel


def slow_boundary(pixels: BoolMask) -> set[tuple[int, int]]:
    height, width = pixels.shape
    found = set()
    for y in range(height):
        for x in range(width):
            below, right = y + 1 < height, x + 1 < width
            neighbours = []
            if right:
                neighbours.append(pixels[y, x + 1])
            if below:
                neighbours.append(pixels[y + 1, x])
            if right and below:
                neighbours.append(pixels[y + 1, x + 1])
            if any(neighbour != pixels[y, x] for neighbour in neighbours):
                found.add((y, x))
    return found


def slow_boundary_f(predicted: BoolMask, truth: BoolMask) -> float:
    ours, theirs = slow_boundary(predicted), slow_boundary(truth)
    if not ours and not theirs:
        return 1.0
    reach = math.ceil(0.008 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))

    def share(some: set[tuple[int, int]], others: set[tuple[int, int]]) -> float:
        near = [p for p in some if any(math.dist(p, q) <= reach for q in others)]
        return len(near) / len(some) if some else 1.0

    precision, recall = share(ours, theirs), share(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def slow_scores(sequence: list[tuple[BoolMask, BoolMask]]) -> list[FrameScores]:
    result = []
    for t, (predicted, truth) in enumerate(sequence):
        p = {tuple(at) for at in np.argwhere(predicted)}
        g = {tuple(at) for at in np.argwhere(truth)}
        everywhere = {tuple(at) for at in np.argwhere(np.ones_like(truth))}
        changed = None
        if t:
            p0, g0 = sequence[t - 1]
            changed = sum(
                int(predicted[at]) - int(p0[at]) != int(truth[at]) - int(g0[at])
                for at in everywhere
            ) / len(everywhere)
        result.append(
            FrameScores(
                len(p & g) / len(p | g) if p | g else None,
                len(p & g) / len(p) if p else None,
                len(p & g) / len(g) if g else None,
                slow_boundary_f(predicted, truth) if p | g else None,
                len(p - g) / len(everywhere - g) if everywhere - g else None,
                changed,
            )
        )
    return result


def random_pair(random: np.random.Generator, size: tuple[int, int]) -> tuple[BoolMask, BoolMask]:
    """Blobs or noise, alike or not, sometimes nothing or everything."""

    def blobs() -> BoolMask:
        rows, columns = np.mgrid[: size[0], : size[1]]
        drawn = np.zeros(size, bool)
        for _ in range(random.integers(0, 4)):
            y, x = random.uniform(0, size[0]), random.uniform(0, size[1])
            radius = random.uniform(1, max(size) / 3)
            drawn |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        return drawn

    truth = [blobs(), random.random(size) < random.random(), np.zeros(size, bool)][
        random.choice(3, p=[0.7, 0.2, 0.1])
    ]
    shifted = np.roll(truth, random.integers(-3, 4, 2), (0, 1))
    predicted = [shifted, blobs(), truth ^ (random.random(size) < 0.05), ~truth][
        random.choice(4, p=[0.5, 0.2, 0.2, 0.1])
    ]
    return predicted, truth


@pytest.mark.parametrize("seed", range(10))
def test_against_the_definitions_on_100_random_pairs(seed):
    random = np.random.default_rng(seed)
    # From one pixel of tolerance to two.
    size = (int(random.integers(1, 40)), int(random.integers(1, 60)))
    if seed % 3 == 0:
        size = (20, 130)
    sequence = [random_pair(random, size) for _ in range(10)]
    for ours, slow in zip(frame_scores(sequence), slow_scores(sequence), strict=True):
        assert astuple(ours) == pytest.approx(astuple(slow), abs=1e-12)
