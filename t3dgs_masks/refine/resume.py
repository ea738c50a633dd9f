"""How far a refine has come, kept so that one that was killed goes on at the next frame.

Masklets and the `PassState` of every pass, taken between two frames, are all that the passes
depend on. They are saved after each frame: of the masklets only what the frame changed, so that
what is written does not grow with the sequence. From time to time what the tracker remembers of
a long propagation is saved too, so that it need not be repeated from its start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from t3dgs_masks.refine.guard import Doubt
from t3dgs_masks.refine.masklets import Masklet, MaskletSet
from t3dgs_masks.refine.observer import Stage
from t3dgs_masks.refine.passes import Pass, PassCounts, PassState, Snapshot
from t3dgs_masks.types import Rle

SNAPSHOT_SECONDS = 15.0
"""A propagation that has run for so long without a snapshot is worth one."""
_SNAPSHOT_BYTES_PER_PIXEL = 1 / 20
"""And may be written if they are no more than this, per object and frame of a pass."""

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

    def snapshot(self) -> tuple[Mapping[str, Any], bytes] | None:
        """The snapshot that was saved last, and what it is of; None if there is none."""
        ...

    def save_snapshot(self, about: Mapping[str, Any], content: bytes) -> None:
        """Replace the snapshot."""
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

    def snapshot(self) -> tuple[Mapping[str, Any], bytes] | None:
        return None

    def save_snapshot(self, about: Mapping[str, Any], content: bytes) -> None:
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
        # Snapshots: of which propagation the next one will be, since when it is worth one, how many
        # bytes may be written, and how many the last one had.
        self._propagation: tuple[Stage, int] | None = None
        self._exposed_since = clock()
        self._allowance = 0.0
        self._allowance_per_object = height * width * _SNAPSHOT_BYTES_PER_PIXEL
        self._snapshot_bytes = 0

    def begin_pass(self, current: Pass) -> None:
        """The time of the next frame starts to run."""
        current.use_snapshot(_snapshot(self._store))
        self._since = self._clock()

    def frame_done(self, current: Pass) -> None:
        """A pass has finished a frame; save what it changed."""
        stage, progress, state = current.stage, self.progress, current.state
        steps_replayed = current.take_replayed()
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
        self._save_snapshot_if_due(current)

    def _save_snapshot_if_due(self, current: Pass) -> None:
        """Now and then, so that little has to be propagated again; but what is written must stay
        small beside the sequence, and a snapshot is large."""
        self._allowance += self._allowance_per_object * len(self.progress.masklets)
        propagation = current.stage, current.state.counts.restarts
        if propagation != self._propagation:
            self._propagation, self._exposed_since = propagation, self._clock()
        if (
            current.finished
            or self._clock() - self._exposed_since < SNAPSHOT_SECONDS
            or self._allowance < self._snapshot_bytes
        ):
            return
        snapshot = current.snapshot()
        if snapshot is None:
            self._exposed_since = self._clock()
            return
        self._snapshot_bytes = len(snapshot.content)
        if self._snapshot_bytes <= self._allowance:
            self._allowance -= self._snapshot_bytes
            self._exposed_since = self._clock()
            about = {"stage": snapshot.stage.value, "restarts": snapshot.restarts}
            self._store.save_snapshot(
                {**about, "frames_done": snapshot.frames_done}, snapshot.content
            )


def _snapshot(store: ProgressStore) -> Snapshot | None:
    """What an earlier run, or this one, saved last."""
    saved = store.snapshot()
    if saved is None:
        return None
    about, content = saved
    try:
        counts = _count(about["restarts"]), _count(about["frames_done"])
        return Snapshot(Stage(about["stage"]), *counts, content)
    except (KeyError, TypeError, ValueError):
        return None


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
