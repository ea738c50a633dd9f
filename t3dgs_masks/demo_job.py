"""The demo: makes a capture and its prompts, refines them, and compares both with the truth."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from t3dgs_masks.config import DemoSettings, RefineSettings
from t3dgs_masks.errors import UserError
from t3dgs_masks.evaluate import TransientScores, transient_scores
from t3dgs_masks.io.whole_file import write_whole
from t3dgs_masks.refine_job import run_refine
from t3dgs_masks.report.contact_sheet import ContactRow, contact_sheet
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.settings_checks import check_demo
from t3dgs_masks.synthetic.capture import Capture, CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import CoarsePrompts, half_trained_prompts
from t3dgs_masks.synthetic.dataset import DatasetPaths, write_nerfstudio
from t3dgs_masks.types import BoolMask

_SHEET_ROWS = 4


@dataclass(frozen=True)
class DemoOutcome:
    """Scores of what went in and of what came out."""

    coarse: TransientScores
    refined: TransientScores
    image_encodings_per_frame: float


def run_demo(settings: DemoSettings) -> DemoOutcome:
    """Run the demo and print where its results are.

    Raises:
        UserError: bad settings, or a place that cannot be written to.
    """
    check_demo(settings)
    if settings.train:
        _check_training(settings)
    root = settings.output_dir / f"seed_{settings.seed}"
    capture, prompts, paths = _make_capture(settings, root / "capture")
    result_dir = root / "masks"
    run_refine(
        RefineSettings(
            video_path=paths.images,
            result_dir=result_dir,
            prompt_dir=paths.prompts,
            sam2_checkpoint=settings.sam2_checkpoint,
            tracker=settings.tracker,
            device=settings.device,
            threads=settings.threads,
            resume=settings.resume,
        )
    )
    refined = _read_transient_masks(paths.images, result_dir / "binary_masks")
    outcome = DemoOutcome(
        coarse=transient_scores(zip(prompts.coarse, capture.transient_masks, strict=True)),
        refined=transient_scores(zip(refined, capture.transient_masks, strict=True)),
        image_encodings_per_frame=_image_encodings_per_frame(result_dir),
    )
    sheet = root / "contact_sheet.png"
    _write_sheet(sheet, outcome, capture, prompts, refined)
    _print_outcome(outcome, paths, result_dir, sheet)
    scores: dict[str, object] = {"seed": settings.seed, **asdict(outcome)}
    if settings.train:
        from t3dgs_masks.splat_demo_job import run_splat_demo

        splats = run_splat_demo(settings, paths, root / "splat")
        scores["psnr"] = dict(splats.psnr)
        scores["in_training_psnr"] = splats.in_training_psnr
        scores["train_steps"] = splats.train_steps
    if settings.json is not None:
        write_whole(settings.json, json.dumps(scores, indent=2).encode())
    return outcome


def _check_training(settings: DemoSettings) -> None:
    if importlib.util.find_spec("nerfstudio") is None:
        raise UserError("--train needs nerfstudio: pip install 't3dgs_masks[nerfstudio]'")


def _make_capture(
    settings: DemoSettings, root: Path
) -> tuple[Capture, CoarsePrompts, DatasetPaths]:
    spec = CaptureSpec(
        seed=settings.seed,
        num_frames=settings.num_frames,
        num_walkers=settings.num_walkers,
        look=settings.look,
    )
    with RichProgress() as progress, progress.stage("making a capture"):
        capture = make_capture(spec)
        prompts = half_trained_prompts(capture, seed=settings.seed)
        return capture, prompts, write_nerfstudio(capture, prompts, root)


def _read_transient_masks(images: Path, masks: Path) -> list[BoolMask]:
    """What a later training would read for every frame: static masks, 0 = transient."""
    return [
        np.asarray(PilImage.open(masks / image.name)) == 0 for image in sorted(images.iterdir())
    ]


def _image_encodings_per_frame(result_dir: Path) -> float:
    report = json.loads((result_dir / "report.json").read_text())
    return report["image_encodings_per_frame"]


def _write_sheet(
    path: Path,
    outcome: DemoOutcome,
    capture: Capture,
    prompts: CoarsePrompts,
    refined: list[BoolMask],
) -> None:
    picture = contact_sheet(
        list(_sheet_rows(capture, prompts, refined)),
        title="t3dgs-masks demo",
        subtitle=(
            f"transient IoU {outcome.coarse.iou:.2f} before, {outcome.refined.iou:.2f} after, "
            f"over {capture.num_frames} frames"
        ),
    )
    buffer = BytesIO()
    PilImage.fromarray(picture).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def _sheet_rows(
    capture: Capture, prompts: CoarsePrompts, refined: list[BoolMask]
) -> Iterator[ContactRow]:
    count = min(_SHEET_ROWS, capture.num_frames)
    for frame_idx in np.linspace(0, capture.num_frames - 1, count).round().astype(int):
        yield ContactRow(
            frame=capture.frames[frame_idx],
            coarse=prompts.coarse[frame_idx],
            refined=refined[frame_idx],
            truth=capture.transient_masks[frame_idx],
            title=f"frame {frame_idx + 1}",
        )


def _print_outcome(
    outcome: DemoOutcome, paths: DatasetPaths, result_dir: Path, sheet: Path
) -> None:
    def row(name: str, scores: TransientScores) -> str:
        return f"{name:<14}{scores.iou:>8.3f}{scores.precision:>12.3f}{scores.recall:>9.3f}"

    lines = [
        "",
        f"{'transient':<14}{'IoU':>8}{'precision':>12}{'recall':>9}",
        row("coarse", outcome.coarse),
        row("refined", outcome.refined),
        "",
        f"capture        {paths.root}",
        f"masks          {result_dir / 'binary_masks'}",
        f"overlay video  {result_dir / 'overlay.mp4'}",
        f"report         {result_dir / 'report.html'}",
        f"contact sheet  {sheet}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
