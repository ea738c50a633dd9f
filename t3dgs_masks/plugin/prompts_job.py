"""Prompts from a trained splat: what `t3dgs-masks prompts` runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from t3dgs_masks.config import PromptsSettings
from t3dgs_masks.datasets.manifest import MANIFEST_NAME, Manifest, ManifestFrame, write_manifest
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown
from t3dgs_masks.plugin.rendering import write_view_prompts
from t3dgs_masks.plugin.source_dataset import SourceDataset, find_source
from t3dgs_masks.plugin.trained_run import TrainedRun, open_run
from t3dgs_masks.plugin.views import TrainingViews, View, ordered_views, shared_folder
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.sam.devices import resolve_device
from t3dgs_masks.types import Image

_OURS = frozenset({"images", "masks", "diffs", MANIFEST_NAME})


def run_prompts(settings: PromptsSettings) -> None:
    """Render every training view of a run and write what `refine` starts from.

        OUT/images/<name>.png    the training images as training sees them (undistorted)
        OUT/masks/<name>.png     coarse masks, white = transient
        OUT/diffs/<name>.png     residuals, 16-bit grey
        OUT/manifest.json        leads results back to the dataset

    Raises:
        UserError: no such run, or the output folder cannot be used; nothing is written then.
    """
    _check_place(settings.output_dir)
    run = open_run(settings.load_config, settings.data, resolve_device(settings.device))
    source = find_source(run.datamanager)
    files = [Path(file) for file in run.datamanager.train_dataset.image_filenames]
    views = ordered_views(files)
    frames = TrainingViews(
        views, [run.datamanager.cached_train[view.camera_idx]["image"] for view in views]
    )
    with _whole_folder(settings.output_dir) as folder, RichProgress() as progress:
        _write(folder, run, source, frames, settings, progress)
        write_manifest(_manifest(run, source, frames, files), folder)
    sys.stdout.write(
        f"{len(frames)} training views of step {run.step} in {settings.output_dir}\n"
        f"next: t3dgs-masks refine --video-path {settings.output_dir} "
        f"--prompt-dir {settings.output_dir} --result-dir <results>\n"
    )


def _write(
    folder: Path,
    run: TrainedRun,
    source: SourceDataset | None,
    frames: TrainingViews,
    settings: PromptsSettings,
    progress: RichProgress,
) -> None:
    frame_idx_of = {view.name: frame_idx for frame_idx, view in enumerate(frames.views)}
    with progress.stage("rendering views", len(frames)) as advance:

        def on_view(view: View) -> None:
            image = frames[frame_idx_of[view.name]]
            _write_image(folder / "images" / f"{view.name}.png", image)
            advance()

        write_view_prompts(
            folder,
            run.model,
            run.datamanager,
            source,
            frames.views,
            settings.coarse,
            on_view,
        )


def _manifest(
    run: TrainedRun, source: SourceDataset | None, frames: TrainingViews, files: list[Path]
) -> Manifest:
    if source is not None:
        return source.manifest(frames.views, run.datamanager.train_cameras)
    root = shared_folder(files)
    return Manifest(
        str(root.absolute()),
        "folder",
        [ManifestFrame(v.name, v.file.relative_to(root).as_posix()) for v in frames.views],
    )


def _write_image(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode {path.name}")
    path.write_bytes(np.asarray(content).tobytes())


# --- a folder that is whole or not there ----------------------------------------------------------


def _check_place(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{shown(folder)} is a file: give --output-dir a folder")
    present = {entry.name for entry in folder.iterdir()}
    if present and not (present <= _OURS and MANIFEST_NAME in present):
        raise UserError(
            f"{shown(folder)} holds {shown(Path(min(present - _OURS or present)))}, which `prompts`"
            " did not write: choose a new or an empty --output-dir"
        )


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when the block ends without an error."""
    target = target.absolute()
    partial = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            if target.exists():
                shutil.rmtree(target)
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write to {shown(target)}: {error.strerror or error}") from error
