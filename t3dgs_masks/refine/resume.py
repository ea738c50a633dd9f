"""How far a refine has come, kept so that one that was killed goes on at the next frame.

Masklets and the `PassState` of every pass, taken between two frames, are all that the passes
depend on. They are saved after each frame: of the masklets only what the frame changed, so that
what is written does not grow with the sequence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from t3dgs_masks.refine.guard import Doubt
from t3dgs_masks.refine.masklets import Masklet, MaskletSet
from t3dgs_masks.refine.observer import Stage
from t3dgs_masks.refine.passes import PassCounts, PassState
from t3dgs_masks.types import Rle

PASSES = (Stage.FORWARD, Stage.BACKWARD, Stage.FINAL)


class ProgressStore(Protocol):
    """Where progress is kept. What is saved together is kept together, or not at all.

    It knows nothing of what it keeps: a document and entries (JSON values), masks, and bytes.
    """

    def document(self) -> Mapping[str, Any] | None:
        """What was saved last; None if nothing was."""
        ...

    def masks(self) -> Iterable[tuple[int, int, Rle]]:
        """(frame_idx, object_id, mask) of all masks as they were saved last."""
        ...

    def entries(self) -> Sequence[Any]:
        """All entries that were ever saved, in that order."""
        ...

    def save(
        self,
        document: Mapping[str, Any],
        masks: Mapping[tuple[int, int], Rle | None],
        entries: Sequence[Any],
    ) -> None:
        """Replace the document, change masks ((frame_idx, object_id) -> mask, None: there is none
        any more), and add entries."""
        ...

    def clear(self) -> None:
        """Drop everything."""
        ...


class NoStore:
    """A `ProgressStore` for a refine that starts at the beginning and keeps nothing."""

    def document(self) -> Mapping[str, Any] | None:
        return None

    def masks(self) -> Iterable[tuple[int, int, Rle]]:
        return ()

    def entries(self) -> Sequence[Any]:
        return ()

    def save(
        self,
        document: Mapping[str, Any],
        masks: Mapping[tuple[int, int], Rle | None],
        entries: Sequence[Any],
    ) -> None:
        return

    def clear(self) -> None:
        return


@dataclass
class Progress:
    """What the passes have reached. Its parts are changed by them in place."""

    masklets: MaskletSet = field(default_factory=MaskletSet)
    passes: dict[Stage, PassState] = field(default_factory=dict)
    """Of the passes that were begun."""
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(Stage, 0.0))
    """Wall time of the passes up to the last frame that was saved, over all runs."""
    frames_worked: int = 0
    """How often a pass finished a frame, over all runs: more than the sum of all `frames_done` if
    any frame had been done twice."""
    steps_replayed: int = 0
    """Propagation steps that were repeated to bring a tracker to where it was, over all runs."""

    @property
    def frames_done(self) -> int:
        """Of all passes together."""
        return sum(state.frames_done for state in self.passes.values())

    def state_of(self, stage: Stage) -> PassState:
        """Where a pass stands; it is begun if it was not."""
        return self.passes.setdefault(stage, PassState())

    def as_json(self) -> dict[str, Any]:
        """All but masks and doubts."""
        passes = {}
        for stage, state in self.passes.items():
            passes[stage.value] = {
                "frames_done": state.frames_done,
                "must_restart": state.must_restart,
                "started_at": state.started_at,
                "counts": asdict(state.counts),
            }
        return {
            "passes": passes,
            "seconds": {stage.value: round(self.seconds[stage], 3) for stage in self.passes},
            "next_object_id": self.masklets.next_object_id,
            "frames_worked": self.frames_worked,
            "steps_replayed": self.steps_replayed,
        }


class ProgressKeeper:
    """Saves the `progress` of a refine after every frame.

    Args:
        store: where it is kept, and where an earlier run may have left some.
        num_frames: that the passes work on.
        height: of every mask, pixels.
        width: likewise.
        clock: seconds.
    """

    def __init__(
        self,
        store: ProgressStore,
        num_frames: int,
        height: int,
        width: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store = store
        self._clock = clock
        self._doubts_saved: dict[Stage, int] = {}
        self.is_broken = False
        """Whether there was progress that made no sense; it was dropped."""
        self.progress = Progress()
        try:
            self.progress = _taken_up(store, num_frames, height, width)
        except (KeyError, TypeError, ValueError, AttributeError):
            self.is_broken = True
            store.clear()
        for stage, state in self.progress.passes.items():
            self._doubts_saved[stage] = len(state.doubts)
        self._since = clock()

    def begin_pass(self) -> None:
        """The time of the next frame starts to run."""
        self._since = self._clock()

    def frame_done(self, stage: Stage, steps_replayed: int = 0) -> None:
        """A pass has finished a frame; save what it changed."""
        progress, state = self.progress, self.progress.passes[stage]
        now = self._clock()
        progress.seconds[stage] += now - self._since
        self._since = now
        progress.frames_worked += 1
        progress.steps_replayed += steps_replayed
        doubts = state.doubts[self._doubts_saved.get(stage, 0) :]
        self._doubts_saved[stage] = len(state.doubts)
        self._store.save(
            progress.as_json(),
            progress.masklets.take_changes(),
            [[stage.value, asdict(doubt)] for doubt in doubts],
        )


def _taken_up(store: ProgressStore, num_frames: int, height: int, width: int) -> Progress:
    """What an earlier run has reached.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it makes no sense.
    """
    document = store.document()
    if document is None:
        return Progress()
    progress = Progress(
        _masklets(store.masks(), document["next_object_id"], num_frames, height, width),
        {Stage(name): _state(told, num_frames) for name, told in document["passes"].items()},
        frames_worked=_count(document["frames_worked"]),
        steps_replayed=_count(document["steps_replayed"]),
    )
    for name, seconds in document["seconds"].items():
        progress.seconds[Stage(name)] = float(seconds)
    for name, doubt in store.entries():
        progress.passes[Stage(name)].doubts.append(Doubt(**doubt))
    begun = [stage for stage in PASSES if stage in progress.passes]
    if begun != list(progress.passes):
        raise ValueError("passes in a wrong order")
    return progress


def _masklets(
    found: Iterable[tuple[int, int, Rle]],
    next_object_id: Any,
    num_frames: int,
    height: int,
    width: int,
) -> MaskletSet:
    by_object: dict[int, dict[int, Rle]] = {}
    for frame_idx, object_id, mask in found:
        if not 0 <= frame_idx < num_frames or (mask.height, mask.width) != (height, width):
            raise ValueError("a mask of another sequence")
        by_object.setdefault(object_id, {})[frame_idx] = mask
    masklets = (Masklet(object_id, by_object[object_id]) for object_id in sorted(by_object))
    return MaskletSet(masklets, next_object_id=_count(next_object_id))


def _state(told: Mapping[str, Any], num_frames: int) -> PassState:
    started_at = told["started_at"]
    state = PassState(
        frames_done=_count(told["frames_done"], num_frames),
        must_restart=bool(told["must_restart"]),
        started_at=None if started_at is None else _count(started_at, num_frames),
        counts=PassCounts(**{name: _count(n) for name, n in told["counts"].items()}),
    )
    if not state.must_restart and state.started_at is None:
        raise ValueError("a propagation that was never started")
    return state


def _count(value: Any, most: int | None = None) -> int:
    if not isinstance(value, int) or value < 0 or (most is not None and value > most):
        raise ValueError(f"{value!r} is no count")
    return value
