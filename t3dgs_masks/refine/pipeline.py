"""The whole job: passes, filter, result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

from t3dgs_masks.config import RefineConfig
from t3dgs_masks.errors import UserError
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.refine.conclusion import Concluded, Conclusion, FrameResult
from t3dgs_masks.refine.evidence import residual_levels
from t3dgs_masks.refine.guard import Doubt, Guard
from t3dgs_masks.refine.masklets import MaskletSet
from t3dgs_masks.refine.observer import EarlyFrames, RefineObserver, SilentObserver, Stage
from t3dgs_masks.refine.ordering import ASSUMED_ORDERED, Ordering
from t3dgs_masks.refine.passes import (
    BackwardPass,
    FinalPass,
    ForwardPass,
    Pass,
    PassCounts,
    PassState,
)
from t3dgs_masks.refine.prompts_at_hand import FollowedPrompts, PromptsAtHand
from t3dgs_masks.refine.proposals import ProposalSearch
from t3dgs_masks.refine.resume import PASSES, NoStore, Progress, ProgressKeeper, ProgressStore
from t3dgs_masks.refine.scoring import Verdict
from t3dgs_masks.refine.settling import GuardOutcome
from t3dgs_masks.types import PromptSource, Proposer, Tracker

NOTHING_FOUND = (
    "no proposal passed the thresholds; {written}; "
    "lower --pred-iou-thresh / --stability-score-thresh{promptable}"
)
ALL_STATIC = "all frames are written as all-static"
COARSE_ALONE = "masks are the coarse masks, where those look transient"


@dataclass(frozen=True)
class RefineResult:
    """What a refine found, what of it is kept, and how it went."""

    num_frames: int
    height: int
    width: int
    masklets: MaskletSet
    """All objects after the passes, rejected ones included."""
    verdicts: tuple[Verdict, ...]
    """One per object, in ascending order of object id."""
    seconds: Mapping[Stage, float]
    """Wall time of every stage; 0 for one that was not needed."""
    counts: Mapping[Stage, PassCounts]
    """What happened in the passes; all zero for one that was not needed."""
    notices: tuple[str, ...]
    guard: GuardOutcome | None = None
    """What the guard did to the masklets; None if it was off, or the run promptless."""
    steps_replayed: int = 0
    """Propagation steps that were repeated because the refine was interrupted."""

    @cached_property
    def kept_ids(self) -> frozenset[int]:
        """Ids of the objects that make up the transient masks."""
        return frozenset(verdict.object_id for verdict in self.verdicts if verdict.kept)

    def frame(self, frame_idx: int) -> FrameResult:
        """One frame, object by object; nothing where the passes did not work on it."""
        if not 0 <= frame_idx < self.num_frames:
            raise IndexError(f"frame {frame_idx} of {self.num_frames}")
        found = self.masklets.at_frame(frame_idx)
        return FrameResult(
            kept={k: mask for k, mask in found.items() if k in self.kept_ids},
            rejected={k: mask for k, mask in found.items() if k not in self.kept_ids},
        )

    def transient(self, frame_idx: int) -> TransientMask:
        """Union of the kept objects on one frame; all False where there are none."""
        return self.frame(frame_idx).transient(self.height, self.width)


@dataclass
class _Log:
    """Times the stages, keeps the notices and passes both on to the observer."""

    observer: RefineObserver
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(Stage, 0.0))
    notices: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, stage: Stage, num_frames: int) -> Iterator[None]:
        begin = time.perf_counter()
        self.observer.stage_started(stage, num_frames)
        yield
        self.seconds[stage] = time.perf_counter() - begin
        self.observer.stage_finished(stage)

    def notice(self, text: str) -> None:
        self.notices.append(text)
        self.observer.notice(text)


def refine(
    *,
    num_frames: int,
    height: int,
    width: int,
    prompts: PromptSource | None,
    proposer: Proposer,
    tracker: Tracker,
    config: RefineConfig | None = None,
    observer: RefineObserver | None = None,
    ordering: Ordering | None = None,
    store: ProgressStore | None = None,
    early: EarlyFrames | None = None,
) -> RefineResult:
    """Find the transient objects of a sequence and follow them through it (TMR, arXiv 2412.00155).

    Args:
        num_frames: length of the sequence.
        height: of every frame, coarse mask, proposal and tracked mask, in pixels.
        width: likewise.
        prompts: coarse masks (True = transient) and residuals; None = promptless: objects are
            looked for everywhere, and all are kept.
        proposer: proposes objects on single frames.
        tracker: follows objects from frame to frame.
        config: settings; the defaults are the reference's.
        observer: told about progress and notices.
        ordering: whether the frames are a video, for the guard; None = they are.
        store: progress is saved there after every frame of every pass, and what an earlier run of
            the same settings and inputs saved there is not done again.
        early: given every frame when the last pass has left it, to make the outputs of it beside
            the network.
    """
    config = config or RefineConfig()
    _check(config, num_frames)
    log = _Log(observer or SilentObserver())
    last_frame = num_frames - 1
    if config.num_iterations is not None:
        last_frame = min(config.num_iterations, last_frame)
    keeper = ProgressKeeper(store or NoStore(), last_frame + 1, height, width)
    progress = keeper.progress
    if keeper.is_broken:
        log.observer.notice("the saved progress makes no sense: this run begins at the first frame")
    masklets = progress.masklets
    at_hand = followed = guard = None
    if prompts is not None:
        at_hand = PromptsAtHand(prompts, last_frame + 1)
        followed = FollowedPrompts(prompts, at_hand)
        if config.guard == "auto":
            levels = residual_levels(prompts, last_frame + 1)
            guard = Guard(at_hand, levels, ordering or ASSUMED_ORDERED)
    search = ProposalSearch(height, width, at_hand, proposer, config)
    conclusion = Conclusion(masklets, followed, config, last_frame + 1, guard)
    later_passes = (BackwardPass, FinalPass) if config.final_pass else (BackwardPass,)
    if progress.frames_done:
        log.observer.notice(_where(progress, [kind.stage for kind in later_passes], last_frame))

    state = progress.state_of(Stage.FORWARD)
    _run(ForwardPass(masklets, tracker, config, last_frame, search, state, guard), keeper, log)
    if len(masklets) > 0:
        for kind in later_passes:
            state = progress.state_of(kind.stage)
            current = kind(masklets, tracker, config, last_frame, state, guard)
            watch = None
            if early is not None and kind is later_passes[-1]:
                watch = _EarlyWatch(masklets, conclusion, early)
            _run(current, keeper, log, watch)
        if early is not None:
            early.finish()
    doubts = [doubt for state in progress.passes.values() for doubt in state.doubts]
    concluded = _conclude(conclusion, doubts, masklets, prompts, last_frame + 1, log)
    if not any(verdict.kept for verdict in concluded.filtered):
        outcome = concluded.guard
        fell_back = outcome is not None and outcome.coarse_object_id is not None
        log.notice(_nothing_kept(concluded.filtered, prompts is not None, fell_back))
    return RefineResult(
        num_frames=num_frames,
        height=height,
        width=width,
        masklets=masklets,
        verdicts=concluded.verdicts,
        seconds=log.seconds,
        counts={stage: progress.passes.get(stage, PassState()).counts for stage in PASSES},
        notices=tuple(log.notices),
        guard=concluded.guard,
        steps_replayed=progress.steps_replayed,
    )


def _check(config: RefineConfig, num_frames: int) -> None:
    if num_frames < 1:
        raise UserError("there are no frames to refine")
    at_least = {
        "--memory-size": (config.max_conditioning_frames, 1),
        "--start-points-per-side": (config.start_points_per_side, 1),
        "--prompt-points-per-side": (config.prompt_points_per_side, 1),
        "--num-iterations": (config.num_iterations or 0, 0),
        "--fill-hole-area": (config.fill_hole_area, 0),
        "--seed": (config.seed, 0),
    }
    for flag, (value, minimum) in at_least.items():
        if value < minimum:
            raise UserError(f"{flag} is {value}; it has to be at least {minimum}")


def _where(progress: Progress, later_passes: Sequence[Stage], last_frame: int) -> str:
    """The notice that says where an interrupted refine goes on."""
    planned = [Stage.FORWARD, *later_passes] if len(progress.masklets) else [Stage.FORWARD]
    for stage in planned:
        num_frames = last_frame if stage is Stage.BACKWARD else last_frame + 1
        done = progress.passes[stage].frames_done if stage in progress.passes else 0
        if done < num_frames:
            return f"continuing at frame {done + 1} of {num_frames} of the {stage.value} pass"
    return "continuing after the last pass"


class _EarlyWatch:
    """Hands over the frames that the last pass has left."""

    def __init__(self, masklets: MaskletSet, conclusion: Conclusion, early: EarlyFrames) -> None:
        self._masklets = masklets
        self._conclusion = conclusion
        self._early = early

    def frame_left(self, frame_idx: int) -> None:
        found = self._masklets.at_frame(frame_idx)
        self._early.frame_left(frame_idx, partial(self._conclusion.preview, frame_idx, found))


def _run(
    current: Pass, keeper: ProgressKeeper, log: _Log, watch: _EarlyWatch | None = None
) -> None:
    """Run a pass to its end, from wherever it stands."""
    stage, frames = current.stage, current.frames
    begun_at = current.state.frames_done
    if watch is not None:
        for frame_idx in frames[:begun_at]:  # by an earlier run
            watch.frame_left(frame_idx)
    if begun_at == 0 or not current.finished:
        with log.stage(stage, len(frames) - begun_at):
            keeper.begin_pass(current)
            try:
                while not current.finished:
                    frame_idx = current.step()
                    keeper.frame_done(current)
                    if watch is not None:
                        watch.frame_left(frame_idx)
                    log.observer.frame_done(stage, frame_idx, len(current.masklets))
            finally:
                current.close()
    log.seconds[stage] = keeper.progress.seconds[stage]


def _conclude(
    conclusion: Conclusion,
    doubts: Sequence[Doubt],
    masklets: MaskletSet,
    prompts: PromptSource | None,
    num_frames: int,
    log: _Log,
) -> Concluded:
    if prompts is None:
        return conclusion.conclude(doubts)
    if len(masklets) == 0:  # only the guard has anything to do
        begin = time.perf_counter()
        concluded = conclusion.conclude(doubts)
        log.seconds[Stage.FILTER] = time.perf_counter() - begin
        return concluded
    num_objects = len(masklets)
    with log.stage(Stage.FILTER, num_frames):
        concluded = conclusion.conclude(
            doubts, lambda t: log.observer.frame_done(Stage.FILTER, t, num_objects)
        )
    if not prompts.has_residuals:
        log.notice("no residuals were given: objects are judged by the coarse masks alone")
    return concluded


def _nothing_kept(verdicts: tuple[Verdict, ...], promptable: bool, fell_back: bool) -> str:
    """The notice where no object is kept, neither of none nor of some (with their verdicts)."""
    written = COARSE_ALONE if fell_back else ALL_STATIC
    if verdicts:
        return (
            f"the filter rejected every object ({len(verdicts)}); {written}; lower "
            "--filter-threshold / --lambda-val to keep more"
        )
    flags = " / --lambda-ref, or check the coarse masks" if promptable else ""
    return NOTHING_FOUND.format(written=written, promptable=flags)
