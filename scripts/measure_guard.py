"""Refines generated videos and photo sets with and without the guard, and prints whether any
came out worse than its coarse masks.

    python scripts/measure_guard.py
    python scripts/measure_guard.py --seeds 200 201 202 --kinds video-calm photos-busy

Prompts are those of a half-trained splat, the network is the packaged small one. The levels of
the guard were set while looking at seeds 100 to 109; the default seeds are others.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Literal, cast

import numpy as np
import tyro
from PIL import Image as PilImage

from t3dgs_masks.config import RefineConfig, RefineSettings
from t3dgs_masks.evaluate import TransientScores, transient_scores
from t3dgs_masks.refine_job import run_refine
from t3dgs_masks.synthetic.capture import Capture, CaptureLook, CaptureMode, make_capture
from t3dgs_masks.synthetic.capture_spec import CaptureSpec
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from t3dgs_masks.synthetic.dataset import DatasetPaths, write_nerfstudio

Kind = Literal["video-calm", "video-busy", "photos-calm", "photos-busy"]

WORSE_BY = 0.01


@dataclass(frozen=True)
class Measure:
    """Refine captures of every kind and seed, with `--guard auto` and `--guard off`."""

    seeds: tuple[int, ...] = tuple(range(200, 210))
    """Which captures, of every kind."""
    kinds: tuple[Kind, ...] = ("video-calm", "video-busy", "photos-calm", "photos-busy")
    """video: a dense sequence. photos: unrelated views, people elsewhere in each. calm: what the
    small network can tell apart. busy: everything in all colours, which is more than it can."""
    num_frames: int = 40
    """Length of each."""
    residuals: bool = True
    """Give the refine residuals; --no-residuals: coarse masks alone."""
    off: bool = True
    """Refine with `--guard off` too."""
    processes: int = 1
    """Captures at a time."""
    threads: int = 1
    """CPU threads of each."""
    json: Path | None = None
    """Write the figures to this file too, after every capture."""


@dataclass(frozen=True)
class Row:
    """One capture; all figures are means over its frames, of transient pixels."""

    kind: Kind
    seed: int
    coarse_iou: float
    off_iou: float | None
    auto_iou: float
    auto_precision: float
    auto_recall: float
    ordered: bool
    """What was decided about the frames."""
    fallen_back: int
    """Components that fell back to the coarse mask."""
    seconds: float
    off_seconds: float | None

    @property
    def gain(self) -> float:
        return self.auto_iou - self.coarse_iou


def measure(task: tuple[Measure, Kind, int]) -> Row:
    """Make one capture, refine it, compare."""
    settings, kind, seed = task
    mode, look = kind.split("-")
    spec = CaptureSpec(
        seed=seed,
        mode=cast(CaptureMode, mode),
        look=cast(CaptureLook, look),
        num_frames=settings.num_frames,
        num_walkers=3 if mode == "video" else None,
    )
    capture = make_capture(spec)
    prompts = half_trained_prompts(capture, seed=seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        paths = write_nerfstudio(capture, prompts, root / "capture")
        if not settings.residuals:
            (paths.prompts / "diffs").rename(root / "unused")
        auto, report = _refine(settings, paths, capture, root / "auto", "auto")
        off = off_report = None
        if settings.off:
            off, off_report = _refine(settings, paths, capture, root / "off", "off")
    guard = report["guard"]
    return Row(
        kind=kind,
        seed=seed,
        coarse_iou=transient_scores(zip(prompts.coarse, capture.transient_masks, strict=True)).iou,
        off_iou=None if off is None else off.iou,
        auto_iou=auto.iou,
        auto_precision=auto.precision,
        auto_recall=auto.recall,
        ordered=guard["ordered"],
        fallen_back=sum(guard["coarse_components"].values()),
        seconds=report["running_time"],
        off_seconds=None if off_report is None else off_report["running_time"],
    )


def _refine(
    settings: Measure,
    paths: DatasetPaths,
    capture: Capture,
    result_dir: Path,
    guard: Literal["auto", "off"],
) -> tuple[TransientScores, dict]:
    """Scores and report of one refine."""
    log = StringIO()
    try:
        with redirect_stdout(log), redirect_stderr(log):
            run_refine(
                RefineSettings(
                    video_path=paths.images,
                    result_dir=result_dir,
                    prompt_dir=paths.prompts,
                    prompt_polarity="white-transient",
                    sam2_checkpoint="tiny-synthetic",
                    algorithm=RefineConfig(guard=guard),
                    overlay=False,
                    html_report=False,
                    device="cpu",
                    threads=settings.threads,
                )
            )
    except Exception:
        sys.stderr.write(log.getvalue())
        raise
    refined = [
        np.asarray(PilImage.open(path)) == 0
        for path in sorted((result_dir / "binary_masks").glob("*.png"))
    ]
    scores = transient_scores(zip(refined, capture.transient_masks, strict=True))
    return scores, json.loads((result_dir / "report.json").read_text())


HEADER = "kind         seed  coarse    off   auto  auto - coarse  prec.  recall  video  fallen back"


def _line(row: Row) -> str:
    off = "     -" if row.off_iou is None else f"{row.off_iou:>6.3f}"
    return (
        f"{row.kind:<12} {row.seed:>4}  {row.coarse_iou:>6.3f} {off} {row.auto_iou:>6.3f}  "
        f"{row.gain:>+13.3f}  {row.auto_precision:>5.3f}  {row.auto_recall:>6.3f}  "
        f"{'yes' if row.ordered else 'no':>5}  {row.fallen_back:>11}"
    )


def _means(name: str, rows: Sequence[Row]) -> str:
    off = [row.off_iou for row in rows if row.off_iou is not None]
    mean_off = f"{np.mean(off):>6.3f}" if off else "     -"
    worst = min(rows, key=lambda row: row.gain)
    return (
        f"{name:<17}  {np.mean([row.coarse_iou for row in rows]):>6.3f} {mean_off} "
        f"{np.mean([row.auto_iou for row in rows]):>6.3f}  "
        f"{np.mean([row.gain for row in rows]):>+13.3f}  worst {worst.gain:+.3f} "
        f"({worst.kind} {worst.seed})"
    )


def table(rows: Sequence[Row]) -> str:
    """All captures, the means of every kind, and what was promised."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    lines = [HEADER, *(_line(row) for row in rows), "", "means"]
    lines += [_means(kind, [row for row in rows if row.kind == kind]) for kind in kinds]
    lines.append(_means(f"all {len(rows)}", rows))
    worse = [row for row in rows if row.gain < -WORSE_BY]
    off_worse = [
        row for row in rows if row.off_iou is not None and row.off_iou - row.coarse_iou < -WORSE_BY
    ]
    lines += ["", f"below the coarse masks by more than {WORSE_BY}: {len(worse)} of {len(rows)}"]
    if any(row.off_iou is not None for row in rows):
        lines[-1] += f" (--guard off: {len(off_worse)})"
    dense = [row.gain for row in rows if row.kind.startswith("video")]
    if dense:
        lines.append(f"mean gain on the {len(dense)} videos: {np.mean(dense):+.3f}")
    seconds = sum(row.seconds for row in rows)
    off_seconds = sum(row.off_seconds or 0.0 for row in rows)
    if off_seconds:
        lines.append(f"seconds of all refines: {seconds:.0f} with the guard, {off_seconds:.0f} off")
    return "\n".join(lines)


def _measured(settings: Measure) -> Iterator[Row]:
    tasks: list[tuple[Measure, Kind, int]] = [
        (settings, kind, seed) for kind in settings.kinds for seed in settings.seeds
    ]
    if settings.processes == 1:
        yield from map(measure, tasks)
        return
    # Not forked: PyTorch's threads do not survive it.
    with multiprocessing.get_context("spawn").Pool(settings.processes) as pool:
        yield from pool.imap(measure, tasks)


def main(settings: Measure) -> None:
    rows = []
    for row in _measured(settings):
        rows.append(row)
        sys.stderr.write(_line(row) + "\n")
        if settings.json is not None:
            settings.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Measure, description=__doc__))
