"""Prompts for those who go through a sequence frame by frame."""

from __future__ import annotations

from threading import Barrier, current_thread

import numpy as np
import pytest

from t3dgs_masks.refine import prompts_at_hand
from t3dgs_masks.refine.prompts_at_hand import FollowedPrompts, PromptsAtHand
from t3dgs_masks.types import FramePrompt
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


def test_those_who_look_at_one_frame_together_read_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prompts_at_hand, "_MOST_KEPT", 3)
    prompts = ArrayPrompts([LEFT, RIGHT, BOTTOM, NOTHING, LEFT])
    at_hand = PromptsAtHand(prompts, 5)
    assert not at_hand.has_residuals
    for frame_idx in (0, 0, 1, 1, 2, 3, 4, 4, 3, 2):
        np.testing.assert_array_equal(at_hand[frame_idx].coarse, prompts.coarse[frame_idx])
    assert sorted(prompts.reads[:5]) == [0, 1, 2, 3, 4]
    for frame_idx in (1, 0, 0):
        np.testing.assert_array_equal(at_hand[frame_idx].coarse, prompts.coarse[frame_idx])
    assert sorted(prompts.reads[5:]) == [0, 1], "where they turn, the last three are still there"


def test_the_next_two_are_read_at_the_same_time() -> None:
    class MeetingPrompts(ArrayPrompts):
        meeting = Barrier(2)

        def __getitem__(self, frame_idx: int) -> FramePrompt:
            if frame_idx > 0:
                self.meeting.wait(timeout=60)
            return super().__getitem__(frame_idx)

    at_hand = PromptsAtHand(MeetingPrompts([LEFT, RIGHT, BOTTOM]), 3)
    for frame_idx, mask in enumerate((LEFT, RIGHT, BOTTOM)):
        np.testing.assert_array_equal(at_hand[frame_idx].coarse, mask)


def test_those_behind_do_not_read_again_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts_at_hand, "_MOST_KEPT", 3)
    prompts = ArrayPrompts([box(0, 0, 2 + k, 5) for k in range(8)], [residual(LEFT)] * 8)
    at_hand = PromptsAtHand(prompts, 8)
    followed = FollowedPrompts(prompts, at_hand)
    assert followed.has_residuals
    for frame_idx in (0, 1, 2, 3, 4, 3):
        assert followed[frame_idx].residual is not None
        assert at_hand[frame_idx] is not None
        prompts.reads.clear()
        for behind in (frame_idx, max(0, frame_idx - 1)):
            assert followed[behind] is at_hand.kept(behind)
        assert frame_idx not in prompts.reads
    np.testing.assert_array_equal(followed[0].coarse, prompts.coarse[0])
    assert at_hand.kept(0) is None
    assert 0 in prompts.reads


@pytest.mark.parametrize(("room", "kept"), [(0, 3), (4, 4), (100, 5)])
def test_as_many_prompts_are_kept_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, room: int, kept: int
) -> None:
    monkeypatch.setattr(
        prompts_at_hand, "_KEPT_BYTES", room * HEIGHT * WIDTH * 5
    )  # bool and float32
    at_hand = PromptsAtHand(ArrayPrompts([LEFT] * 20, [residual(LEFT)] * 20), 20)
    for frame_idx in range(20):
        assert at_hand[frame_idx] is not None
    assert [t for t in range(20) if at_hand.kept(t)] == list(range(20 - kept, 20))


def test_a_prompt_that_cannot_be_read_is_told_when_it_is_due() -> None:
    prompts = ArrayPrompts([LEFT])
    at_hand = PromptsAtHand(prompts, 2)
    np.testing.assert_array_equal(at_hand[0].coarse, LEFT)
    with pytest.raises(IndexError):
        at_hand[1]


class Looker:
    """Finds how many pixels are transient, and takes down who looked at which frame."""

    def __init__(self) -> None:
        self.by_readers: list[int] = []
        self.by_others: list[int] = []

    def size(self, frame_idx: int, prompt: FramePrompt) -> int:
        is_reader = current_thread().name.startswith("prompts")
        (self.by_readers if is_reader else self.by_others).append(frame_idx)
        return int(prompt.coarse.sum())

    @property
    def looked(self) -> list[int]:
        return sorted(self.by_readers + self.by_others)


def test_what_is_looked_at_on_every_frame_is_looked_at_by_the_readers() -> None:
    masks = [box(0, 0, 2 + k, 5) for k in range(8)]
    at_hand, looker = PromptsAtHand(ArrayPrompts(masks), 8), Looker()
    for direction in (range(8), range(7, -1, -1)):
        for frame_idx in direction:
            for _ in range(2):
                assert at_hand.look(frame_idx, looker.size) == masks[frame_idx].sum()
    # The first two to come are being read before anyone looks at anything.
    assert looker.by_others == [0, 1, 2]
    # And where they turn, what was found on the last few is still there.
    assert sorted(looker.by_readers) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_what_nobody_looks_at_any_more_is_not_looked_at() -> None:
    prompts = ArrayPrompts([LEFT] * 20)
    at_hand, looker, other = PromptsAtHand(prompts, 20), Looker(), Looker()
    for frame_idx in range(20):
        at_hand.look(frame_idx, looker.size)
        if frame_idx < 8:
            at_hand.look(frame_idx, other.size)
    assert looker.looked == list(range(20))
    assert other.looked == list(range(8 + 3))


def test_what_was_found_is_there_for_those_behind() -> None:
    at_hand, looker, other = PromptsAtHand(ArrayPrompts([LEFT] * 9), 9), Looker(), Looker()
    for frame_idx in range(9):
        assert at_hand.found(frame_idx, looker.size) is None
        at_hand.look(frame_idx, looker.size)
        assert at_hand.found(frame_idx, looker.size) == LEFT.sum()
        assert at_hand.found(frame_idx, other.size) is None
    assert at_hand.found(0, looker.size) is None, "it is not kept for ever"


def test_what_cannot_be_looked_at_is_told_when_it_is_due() -> None:
    def look(frame_idx: int, _: FramePrompt) -> int:
        if frame_idx == 4:
            raise RuntimeError("no sight")
        return frame_idx

    at_hand = PromptsAtHand(ArrayPrompts([LEFT] * 6), 6)
    for frame_idx in range(4):
        assert at_hand.look(frame_idx, look) == frame_idx
    with pytest.raises(RuntimeError, match="no sight"):
        at_hand.look(4, look)
