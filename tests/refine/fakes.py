"""Drawn scenes, and a tracker and a proposer that know (or misjudge) what is on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t3dgs_masks import bits, masks
from t3dgs_masks.refine import Guard, Ordering, Stage
from t3dgs_masks.refine.evidence import residual_levels
from t3dgs_masks.refine.prompts_at_hand import PromptsAtHand
from t3dgs_masks.types import (
    BoolMask,
    FloatMap,
    FramePrompt,
    Proposal,
    Rle,
    TrackedFrame,
    TrackedObject,
)

HEIGHT, WIDTH = 40, 60

Call = tuple[object, ...]


def box(top: int, left: int, bottom: int, right: int) -> BoolMask:
    """[HEIGHT, WIDTH] bool, True in rows top..bottom-1 and columns left..right-1."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


NOTHING = box(0, 0, 0, 0)
# Far enough apart that none lies in the margin of 10 pixels around another.
LEFT = box(2, 2, 12, 12)
RIGHT = box(2, 45, 12, 55)
BOTTOM = box(26, 24, 36, 34)


def residual(transient: BoolMask, level: float = 0.4, seed: int = 0) -> FloatMap:
    """Noise up to 0.05 everywhere, and `level` more where something is transient."""
    noise = np.random.default_rng(seed).uniform(0, 0.05, (HEIGHT, WIDTH))
    return (noise + level * transient).astype(np.float32)


class ArrayPrompts:
    """Prompts from arrays; counts how often each frame is read."""

    def __init__(
        self, coarse: Sequence[BoolMask], residuals: Sequence[FloatMap | None] | None = None
    ) -> None:
        self.coarse = list(coarse)
        self.residuals = list(residuals) if residuals is not None else [None] * len(self.coarse)
        self.reads: list[int] = []

    @property
    def has_residuals(self) -> bool:
        return any(residual is not None for residual in self.residuals)

    def __getitem__(self, frame_idx: int) -> FramePrompt:
        self.reads.append(frame_idx)
        return FramePrompt(self.coarse[frame_idx], self.residuals[frame_idx])


class CallLog:
    """An observer that writes the stages between the tracker's calls."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.frames: list[tuple[Stage, int, int]] = []
        self.events: list[tuple[str, Stage]] = []
        self.notices: list[str] = []

    def stage_started(self, stage: Stage, num_frames: int) -> None:
        self.calls.append((stage,))
        self.events.append(("started", stage))

    def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None:
        self.frames.append((stage, frame_idx, num_objects))

    def stage_finished(self, stage: Stage) -> None:
        self.events.append(("finished", stage))

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def during(self, stage: Stage) -> list[Call]:
        """The tracker's calls of one stage."""
        begin = self.calls.index((stage,)) + 1
        ends = [i for i in range(begin, len(self.calls)) if isinstance(self.calls[i][0], Stage)]
        return self.calls[begin : ends[0] if ends else len(self.calls)]


class FakeTracker:
    """Records its calls; what it sees is up to `_look`."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self.calls: list[Call] = []
        self.given: dict[int, dict[int, BoolMask]] = {}  # object_id -> frame_idx -> mask
        self.live_generators = 0

    def forget(self) -> None:
        self.calls.append(("forget",))
        self.given = {}

    def condition(self, frame_idx: int, object_id: int, mask: Rle) -> None:
        self.calls.append(("condition", frame_idx, object_id))
        self.given.setdefault(object_id, {})[frame_idx] = masks.decode(mask)

    def propagate(self, start_frame_idx: int, *, reverse: bool = False) -> Iterator[TrackedFrame]:
        self.calls.append(("propagate", start_frame_idx, "reverse" if reverse else "forward"))
        end, step = (-1, -1) if reverse else (self.num_frames, 1)
        return self._walk(range(start_frame_idx, end, step))

    def _walk(self, frames: range) -> Iterator[TrackedFrame]:
        given = self.given
        self.live_generators += 1
        try:
            for frame_idx in frames:
                self.calls.append(("take", frame_idx))
                found = []
                for object_id in sorted(given):
                    mask = self._look(frame_idx, object_id, given[object_id], frames)
                    score = 1.0 if mask.any() else -1.0
                    found.append(TrackedObject(object_id, bits.pack(mask), score))
                yield TrackedFrame(frame_idx, tuple(found))
        finally:
            self.live_generators -= 1

    def _look(
        self, frame_idx: int, object_id: int, given: dict[int, BoolMask], frames: range
    ) -> BoolMask:
        raise NotImplementedError


class StillTracker(FakeTracker):
    """Every object stays where it is on the nearest conditioning frame, except as `overrides`
    (direction, frame_idx, object_id) -> mask says."""

    def __init__(
        self, num_frames: int, overrides: dict[tuple[str, int, int], BoolMask] | None = None
    ) -> None:
        super().__init__(num_frames)
        self.overrides = overrides or {}

    def _look(
        self, frame_idx: int, object_id: int, given: dict[int, BoolMask], frames: range
    ) -> BoolMask:
        direction = "reverse" if frames.step < 0 else "forward"
        nearest = min(given, key=lambda t: (abs(t - frame_idx), t))
        return self.overrides.get((direction, frame_idx, object_id), given[nearest])


@dataclass(frozen=True)
class Scene:
    """Objects that move, come and go."""

    objects: NDArray[np.bool_]  # [T, K, HEIGHT, WIDTH], True = object; all False = not there
    prompts: ArrayPrompts

    @property
    def num_frames(self) -> int:
        return len(self.objects)


class TrueTracker(FakeTracker):
    """Recognises the true object in what it is conditioned on and knows where that is."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.num_frames)
        self._objects = scene.objects

    def _true_object(self, given: dict[int, BoolMask]) -> int:
        overlaps = np.zeros(self._objects.shape[1])
        for frame_idx, mask in given.items():
            overlaps += [masks.iou(mask, other) for other in self._objects[frame_idx]]
        return int(np.argmax(overlaps))

    def _look(
        self, frame_idx: int, object_id: int, given: dict[int, BoolMask], frames: range
    ) -> BoolMask:
        return self._objects[frame_idx, self._true_object(given)]


class MoodyTracker(TrueTracker):
    """As the true one, but every answer depends on all that it was given and on where it was
    started: masks drift, are lost, or turn into their neighbour."""

    def _look(
        self, frame_idx: int, object_id: int, given: dict[int, BoolMask], frames: range
    ) -> BoolMask:
        true_object = self._true_object(given)
        mood = sum(given) + sum(int(mask.sum()) for mask in given.values())
        mood += 3 * abs(frame_idx - frames.start) + frames.start
        if mood % 11 == 0:
            return np.zeros((HEIGHT, WIDTH), dtype=bool)
        if mood % 13 == 0:
            true_object = (true_object + 1) % self._objects.shape[1]
        seen = self._objects[frame_idx, true_object]
        if mood % 7 == 0:
            seen = next(iter(given.values()))
        return np.roll(seen, mood % 3 - 1, axis=1)


class ScriptedProposer:
    """The same masks whatever the points are; records its calls."""

    def __init__(self, script: dict[int, list[BoolMask]]) -> None:
        self.script = script
        self.calls: list[tuple[int, NDArray[np.float32]]] = []

    def propose(self, frame_idx: int, points_xy: NDArray[np.float32]) -> list[Proposal]:
        self.calls.append((frame_idx, points_xy))
        return [Proposal(m, 0.95, 0.97, (0.0, 0.0)) for m in self.script.get(frame_idx, [])]

    @property
    def frames(self) -> list[int]:
        return [frame_idx for frame_idx, _ in self.calls]


class TrueProposer:
    """The true object under each point, every object once."""

    def __init__(self, scene: Scene) -> None:
        self._objects = scene.objects

    def propose(self, frame_idx: int, points_xy: NDArray[np.float32]) -> list[Proposal]:
        found: dict[int, Proposal] = {}
        for x, y in points_xy:
            for k in np.flatnonzero(self._objects[frame_idx, :, int(y), int(x)]):
                mask = self._objects[frame_idx, k]
                found.setdefault(int(k), Proposal(mask, 0.95, 0.97, (float(x), float(y))))
        return [found[k] for k in sorted(found)]


class MessyProposer(TrueProposer):
    """Also says everything twice, slightly differently, and takes patches for objects."""

    def propose(self, frame_idx: int, points_xy: NDArray[np.float32]) -> list[Proposal]:
        found = super().propose(frame_idx, points_xy)
        again = []
        for proposal in found:
            trimmed = proposal.mask.copy()
            trimmed[np.flatnonzero(trimmed.any(axis=1))[0]] = False
            again.append(Proposal(trimmed, 0.9, 0.95, proposal.point_xy))
        x, y = (int(value) for value in points_xy[0])
        patch = box(max(y - 3, 0), max(x - 3, 0), y + 4, x + 4)
        return [*found, *again, Proposal(patch, 0.9, 0.95, (float(x), float(y)))]


def draw_scene(seed: int, *, residuals: bool = True) -> Scene:
    """Rectangles and discs that move, come and go; coarse masks with gaps, holes and mistakes."""
    rng = np.random.default_rng(seed)
    num_frames, num_objects = int(rng.integers(2, 15)), int(rng.integers(1, 5))
    objects = np.stack(
        [_draw_object(rng, num_frames) for _ in range(num_objects)], axis=1
    )  # [T, K, H, W]
    coarse = [_rough(rng, frame.any(axis=0)) for frame in objects]
    noise = rng.random((num_frames, HEIGHT, WIDTH), dtype=np.float32)
    maps = [
        (0.25 * n + 0.4 * frame.any(axis=0)).astype(np.float32) if rng.random() < 0.8 else None
        for n, frame in zip(noise, objects, strict=True)
    ]
    return Scene(objects, ArrayPrompts(coarse, maps if residuals else None))


def _draw_object(rng: np.random.Generator, num_frames: int) -> NDArray[np.bool_]:
    first = int(rng.integers(0, num_frames))
    last = int(rng.integers(first, num_frames))
    centre = rng.uniform((6, 6), (HEIGHT - 6, WIDTH - 6))
    velocity = rng.uniform(-3, 3, size=2)
    radius = rng.uniform(3, 8)
    is_disc = bool(rng.random() < 0.5)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    drawn = np.zeros((num_frames, HEIGHT, WIDTH), dtype=bool)
    for t in range(first, last + 1):
        dy, dx = np.abs(y - centre[0]), np.abs(x - centre[1])
        drawn[t] = np.hypot(dy, dx) <= radius if is_disc else np.maximum(dy, dx) <= radius
        centre = centre + velocity
    return drawn


def _rough(rng: np.random.Generator, transient: BoolMask) -> BoolMask:
    if rng.random() < 0.2:
        return np.zeros_like(transient)  # a missed frame
    rough = np.roll(transient, int(rng.integers(-1, 2)), axis=0)
    top, left = int(rng.integers(0, HEIGHT - 5)), int(rng.integers(0, WIDTH - 5))
    if rng.random() < 0.3:
        rough[top : top + 5, left : left + 5] = True  # a mistake
    return rough & (rng.random(rough.shape) > 0.05)  # holes


VIDEO = Ordering(True, "a video")
PHOTOS = Ordering(False, "photos")


def drawn_prompts(
    coarse: Sequence[BoolMask], transient: Sequence[BoolMask] | None = None
) -> ArrayPrompts:
    """Prompts whose residuals show what is `transient` (None: no residuals)."""
    residuals = (
        None if transient is None else [residual(m, seed=t) for t, m in enumerate(transient)]
    )
    return ArrayPrompts(coarse, residuals)


def guard(
    coarse: Sequence[BoolMask],
    transient: Sequence[BoolMask] | None = None,
    ordering: Ordering = VIDEO,
) -> Guard:
    """A guard over frames whose residuals show what is `transient` (None: no residuals)."""
    return guard_of(drawn_prompts(coarse, transient), ordering)


def guard_of(prompts: ArrayPrompts, ordering: Ordering = VIDEO) -> Guard:
    num_frames = len(prompts.coarse)
    at_hand = PromptsAtHand(prompts, num_frames)
    return Guard(at_hand, residual_levels(prompts, num_frames), ordering)
