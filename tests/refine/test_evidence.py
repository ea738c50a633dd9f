"""What prompts say about masks, on drawn masks and residuals."""

from __future__ import annotations

from threading import Barrier

import numpy as np
import pytest

from t3dgs_masks import bits
from t3dgs_masks.refine import evidence
from t3dgs_masks.refine.evidence import (
    FollowedPrompts,
    FrameEvidence,
    RememberedPrompts,
    StaticResidual,
    residual_levels,
)
from t3dgs_masks.types import BoolMask, FramePrompt
from tests.refine.fakes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    NOTHING,
    RIGHT,
    WIDTH,
    ArrayPrompts,
    box,
    residual,
)


def support(prompt: FramePrompt, part: BoolMask) -> float | None:
    return FrameEvidence.of(prompt, StaticResidual.of(prompt)).support(bits.pack(part))


def test_support_is_the_share_that_looks_transient() -> None:
    prompt = FramePrompt(LEFT, residual(LEFT))
    assert support(prompt, LEFT) == 1.0
    assert support(prompt, RIGHT) == pytest.approx(0.0, abs=0.2)
    half = LEFT | box(2, 45, 12, 55)
    assert support(prompt, half) == pytest.approx(0.5, abs=0.1)


def test_support_of_plain_residuals() -> None:
    assert support(FramePrompt(LEFT, np.zeros((HEIGHT, WIDTH), np.float32)), LEFT) == 0.0
    faint = np.where(LEFT, np.float32(0.01), np.float32(0))
    assert support(FramePrompt(LEFT, faint), LEFT) == 1.0


def test_no_evidence_without_a_residual_or_anything_static() -> None:
    assert support(FramePrompt(LEFT), LEFT) is None
    everything = np.ones((HEIGHT, WIDTH), bool)
    assert support(FramePrompt(everything, residual(LEFT)), LEFT) is None


def test_levels_of_a_sequence() -> None:
    levels = residual_levels(ArrayPrompts([LEFT] * 3, [residual(LEFT)] * 3), 3)
    assert levels.use == "used"
    assert levels.static == pytest.approx(0.025, abs=0.005)
    assert levels.transient == pytest.approx(0.425, abs=0.01)
    assert levels.between == pytest.approx(0.225, abs=0.01)


@pytest.mark.parametrize(
    ("prompts", "use"),
    [
        (ArrayPrompts([LEFT] * 3), "none"),
        (ArrayPrompts([LEFT] * 3, [residual(NOTHING)] * 3), "say nothing"),
        (ArrayPrompts([LEFT] * 3, [residual(RIGHT)] * 3), "say nothing"),
        (ArrayPrompts([NOTHING] * 3, [residual(LEFT)] * 3), "say nothing"),
        (ArrayPrompts([LEFT] * 2, [np.zeros((HEIGHT, WIDTH), np.float32)] * 2), "say nothing"),
    ],
)
def test_residuals_that_say_nothing(prompts: ArrayPrompts, use: str) -> None:
    assert residual_levels(prompts, len(prompts.coarse)).use == use


def test_those_who_look_at_one_frame_together_read_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evidence, "_MOST_KEPT", 3)
    prompts = ArrayPrompts([LEFT, RIGHT, BOTTOM, NOTHING, LEFT])
    remembered = RememberedPrompts(prompts, 5)
    assert not remembered.has_residuals
    for frame_idx in (0, 0, 1, 1, 2, 3, 4, 4, 3, 2):
        np.testing.assert_array_equal(remembered[frame_idx].coarse, prompts.coarse[frame_idx])
    assert sorted(prompts.reads[:5]) == [0, 1, 2, 3, 4]
    for frame_idx in (1, 0, 0):
        np.testing.assert_array_equal(remembered[frame_idx].coarse, prompts.coarse[frame_idx])
    assert sorted(prompts.reads[5:]) == [0, 1], "where they turn, the last three are still there"


def test_the_next_two_are_read_at_the_same_time() -> None:
    class MeetingPrompts(ArrayPrompts):
        meeting = Barrier(2)

        def __getitem__(self, frame_idx: int) -> FramePrompt:
            if frame_idx > 0:
                self.meeting.wait(timeout=60)
            return super().__getitem__(frame_idx)

    remembered = RememberedPrompts(MeetingPrompts([LEFT, RIGHT, BOTTOM]), 3)
    for frame_idx, mask in enumerate((LEFT, RIGHT, BOTTOM)):
        np.testing.assert_array_equal(remembered[frame_idx].coarse, mask)


def test_those_behind_do_not_read_again_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_MOST_KEPT", 3)
    prompts = ArrayPrompts([box(0, 0, 2 + k, 5) for k in range(8)], [residual(LEFT)] * 8)
    remembered = RememberedPrompts(prompts, 8)
    followed = FollowedPrompts(prompts, remembered)
    assert followed.has_residuals
    for frame_idx in (0, 1, 2, 3, 4, 3):
        assert followed[frame_idx].residual is not None
        assert remembered[frame_idx] is not None
        prompts.reads.clear()
        for behind in (frame_idx, max(0, frame_idx - 1)):
            assert followed[behind] is remembered.kept(behind)
        assert frame_idx not in prompts.reads
    np.testing.assert_array_equal(followed[0].coarse, prompts.coarse[0])
    assert remembered.kept(0) is None
    assert 0 in prompts.reads


@pytest.mark.parametrize(("room", "kept"), [(0, 3), (4, 4), (100, 5)])
def test_as_many_prompts_are_kept_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, room: int, kept: int
) -> None:
    monkeypatch.setattr(evidence, "_KEPT_BYTES", room * HEIGHT * WIDTH * 5)  # bool and float32
    remembered = RememberedPrompts(ArrayPrompts([LEFT] * 20, [residual(LEFT)] * 20), 20)
    for frame_idx in range(20):
        assert remembered[frame_idx] is not None
    assert [t for t in range(20) if remembered.kept(t)] == list(range(20 - kept, 20))


def test_a_prompt_that_cannot_be_read_is_told_when_it_is_due() -> None:
    prompts = ArrayPrompts([LEFT])
    remembered = RememberedPrompts(prompts, 2)
    np.testing.assert_array_equal(remembered[0].coarse, LEFT)
    with pytest.raises(IndexError):
        remembered[1]
