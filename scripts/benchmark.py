"""How fast and how large a refine is, beside the official predictor and beside what is possible.

    python scripts/benchmark.py --frames 40 --objects 1 3 8 --conditioning 10
    python scripts/benchmark.py --preset memory --json memory.json

Both trackers run whole refines, from files to files, in turns, each in a process of its own, on the
same frames and prompts. A run of `official` stands between two of ours and is compared with their
mean, because machines are faster at times. `official` is `--tracker official`: the stock
video predictor, restarted, given every mask again, and encoding again, as the reference does.

What is exact and what is not: the discs on the frames are found and tracked by the real networks,
whose every call happens and counts, but what they answer is then replaced by the discs
themselves, one pixel larger with every pass. Weights may therefore be random, the number of
objects is K on every frame for both trackers, and every mask changes in every pass, which is the
worst case for a cache.

Times are wall times; CPU seconds of the process stand beside them, because they hold still when
something else runs on the machine.

The floor is the sum of the network calls that nobody could leave out, each at its own time in the
same run (the median of its calls of that shape): every image once; one memory attention and one
mask decoder call per frame and pass for all objects together; one memory per frame passed, again
for all objects together; one memory for every different mask that the tracker was conditioned
on, and one object pointer (a mask decoder call) for those that it was conditioned on from the
past, the only ones that SAM2 reads. Pixels, files, prompts and everything else count as zero.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, overload

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from omegaconf import OmegaConf
from pretended_cuda import pretended_cuda
from torch import Tensor, nn

from t3dgs_masks import bits
from t3dgs_masks.config import RefineConfig, RefineSettings
from t3dgs_masks.io.outputs import OVERLAY, PAGE
from t3dgs_masks.io.side_work import InPauses
from t3dgs_masks.openmp import let_threads_rest
from t3dgs_masks.refine_job import Networks, run_refine
from t3dgs_masks.sam.checkpoints import load_sam2
from t3dgs_masks.sam.model_configs import build_predictor, find_config, parse_model_section
from t3dgs_masks.types import (
    BitMask,
    BoolMask,
    Proposal,
    Proposer,
    Rle,
    TrackedFrame,
    TrackedObject,
    Tracker,
)

TrackerName = Literal["sam2", "official"]

PRESETS = Path(__file__).parent.parent / "configs"
_MIB = 2**20


@dataclass(frozen=True)
class Benchmark:
    """Measure refines of generated frames."""

    frames: tuple[int, ...] = (40,)
    """N, how many frames; several lengths also tell how memory grows with them."""
    objects: tuple[int, ...] = (3,)
    """K, how many objects."""
    conditioning: int = 10
    """M, how many frames the tracker is conditioned on (`--memory-size`)."""
    size: str = "256"
    """Frame size in pixels: S for squares, or WIDTHxHEIGHT."""
    model: str = "sam2.1_hiera_t"
    """A SAM2 configuration, which gets random weights, or a checkpoint (tiny-synthetic)."""
    network_size: int | None = 256
    """Side of the square that the network sees; only with random weights."""
    trackers: tuple[TrackerName, ...] = ("sam2", "official")
    """What to compare."""
    official_up_to: int | None = None
    """Run the official predictor for up to so many objects only: its time grows with them."""
    compile: bool = False
    """See `t3dgs-masks refine --help`; its time counts."""
    repeats: int = 1
    """Runs of each, in turns; the median counts."""
    cache_frames: int | None = None
    """Only so many frames' features fit into the cache. Default: what `refine` does by itself."""
    overlay: bool = True
    """Write overlay.mp4."""
    html_report: bool = True
    """Write report.html."""
    bare: bool = False
    """Also run ours without overlay.mp4 and report.html, in turns: what the two cost."""
    count_tensors: bool = False
    """Tell how much tensors hold. Takes seconds."""
    device: str = "auto"
    """auto, cuda, cuda:<number>, mps or cpu."""
    pretend_cuda: bool = False
    """Without a GPU: let the CPU play one (`pretended_cuda`), and tell what it would hold and how
    often it would be waited for. Times mean nothing then."""
    threads: int | None = None
    """CPU threads. Default: all cores."""
    preset: str | None = None
    """Settings from configs/benchmark_<preset>.yaml, or from a file; flags win over them."""
    json: Path | None = None
    """Write the rows to this file too."""


@dataclass(frozen=True)
class Case:
    """One refine."""

    tracker: TrackerName
    frames: int
    objects: int
    bare: bool = False
    """Without overlay.mp4 and report.html; it is no row of its own."""


@dataclass(frozen=True)
class Row:
    """What one case took; times in seconds, memory in MiB."""

    tracker: TrackerName
    frames: int
    objects: int
    conditioning: int
    size: str
    model: str
    image_encodings_per_frame: float
    memory_encodings_per_frame: float
    memory_attentions_per_frame: float
    mask_decodings_per_frame: float
    seconds: float
    """From the settings to the published result; imports not counted."""
    cpu_seconds: float
    """Of all threads of the process, likewise."""
    stage_seconds: dict[str, float]
    floor_seconds: float
    """At the unit times of `sam2`, if it was run."""
    floor_cpu_seconds: float
    over_floor: float
    """`seconds` over the floor."""
    cpu_over_floor: float
    official_over_this: float | None
    """How many times as long the official predictor took."""
    official_cpu_over_this: float | None
    peak_rss_mb: float
    rss_growth_mb_per_frame: float
    """From the first twenty frames (or half of them) to the last step of the last pass."""
    peak_rss_growth_mb_per_frame: float | None
    """Of the peak, between the shortest and the longest sequence; None if there is but one."""
    tensor_mb: float | None
    """The most that tensors held (on a CUDA device: there), looked at about twice a pass; None if
    they were not counted."""
    tensor_growth_mb_per_frame: float | None
    """Of that, between the shortest and the longest sequence; None if there is but one."""
    peak_vram_mb: float | None
    peak_vram_growth_mb_per_frame: float | None
    """Likewise."""
    device_operations_per_frame: float | None
    """That would be started on the device, once networks are loaded; None if no device was
    pretended."""
    waits_per_frame: float | None
    """How often host and device would wait for each other, likewise."""
    bytes_written_per_frame: float
    """All of it: masks, progress, page and video, and whatever lies there for a while only."""
    shown_bytes_per_frame: float
    """Of page and video alone, which the reference does not make."""
    reference_bytes_per_frame: int
    """What the reference writes: every object of every frame as float32."""
    reference_bytes_over_this: float
    """How many times all that is written here."""
    reference_bytes_over_same: float
    """How many times the bytes that it takes us to write the same, and to resume: all but page and
    video."""
    waited_share: float
    """Of the whole time: in which the network stood still, or was done, while masks, page and video
    were made. What these take from it where they are made beside it is not in there."""
    waited_share_bare: float | None
    """Likewise, without page and video; None if that was not tried. What is left are the masks, and
    what it takes to know which objects they are made of."""
    page_and_video_share: float | None
    """Of `seconds`: what went when they were left out, between runs, whose own ups and downs are
    several per cent; None if that was not tried."""
    unit_cpu_seconds: dict[str, float] = field(default_factory=dict)


# --- the scene ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Discs:
    """K discs that sway, each in its own cell of a grid, so that they never touch."""

    num_objects: int
    height: int
    width: int

    @property
    def radius(self) -> float:
        return 0.28 * min(self._cell)

    @property
    def _columns(self) -> int:
        aspect = self.width / self.height
        return max(1, min(self.num_objects, round((self.num_objects * aspect) ** 0.5)))

    @property
    def _cell(self) -> tuple[float, float]:
        rows = -(-self.num_objects // self._columns)
        return self.height / rows, self.width / self._columns

    def mask(self, frame_idx: int, slot: int, grown_px: int = 0) -> BoolMask:
        """[H, W] bool of one disc."""
        cell_height, cell_width = self._cell
        row, column = divmod(slot, self._columns)
        sway = 0.12 * min(self._cell)
        angle = 0.3 * frame_idx + slot
        x = round((column + 0.5) * cell_width + sway * np.cos(angle))
        y = round((row + 0.5) * cell_height + sway * np.sin(angle))
        canvas = np.zeros((self.height, self.width), np.uint8)
        cv2.circle(canvas, (x, y), round(self.radius) + grown_px, (1,), -1)
        return canvas.astype(bool)

    def packed(self, frame_idx: int, slot: int, grown_px: int = 0) -> BitMask:
        return bits.pack(self.mask(frame_idx, slot, grown_px))

    def write(self, root: Path, num_frames: int) -> None:
        """Frames to root/frames, coarse masks and residuals to root/prompts."""
        rng = np.random.default_rng(0)
        noise = rng.integers(40, 200, (self.height // 8 + 1, self.width // 8 + 1, 3), np.uint8)
        background = cv2.resize(noise, (self.width, self.height))
        colours = rng.integers(0, 255, (self.num_objects, 3))
        for folder in ("frames", "prompts/masks", "prompts/diffs"):
            (root / folder).mkdir(parents=True)
        for frame_idx in range(num_frames):
            image, coarse = background.copy(), np.zeros((self.height, self.width), bool)
            for slot, colour in enumerate(colours):
                mask = self.mask(frame_idx, slot)
                image[mask] = colour
                # Room for the passes to grow into; beyond, the guard would not believe them.
                coarse |= self.mask(frame_idx, slot, grown_px=2)
            white = coarse.astype(np.uint8) * 255
            name = f"{frame_idx:05d}"
            cv2.imwrite(str(root / "frames" / f"{name}.jpg"), image)
            cv2.imwrite(str(root / "prompts" / "masks" / f"{name}.png"), white)
            cv2.imwrite(str(root / "prompts" / "diffs" / f"{name}.png"), white // 2)


class DiscProposer:
    """Asks the real proposer, then says the discs, on the first frame only."""

    def __init__(self, real: Proposer, discs: Discs, units: UnitTimes) -> None:
        self._real = real
        self._discs = discs
        self._units = units

    def propose(self, frame_idx: int, points_xy: NDArray[np.float32]) -> list[Proposal]:
        self._units.is_proposing = True
        self._real.propose(frame_idx, points_xy)
        self._units.is_proposing = False
        if frame_idx > 0:
            return []
        return [
            Proposal(self._discs.mask(0, slot), 1.0, 1.0, (0.0, 0.0))
            for slot in range(self._discs.num_objects)
        ]


class DiscTracker:
    """Asks the real tracker, then says the discs, a pixel larger each time a frame comes up.

    Takes down what could not have been avoided.
    """

    def __init__(self, real: Tracker, discs: Discs, steps_per_count: int) -> None:
        self._real = real
        self._discs = discs
        self._steps_per_count = steps_per_count
        self._visits: Counter[int] = Counter()
        self._given: list[tuple[int, Rle]] = []  # since the last `forget`
        self.conditioned: set[tuple[int, Rle]] = set()
        self.pointed_at: set[tuple[int, Rle]] = set()
        """What was conditioned on from the past; of the future, SAM2 reads no object pointers."""
        self.steps = 0
        self.steps_remembered = 0  # those that a later step of the same propagation follows
        self.rss_mb: list[float] = []
        """After every step."""
        self.tensor_mb: list[float] = []
        """About twice a pass, if it is asked for."""

    def forget(self) -> None:
        self._given = []
        self._real.forget()

    def condition(self, frame_idx: int, object_id: int, mask: Rle) -> None:
        self._given.append((frame_idx, mask))
        self.conditioned.add((frame_idx, mask))
        self._real.condition(frame_idx, object_id, mask)

    def propagate(self, start_frame_idx: int, *, reverse: bool = False) -> Iterator[TrackedFrame]:
        for position, tracked in enumerate(self._real.propagate(start_frame_idx, reverse=reverse)):
            self.rss_mb.append(rss_mb())
            if self._steps_per_count and self.steps % self._steps_per_count == 0:
                self.tensor_mb.append(tensor_mb())
            self.steps += 1
            self.steps_remembered += position > 0
            self.pointed_at.update(
                given
                for given in self._given
                if (given[0] >= tracked.frame_idx if reverse else given[0] <= tracked.frame_idx)
            )
            grown_px = self._visits[tracked.frame_idx]
            self._visits[tracked.frame_idx] += 1
            yield TrackedFrame(
                tracked.frame_idx,
                tuple(
                    TrackedObject(
                        found.object_id,
                        self._discs.packed(tracked.frame_idx, found.object_id - 1, grown_px),
                        10.0,
                    )
                    for found in tracked.objects
                ),
            )


# --- one run, in a process of its own -------------------------------------------------------------

_UNITS = {
    "image_encoder": "image_encoder",
    "memory_encoder": "memory_encoder",
    "memory_attention": "memory_attention",
    "mask_decoder": "sam_mask_decoder",
}
_Shape = tuple[int, ...]
_Times = dict[str, dict[_Shape, list[float]]]  # network -> shape of a call -> seconds


class UnitTimes:
    """Wall and CPU time of every call of the networks, by the shapes that went in."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.wall: _Times = {name: defaultdict(list) for name in _UNITS}
        self.cpu: _Times = {name: defaultdict(list) for name in _UNITS}
        self.is_proposing = False
        """Calls from now on are those of the proposer."""
        self._device = device
        # What other threads do beside the network is not the network's time.
        self._cpu_time = time.thread_time if torch.get_num_threads() == 1 else time.process_time
        self._begun: dict[str, tuple[float, float]] = {}
        for name, path in _UNITS.items():
            module = model.get_submodule(path)
            module.register_forward_pre_hook(self._begin(name), with_kwargs=True)
            module.register_forward_hook(self._end(name), with_kwargs=True)

    def _begin(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            self._begun[name] = self._now()

        return hook

    def _end(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: Any) -> None:
            wall, cpu = self._now()
            begun_wall, begun_cpu = self._begun[name]
            shape = _shape(name, args, kwargs)
            if name == "mask_decoder":
                shape = (*shape, int(self.is_proposing))
            self.wall[name][shape].append(wall - begun_wall)
            self.cpu[name][shape].append(cpu - begun_cpu)

        return hook

    def _now(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter(), self._cpu_time()


def _shape(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Shape:
    """What the time of a call depends on: batch size, and tokens of memory."""
    if name == "memory_attention":
        memory: Tensor = kwargs["memory"]
        return memory.shape[1], memory.shape[0]
    if name == "mask_decoder":
        sparse: Tensor = kwargs["sparse_prompt_embeddings"]
        return (sparse.shape[0],)
    return (args[0].shape[0],)


def rss_mb() -> float:
    """Resident memory of this process now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def tensor_mb() -> float:
    """What tensors hold now, MiB: on a CUDA device, or anywhere if there is none. What does not
    grow here does not grow on a device, where the same tensors would be."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / _MIB
    sizes: dict[int, int] = {}
    for held in gc.get_objects():
        if not isinstance(held, Tensor):
            continue
        if held.is_mkldnn:  # weights in oneDNN's own order have no storage to ask
            sizes[id(held)] = held.numel() * held.element_size()
        else:
            storage = held.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values()) / _MIB


def written_bytes() -> int:
    """Bytes that this process has handed to the system for writing so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


def run_case(
    settings: Benchmark, case: Case, scene: Path, checkpoint: str, cache_gb: float | None
) -> dict[str, Any]:
    """Run one refine; a JSON object of what it took."""
    width, height = _parse_size(settings.size)
    discs = Discs(case.objects, height, width)
    seen: list[tuple[DiscTracker, UnitTimes]] = []
    steps_per_count = max(1, case.frames // 2) if settings.count_tensors else 0
    device = pretended_cuda() if settings.pretend_cuda else nullcontext()

    def adapt(networks: Networks) -> None:
        tracker = DiscTracker(networks.tracker, discs, steps_per_count)
        units = UnitTimes(networks.sam2.model, networks.sam2.device)
        seen.append((tracker, units))
        if pretended is not None:
            pretended.restart_counts()
        networks.tracker = tracker
        networks.proposer = DiscProposer(networks.proposer, discs, units)

    pauses: list[float] = []
    with tempfile.TemporaryDirectory(dir=scene.parent) as out:
        refine_settings = RefineSettings(
            video_path=scene / "frames",
            prompt_dir=scene / "prompts",
            prompt_polarity="white-transient",
            result_dir=Path(out) / "result",
            sam2_checkpoint=checkpoint,
            tracker=case.tracker,
            algorithm=RefineConfig(max_conditioning_frames=settings.conditioning),
            overlay=settings.overlay and not case.bare,
            html_report=settings.html_report and not case.bare,
            device="cuda" if settings.pretend_cuda else settings.device,
            threads=settings.threads,
            feature_cache_gb=cache_gb,
            compile=settings.compile,
        )
        written, cpu_seconds = written_bytes(), time.process_time()
        with device as pretended, timed_pauses(pauses):
            begin = time.perf_counter()
            outcome = run_refine(refine_settings, adapt_networks=adapt)
            whole_seconds = time.perf_counter() - begin
        written, cpu_seconds = written_bytes() - written, time.process_time() - cpu_seconds
        shown = [refine_settings.result_dir / name for name in (PAGE, OVERLAY)]
        shown_bytes = sum(path.stat().st_size for path in shown if path.is_file())
    assert outcome.result is not None
    assert outcome.report is not None
    report, (tracker, units) = outcome.report, seen[0]
    verdicts = outcome.result.verdicts
    assert len(verdicts) == case.objects, [verdict.reason for verdict in verdicts]
    peak_rss_mb = report.peak_rss_mb or rss_mb()
    page_seconds = whole_seconds - report.running_time  # which shows it, and so comes after it
    return {
        "counts": asdict(report.counts),
        "seconds": report.running_time,
        "waited_share": (sum(pauses) + report.seconds["outputs"] + page_seconds) / whole_seconds,
        "stage_seconds": dict(report.seconds),
        "cpu_seconds": cpu_seconds,
        "floor": floor(tracker, units.wall, case),
        "cpu_floor": floor(tracker, units.cpu, case),
        "peak_rss_mb": peak_rss_mb,
        "rss_growth_mb": _rss_growth(tracker.rss_mb, case),
        "tensor_mb": max(tracker.tensor_mb, default=None),
        "peak_vram_mb": report.peak_vram_mb,
        "operations": None if pretended is None else pretended.operations,
        "waits": None if pretended is None else pretended.waits.total(),
        "written_bytes": written,
        "shown_bytes": shown_bytes,
        "unit_cpu_seconds": {
            f"{name} {'x'.join(map(str, shape))}": statistics.median(times)
            for name, by_shape in units.cpu.items()
            for shape, times in sorted(by_shape.items())
        },
    }


@contextmanager
def timed_pauses(seconds: list[float]) -> Iterator[None]:
    """Adds to `seconds` how long each pause took in which a network waits for the small jobs."""
    pause = InPauses.pause

    def timed(self: InPauses) -> None:
        begin = time.perf_counter()
        pause(self)
        seconds.append(time.perf_counter() - begin)

    InPauses.pause = timed
    try:
        yield
    finally:
        InPauses.pause = pause


def _rss_growth(rss: list[float], case: Case) -> float:
    """From an early step to the last ones; 0 if there was none, as with a single frame."""
    return max(rss[-10:]) - rss[min(20, case.frames // 2)] if rss else 0.0


def floor(tracker: DiscTracker, seen: _Times, case: Case) -> float:
    """Seconds of the calls that could not have been avoided (see the module's text)."""
    medians = {
        name: {shape: statistics.median(times) for shape, times in by_shape.items()}
        for name, by_shape in seen.items()
    }

    def unit(name: str, *shape: int) -> float:
        """Of the shape, or in proportion of the batch size nearest to it that was seen. Nothing
        if there was no call at all: a single frame needs no memories."""
        known = medians[name]
        if not known:
            return 0.0
        near = min(known, key=lambda s: (s[1:] != shape[1:], abs(s[0] - shape[0])))
        return known[near] * shape[0] / near[0]

    batch = case.objects
    attention = seen["memory_attention"]
    # A call per object costs the official predictor what it costs; ours are counted as batches.
    seconds = sum(medians["memory_attention"][shape] * len(attention[shape]) for shape in attention)
    seconds += case.frames * unit("image_encoder", 1)
    seconds += tracker.steps * unit("mask_decoder", batch, 0)
    seconds += tracker.steps_remembered * unit("memory_encoder", batch)
    seconds += len(tracker.pointed_at) / batch * unit("mask_decoder", batch, 0)
    seconds += len(tracker.conditioned) / batch * unit("memory_encoder", batch)
    for shape, times in seen["mask_decoder"].items():
        if shape[1]:  # proposals
            seconds += len(times) * medians["mask_decoder"][shape]
    return seconds


# --- all runs -------------------------------------------------------------------------------------


def measure(settings: Benchmark) -> list[Row]:
    """Run every case `repeats` times, alternating, and put the figures together."""
    results: dict[Case, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        checkpoint = _checkpoint(settings, root)
        cache_gb = _cache_gb(settings, checkpoint)
        width, height = _parse_size(settings.size)
        cases = _cases(settings)
        for case in cases:
            scene = _scene(root, case)
            if not scene.exists():
                Discs(case.objects, height, width).write(scene, case.frames)
        for _ in range(settings.repeats):
            for case in cases:
                result = _in_own_process(settings, case, _scene(root, case), checkpoint, cache_gb)
                results[case].append(result)
                sys.stderr.write(
                    f"{case.tracker}, {case.frames} frames, {case.objects} objects"
                    f"{', without page and video' if case.bare else ''}: "
                    f"{result['seconds']:.1f} s\n"
                )
    return [_row(settings, case, results) for case in results if not case.bare]


def _cases(settings: Benchmark) -> list[Case]:
    """In the order in which they are run."""
    cases = []
    for num_frames, num_objects in itertools.product(settings.frames, settings.objects):
        for tracker in settings.trackers:
            case = Case(tracker, num_frames, num_objects)
            if tracker == "sam2":
                cases += [case, replace(case, bare=True)] if settings.bare else [case]
            elif settings.official_up_to is None or num_objects <= settings.official_up_to:
                # Between two of ours, if there are any: machines are faster at times.
                cases += [case, *(c for c in cases if replace(c, bare=False) == ours(case))]
    return cases


def ours(case: Case) -> Case:
    """The same with our tracker."""
    return replace(case, tracker="sam2")


def _scene(root: Path, case: Case) -> Path:
    return root / f"scene_{case.frames}_{case.objects}"


def _in_own_process(
    settings: Benchmark, case: Case, scene: Path, checkpoint: str, cache_gb: float | None
) -> dict[str, Any]:
    job = {
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("json", "preset")},
        "case": asdict(case),
        "scene": str(scene),
        "checkpoint": checkpoint,
        "cache_gb": cache_gb,
    }
    with tempfile.TemporaryDirectory(dir=scene.parent) as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, __file__, "--worker", json.dumps(job), str(answer)]
        environment = dict(os.environ)
        let_threads_rest(environment)  # as the command line does
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{case} failed:\n{done.stderr[-4000:]}")
        return json.loads(answer.read_text())


def work(job_text: str, answer: Path) -> None:
    """What the process of one run does."""
    job = json.loads(job_text)
    settings = Benchmark(**job["settings"])
    result = run_case(
        settings, Case(**job["case"]), Path(job["scene"]), job["checkpoint"], job["cache_gb"]
    )
    answer.write_text(json.dumps(result))


def _row(settings: Benchmark, case: Case, results: dict[Case, list[dict[str, Any]]]) -> Row:
    runs = results[case]
    typical = _typical(runs)
    per_frame = {name: count / case.frames for name, count in typical["counts"].items()}
    bare = results.get(replace(case, bare=True))
    official = results.get(replace(case, tracker="official"))
    floors = results.get(ours(case)) or runs
    width, height = _parse_size(settings.size)
    written, shown = (typical[name] / case.frames for name in ("written_bytes", "shown_bytes"))
    reference_bytes = 4 * case.objects * height * width
    return Row(
        tracker=case.tracker,
        frames=case.frames,
        objects=case.objects,
        conditioning=settings.conditioning,
        size=settings.size,
        model=settings.model,
        image_encodings_per_frame=per_frame["image_encoder"],
        memory_encodings_per_frame=per_frame["memory_encoder"],
        memory_attentions_per_frame=per_frame["memory_attention"],
        mask_decodings_per_frame=per_frame["mask_decoder"],
        seconds=statistics.median(run["seconds"] for run in runs),
        stage_seconds=typical["stage_seconds"],
        cpu_seconds=statistics.median(run["cpu_seconds"] for run in runs),
        floor_seconds=statistics.median(run["floor"] for run in floors),
        floor_cpu_seconds=statistics.median(run["cpu_floor"] for run in floors),
        over_floor=_ratio(runs, "seconds", floors, "floor"),
        cpu_over_floor=_ratio(runs, "cpu_seconds", floors, "cpu_floor"),
        official_over_this=_ratio(official, "seconds", runs, "seconds"),
        official_cpu_over_this=_ratio(official, "cpu_seconds", runs, "cpu_seconds"),
        peak_rss_mb=typical["peak_rss_mb"],
        rss_growth_mb_per_frame=typical["rss_growth_mb"] / case.frames,
        peak_rss_growth_mb_per_frame=_growth("peak_rss_mb", case, results),
        tensor_mb=typical["tensor_mb"],
        tensor_growth_mb_per_frame=_growth("tensor_mb", case, results),
        peak_vram_mb=typical["peak_vram_mb"],
        peak_vram_growth_mb_per_frame=_growth("peak_vram_mb", case, results),
        device_operations_per_frame=_per_frame("operations", case, typical),
        waits_per_frame=_per_frame("waits", case, typical),
        bytes_written_per_frame=written,
        shown_bytes_per_frame=shown,
        reference_bytes_per_frame=reference_bytes,
        reference_bytes_over_this=reference_bytes / written,
        reference_bytes_over_same=reference_bytes / (written - shown),
        waited_share=statistics.median(run["waited_share"] for run in runs),
        waited_share_bare=(
            None if bare is None else statistics.median(run["waited_share"] for run in bare)
        ),
        page_and_video_share=None if bare is None else _typical_saving(runs, bare),
        unit_cpu_seconds=typical["unit_cpu_seconds"],
    )


_Runs = Sequence[dict[str, Any]]


@overload
def _ratio(runs: _Runs, what: str, others: _Runs, than: str) -> float: ...
@overload
def _ratio(runs: None, what: str, others: _Runs, than: str) -> None: ...
def _ratio(runs: _Runs | None, what: str, others: _Runs, than: str) -> float | None:
    """`what` of a run relative to `than` of the others that were made around it; the median. None
    without runs."""
    if runs is None:
        return None
    around = max(1, len(others) // len(runs))
    return statistics.median(
        run[what] / statistics.fmean(other[than] for other in others[around * index :][:around])
        for index, run in enumerate(runs)
    )


def _per_frame(what: str, case: Case, typical: dict[str, Any]) -> float | None:
    return None if typical[what] is None else typical[what] / case.frames


def _typical(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run of median duration; of two in the middle the shorter one."""
    return sorted(runs, key=lambda run: run["seconds"])[(len(runs) - 1) // 2]


def _typical_saving(runs: Sequence[dict[str, Any]], shorter: Sequence[dict[str, Any]]) -> float:
    """Share of their duration that runs would save by being like the `shorter` ones; of each, next
    to which it ran, as machines are faster at times."""
    pairs = zip(runs, shorter, strict=True)
    return statistics.median(1 - short["seconds"] / run["seconds"] for run, short in pairs)


def _growth(what: str, case: Case, results: dict[Case, list[dict[str, Any]]]) -> float | None:
    """From the shortest to the longest sequence, per frame."""
    alike = [c for c in results if replace(c, frames=0) == replace(case, frames=0)]
    short, long = min(alike, key=lambda c: c.frames), max(alike, key=lambda c: c.frames)
    before, after = (_typical(results[c])[what] for c in (short, long))
    if short.frames == long.frames or before is None or after is None:
        return None
    return (after - before) / (long.frames - short.frames)


def _parse_size(size: str) -> tuple[int, int]:
    """(width, height)."""
    width, _, height = size.partition("x")
    return int(width), int(height or width)


def _checkpoint(settings: Benchmark, root: Path) -> str:
    """A checkpoint with random weights if `model` is a configuration."""
    if not settings.model.startswith(
        ("sam2_hiera", "sam2.1_hiera")
    ) and not settings.model.endswith(".yaml"):
        return settings.model
    source = find_config(settings.model)
    torch.manual_seed(0)
    section = parse_model_section(source, settings.network_size)
    config = OmegaConf.create(source.text)
    if settings.network_size is not None:
        OmegaConf.update(config, "model.image_size", settings.network_size)
    path = root / "random.pt"
    model = build_predictor(section, source.label)
    torch.save({"model": model.state_dict(), "config": OmegaConf.to_yaml(config)}, path)
    return str(path)


def _cache_gb(settings: Benchmark, checkpoint: str) -> float | None:
    """The budget that holds `cache_frames` frames' features in float32."""
    if settings.cache_frames is None:
        return None
    model = load_sam2(checkpoint, device="cpu").model
    channels, side = model.hidden_dim, model.image_size
    values = sum(channels // part * (side // step) ** 2 for part, step in ((8, 4), (4, 8), (1, 16)))
    return settings.cache_frames * values * 4 / 1e9


# --- showing it -----------------------------------------------------------------------------------

_COLUMNS = {
    "tracker": lambda row: row.tracker,
    "N": lambda row: str(row.frames),
    "K": lambda row: str(row.objects),
    "image": lambda row: f"{row.image_encodings_per_frame:.2f}",
    "memory": lambda row: f"{row.memory_encodings_per_frame:.2f}",
    "attention": lambda row: f"{row.memory_attentions_per_frame:.2f}",
    "decoder": lambda row: f"{row.mask_decodings_per_frame:.2f}",
    **{
        stage: lambda row, stage=stage: f"{row.stage_seconds.get(stage, 0.0):.1f}"
        for stage in ("forward", "backward", "final", "filter", "outputs")
    },
    "seconds": lambda row: f"{row.seconds:.1f}",
    "floor": lambda row: f"{row.floor_seconds:.1f}",
    "x floor": lambda row: f"{row.over_floor:.2f}",
    "official x": lambda row: _number(row.official_over_this, 1),
    "CPU s": lambda row: f"{row.cpu_seconds:.1f}",
    "x floor ": lambda row: f"{row.cpu_over_floor:.2f}",
    "official x ": lambda row: _number(row.official_cpu_over_this, 1),
    "RSS MB": lambda row: f"{row.peak_rss_mb:.0f}",
    "+MB/frame": lambda row: f"{row.rss_growth_mb_per_frame:.3f}",
    "peak +MB/frame": lambda row: _number(row.peak_rss_growth_mb_per_frame, 3),
    "tensors MB": lambda row: _number(row.tensor_mb, 1),
    "tensors +MB/frame": lambda row: _number(row.tensor_growth_mb_per_frame, 4),
    "VRAM MB": lambda row: _number(row.peak_vram_mb, 1),
    "VRAM +MB/frame": lambda row: _number(row.peak_vram_growth_mb_per_frame, 4),
    "operations": lambda row: _number(row.device_operations_per_frame, 0),
    "waits": lambda row: _number(row.waits_per_frame, 1),
    "kB/frame": lambda row: f"{row.bytes_written_per_frame / 1000:.1f}",
    "page, video": lambda row: f"{row.shown_bytes_per_frame / 1000:.1f}",
    "reference": lambda row: f"{row.reference_bytes_per_frame / 1000:.0f}",
    "reference x": lambda row: f"{row.reference_bytes_over_this:.1f}",
    "without page, video": lambda row: f"{row.reference_bytes_over_same:.0f}",
    "waited": lambda row: _percent(row.waited_share),
    "waited without": lambda row: _percent(row.waited_share_bare),
    "their time": lambda row: _percent(row.page_and_video_share),
}


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def table(rows: Sequence[Row]) -> str:
    """The rows as text; network calls are per frame, stages in seconds."""
    cells = [list(_COLUMNS), *([cell(row) for cell in _COLUMNS.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in cells
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _with_preset(arguments: Sequence[str]) -> Benchmark:
    """The defaults that the flags start from."""
    known = list(arguments)
    names = [known[i + 1] for i, word in enumerate(known[:-1]) if word == "--preset"]
    names += [word.split("=", 1)[1] for word in known if word.startswith("--preset=")]
    if not names:
        return Benchmark()
    path = Path(names[0])
    if not path.is_file():
        path = PRESETS / f"benchmark_{names[0]}.yaml"
    if not path.is_file():
        raise SystemExit(f"there is no preset {names[0]}: neither a file nor {path}")
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Benchmark(**values)


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--worker"]:
        work(arguments[1], Path(arguments[2]))
        return
    settings = tyro.cli(
        Benchmark, description=__doc__, args=arguments, default=_with_preset(arguments)
    )
    rows = measure(settings)
    sys.stdout.write(
        f"\n{settings.model}, frames of {settings.size} px, M = {settings.conditioning}, "
        f"{platform.processor() or platform.machine()}, "
        f"{settings.threads or torch.get_num_threads()} threads\n\n{table(rows)}"
    )
    if settings.json is not None:
        content = {"rows": [asdict(row) for row in rows]}
        settings.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
