"""Refines generated videos and photo sets with and without the guard, and prints whether any
came out worse than its coarse masks.

    python scripts/measure_guard.py
    python scripts/measure_guard.py --seeds 200 201 202 --kinds video-calm photos-busy
    python scripts/measure_guard.py --splat --json splat.json

Prompts are those that a half-trained splat would give, imagined from the truth, or, with --splat,
those of a splat that is trained for it. The network is the packaged small one. The levels of the
guard were set while looking at seeds 100 to 109 (and 1 to 4 with --splat); the default seeds are
others, but one level was raised after a look at video-busy 204.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Literal, cast

import numpy as np
import tyro
from PIL import Image as PilImage

from t3dgs_masks.config import DemoSettings, RefineConfig, RefineSettings
from t3dgs_masks.evaluate import TransientScores, transient_scores
from t3dgs_masks.io.prompts import resized_mask
from t3dgs_masks.refine_job import run_refine
from t3dgs_masks.synthetic.capture import Capture, CaptureLook, CaptureMode, make_capture
from t3dgs_masks.synthetic.capture_spec import CaptureSpec
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from t3dgs_masks.synthetic.dataset import DatasetPaths, write_nerfstudio
from t3dgs_masks.types import BoolMask

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
    splat: bool = False
    """Train a splat on each capture and take its prompts (needs nerfstudio)."""
    splat_steps: int = 250
    """Steps of that training."""
    splat_scale: float = 0.25
    """Scale of the capture's images in it, and of the prompts."""
    off: bool = True
    """Refine with `--guard off` too."""
    processes: int = 1
    """Captures at a time."""
    threads: int = 1
    """CPU threads of each."""
    json: Path | None = None
    """Write the figures to this file too, after every capture; captures that are in it already are
    not measured again."""


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
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        imagined = half_trained_prompts(capture, seed=seed)
        paths = write_nerfstudio(capture, imagined, root / "capture")
        prompt_dir = paths.prompts
        if settings.splat:
            prompt_dir = _splat_prompts(settings, seed, paths, root / "splat")
        if not settings.residuals:
            (prompt_dir / "diffs").rename(root / "unused")
        coarse = _masks(prompt_dir / "masks", capture, white_is_transient=True)
        auto, report = _refine(settings, paths, prompt_dir, capture, root / "auto", "auto")
        off = off_report = None
        if settings.off:
            off, off_report = _refine(settings, paths, prompt_dir, capture, root / "off", "off")
    guard = report["guard"]
    return Row(
        kind=kind,
        seed=seed,
        coarse_iou=transient_scores(zip(coarse, capture.transient_masks, strict=True)).iou,
        off_iou=None if off is None else off.iou,
        auto_iou=auto.iou,
        auto_precision=auto.precision,
        auto_recall=auto.recall,
        ordered=guard["ordered"],
        fallen_back=sum(guard["coarse_components"].values()),
        seconds=report["running_time"],
        off_seconds=None if off_report is None else off_report["running_time"],
    )


def _splat_prompts(settings: Measure, seed: int, paths: DatasetPaths, root: Path) -> Path:
    """The prompt folder of a splat trained on a capture."""
    from t3dgs_masks.splat_demo_job import prompts_of_splat  # needs nerfstudio

    demo = DemoSettings(
        seed=seed,
        train_steps=settings.splat_steps,
        train_scale=settings.splat_scale,
        device="cpu",
        threads=settings.threads,
    )
    with _quiet():
        return prompts_of_splat(demo, paths, root)


def _masks(folder: Path, capture: Capture, *, white_is_transient: bool) -> list[BoolMask]:
    """The masks of a folder in order of their names, [H, W] bool at the capture's size, True =
    transient."""
    height, width = capture.transient_masks.shape[1:]
    return [
        resized_mask((np.asarray(PilImage.open(path)) > 127) == white_is_transient, height, width)
        for path in sorted(folder.glob("*.png"))
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """What the block prints is only seen if it fails."""
    log = StringIO()
    try:
        with redirect_stdout(log), redirect_stderr(log):
            yield
    except BaseException:
        sys.stderr.write(log.getvalue())
        raise


def _refine(
    settings: Measure,
    paths: DatasetPaths,
    prompt_dir: Path,
    capture: Capture,
    result_dir: Path,
    guard: Literal["auto", "off"],
) -> tuple[TransientScores, dict]:
    """Scores and report of one refine."""
    with _quiet():
        run_refine(
            RefineSettings(
                video_path=paths.images,
                result_dir=result_dir,
                prompt_dir=prompt_dir,
                prompt_polarity="white-transient",
                sam2_checkpoint="tiny-synthetic",
                algorithm=RefineConfig(guard=guard),
                overlay=False,
                html_report=False,
                device="cpu",
                threads=settings.threads,
            )
        )
    refined = _masks(result_dir / "binary_masks", capture, white_is_transient=False)
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


def _measured(settings: Measure, tasks: Sequence[tuple[Measure, Kind, int]]) -> Iterator[Row]:
    if settings.processes == 1:
        yield from map(measure, tasks)
        return
    # Not forked: PyTorch's threads do not survive it.
    with multiprocessing.get_context("spawn").Pool(settings.processes) as pool:
        yield from pool.imap(measure, tasks)


def _conditions(settings: Measure) -> dict[str, object]:
    """What the figures of a capture depend on, besides the capture and the program."""
    names = ("num_frames", "residuals", "splat", "splat_steps", "splat_scale", "off")
    return {name: getattr(settings, name) for name in names}


def _measured_before(settings: Measure) -> dict[tuple[Kind, int], Row]:
    """(kind, seed) -> its row, of an earlier run that was cut short."""
    if settings.json is None or not settings.json.exists():
        return {}
    content = json.loads(settings.json.read_text())
    if content["conditions"] != _conditions(settings):
        raise SystemExit(f"{settings.json} is of other settings: give --json another file")
    return {(row["kind"], row["seed"]): Row(**row) for row in content["rows"]}


def main(settings: Measure) -> None:
    rows = _measured_before(settings)
    wanted: list[tuple[Kind, int]] = [(k, seed) for k in settings.kinds for seed in settings.seeds]
    tasks: list[tuple[Measure, Kind, int]] = [
        (settings, kind, seed) for kind, seed in wanted if (kind, seed) not in rows
    ]
    for row in _measured(settings, tasks):
        rows[row.kind, row.seed] = row
        sys.stderr.write(_line(row) + "\n")
        if settings.json is not None:
            content = {
                "conditions": _conditions(settings),
                "rows": [asdict(row) for row in rows.values()],
            }
            part = settings.json.with_name(settings.json.name + ".part")  # whole, if killed
            part.write_text(json.dumps(content, indent=2))
            part.replace(settings.json)
    sys.stdout.write(table([rows[key] for key in wanted]) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Measure, description=__doc__))
