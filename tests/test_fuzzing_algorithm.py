"""Objects, their merging and their scores against slow and obvious versions of the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from t3dgs_masks import masks
from t3dgs_masks.io.prompts import match_names
from t3dgs_masks.refine import MaskFigures, MaskletSet, TransienceScorer, judge
from t3dgs_masks.types import BoolMask, FramePrompt, Rle

FIXED = settings(max_examples=150, derandomize=True, database=None, deadline=None)

SIZE = (3, 5)
NUM_FRAMES = 3
dense = arrays(np.bool_, SIZE)
filled = dense.filter(np.any)
frame_indices = st.integers(0, NUM_FRAMES - 1)


class Objects(RuleBasedStateMachine):
    """A `MaskletSet` beside dense masks by (object, frame)."""

    def __init__(self) -> None:
        super().__init__()
        self.masklets = MaskletSet()
        self.expected: dict[int, dict[int, BoolMask]] = {}
        self.told: dict[tuple[int, int], Rle] = {}
        """What `take_changes` adds up to."""
        self.num_added = 0

    @rule(frame_idx=frame_indices, mask=filled)
    def add(self, frame_idx: int, mask: BoolMask) -> None:
        self.num_added += 1
        assert self.masklets.add(frame_idx, masks.encode(mask)) == self.num_added
        self.expected[self.num_added] = {frame_idx: mask}

    def an_object(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.expected)))

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), frame_idx=frame_indices, mask=filled)
    def set(self, data: st.DataObject, frame_idx: int, mask: BoolMask) -> None:
        chosen = self.an_object(data)
        self.masklets.set(frame_idx, chosen, masks.encode(mask))
        self.expected[chosen][frame_idx] = mask

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), frame_idx=frame_indices, mask=filled)
    def unite(self, data: st.DataObject, frame_idx: int, mask: BoolMask) -> None:
        chosen = self.an_object(data)
        self.masklets.unite(frame_idx, {chosen: masks.encode(mask)})
        before = self.expected[chosen].get(frame_idx, np.zeros(SIZE, np.bool_))
        self.expected[chosen][frame_idx] = before | mask

    @precondition(lambda self: any(self.expected.values()))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        held = [(k, t) for k, found in self.expected.items() for t in found]
        chosen, frame_idx = data.draw(st.sampled_from(held))
        self.masklets.remove(frame_idx, chosen)
        del self.expected[chosen][frame_idx]

    @precondition(lambda self: len(self.expected) > 1)
    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        drawn = st.lists(st.sampled_from(sorted(self.expected)), min_size=2, unique=True)
        group = data.draw(drawn)
        self.masklets.merge([group])
        united: dict[int, BoolMask] = {}
        for object_id in group:
            for frame_idx, mask in self.expected.pop(object_id).items():
                united[frame_idx] = united.get(frame_idx, np.zeros(SIZE, np.bool_)) | mask
        self.expected[min(group)] = united

    @rule()
    def take_changes(self) -> None:
        for (frame_idx, object_id), mask in self.masklets.take_changes().items():
            if mask is None:
                del self.told[frame_idx, object_id]
            else:
                self.told[frame_idx, object_id] = mask
        assert self.told == {
            (t, k): masks.encode(mask)
            for k, found in self.expected.items()
            for t, mask in found.items()
        }

    @invariant()
    def holds_what_is_expected(self) -> None:
        assert list(self.masklets.object_ids) == sorted(self.expected)
        for frame_idx in range(NUM_FRAMES):
            at_frame = {
                k: masks.encode(found[frame_idx])
                for k, found in sorted(self.expected.items())
                if frame_idx in found
            }
            assert self.masklets.at_frame(frame_idx) == at_frame
            assert self.masklets.holds(frame_idx) == bool(at_frame)


TestObjects = Objects.TestCase
TestObjects.settings = settings(
    max_examples=60, stateful_step_count=25, derandomize=True, database=None, deadline=None
)


# --- Scores -----------------------------------------------------------------------------------

residuals = arrays(np.float32, SIZE, elements=st.floats(0, 1, width=32))
frames = st.tuples(filled, dense, st.none() | residuals)


def slow_score(seen: list[tuple[BoolMask, BoolMask, np.ndarray | None]], coverage: float) -> float:
    """The formula in `TransienceScorer`, pixel by pixel."""
    largest = max(sum(map(bool, mask.flat)) for mask, _, _ in seen)
    terms: list[tuple[bool, float]] = []
    for mask, coarse, residual in seen:
        pixels = [p for p in np.ndindex(*SIZE) if mask[p]]
        inside = sum(bool(coarse[p]) for p in pixels)
        if inside / len(pixels) > coverage:
            mean = (
                1.0 if residual is None else sum(float(residual[p]) for p in pixels) / len(pixels)
            )
            terms.append((residual is not None, mean * inside / largest))
    deciding = [value for has_residual, value in terms if has_residual] or [v for _, v in terms]
    return sum(deciding) / len(deciding) if deciding else 0.0


@FIXED
@given(st.lists(frames, min_size=1, max_size=NUM_FRAMES), st.floats(0, 1), st.floats(-0.1, 1.1))
def test_scores_equal_the_formula(seen, coverage: float, threshold: float) -> None:
    masklets, scorer = MaskletSet(), TransienceScorer(coverage)
    for frame_idx, (mask, coarse, residual) in enumerate(seen):
        if frame_idx == 0:
            masklets.add(0, masks.encode(mask))
        else:
            masklets.set(frame_idx, 1, masks.encode(mask))
        scorer.add(1, MaskFigures.of(mask, FramePrompt(coarse, residual)))
    expected = slow_score(seen, coverage)
    score = scorer.score(1)
    assert score.value == pytest.approx(expected, abs=1e-6)
    assert 0 <= score.value <= 1
    (verdict,) = judge(masklets, scorer, filter_threshold=threshold, min_scoring_coverage=coverage)
    assert verdict.kept == (score.value > threshold)


@FIXED
@given(st.lists(frames, min_size=1, max_size=NUM_FRAMES), st.randoms())
def test_the_order_of_frames_does_not_matter(seen, random) -> None:
    def score(order):
        scorer = TransienceScorer(0.5)
        for mask, coarse, residual in order:
            scorer.add(1, MaskFigures.of(mask, FramePrompt(coarse, residual)))
        return scorer.score(1)

    shuffled = list(seen)
    random.shuffle(shuffled)
    assert score(shuffled).value == pytest.approx(score(seen).value, abs=1e-9)
    assert score(shuffled).covered_frames == score(seen).covered_frames


# --- Matching ---------------------------------------------------------------------------------

names = st.lists(
    st.sampled_from(["a", "b", "c", "a.jpg", "b.png", "x/a", "x/b", "y/a", "y/b.jpg", "c.mask"]),
    unique=True,
    max_size=6,
)


@FIXED
@given(names.filter(bool), names)
def test_a_file_of_a_frames_own_name_is_its(frame_names: list[str], file_names: list[str]) -> None:
    matching = match_names(frame_names, file_names)
    for idx, name in enumerate(frame_names):
        if name in file_names:
            assert matching.file_of_frame[idx] == name
    for idx, file_name in matching.file_of_frame.items():
        base = file_name.rpartition("/")[2]
        frame = frame_names[idx].rpartition("/")[2]
        assert base in (frame, f"{frame}.jpg", f"{frame}.png")
