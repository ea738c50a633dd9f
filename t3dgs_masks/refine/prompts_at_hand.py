"""The prompts of a sequence for those who go through it frame by frame.

What they need next is read, and looked at, while they are busy with the frame before.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from t3dgs_masks.types import FramePrompt, PromptSource

Found = TypeVar("Found")
Look = Callable[[int, FramePrompt], Found]
"""Finds something in a frame's prompt, given its index too. From any thread."""

_FRAMES_AHEAD = 2
"""A large residual takes tens of milliseconds, longer than small networks on a GPU."""
_KEPT_BYTES = 32 << 20
_FEWEST_KEPT, _MOST_KEPT = 3, 5
"""Frames: with three those who look at a frame together read it once; those who come behind may be
a pause of four frames behind."""


class PromptsAtHand:
    """A `PromptSource` for those who go through a sequence frame by frame, together.

    The last frames are kept, so that they read each once; those that come next in their direction
    are read beside what they do with it, and looked at as this one was. For one thread; others, who
    come along behind, have `FollowedPrompts`.

    Args:
        prompts: of the sequence (True = transient); read by several threads at once.
        num_frames: that they will go through, from the first.
    """

    def __init__(self, prompts: PromptSource, num_frames: int) -> None:
        self._prompts = prompts
        self._num_frames = num_frames
        self._at: int | None = None  # where they are
        self._kept: dict[int, _Seen] = {}  # the last few; never changed, but replaced
        self._ahead: dict[int, Future[_Seen]] = {}
        self._looked_at: dict[Look[Any], int] = {}  # the frame that was looked at last
        self._readers = ThreadPoolExecutor(_FRAMES_AHEAD, thread_name_prefix="prompts")

    @property
    def has_residuals(self) -> bool:
        return self._prompts.has_residuals

    def __getitem__(self, frame_idx: int) -> FramePrompt:
        return self._seen(frame_idx).prompt

    def look(self, frame_idx: int, look: Look[Found]) -> Found:
        """What `look` finds on this frame; raises what it, or reading, raises. Whoever looks at one
        frame will look at the next."""
        seen = self._seen(frame_idx)
        self._looked_at[look] = frame_idx
        if look not in seen.found:
            seen.found[look] = look(frame_idx, seen.prompt)
        return seen.found[look]

    def kept(self, frame_idx: int) -> FramePrompt | None:
        """The prompt of one of the last frames, for any thread; None if it is not kept."""
        seen = self._kept.get(frame_idx)
        return None if seen is None else seen.prompt

    def found(self, frame_idx: int, look: Look[Found]) -> Found | None:
        """What `look` found on one of the last frames, for any thread; None if that is not kept."""
        seen = self._kept.get(frame_idx)
        return None if seen is None else seen.found.get(look)

    def _seen(self, frame_idx: int) -> _Seen:
        if frame_idx != self._at:
            seen = self._kept.get(frame_idx) or self._read(frame_idx)
            others = [item for item in self._kept.items() if item[0] != frame_idx]
            num_kept = max(_FEWEST_KEPT, min(_MOST_KEPT, _KEPT_BYTES // seen.num_bytes))
            self._kept = dict([*others[1 - num_kept :], (frame_idx, seen)])
            backward = self._at is not None and self._at > frame_idx
            self._at = frame_idx
            self._read_ahead(frame_idx, -1 if backward else 1)
        return self._kept[frame_idx]

    def _read(self, frame_idx: int) -> _Seen:
        ahead = self._ahead.get(frame_idx)
        return self._see(frame_idx, []) if ahead is None else ahead.result()

    def _read_ahead(self, frame_idx: int, step: int) -> None:
        usual = [look for look, last in self._looked_at.items() if abs(frame_idx - last) <= 1]
        ahead: dict[int, Future[_Seen]] = {}
        for distance in range(1, _FRAMES_AHEAD + 1):
            t = frame_idx + distance * step
            if 0 <= t < self._num_frames and t not in self._kept:
                ahead[t] = self._ahead.get(t) or self._readers.submit(self._see, t, usual)
        self._ahead = ahead

    def _see(self, frame_idx: int, looks: list[Look[Any]]) -> _Seen:
        prompt = self._prompts[frame_idx]
        return _Seen(prompt, {look: look(frame_idx, prompt) for look in looks})


@dataclass(frozen=True)
class _Seen:
    """A prompt, and what was found in it."""

    prompt: FramePrompt
    found: dict[Look[Any], Any] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        residual = self.prompt.residual
        return self.prompt.coarse.nbytes + (0 if residual is None else residual.nbytes)


class FollowedPrompts:
    """A `PromptSource` for other threads, who come along behind: what is kept is not read again.

    Args:
        prompts: of the sequence.
        at_hand: the same, for those who go first.
    """

    def __init__(self, prompts: PromptSource, at_hand: PromptsAtHand) -> None:
        self._prompts = prompts
        self._at_hand = at_hand

    @property
    def has_residuals(self) -> bool:
        return self._prompts.has_residuals

    def __getitem__(self, frame_idx: int) -> FramePrompt:
        return self._at_hand.kept(frame_idx) or self._prompts[frame_idx]
