"""Refines several generated captures and prints how well it went.

    python scripts/measure_refine.py --seeds 0 1 2 3 4
    python scripts/measure_refine.py --seeds 0 1 2 --compare-official

The captures and prompts are those of `t3dgs-masks demo`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image as PilImage

from t3dgs_masks.config import DemoSettings, RefineConfig, RefineSettings
from t3dgs_masks.demo_job import run_demo
from t3dgs_masks.evaluate import transient_scores
from t3dgs_masks.masks import iou
from t3dgs_masks.refine_job import run_refine
from t3dgs_masks.synthetic.dataset import DatasetPaths


@dataclass(frozen=True)
class Measure:
    """Refine captures of several seeds."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Which captures."""
    num_frames: int = 40
    """Length of each."""
    num_walkers: int = 3
    """People in each."""
    look: Literal["calm", "busy"] = "calm"
    """See `t3dgs-masks demo --help`."""
    sam2_checkpoint: str = "tiny-synthetic"
    """Path, or a name of `t3dgs-masks models list`."""
    compare_official: bool = False
    """Refine with the official predictor too, and compare the masks frame by frame."""
    without_final_pass: bool = False
    """Refine with --no-final-pass too."""
    threads: int | None = None
    """CPU threads. Default: all cores."""
    output_dir: Path | None = None
    """Keep captures and results here. Default: a temporary folder."""
    json: Path | None = None
    """Write the figures to this file too."""


@dataclass(frozen=True)
class Row:
    """One capture."""

    seed: int
    coarse_iou: float
    refined_iou: float
    precision: float
    recall: float
    image_encodings_per_frame: float
    seconds: float
    iou_without_final_pass: float | None = None
    seconds_without_final_pass: float | None = None
    official_lowest_iou: float | None = None  # over frames, between the trackers' static areas
    official_seconds: float | None = None
    official_image_encodings_per_frame: float | None = None


def measure(settings: Measure, seed: int, root: Path) -> Row:
    demo = DemoSettings(
        output_dir=root / "sam2",
        seed=seed,
        num_frames=settings.num_frames,
        num_walkers=settings.num_walkers,
        look=settings.look,
        sam2_checkpoint=settings.sam2_checkpoint,
        threads=settings.threads,
    )
    outcome = run_demo(demo)
    ours = demo.output_dir / f"seed_{seed}" / "masks"
    row = Row(
        seed=seed,
        coarse_iou=outcome.coarse.iou,
        refined_iou=outcome.refined.iou,
        precision=outcome.refined.precision,
        recall=outcome.refined.recall,
        image_encodings_per_frame=outcome.image_encodings_per_frame,
        seconds=_report(ours)["running_time"],
    )
    if settings.without_final_pass:
        row = replace(row, **_without_final_pass(demo))
    if not settings.compare_official:
        return row
    run_demo(replace(demo, output_dir=root / "official", tracker="official"))
    theirs = root / "official" / f"seed_{seed}" / "masks"
    return replace(
        row,
        official_lowest_iou=min(_transient_ious(ours, theirs)),
        official_seconds=_report(theirs)["running_time"],
        official_image_encodings_per_frame=_report(theirs)["image_encodings_per_frame"],
    )


def _without_final_pass(demo: DemoSettings) -> dict[str, float]:
    """Fields of `Row`."""
    paths = DatasetPaths(demo.output_dir / f"seed_{demo.seed}" / "capture")
    result_dir = demo.output_dir / f"seed_{demo.seed}" / "masks_without_final_pass"
    run_refine(
        RefineSettings(
            video_path=paths.images,
            prompt_dir=paths.prompts,
            result_dir=result_dir,
            sam2_checkpoint=demo.sam2_checkpoint,
            threads=demo.threads,
            algorithm=RefineConfig(final_pass=False),
        )
    )
    refined = [
        np.asarray(PilImage.open(result_dir / "binary_masks" / image.name)) == 0
        for image in sorted(paths.images.iterdir())
    ]
    truth = [np.asarray(PilImage.open(path)) > 0 for path in sorted(paths.ground_truth.iterdir())]
    return {
        "iou_without_final_pass": transient_scores(zip(refined, truth, strict=True)).iou,
        "seconds_without_final_pass": _report(result_dir)["running_time"],
    }


def _report(result_dir: Path) -> dict[str, float]:
    return json.loads((result_dir / "report.json").read_text())


def _transient_ious(first: Path, second: Path) -> list[float]:
    """IoU of the transient areas of two results, per frame; 1 where neither has any."""
    values = []
    for path in sorted((first / "binary_masks").glob("*.png")):
        a = np.asarray(PilImage.open(path)) == 0
        b = np.asarray(PilImage.open(second / "binary_masks" / path.name)) == 0
        values.append(iou(a, b) if a.any() or b.any() else 1.0)
    return values


def main(settings: Measure) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = settings.output_dir or Path(temporary)
        rows = [measure(settings, seed, root) for seed in settings.seeds]
    lines = ["", "seed  coarse IoU  refined IoU  precision  recall  encodings/frame  seconds"]
    for row in rows:
        line = (
            f"{row.seed:>4}  {row.coarse_iou:>10.3f}  {row.refined_iou:>11.3f}  "
            f"{row.precision:>9.3f}  {row.recall:>6.3f}  "
            f"{row.image_encodings_per_frame:>15.2f}  {row.seconds:>7.1f}"
        )
        if row.iou_without_final_pass is not None:
            line += (
                f"   without final pass: IoU {row.iou_without_final_pass:.3f}, "
                f"{row.seconds_without_final_pass:.1f} s"
            )
        if row.official_lowest_iou is not None:
            line += (
                f"   official: lowest IoU with ours {row.official_lowest_iou:.4f}, "
                f"{row.official_image_encodings_per_frame:.2f} encodings/frame, "
                f"{row.official_seconds:.1f} s"
            )
        lines.append(line)
    lines.append(
        f"mean  {np.mean([r.coarse_iou for r in rows]):>10.3f}  "
        f"{np.mean([r.refined_iou for r in rows]):>11.3f}"
    )
    if settings.without_final_pass:
        shorter = [r.iou_without_final_pass for r in rows if r.iou_without_final_pass is not None]
        lines.append(f"mean without final pass: {np.mean(shorter):.3f}")
    sys.stdout.write("\n".join(lines) + "\n")
    if settings.json is not None:
        settings.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main(tyro.cli(Measure, description=__doc__))
