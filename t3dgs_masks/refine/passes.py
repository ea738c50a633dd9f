"""The three passes over a Tracker: forward, backward and final (TMR, arXiv 2412.00155).

A pass works on one frame per `step` and changes a `MaskletSet` in place. All it remembers from
frame to frame is its `PassState`: masklets and state, taken between two steps, are enough to go
on with a fresh tracker and reach the same result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from t3dgs_masks import bits, masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.refine.guard import Doubt, Guard
from t3dgs_masks.refine.masklets import MaskletSet
from t3dgs_masks.refine.merge import duplicate_groups
from t3dgs_masks.refine.observer import Stage
from t3dgs_masks.refine.proposals import ProposalSearch
from t3dgs_masks.types import BitMask, ResumableTracker, Rle, TrackedFrame, Tracker


@dataclass
class PassCounts:
    """What happened in one pass."""

    restarts: int = 0
    """How often the tracker was conditioned anew, the first time included."""
    new_objects: int = 0
    """Proposals that became objects."""
    merged_objects: int = 0
    """Objects that were merged into another one."""


@dataclass
class PassState:
    """Where a pass stands between two frames."""

    frames_done: int = 0
    must_restart: bool = True
    """The next frame conditions the tracker anew before it propagates."""
    started_at: int | None = None
    """The frame at which the propagation now running was started."""
    counts: PassCounts = field(default_factory=PassCounts)
    doubts: list[Doubt] = field(default_factory=list)
    """Tracked masks that the guard did not believe, or not entirely."""


@dataclass(frozen=True)
class Snapshot:
    """A running propagation, between two frames."""

    stage: Stage
    restarts: int
    """`PassCounts.restarts` at the time: it tells the propagations of a pass apart."""
    frames_done: int
    """`PassState.frames_done` at the time."""
    content: bytes
    """The tracker's."""


def frames_before(masklets: MaskletSet, frame_idx: int, limit: int) -> list[int]:
    """Walking back from `frame_idx` - 1: the first `limit` frames that hold any mask, ascending."""
    walk = (t for t in range(frame_idx - 1, -1, -1) if masklets.holds(t))
    return sorted(islice(walk, limit))


def frames_after(masklets: MaskletSet, frame_idx: int, last_frame: int, limit: int) -> list[int]:
    """The first `limit` frames after `frame_idx` that hold any mask, ascending."""
    walk = (t for t in range(frame_idx + 1, last_frame + 1) if masklets.holds(t))
    return list(islice(walk, limit))


def frames_around(masklets: MaskletSet, frame_idx: int, last_frame: int, limit: int) -> list[int]:
    """The `limit` frames that hold any mask and are nearest to `frame_idx`, which itself is left
    out, ascending; of two equally near ones the lower index is nearer."""
    distances = range(1, max(frame_idx, last_frame - frame_idx) + 1)
    walk = (t for distance in distances for t in (frame_idx - distance, frame_idx + distance))
    return sorted(islice((t for t in walk if masklets.holds(t)), limit))


class Pass(ABC):
    """One pass over the frames 0 .. `last_frame`."""

    stage: Stage

    def __init__(
        self,
        masklets: MaskletSet,
        tracker: Tracker,
        config: RefineConfig,
        last_frame: int,
        state: PassState | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.masklets = masklets
        self.state = state or PassState()
        self._tracker = tracker
        self._config = config
        self._last_frame = last_frame
        self._guard = guard
        self._live: Iterator[TrackedFrame] | None = None
        self._steps_replayed = 0
        self._snapshot: Snapshot | None = None

    @property
    @abstractmethod
    def frames(self) -> range:
        """The frames of this pass in the order in which it works on them."""

    @property
    def finished(self) -> bool:
        return self.state.frames_done >= len(self.frames)

    def step(self) -> int:
        """Work on the next frame; returns its index."""
        frame_idx = self.frames[self.state.frames_done]
        self._process(frame_idx)
        self.state.frames_done += 1
        return frame_idx

    def snapshot(self) -> Snapshot | None:
        """What the running propagation goes by; None if none is running, or the tracker has no such
        thing."""
        return None

    def use_snapshot(self, snapshot: Snapshot | None) -> None:
        """Let a fresh tracker begin with a snapshot of an earlier process, if it fits."""
        self._snapshot = snapshot

    def take_replayed(self) -> int:
        """How many steps of a propagation were repeated since the last call, to bring a fresh
        tracker to where it was."""
        steps, self._steps_replayed = self._steps_replayed, 0
        return steps

    def close(self) -> None:
        """End the propagation that is running, if any."""
        close = getattr(self._live, "close", None)
        if close is not None:
            close()
        self._live = None

    @abstractmethod
    def _process(self, frame_idx: int) -> None: ...

    @abstractmethod
    def _conditioning_frames(self, frame_idx: int) -> list[int]:
        """The frames to condition on when the tracker is (re)started at `frame_idx`, ascending."""

    def _start(self, frame_idx: int) -> bool:
        """Condition the tracker anew and begin to propagate at `frame_idx`.

        Returns:
            False, with the tracker untouched, if there is nothing to condition on.
        """
        conditioning = self._conditioning_frames(frame_idx)
        if not conditioning:
            return False
        self._condition(conditioning)
        self._live = self._tracker.propagate(frame_idx, reverse=self._is_reverse)
        return True

    @property
    def _is_reverse(self) -> bool:
        return self.stage is Stage.BACKWARD

    def _condition(self, frames: list[int]) -> None:
        """Let the tracker know what these frames hold, and nothing else."""
        self.close()
        self._tracker.forget()
        for frame_idx in frames:
            for object_id, mask in self.masklets.at_frame(frame_idx).items():
                self._tracker.condition(frame_idx, object_id, mask)

    def _held(self, frame_idx: int) -> dict[int, BitMask]:
        """object_id -> what is stored on a frame."""
        found = self.masklets.at_frame(frame_idx)
        return {object_id: bits.decode(mask) for object_id, mask in found.items()}

    def _take(self, frame_idx: int, held: Mapping[int, BitMask]) -> dict[int, BitMask]:
        """object_id -> mask of the next frame of the running propagation, as far as it counts.

        An empty mask says that the object is not there; from here on it is as if the tracker had
        not named the object at all. The guard, if there is one, believes what it believes in the
        light of what is `held` there already.
        """
        assert self._live is not None
        tracked = next(self._live, None)
        if tracked is None or tracked.frame_idx != frame_idx:
            reached = "ended" if tracked is None else f"reached frame {tracked.frame_idx}"
            raise RuntimeError(f"the tracker {reached} where frame {frame_idx} was due")
        found = {}
        for tracked_object in tracked.objects:
            if not tracked_object.mask.any():
                continue
            object_id, mask = tracked_object.object_id, self._without_holes(tracked_object.mask)
            believed = self._believed(frame_idx, object_id, mask, held.get(object_id))
            if believed is not None:
                found[object_id] = believed
        return found

    def _without_holes(self, mask: BitMask) -> BitMask:
        area = self._config.fill_hole_area
        return mask if area == 0 else bits.pack(masks.fill_holes(bits.unpack(mask), area))

    def _believed(
        self, frame_idx: int, object_id: int, mask: BitMask, held: BitMask | None
    ) -> BitMask | None:
        """What the guard believes of a mask tracked to a frame; None: nothing."""
        if self._guard is None:
            return mask
        believed, reason = self._guard.believed(frame_idx, mask, held)
        if reason is not None:
            self.state.doubts.append(Doubt(frame_idx, object_id, reason, "passes"))
        return believed

    def _unite(
        self, frame_idx: int, held: Mapping[int, BitMask], found: Mapping[int, BitMask]
    ) -> dict[int, BitMask]:
        """Store on a frame what was found beside what is held: object_id -> mask of all of it."""
        united = dict(held)
        for object_id, mask in found.items():
            before = held.get(object_id)
            united[object_id] = mask if before is None else mask | before
            if united[object_id] != before:
                self.masklets.set(frame_idx, object_id, bits.encode(united[object_id]))
        return united

    def _merge(self, found: Mapping[int, BitMask]) -> bool:
        """Merge the duplicates among one frame's masks on all frames; True if there were any."""
        groups = duplicate_groups(found, self._config.merge_iou)
        self.masklets.merge(groups)
        self.state.counts.merged_objects += sum(len(group) - 1 for group in groups)
        return bool(groups)


class _ContinuousPass(Pass):
    """A pass that takes frame after frame from one propagation until it has to be restarted."""

    def _reach(self, frame_idx: int, held: Mapping[int, BitMask]) -> dict[int, BitMask] | None:
        """object_id -> mask propagated to `frame_idx`, as far as it counts beside what is `held`
        there; None if there is nothing to condition on."""
        if self.state.must_restart:
            if not self._start(frame_idx):
                return None
            self.state.must_restart = False
            self.state.started_at = frame_idx
            self.state.counts.restarts += 1
        elif self._live is None:
            self._replay(frame_idx)
        return self._take(frame_idx, held)

    def snapshot(self) -> Snapshot | None:
        if self._live is None or not isinstance(self._tracker, ResumableTracker):
            return None
        content = self._tracker.snapshot()
        if content is None:
            return None
        state = self.state
        return Snapshot(self.stage, state.counts.restarts, state.frames_done, content)

    def _replay(self, frame_idx: int) -> None:
        """Bring a fresh tracker to where the state says it was, just before `frame_idx`.

        The conditioning is the same as then: masks on the conditioning frames change only when
        objects merge, and a merge restarts the propagation anyway.
        """
        assert self.state.started_at is not None
        steps = self._resume()
        if steps is None:
            self._start(self.state.started_at)
            steps = abs(frame_idx - self.state.started_at)
        for _ in range(steps):
            next(self._live or iter(()))
            self._steps_replayed += 1

    def _resume(self) -> int | None:
        """Begin with the snapshot: how many frames ago it was taken; None if it does not fit."""
        snapshot, state, tracker = self._snapshot, self.state, self._tracker
        if snapshot is None or not isinstance(tracker, ResumableTracker):
            return None
        is_ours = (snapshot.stage, snapshot.restarts) == (self.stage, state.counts.restarts)
        if not is_ours or snapshot.frames_done > state.frames_done or state.started_at is None:
            return None
        self._condition(self._conditioning_frames(state.started_at))
        try:
            self._live = tracker.resume(snapshot.content, reverse=self._is_reverse)
        except ValueError:
            return None
        return state.frames_done - snapshot.frames_done


class ForwardPass(_ContinuousPass):
    """Finds the seed frame, then follows the objects and picks up new ones, t = 0 .. last.

    Proposals of one frame become separate objects, on the seed frame too: the generator's box NMS
    has already removed duplicates among them, and any it missed merge on the next frame, where
    the tracker says whether they are one.
    """

    stage = Stage.FORWARD

    def __init__(
        self,
        masklets: MaskletSet,
        tracker: Tracker,
        config: RefineConfig,
        last_frame: int,
        search: ProposalSearch,
        state: PassState | None = None,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(masklets, tracker, config, last_frame, state, guard)
        self._search = search

    @property
    def frames(self) -> range:
        return range(self._last_frame + 1)

    def _conditioning_frames(self, frame_idx: int) -> list[int]:
        return frames_before(self.masklets, frame_idx, self._config.max_conditioning_frames)

    def _process(self, frame_idx: int) -> None:
        if len(self.masklets) == 0:
            self._add(frame_idx, self._search.before_seed(frame_idx))
            return
        held = self._held(frame_idx)
        found = self._reach(frame_idx, held)
        assert found is not None, "the seed frame, at least, holds masks"
        self._unite(frame_idx, held, found)
        if self._merge(found):
            self.state.must_restart = True
        self._add(frame_idx, self._search.beside(frame_idx, self.masklets.at_frame(frame_idx)))

    def _add(self, frame_idx: int, proposals: list[Rle]) -> None:
        for mask in proposals:
            self.masklets.add(frame_idx, mask)
            self.state.must_restart = True
        self.state.counts.new_objects += len(proposals)


class BackwardPass(_ContinuousPass):
    """Follows the objects back in time, t = last-1 .. 0: also to before the seed frame."""

    stage = Stage.BACKWARD

    @property
    def frames(self) -> range:
        return range(self._last_frame - 1, -1, -1)

    def _conditioning_frames(self, frame_idx: int) -> list[int]:
        limit = self._config.max_conditioning_frames
        return frames_after(self.masklets, frame_idx, self._last_frame, limit)

    def _process(self, frame_idx: int) -> None:
        held = self._held(frame_idx)
        found = self._reach(frame_idx, held)
        if found is None:
            return
        # An object that the forward pass put here and that did not come from behind, be it that
        # the tracker was not conditioned on it or that it lost it (an empty mask), has to be
        # conditioned on to be followed further back.
        if held.keys() - found.keys():
            self.state.must_restart = True
        if self._merge(self._unite(frame_idx, held, found)):
            self.state.must_restart = True


class FinalPass(Pass):
    """Looks at every frame once more from its neighbours on both sides, t = 0 .. last.

    In place: later frames are conditioned on what earlier ones have become.
    """

    stage = Stage.FINAL

    @property
    def frames(self) -> range:
        return range(self._last_frame + 1)

    def _conditioning_frames(self, frame_idx: int) -> list[int]:
        limit = self._config.max_conditioning_frames
        return frames_around(self.masklets, frame_idx, self._last_frame, limit)

    def _process(self, frame_idx: int) -> None:
        if not self._start(frame_idx):
            return
        self.state.counts.restarts += 1
        held = self._held(frame_idx)
        found = self._take(frame_idx, held)
        self.close()
        self._merge(self._unite(frame_idx, held, found))
