"""The demo's second half: what masks are worth to a splat.

Trains the demo capture without masks, makes prompts of that splat, refines them, writes the masks
into the dataset and trains again; beside it with the coarse masks, with the true ones, and in one
go with a refine in mid-training. Every training is a real `ns-train` of its own, with the same
steps and seed, and all are judged by views that show nobody.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image as PilImage

from t3dgs_masks.apply_job import run_apply
from t3dgs_masks.config import ApplySettings, DemoSettings, PromptsSettings, RefineSettings
from t3dgs_masks.cores import usable_cores
from t3dgs_masks.datasets.apply_masks import FrameMask, apply_masks
from t3dgs_masks.datasets.dataset import DatasetFrame
from t3dgs_masks.errors import UserError
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.plugin.evaluation import EvaluatedRun, evaluate_run
from t3dgs_masks.plugin.prompts_job import run_prompts
from t3dgs_masks.refine_job import run_refine
from t3dgs_masks.report.picture_grid import GridColumn, picture_grid
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.sam.devices import resolve_device
from t3dgs_masks.synthetic.dataset import DatasetPaths

SMALL_SCENE_FLAGS = (
    *("--pipeline.model.num-downscales", "0"),
    *("--pipeline.model.stop-split-at", "0"),
    *("--optimizers.means.optimizer.lr", "1e-3"),
    *("--optimizers.features-dc.optimizer.lr", "0.02"),
    *("--optimizers.features-rest.optimizer.lr", "1e-3"),
    *("--optimizers.scales.optimizer.lr", "0.02"),
    *("--optimizers.quats.optimizer.lr", "0.01"),
)
"""Splatfacto's defaults are for 30,000 steps over photographs. These bring a tiny scene to its end
in some hundred."""
DILATE = 2
"""Pixels of the training images that all masks grow by, the coarse and the true ones alike."""

_GIVEN_MASKS = (
    "--pipeline.datamanager.refine-steps",  # none
    *("--pipeline.model.robust.enabled", "False"),
)
"""Learn with the masks of the dataset, and nothing else."""
_GRID_ROWS = 3
_STEP_LINE = re.compile(r"^(\d+) \(\d", re.MULTILINE)
_TITLES = {
    "unmasked": "no masks",
    "coarse": "coarse masks",
    "refined": "refined masks",
    "ground_truth": "true masks",
    "in_training": "one ns-train, refining midway",
}


@dataclass(frozen=True)
class SplatDemoOutcome:
    """PSNR on the clean evaluation views, dB, by what was trained with."""

    psnr: Mapping[str, float]
    """Of ``unmasked``, ``coarse``, ``refined``, ``ground_truth``: one training each."""
    in_training_psnr: float
    """Of one training that refines its masks midway."""
    train_steps: int
    picture: Path

    def won_back(self, psnr: float) -> float:
        """Share of what the true masks gain over no masks."""
        gap = self.psnr["ground_truth"] - self.psnr["unmasked"]
        return (psnr - self.psnr["unmasked"]) / gap if gap > 0 else float("nan")


def run_splat_demo(settings: DemoSettings, capture: DatasetPaths, root: Path) -> SplatDemoOutcome:
    """Train, refine, train again.

    Args:
        settings: of the demo.
        capture: the dataset of the demo, as it was made.
        root: where trainings go; what an earlier demo left there is replaced.

    Raises:
        UserError: a training failed; the line names its log.
    """
    prompts = prompts_of_splat(settings, capture, root)
    trainings = _Trainings(settings, root)
    data = {
        name: _copy(capture, root / "data" / name)
        for name in ("coarse", "refined", "ground_truth", "in_training")
    }
    result = root / "masks"
    run_refine(
        RefineSettings(
            video_path=data["refined"].root,
            result_dir=result,
            prompt_dir=prompts,
            prompt_polarity="white-transient",
            sam2_checkpoint=settings.sam2_checkpoint,
            tracker=settings.tracker,
            device=settings.device,
            threads=settings.threads,
        )
    )
    grown = max(1, round(DILATE / settings.train_scale))
    run_apply(ApplySettings(data["refined"].root, result, dilate=grown))
    for name, masks in (("coarse", prompts / "masks"), ("ground_truth", capture.ground_truth)):
        apply_masks(data[name].root, _WhiteIsTransient(masks), dilate=grown)
    trainings.run(
        {
            **{
                name: _Training(data[name].root, _GIVEN_MASKS)
                for name in ("coarse", "refined", "ground_truth")
            },
            "in_training": _Training(data["in_training"].root, _refine_midway(settings)),
        }
    )
    device = resolve_device(settings.device)
    runs = {name: evaluate_run(trainings.config(name), device) for name in _TITLES}
    outcome = SplatDemoOutcome(
        psnr={name: run.psnr for name, run in runs.items() if name != "in_training"},
        in_training_psnr=runs["in_training"].psnr,
        train_steps=settings.train_steps,
        picture=root / "renders.png",
    )
    _write_picture(outcome, runs)
    _print_outcome(outcome)
    return outcome


def prompts_of_splat(settings: DemoSettings, capture: DatasetPaths, root: Path) -> Path:
    """Train without masks, and make prompts of that splat.

    Args:
        settings: of the demo; steps, scale, seed, device and threads count.
        capture: the dataset to train on; it is left as it is.
        root: where the training goes; what was there before is removed.

    Returns:
        The prompt folder, in ``root``; its images are of the size that was trained on.

    Raises:
        UserError: the training failed; the line names its log.
    """
    shutil.rmtree(root, ignore_errors=True)
    trainings = _Trainings(settings, root)
    copy = _copy(capture, root / "data" / "unmasked")
    trainings.run({"unmasked": _Training(copy.root, _GIVEN_MASKS)})
    prompts = root / "prompts"
    run_prompts(PromptsSettings(trainings.config("unmasked"), prompts, device=settings.device))
    return prompts


def _refine_midway(settings: DemoSettings) -> tuple[str, ...]:
    return (
        *("--pipeline.datamanager.refine-steps", str(settings.train_steps // 2)),
        *("--pipeline.datamanager.dilate", str(DILATE)),
        *("--pipeline.datamanager.refiner.sam2-checkpoint", settings.sam2_checkpoint),
        *("--pipeline.model.robust.warmup-steps", str(settings.train_steps // 6)),
    )


def _copy(capture: DatasetPaths, root: Path) -> DatasetPaths:
    """The dataset alone, for one training: what is written back stays in the copy."""
    copy = DatasetPaths(root)
    for source, target in (
        (capture.images, copy.images),
        (capture.eval_images, copy.eval_images),
    ):
        shutil.copytree(source, target)
    for source in (capture.transforms, capture.seed_points):
        shutil.copy(source, root / source.name)
    return copy


class _WhiteIsTransient:
    """A folder of masks of the frames, white = transient, as the `MaskSource` of an apply."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def mask_of(self, frame: DatasetFrame) -> FrameMask | None:
        """The mask of a training frame; None for evaluation frames, which have none."""
        if frame.split == "eval":
            return None
        path = self._folder / f"{PurePosixPath(frame.source).stem}.png"
        with PilImage.open(path) as image:
            return FrameMask(TransientMask(np.asarray(image.convert("L")) > 127))


# --- trainings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Training:
    """One `ns-train`."""

    data: Path
    flags: tuple[str, ...]


class _Trainings:
    """Runs `ns-train`s, as many at a time as there are cores for."""

    def __init__(self, settings: DemoSettings, root: Path) -> None:
        self._settings = settings
        self._root = root
        self._on_cuda = resolve_device(settings.device).type == "cuda"

    def config(self, name: str) -> Path:
        """The config.yml of a training."""
        return self._root / "runs" / name / "t3dgs-splatfacto" / "demo" / "config.yml"

    def run(self, trainings: Mapping[str, _Training]) -> None:
        """Run all of them to their end.

        Raises:
            UserError: one failed; the others are stopped.
        """
        cores = self._settings.threads or usable_cores()
        at_once = 1 if self._on_cuda else max(1, min(cores, len(trainings)))
        waiting = dict(trainings)
        running: dict[str, subprocess.Popen[bytes]] = {}
        title = "training: " + ", ".join(_TITLES[name] for name in trainings)
        steps = self._settings.train_steps * len(trainings)
        try:
            with RichProgress() as progress, progress.stage(title, steps) as advance:
                count = _Counter(advance)
                while waiting or running:
                    while waiting and len(running) < at_once:
                        name = next(iter(waiting))
                        running[name] = self._start(name, waiting.pop(name))
                    time.sleep(0.5)
                    for name, process in list(running.items()):
                        count.reached(name, self._steps_done(name))
                        if process.poll() is not None:
                            del running[name]
                            self._check(name, process)
                            count.reached(name, self._settings.train_steps)
        finally:
            for process in running.values():
                process.kill()
                process.wait()

    def _start(self, name: str, training: _Training) -> subprocess.Popen[bytes]:
        command = self._command(name, training)
        self._log(name).parent.mkdir(parents=True, exist_ok=True)
        with self._log(name).open("wb") as log:
            log.write((" ".join(command) + "\n").encode())
            log.flush()
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Images this small gain nothing from a second thread.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def _command(self, name: str, training: _Training) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "nerfstudio.scripts.train", "t3dgs-splatfacto"),
            *("--data", str(training.data)),
            *("--output-dir", str(self._root / "runs")),
            *("--experiment-name", name, "--timestamp", "demo"),
            *("--machine.device-type", "cuda" if self._on_cuda else "cpu"),
            *("--machine.seed", str(self._settings.seed)),
            *("--max-num-iterations", str(self._settings.train_steps)),
            *("--vis", "tensorboard", "--viewer.quit-on-train-completion", "True"),
            *("--steps-per-eval-image", "0", "--steps-per-eval-all-images", "0"),
            *("--pipeline.datamanager.camera-res-scale-factor", str(self._settings.train_scale)),
            *SMALL_SCENE_FLAGS,
            *training.flags,
        ]

    def _log(self, name: str) -> Path:
        return self._root / "logs" / f"{name}.txt"

    def _steps_done(self, name: str) -> int:
        found = _STEP_LINE.findall(self._log(name).read_text(errors="replace")[-4000:])
        return int(found[-1]) if found else 0

    def _check(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if process.returncode != 0:
            raise UserError(
                f"the training with {_TITLES[name]} failed; see {self._log(name)} for what it said"
            )


class _Counter:
    """Turns the steps that trainings have reached into steps of one progress bar."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self._advance = advance
        self._reached: dict[str, int] = {}

    def reached(self, name: str, step: int) -> None:
        for _ in range(step - self._reached.get(name, 0)):
            self._advance()
        self._reached[name] = max(step, self._reached.get(name, 0))


# --- what came out --------------------------------------------------------------------------------


def _write_picture(outcome: SplatDemoOutcome, runs: Mapping[str, EvaluatedRun]) -> None:
    first = runs["unmasked"].views
    rows = np.linspace(0, len(first) - 1, min(_GRID_ROWS, len(first))).round().astype(int)
    columns = [
        GridColumn("photo", [first[row].photo for row in rows], ["evaluation view"] * len(rows))
    ]
    for name, run in runs.items():
        views = [run.views[row] for row in rows]
        columns.append(
            GridColumn(
                f"{_TITLES[name]}: {run.psnr:.1f} dB",
                [view.render for view in views],
                [f"{view.psnr:.1f} dB" for view in views],
            )
        )
    picture = picture_grid(
        columns,
        title="What masks are worth to a splat",
        subtitle=f"evaluation views that show nobody, after {outcome.train_steps} steps each",
    )
    PilImage.fromarray(picture).save(outcome.picture)


def _print_outcome(outcome: SplatDemoOutcome) -> None:
    lines = [
        "",
        f"{'trained with':<32}{'PSNR':>8}{'won back':>10}",
        *(
            f"{_TITLES[name]:<32}{psnr:>8.2f}{outcome.won_back(psnr):>10.0%}"
            for name, psnr in {**outcome.psnr, "in_training": outcome.in_training_psnr}.items()
        ),
        "",
        f"PSNR in dB on clean evaluation views after {outcome.train_steps} steps; won back: share",
        "of what the true masks gain over no masks.",
        f"renders        {outcome.picture}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
