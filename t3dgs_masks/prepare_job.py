"""Frames of any input, at a chosen scale, with the way back. What `t3dgs-masks prepare` runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image as PilImage

from t3dgs_masks.config import PrepareSettings
from t3dgs_masks.datasets.manifest import Manifest
from t3dgs_masks.datasets.opening import OpenedFrames, open_input
from t3dgs_masks.datasets.prepared import PreparedFolder
from t3dgs_masks.errors import DISK_FULL, UserError
from t3dgs_masks.io.frames import Selection
from t3dgs_masks.io.globs import Globs
from t3dgs_masks.io.images import is_turned, shown
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.types import Image

_SUFFIXES_OF_FORMAT = {"png": (".png",), "jpg": (".jpg", ".jpeg")}
_JPEG_QUALITY = 95


def run_prepare(settings: PrepareSettings) -> Manifest:
    """Write ``images/`` and ``manifest.json`` into `settings.output_dir`.

    All of it arrives, or nothing; what an earlier `prepare` left there is replaced at the end.

    Returns:
        The manifest, as written.

    Raises:
        UserError: bad input or settings, or a place that cannot be written to or is not free.
    """
    with RichProgress() as progress:
        opened = open_input(
            settings.data,
            selection=Selection(settings.every, settings.start, settings.end),
            globs=Globs(settings.include, settings.exclude),
            resolution=settings.resolution,
            split=settings.split,
            notify=progress.notice,
        )
        frames = opened.frames
        with (
            PreparedFolder(settings.output_dir, opened.inputs) as folder,
            progress.stage("preparing frames", len(frames)) as advance,
        ):
            for frame_idx, name in enumerate(frames.names):
                file = _usable_file(opened, frame_idx, settings.format)
                if file is not None:
                    _copy(file, folder.image_path(name, file.suffix))
                else:
                    suffix = f".{settings.format or 'png'}"
                    _write(frames[frame_idx], folder.image_path(name, suffix))
                advance()
            folder.publish(opened.manifest)
    print(
        f"{len(frames)} frames, {frames.width}x{frames.height}, in {shown(settings.output_dir)}:"
        f" t3dgs-masks refine --video-path {shown(settings.output_dir)} --result-dir ..."
    )
    return opened.manifest


def _usable_file(opened: OpenedFrames, frame_idx: int, wanted: str | None) -> Path | None:
    """The file of a frame if its bytes can be taken over: nothing is lost then, and nothing is
    decoded. Not a link, so that editing a prepared frame never changes the dataset."""
    frames = opened.frames
    scaled = (frames.height, frames.width) != (frames.source_height, frames.source_width)
    if opened.files is None or scaled:
        return None
    file = opened.files[frame_idx]
    if wanted is not None and file.suffix.lower() not in _SUFFIXES_OF_FORMAT[wanted]:
        return None
    if opened.as_stored and is_turned(file):
        return None  # in the prepared folder it would be read upright
    return file


def _copy(file: Path, target: Path) -> None:
    try:
        shutil.copyfile(file, target)
    except OSError as error:
        raise _failed(error, file, target) from error


def _write(image: Image, target: Path) -> None:
    picture = PilImage.fromarray(image)
    try:
        if target.suffix == ".png":
            picture.save(target)
        else:
            picture.save(target, quality=_JPEG_QUALITY, subsampling=0)
    except OSError as error:
        raise _failed(error, target, target) from error


def _failed(error: OSError, file: Path, target: Path) -> UserError:
    if error.errno in DISK_FULL:
        return UserError(f"cannot write {shown(target.name)}: the disk is full; free some space")
    return UserError(f"cannot copy {shown(file)}: {error.strerror or error}")
