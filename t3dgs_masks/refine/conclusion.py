"""From the objects that the passes found to a result: the filter, and the guard's last two rules.

What is decided needs all frames, but what has to be known of a frame depends on its prompt and its
masks alone. It is looked up once and remembered by the masks, so a frame may be looked at as soon
as the last pass has left it, beside the network. If its masks change after that (objects merge),
it is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock

import numpy as np

from t3dgs_masks import masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.refine.evidence import FrameEvidence, ResidualLevels
from t3dgs_masks.refine.guard import Doubt, Guard
from t3dgs_masks.refine.masklets import MaskletSet
from t3dgs_masks.refine.scoring import MaskFigures, TransienceScorer, Verdict, judge, keep_all
from t3dgs_masks.refine.settling import (
    COARSE_REASON,
    LINGERS,
    FallBack,
    GuardOutcome,
    LeftOut,
    Remainder,
    ResidualCounts,
    Rest,
    decide_fall_back,
    lingering_frames,
)
from t3dgs_masks.types import FramePrompt, PromptSource, Rle


@dataclass(frozen=True)
class FrameResult:
    """One frame of a result, object by object. Equal ones look the same in every output."""

    kept: Mapping[int, Rle]  # object_id -> mask, True = object
    rejected: Mapping[int, Rle]

    @property
    def objects(self) -> dict[int, Rle]:
        """Kept and rejected ones, in ascending order of id."""
        both = {**self.kept, **self.rejected}
        return {object_id: both[object_id] for object_id in sorted(both)}

    def transient(self, height: int, width: int) -> TransientMask:
        """Union of the kept objects; all False where there are none."""
        if not self.kept:
            return TransientMask(np.zeros((height, width), dtype=bool))
        return TransientMask(masks.decode(masks.union(list(self.kept.values()))))


@dataclass(frozen=True)
class Concluded:
    """What became of the objects."""

    filtered: tuple[Verdict, ...]
    """The filter's verdicts, one per object, in ascending order of id."""
    verdicts: tuple[Verdict, ...]
    """Those that hold: after the guard, and with one for the object that holds what fell back to
    the coarse masks."""
    guard: GuardOutcome | None
    """None: there is no guard."""


@dataclass(frozen=True)
class _MaskLook:
    """What is remembered of one mask on its frame."""

    figures: MaskFigures
    rest: Rest  # without a guard: all of it


class Conclusion:
    """Looks at frames, and comes to a result when all are there.

    `preview` may be called from other threads, several at a time, until `conclude` is.

    Args:
        masklets: the objects; `conclude` changes them.
        prompts: of the sequence; None = promptless, every object is kept.
        config: thresholds.
        num_frames: frames that the passes work on, from the first.
        guard: None: every mask is believed.
    """

    def __init__(
        self,
        masklets: MaskletSet,
        prompts: PromptSource | None,
        config: RefineConfig,
        num_frames: int,
        guard: Guard | None,
    ) -> None:
        self._masklets = masklets
        self._prompts = prompts
        self._config = config
        self._num_frames = num_frames
        self._guard = guard
        self._looks: dict[tuple[int, Rle], _MaskLook] = {}
        self._remainders: dict[int, tuple[frozenset[Rle], Remainder]] = {}
        self._so_far = _SoFar(config)
        self._lock = Lock()  # of `_so_far`

    def preview(self, frame_idx: int, found: Mapping[int, Rle]) -> FrameResult:
        """What the result will probably be on a frame that holds the masks `found` (object_id ->
        mask), going by the frames that were looked at so far."""
        if self._prompts is None:
            return FrameResult(dict(found), {})
        frame = _Frame(frame_idx, self._prompts, self._guard)
        looks = {k: self._look(frame, mask) for k, mask in found.items()}
        with self._lock:
            kept_ids = self._so_far.kept(looks)
        rests = {k: looks[k].rest for k in kept_ids}
        kept = {k: rest.rle for k, rest in rests.items() if rest.rle is not None}
        if self._guard is not None:
            remainder = self._remainder(frame, frozenset(kept.values()))
            with self._lock:
                of_kept = [rests[k] for k in kept]
                decided = self._so_far.fall_back(self._guard.levels, of_kept, remainder)
            fallen = remainder.fallen_back(decided)
            if fallen:
                kept[self._masklets.next_object_id] = _united(fallen)
        return FrameResult(kept, {k: mask for k, mask in found.items() if k not in kept_ids})

    def conclude(
        self, doubts: Sequence[Doubt], frame_done: Callable[[int], None] = lambda _: None
    ) -> Concluded:
        """Judge the objects, and let the guard change them.

        Args:
            doubts: of the passes.
            frame_done: told the index of every frame.
        """
        if self._prompts is None:
            verdicts = keep_all(self._masklets)
            return Concluded(verdicts, verdicts, None)
        scorer = TransienceScorer(self._config.min_scoring_coverage)
        for frame_idx in range(self._num_frames):
            frame = _Frame(frame_idx, self._prompts, self._guard)
            for object_id, mask in self._masklets.at_frame(frame_idx).items():
                scorer.add(object_id, self._look(frame, mask).figures)
            frame_done(frame_idx)
        verdicts = judge(
            self._masklets,
            scorer,
            filter_threshold=self._config.filter_threshold,
            min_scoring_coverage=self._config.min_scoring_coverage,
        )
        if self._guard is None:
            return Concluded(verdicts, verdicts, None)
        return Concluded(verdicts, *self._settled(self._guard, verdicts, doubts))

    def _settled(
        self, guard: Guard, verdicts: Sequence[Verdict], doubts: Sequence[Doubt]
    ) -> tuple[tuple[Verdict, ...], GuardOutcome]:
        """The guard's last two rules, on the objects that passed the filter."""
        kept_ids = {verdict.object_id for verdict in verdicts if verdict.kept}
        all_doubts = [*doubts, *self._end_lives(guard, kept_ids)]
        rests: list[Rest] = []
        remainders: list[Remainder] = []
        counts = ResidualCounts()
        for frame_idx in range(self._num_frames):
            frame = _Frame(frame_idx, self._prompts, guard)
            on_frame = self._cut_back(frame, kept_ids, all_doubts)
            rests += on_frame
            remainder = self._remainder(frame, frozenset(rest.rle for rest in on_frame if rest.rle))
            remainders.append(remainder)
            counts.add(remainder)
        decided = decide_fall_back(guard.levels, rests, counts)
        coarse_id, fallen, others = self._fall_back(remainders, decided)
        settled = [
            replace(verdict, kept=False, reason=f"{verdict.reason}; believed on no frame")
            if verdict.kept and not self._masklets[verdict.object_id].segmentations
            else verdict
            for verdict in verdicts
        ]
        if coarse_id is not None:
            settled.append(Verdict(coarse_id, True, COARSE_REASON, None))
        return tuple(settled), GuardOutcome(
            ordering=guard.ordering,
            residuals=guard.levels.use,
            static_level=guard.levels.static,
            transient_level=guard.levels.transient,
            doubts=tuple(sorted(all_doubts, key=lambda d: (d.frame_idx, d.object_id))),
            coarse_object_id=coarse_id,
            coarse_components=fallen,
            found_level=decided.found_level,
            found_share=decided.found_share,
            fall_back_level=decided.level,
            left_out_components=others,
        )

    def _end_lives(self, guard: Guard, kept_ids: set[int]) -> list[Doubt]:
        """Without residuals: a video's object ends where coarse masks stop knowing of it."""
        if guard.levels.speak or not guard.ordering.ordered:
            return []
        doubts = []
        for object_id in sorted(kept_ids):
            coverages = {
                t: self._look(_Frame(t, self._prompts, guard), mask).figures.coverage
                for t, mask in self._masklets[object_id].segmentations.items()
            }
            for t in lingering_frames(coverages):
                self._masklets.remove(t, object_id)
                doubts.append(Doubt(t, object_id, LINGERS, "result"))
        return doubts

    def _cut_back(self, frame: _Frame, kept_ids: set[int], doubts: list[Doubt]) -> list[Rest]:
        """Leave of the kept objects on a frame what the second rule does: what that is, where it is
        anything. Adds to the `doubts`."""
        rests = []
        for object_id, mask in self._masklets.at_frame(frame.idx).items():
            if object_id not in kept_ids:
                continue
            rest = self._look(frame, mask).rest
            if rest.doubt is not None:
                doubts.append(Doubt(frame.idx, object_id, rest.doubt, "result"))
            if rest.rle is None:
                self._masklets.remove(frame.idx, object_id)
                continue
            self._masklets.set(frame.idx, object_id, rest.rle)
            rests.append(rest)
        return rests

    def _fall_back(
        self, remainders: Sequence[Remainder], decided: FallBack
    ) -> tuple[int | None, dict[int, int], dict[int, int]]:
        """Make an object of what falls back, so that all masks are made of objects: its id, if
        there is one; frame_idx -> number of components that did; and of those that did not."""
        coarse_id = None
        fallen, others = dict[int, int](), dict[int, int]()
        for frame_idx, remainder in enumerate(remainders):
            components = remainder.fallen_back(decided)
            if len(components) < len(remainder.left_out):
                others[frame_idx] = len(remainder.left_out) - len(components)
            if not components:
                continue
            fallen[frame_idx] = len(components)
            pixels = _united(components)
            if coarse_id is None:
                coarse_id = self._masklets.add(frame_idx, pixels)
            else:
                self._masklets.set(frame_idx, coarse_id, pixels)
        return coarse_id, fallen, others

    def _look(self, frame: _Frame, mask: Rle) -> _MaskLook:
        known = self._looks.get((frame.idx, mask))
        if known is None:
            figures = MaskFigures.of(masks.decode(mask), frame.prompt)
            rest = Rest(mask, None)
            if self._guard is not None:
                rest = Rest.of(mask, figures, self._guard, frame.evidence, frame.prompt)
            known = self._looks[frame.idx, mask] = _MaskLook(figures, rest)
        return known

    def _remainder(self, frame: _Frame, covering: frozenset[Rle]) -> Remainder:
        """Of a frame whose kept objects have these masks."""
        known = self._remainders.get(frame.idx)
        if known is None or known[0] != covering:
            remainder = Remainder.of(frame.prompt, frame.evidence, covering)
            known = self._remainders[frame.idx] = covering, remainder
        return known[1]


class _Frame:
    """What there is to know of a frame, read when it is first needed."""

    def __init__(self, idx: int, prompts: PromptSource | None, guard: Guard | None) -> None:
        self.idx = idx
        self._prompts = prompts
        self._guard = guard

    @cached_property
    def prompt(self) -> FramePrompt:
        assert self._prompts is not None
        return self._prompts[self.idx]

    @cached_property
    def evidence(self) -> FrameEvidence:
        assert self._guard is not None
        return self._guard.evidence(self.idx, self.prompt)


class _SoFar:
    """What previews have seen, and what it says. Not for several threads at once."""

    _GROWTH = 1.1
    """Medians are taken anew when so many times as many frames were seen."""

    def __init__(self, config: RefineConfig) -> None:
        self._threshold = config.filter_threshold
        self._scorer = TransienceScorer(config.min_scoring_coverage)
        self._rests: list[Rest] = []
        self._counts = ResidualCounts()
        self._num_frames = 0
        self._decided: tuple[int, FallBack] | None = None  # frames seen by then

    def kept(self, looks: Mapping[int, _MaskLook]) -> list[int]:
        """Take the masks of one frame in (object_id -> look): those of them that are kept."""
        for object_id, look in looks.items():
            self._scorer.add(object_id, look.figures)
        return [k for k in looks if self._scorer.score(k).value > self._threshold]

    def fall_back(
        self, levels: ResidualLevels, rests: Iterable[Rest], remainder: Remainder
    ) -> FallBack:
        """Take in what is left of a frame's kept masks and of its coarse mask: what falls back."""
        self._rests += rests
        self._counts.add(remainder)
        self._num_frames += 1
        if self._decided is None or self._num_frames >= self._GROWTH * self._decided[0]:
            self._decided = (
                self._num_frames,
                decide_fall_back(levels, self._rests, self._counts),
            )
        return self._decided[1]


def _united(components: Sequence[LeftOut]) -> Rle:
    return masks.union([component.pixels for component in components])
