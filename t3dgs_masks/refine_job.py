"""One refine from files to files: opens the inputs, loads the networks, runs the algorithm and
publishes the result. What `t3dgs-masks refine` and the demo run.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from t3dgs_masks import __version__, masks
from t3dgs_masks.config import ProposalConfig, RefineSettings
from t3dgs_masks.datasets.manifest import Manifest
from t3dgs_masks.datasets.opening import open_input
from t3dgs_masks.errors import UserError
from t3dgs_masks.freed_memory import GivesBackMemory
from t3dgs_masks.io.frames import Selection, SourceFrames
from t3dgs_masks.io.globs import Globs
from t3dgs_masks.io.outputs import (
    PAGE,
    MaskletRecord,
    NumLabels,
    PromptReport,
    Report,
    ResultFolder,
    RunIdentity,
    StagedResult,
)
from t3dgs_masks.io.progress_file import ProgressFile
from t3dgs_masks.io.prompts import Prompts, open_prompts
from t3dgs_masks.io.threads import in_threads, one_thread_for_opencv
from t3dgs_masks.refine.observer import EarlyFrames, RefineObserver
from t3dgs_masks.refine.ordering import Ordering, judge_ordering
from t3dgs_masks.refine.pipeline import RefineResult, refine
from t3dgs_masks.refine.resume import ProgressStore
from t3dgs_masks.report.memory import peak_rss_mb
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.report.summary import ObjectSummary, RunSummary, print_summary
from t3dgs_masks.report_job import PageRecorder
from t3dgs_masks.result_writer import ResultWriter
from t3dgs_masks.run_progress import (
    RunFigures,
    drop_progress,
    open_run_progress,
    sweep_progress,
)
from t3dgs_masks.sam.checkpoints import (
    LoadedCheckpoint,
    LoadedSam1,
    LoadedSam2,
    load_sam1,
    load_sam2,
    resolve_checkpoint,
)
from t3dgs_masks.sam.compilation import compile_image_encoder
from t3dgs_masks.sam.counters import NetworkCounter
from t3dgs_masks.sam.devices import resolve_device, set_threads
from t3dgs_masks.sam.download import file_sha256
from t3dgs_masks.sam.memory import FrameFeatureCache
from t3dgs_masks.sam.official import OfficialTracker
from t3dgs_masks.sam.out_of_memory import is_out_of_memory
from t3dgs_masks.sam.proposer import Sam1Proposer, Sam2Proposer
from t3dgs_masks.sam.tracker import Sam2Tracker
from t3dgs_masks.settings_checks import check_refine
from t3dgs_masks.side_works import SideWorks
from t3dgs_masks.types import (
    FrameSequence,
    PromptSource,
    Proposer,
    Tracker,
)

_DEFAULT_FPS = 10.0
# Flags that change where, how fast or how talkatively a result is made, but not the masks.
_WITHOUT_EFFECT_ON_MASKS = frozenset(
    {"video_path", "result_dir", "prompt_dir", "sam2_checkpoint", "sam_checkpoint"}  # by content
    | {"include", "exclude"}  # by the frames that are left
    | {"fps", "overlay", "html_report", "threads", "feature_cache_gb", "resume", "debug"}
)


@dataclass(frozen=True)
class RefineOutcome:
    """What a run left behind; `result` is None if a finished result was kept."""

    result_dir: Path
    result: RefineResult | None
    report: Report | None


@dataclass
class _Inputs:
    """What the user gave, opened."""

    frames: SourceFrames
    manifest: Manifest | None
    """Where the frames came from, if they are of a dataset."""
    prompts: Prompts | None
    notices: list[str]
    folders: list[Path]
    """Where all of it lies."""


@dataclass
class Networks:
    """The two networks behind the Protocols, and what counts their calls."""

    sam2: LoadedSam2
    sam1: LoadedSam1 | None
    proposer: Proposer
    tracker: Tracker
    counter: NetworkCounter = field(default_factory=NetworkCounter)

    @property
    def checkpoints(self) -> dict[str, LoadedCheckpoint]:
        loaded: dict[str, LoadedCheckpoint] = {"sam2": self.sam2}
        if self.sam1 is not None:
            loaded["sam1"] = self.sam1
        return loaded


def run_refine(
    settings: RefineSettings,
    frames: SourceFrames | None = None,
    manifest: Manifest | None = None,
    *,
    adapt_networks: Callable[[Networks], None] | None = None,
) -> RefineOutcome:
    """Run one refine and print its summary.

    Args:
        settings: what to do.
        frames: refine these instead of opening `settings.video_path` (whose selection and
            `resolution` then do not apply).
        manifest: where those `frames` came from, in their order; it becomes part of the result.
        adapt_networks: may wrap proposer and tracker before they are used (for measurements).

    Raises:
        UserError: bad inputs or settings; nothing is written then.
    """
    begin = time.perf_counter()
    frames_given = frames is not None
    check_refine(settings)
    with RichProgress() as progress:
        inputs = _open_inputs(settings, frames, manifest, progress)
    folder = ResultFolder.open(settings.result_dir, inputs=inputs.folders)
    # Outside of the display: a checkpoint that has to be fetched comes with a bar of its own.
    identity = _identity(settings, inputs)
    if _is_done(folder, identity, settings):
        return _kept(folder, identity, settings, inputs)
    with folder.held():
        if _is_done(folder, identity, settings):  # by a run that has let go of it just now
            return _kept(folder, identity, settings, inputs)
        job = _Job(begin, settings, inputs, folder, identity, frames_given)
        outcome, summary = _make(job, adapt_networks)
        drop_progress(folder)
    print_summary(summary)
    return outcome


@dataclass(frozen=True)
class _Job:
    """One run, before the networks are there."""

    begin: float  # time.perf_counter
    settings: RefineSettings
    inputs: _Inputs
    folder: ResultFolder
    identity: RunIdentity
    frames_given: bool


def _make(
    job: _Job, adapt_networks: Callable[[Networks], None] | None
) -> tuple[RefineOutcome, RunSummary]:
    """Run the algorithm, from where an interrupted run stopped, and publish the result."""
    settings, inputs, frames = job.settings, job.inputs, job.inputs.frames
    set_threads(settings.threads)
    with (
        RichProgress() as progress,
        one_thread_for_opencv(),
        _side_works(settings, frames).in_use() as side_works,
    ):
        page = None
        if settings.html_report:
            page = PageRecorder(len(frames), frames.height, frames.width, side_works.of_page)
        store = open_run_progress(
            job.folder, job.identity, settings, (frames.height, frames.width), progress.notice
        )
        with (
            store,
            _told_how_to_go_on(store, settings),
            job.folder.begin(frames.names, frames.source_height, frames.source_width) as staged,
        ):
            with (
                _memory_advice(),
                _result_writer(settings, frames, staged, progress, side_works) as writer,
            ):
                read = frames if page is None else page.watched_frames(frames)
                networks = _load_networks(settings, read, progress)
                if adapt_networks is not None:
                    adapt_networks(networks)
                figures = RunFigures(store, networks.counter.calls, job.begin)
                observer = side_works.observer(GivesBackMemory(progress))
                result = _run_algorithm(
                    settings, inputs, networks, progress, observer, page, store, writer
                )
                writer.complete(result)
            writing = time.perf_counter()
            staged.write_masklets(_records(result))
            if page is not None:
                _fill_page(page, result, inputs, progress)
            report = _report(
                result,
                networks,
                inputs,
                figures,
                seconds={
                    **{stage.value: s for stage, s in result.seconds.items()},
                    "outputs": writer.seconds + time.perf_counter() - writing,
                },
                sources=_sources(settings, job.frames_given),
            )
            staged.write_report(report)
            if page is not None:
                html = _page(page, staged, result, report, job.identity, settings, inputs)
                staged.write_page(html)
            if inputs.manifest is not None:
                staged.write_manifest(inputs.manifest.to_json())
            staged.write_config(job.identity)
            staged.publish()
    summary = _summary(result, report, settings)
    return RefineOutcome(settings.result_dir, result, report), summary


def _side_works(settings: RefineSettings, frames: SourceFrames) -> SideWorks:
    return SideWorks.for_network(resolve_device(settings.device), frames.height, frames.width)


def _result_writer(
    settings: RefineSettings,
    frames: SourceFrames,
    staged: StagedResult,
    progress: RichProgress,
    side_works: SideWorks,
) -> ResultWriter:
    fps = _overlay_fps(settings, frames)
    return ResultWriter(staged, frames, fps, progress, side_works.of_results)


def _is_done(folder: ResultFolder, identity: RunIdentity, settings: RefineSettings) -> bool:
    return settings.resume and folder.is_complete(identity.hash)


def _kept(
    folder: ResultFolder, identity: RunIdentity, settings: RefineSettings, inputs: _Inputs
) -> RefineOutcome:
    """Leave a finished result as it is."""
    with RichProgress() as progress:
        progress.notice(
            f"{settings.result_dir} already holds the result of these settings and inputs; "
            "--no-resume makes it again"
        )
    sweep_progress(folder, identity, settings)
    if inputs.manifest is not None:
        folder.refresh_manifest(inputs.manifest.to_json())
    return RefineOutcome(settings.result_dir, None, None)


@contextmanager
def _told_how_to_go_on(store: ProgressFile, settings: RefineSettings) -> Iterator[None]:
    """Ctrl-C says what it has cost: nothing."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if store.document() is not None:
            same = "the same command" if settings.resume else "the same command, now with --resume,"
            stop.args = (f"{same} goes on where this run stopped",)
        raise


# --- before the networks run ----------------------------------------------------------------------


def _open_inputs(
    settings: RefineSettings,
    frames: SourceFrames | None,
    manifest: Manifest | None,
    progress: RichProgress,
) -> _Inputs:
    notices: list[str] = []
    folders: list[Path] = []

    def notify(text: str) -> None:
        notices.append(text)
        progress.notice(text)

    if frames is None:
        opened = open_input(
            settings.video_path,
            selection=Selection(settings.every, settings.start, settings.end),
            globs=Globs(settings.include, settings.exclude),
            resolution=settings.resolution,
            notify=notify,
        )
        frames = opened.frames
        manifest = opened.manifest if opened.leads_back else None
        folders += opened.inputs
    prompts = None
    if settings.prompt_dir is not None:
        prompts = open_prompts(
            settings.prompt_dir, frames, polarity=settings.prompt_polarity, notify=notify
        )
        folders.append(settings.prompt_dir)
    return _Inputs(frames, manifest, prompts, notices, folders)


def _identity(settings: RefineSettings, inputs: _Inputs) -> RunIdentity:
    """All that the masks depend on; checkpoints are fetched here if they have to be."""
    digests = {"frames": inputs.frames.content_digest()}
    relevant = {
        name: value
        for name, value in asdict(settings).items()
        if name not in _WITHOUT_EFFECT_ON_MASKS
    }
    if inputs.prompts is not None:
        digests["prompts"] = inputs.prompts.content_digest()
        relevant["prompt_polarity"] = inputs.prompts.polarity
    checkpoints = {"sam2": file_sha256(resolve_checkpoint(settings.sam2_checkpoint, "sam2"))}
    if _uses_sam1(settings):
        assert settings.sam_checkpoint is not None  # check_refine
        checkpoints["sam1"] = file_sha256(resolve_checkpoint(settings.sam_checkpoint, "sam1"))
    return RunIdentity(settings=relevant, inputs=digests, checkpoints=checkpoints)


def _uses_sam1(settings: RefineSettings) -> bool:
    if settings.proposer == "auto":
        return settings.sam_checkpoint is not None
    return settings.proposer == "sam1"


# --- the networks ---------------------------------------------------------------------------------


def _load_networks(
    settings: RefineSettings, frames: FrameSequence, progress: RichProgress
) -> Networks:
    sam1 = None
    with progress.stage("loading networks"):
        sam2 = load_sam2(
            settings.sam2_checkpoint,
            settings.sam2_config,
            settings.device,
            precision=settings.precision,
        )
        if _uses_sam1(settings):
            assert settings.sam_checkpoint is not None  # check_refine
            sam1 = load_sam1(settings.sam_checkpoint, settings.device, precision=settings.precision)
    if settings.compile:
        with progress.stage("compiling the image encoder"):
            failure = compile_image_encoder(sam2.model, sam2.precision)
        if failure is not None:
            progress.notice(f"--compile: the image encoder runs uncompiled, because of: {failure}")
    for loaded in (sam2, sam1):
        if loaded is not None and loaded.notice:
            progress.notice(f"checkpoint {loaded.name}: {loaded.notice}")
    if sam2.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(sam2.device)
    budget = None
    if settings.feature_cache_gb is not None:
        budget = int(settings.feature_cache_gb * 1e9)
    # What the passes come back to before the sequence turns: a frame, and those that it is
    # conditioned on, which at an end of the sequence all lie on one side.
    window = 2 * settings.algorithm.max_conditioning_frames + 1
    features = FrameFeatureCache(sam2.model, frames, sam2.precision, budget, device_frames=window)
    networks = Networks(
        sam2,
        sam1,
        _proposer(settings, sam2, sam1, features),
        _tracker(settings, sam2, features),
    )
    networks.counter.watch_sam2(sam2.model)
    if sam1 is not None:
        networks.counter.watch_sam1(sam1.model)
    return networks


def _proposer(
    settings: RefineSettings, sam2: LoadedSam2, sam1: LoadedSam1 | None, features: FrameFeatureCache
) -> Proposer:
    config = _proposal_config(settings, sam2 if sam1 is None else sam1)
    if sam1 is not None:
        return Sam1Proposer(sam1.model, features.frames, config, sam1.precision)
    return Sam2Proposer(sam2.model, features, config)


def _proposal_config(settings: RefineSettings, checkpoint: LoadedCheckpoint) -> ProposalConfig:
    """Flags win over what the checkpoint recommends, and that over the stock thresholds."""
    recommended = checkpoint.recommended or ProposalConfig()
    pred_iou, stability = settings.pred_iou_thresh, settings.stability_score_thresh
    return ProposalConfig(
        pred_iou_thresh=recommended.pred_iou_thresh if pred_iou is None else pred_iou,
        stability_score_thresh=(
            recommended.stability_score_thresh if stability is None else stability
        ),
        box_nms_thresh=settings.box_nms_thresh,
        points_per_batch=settings.points_per_batch,
        min_mask_region_area=settings.min_mask_region_area,
    )


def _tracker(settings: RefineSettings, sam2: LoadedSam2, features: FrameFeatureCache) -> Tracker:
    if settings.tracker == "official":
        return OfficialTracker(sam2.model, features.frames, sam2.precision)
    return Sam2Tracker(sam2.model, features, sam2.precision)


def _run_algorithm(
    settings: RefineSettings,
    inputs: _Inputs,
    networks: Networks,
    progress: RichProgress,
    observer: RefineObserver,
    page: PageRecorder | None,
    store: ProgressStore,
    early: EarlyFrames,
) -> RefineResult:
    frames = inputs.frames
    prompts: PromptSource | None = inputs.prompts
    if page is not None and prompts is not None:
        prompts = page.watched(prompts)
    ordering = None
    if settings.algorithm.guard == "auto":
        ordering = _judge_ordering(settings, frames, progress)
    try:
        return refine(
            num_frames=len(frames),
            height=frames.height,
            width=frames.width,
            prompts=prompts,
            proposer=networks.proposer,
            tracker=networks.tracker,
            config=settings.algorithm,
            observer=observer,
            ordering=ordering,
            store=store,
            early=early,
        )
    finally:
        networks.counter.close()


def _judge_ordering(
    settings: RefineSettings, frames: FrameSequence, progress: RichProgress
) -> Ordering:
    with progress.stage("looking at the frames"):
        ordering = judge_ordering(frames, settings.algorithm.ordered)
    if not ordering.ordered:
        progress.notice(f"the frames are photos rather than a video, because {ordering.reason}")
    return ordering


@contextmanager
def _memory_advice() -> Iterator[None]:
    """Out of device memory is something the user can do something about."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "the device ran out of memory: lower --points-per-batch, --memory-size or "
            "--resolution, take a smaller checkpoint (sam2.1-hiera-small), or use --device cpu"
        ) from error


# --- results --------------------------------------------------------------------------------------


def _fill_page(
    page: PageRecorder, result: RefineResult, inputs: _Inputs, progress: RichProgress
) -> None:
    """Show the objects of all frames to the `page`."""
    page.expect(_records(result))
    with progress.stage("drawing the report", result.num_frames) as advance:

        def add(frame_idx: int) -> None:
            found = result.frame(frame_idx).objects
            page.add_frame(frame_idx, found, inputs.frames, inputs.prompts)

        for _ in in_threads(add, range(result.num_frames)):
            advance()


def _transient_share(result: RefineResult) -> float:
    """Mean share of transient pixels, 0 to 1."""
    kept = (result.frame(t).kept.values() for t in range(result.num_frames))
    pixels = sum(masks.area(masks.union(list(rles))) for rles in kept if rles)
    return pixels / (result.num_frames * result.height * result.width)


def _page(
    page: PageRecorder,
    staged: StagedResult,
    result: RefineResult,
    report: Report,
    identity: RunIdentity,
    settings: RefineSettings,
    inputs: _Inputs,
) -> str:
    return page.html(
        staged.out,
        staged.frame_names,
        (staged.height, staged.width),
        _records(result),
        report,
        identity.settings,
        settings.fps or inputs.frames.fps,
    )


def _overlay_fps(settings: RefineSettings, frames: SourceFrames) -> float | None:
    """Of the overlay; None: there is to be none."""
    return (settings.fps or frames.fps or _DEFAULT_FPS) if settings.overlay else None


def _sources(settings: RefineSettings, frames_given: bool) -> dict[str, str]:
    """Where a later `report` finds what this run was given."""
    given = {
        "video_path": None if frames_given else settings.video_path,
        "prompt_dir": settings.prompt_dir,
    }
    return {
        name: os.path.abspath(path)  # noqa: PTH100 (follows no links)
        for name, path in given.items()
        if path is not None
    }


def _records(result: RefineResult) -> list[MaskletRecord]:
    return [
        MaskletRecord(
            object_id=verdict.object_id,
            kept=verdict.kept,
            reason=verdict.reason,
            transience_score=verdict.transience_score,
            segmentations=result.masklets[verdict.object_id].segmentations,
            doubts={} if result.guard is None else result.guard.doubts_about(verdict.object_id),
        )
        for verdict in result.verdicts
    ]


def _report(
    result: RefineResult,
    networks: Networks,
    inputs: _Inputs,
    figures: RunFigures,
    seconds: Mapping[str, float],
    sources: Mapping[str, str],
) -> Report:
    device = networks.sam2.device
    prompts = inputs.prompts
    return Report(
        num_labels=NumLabels(len(result.kept_ids), len(result.verdicts) - len(result.kept_ids)),
        running_time=figures.seconds,
        frames=result.num_frames,
        seconds=seconds,
        counts=figures.calls,
        device=f"{device} {networks.sam2.precision.name}",
        checkpoints={role: loaded.name for role, loaded in networks.checkpoints.items()},
        peak_rss_mb=peak_rss_mb(),
        peak_vram_mb=(
            torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
        ),
        versions=_versions(),
        prompts=PromptReport(
            given=prompts is not None,
            polarity=None if prompts is None else prompts.polarity,
            polarity_reason=None if prompts is None else prompts.polarity_reason,
            residuals=prompts is not None and prompts.has_residuals,
        ),
        notices=(*inputs.notices, *result.notices),
        sources=sources,
        guard={} if result.guard is None else result.guard.as_json(),
        runs=figures.runs,
        steps_replayed=result.steps_replayed,
    )


def _versions() -> dict[str, str]:
    packages: dict[str, Callable[[], str]] = {
        "t3dgs_masks": lambda: __version__,
        "python": platform.python_version,
    }
    for name in ("torch", "sam2", "segment-anything", "numpy"):
        packages[name] = lambda name=name: version(name)
    return {name: find() for name, find in packages.items()}


def _summary(result: RefineResult, report: Report, settings: RefineSettings) -> RunSummary:
    return RunSummary(
        frames=result.num_frames,
        objects=[
            ObjectSummary(v.object_id, v.kept, v.reason, v.transience_score)
            for v in result.verdicts
        ],
        transient_share=_transient_share(result),
        seconds=report.seconds,
        running_time=report.running_time,
        image_encodings_per_frame=report.image_encodings_per_frame,
        result_dir=settings.result_dir,
        page=settings.result_dir / PAGE if settings.html_report else None,
        proposer_encodings_per_frame=report.counts.proposer_image_encoder / result.num_frames,
        peak_rss_mb=report.peak_rss_mb,
        peak_vram_mb=report.peak_vram_mb,
    )
