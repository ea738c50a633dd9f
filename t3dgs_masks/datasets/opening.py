"""Whatever holds frames (a dataset, prepared frames, a folder, a video), opened as a sequence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from t3dgs_masks.datasets.colmap import find_model, open_colmap
from t3dgs_masks.datasets.dataset import Camera, Dataset
from t3dgs_masks.datasets.manifest import MANIFEST_NAME, Manifest, ManifestFrame, manifest_of
from t3dgs_masks.datasets.nerfstudio import TRANSFORMS_NAME, open_nerfstudio
from t3dgs_masks.datasets.prepared import IMAGES_FOLDER, find_prepared
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.frames import (
    ImageFileFrames,
    Notify,
    Selection,
    SourceFrames,
    VideoFrames,
    check_resolution,
    open_source_frames,
    reduced,
)
from t3dgs_masks.io.globs import NO_GLOBS, Globs
from t3dgs_masks.io.images import scan_folder, shown, stored_size

SplitChoice = Literal["train", "all"]

_KIND_NAMES = {"nerfstudio": "nerfstudio dataset", "colmap": "COLMAP project"}


def open_dataset(path: Path) -> Dataset | None:
    """Open a posed dataset: a nerfstudio one (a folder with ``transforms.json``, or a JSON file),
    else a COLMAP project (``images/`` beside ``sparse/0``); None if `path` is neither.

    Raises:
        UserError: it is one, but cannot be used as it is.
    """
    if path.suffix == ".json" or os.path.lexists(path / TRANSFORMS_NAME):
        return open_nerfstudio(path)
    if find_model(path) is not None:
        return open_colmap(path)
    return None


@dataclass(frozen=True)
class OpenedFrames:
    """Frames to work on, and where they came from."""

    frames: SourceFrames
    """Reduced to the resolution asked for."""
    manifest: Manifest
    """Of exactly these frames, in their order."""
    leads_back: bool
    """Whether the manifest knows more than the files do: of a dataset, or of prepared frames."""
    files: Sequence[Path] | None
    """The image file of every frame; None for a video."""
    as_stored: bool
    """Whether `frames` ignore the EXIF orientation of the files."""
    inputs: Sequence[Path]
    """Folders of the frames (or the video file), in which no results belong."""


def open_input(
    path: Path,
    *,
    selection: Selection,
    globs: Globs = NO_GLOBS,
    resolution: int | None = None,
    split: SplitChoice = "train",
    notify: Notify,
) -> OpenedFrames:
    """Open a dataset, a prepared folder (or its ``images/``), a folder of images or a video.

    Nothing but headers is read yet. The split is applied first, then the globs, then `selection`.

    Args:
        path: what to open.
        selection: which of the frames, by position.
        globs: which of the frames, by name; not for videos.
        resolution: shorter side in pixels that frames are reduced to; None leaves them as they
            are, and so does a length that they do not reach.
        split: ``train`` leaves out the evaluation frames of a dataset that says which they are.
        notify: takes one-line notices for the user.

    Raises:
        UserError: nothing there, nothing usable in it, no frame left, frames of two sizes.
    """
    check_resolution(resolution)
    dataset = open_dataset(path)
    if dataset is not None:
        opened = _open_dataset_frames(dataset, selection, globs, split, notify)
    elif (prepared := find_prepared(path)) is not None:
        opened = _open_prepared(*prepared, selection, globs, split, notify)
    else:
        opened = _open_plain(path, selection, globs, notify)
    return replace(opened, frames=reduced(opened.frames, resolution))


def _open_dataset_frames(
    dataset: Dataset, selection: Selection, globs: Globs, split: SplitChoice, notify: Notify
) -> OpenedFrames:
    manifest = manifest_of(dataset, dataset.frames)
    what = _KIND_NAMES[dataset.kind]
    manifest = _of_split(manifest, split, what, dataset.described_by, notify)
    manifest = _selected(manifest, selection, globs, dataset.described_by, notify)
    image_of = {frame.name: frame.image for frame in dataset.frames}
    files = {frame.name: image_of[frame.name] for frame in manifest.frames}
    frames = ImageFileFrames(files, upright=False)
    _compare_sizes(manifest, frames, dataset.described_by, notify)
    return OpenedFrames(
        frames,
        manifest,
        leads_back=True,
        files=frames.paths,
        as_stored=True,
        inputs=sorted({file.parent for file in frames.paths}),
    )


def _open_prepared(
    folder: Path,
    manifest: Manifest,
    selection: Selection,
    globs: Globs,
    split: SplitChoice,
    notify: Notify,
) -> OpenedFrames:
    images = folder / IMAGES_FOLDER
    found = scan_folder(images).files
    present = [frame for frame in manifest.frames if frame.name in found]
    if not present:
        raise UserError(
            f"{shown(images)} holds none of the frames that {MANIFEST_NAME} beside it lists:"
            " prepare them again"
        )
    if len(present) < len(manifest.frames):
        notify(
            f"{len(manifest.frames) - len(present)} of {len(manifest.frames)} prepared frames are"
            " no longer there: working with the others"
        )
    if len(found) > len(present):
        notify(
            f"{len(found) - len(present)} images in {shown(images)} ignored: {MANIFEST_NAME} does"
            " not say where they are from"
        )
    manifest = replace(manifest, frames=present)
    manifest = _of_split(manifest, split, "prepared frames", folder, notify)
    manifest = _selected(manifest, selection, globs, folder, notify)
    frames = ImageFileFrames({frame.name: found[frame.name] for frame in manifest.frames})
    return OpenedFrames(
        frames, manifest, leads_back=True, files=frames.paths, as_stored=False, inputs=[images]
    )


def _open_plain(path: Path, selection: Selection, globs: Globs, notify: Notify) -> OpenedFrames:
    frames = open_source_frames(path, selection, notify, globs)
    if isinstance(frames, VideoFrames):
        kind = "video"
        files = None
        sources = [f"{path.name}#{idx}" for idx in frames.source_indices]
    else:
        kind = "folder"
        files = frames.paths
        sources = [file.relative_to(path).as_posix() for file in files]
    described = [
        ManifestFrame(name, source) for name, source in zip(frames.names, sources, strict=True)
    ]
    root = os.path.abspath(path)  # noqa: PTH100 (as text, with '..' folded away)
    return OpenedFrames(
        frames,
        Manifest(root, kind, described),
        leads_back=False,
        files=files,
        as_stored=False,
        inputs=[path],
    )


def _of_split(
    manifest: Manifest, split: SplitChoice, what: str, where: Path, notify: Notify
) -> Manifest:
    """The frames of a split; says what was recognised and how many are left."""
    count = len(manifest.frames)
    if all(frame.split is None for frame in manifest.frames):
        notify(f"{what}: all {count} frames, as it has no split of its own")
        return manifest
    if split == "all":
        notify(f"{what}: all {count} frames, for evaluation too")
        return manifest
    chosen = [frame for frame in manifest.frames if frame.split != "eval"]
    if not chosen:
        raise UserError(
            f"{shown(where)} has no training frames, all {count} are for evaluation: correct its"
            " split"
        )
    notify(f"{what}: {len(chosen)} training frames of {count}")
    return replace(manifest, frames=chosen)


def _selected(
    manifest: Manifest, selection: Selection, globs: Globs, where: Path, notify: Notify
) -> Manifest:
    by_name = {frame.name: frame for frame in manifest.frames}
    names = globs.choose(list(by_name), lambda name: by_name[name].source, where, notify)
    chosen = selection.of(len(names), where)
    return replace(manifest, frames=tuple(by_name[names[idx]] for idx in chosen))


def _compare_sizes(
    manifest: Manifest, frames: ImageFileFrames, where: Path, notify: Notify
) -> None:
    """Say so if the cameras are of images of another size: a trainer would refuse them."""
    for frame, file in zip(manifest.frames, frames.paths, strict=True):
        camera: Camera | None = frame.camera
        if camera is not None and (camera.height, camera.width) != (frames.height, frames.width):
            height, width = stored_size(file)
            notify(
                f"{shown(where)} says {camera.width}x{camera.height} of {shown(frame.source)},"
                f" which is {width}x{height}: the masks will fit the image, and a trainer may"
                " refuse both"
            )
            return
