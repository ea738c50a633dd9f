"""``t3dgs-masks export``: a result's masks in the conventions of other tools."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from natsort import natsorted
from PIL import Image as Pillow

from t3dgs_masks import masks
from t3dgs_masks.config import ExportSettings
from t3dgs_masks.datasets.dataset import Dataset
from t3dgs_masks.datasets.export_folder import ExportFolder, read_marker
from t3dgs_masks.datasets.export_formats import (
    FORMATS,
    IMAGES,
    ExportFormat,
    as_markdown,
    format_named,
)
from t3dgs_masks.datasets.export_nerfstudio import transforms_elsewhere
from t3dgs_masks.datasets.export_objects import as_coco, as_sav
from t3dgs_masks.datasets.export_source import ExportImage, ExportSource, open_export_source
from t3dgs_masks.datasets.manifest import read_manifest
from t3dgs_masks.datasets.mask_places import flat_names
from t3dgs_masks.datasets.nerfstudio import TRANSFORMS_NAME
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import read_rgb, shown, stored_size
from t3dgs_masks.io.mask_png import mask_png
from t3dgs_masks.io.outputs import MaskletFile, complete_publish, read_masklets
from t3dgs_masks.io.publish import MASK_FOLDER, MASKLETS
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.report.text import printable

Notify = Callable[[str], None]

EXPORTS = "exports.json"
"""In the result folder: where it was exported to."""


@dataclass(frozen=True)
class ExportSummary:
    """What was written."""

    dest: Path
    files: int
    """Masks, images with alpha, or objects on frames."""
    notices: Sequence[str] = ()


def run_export(settings: ExportSettings, *, quiet: bool = False) -> ExportSummary | None:
    """Write the masks of a result as another tool wants them, and say what to do with them.

    Args:
        settings: what to do.
        quiet: say nothing.

    Returns:
        What was written; None if only the list of formats was asked for.

    Raises:
        UserError: no such result or images, or a place that is not free. Nothing is written then.
    """
    if settings.list:
        print(as_markdown())
        return None
    result, dest, form = _checked(settings)
    notices: list[str] = []
    inputs = [result / MASK_FOLDER]
    if form.content == "objects":
        file = read_masklets(result / MASKLETS)
        names = _image_names(result, settings.data, file, notices.append)
        with ExportFolder(dest, inputs) as folder:
            num_files = _write_objects(folder, file, names, result, settings.dilate)
            folder.publish(_description(settings, result))
        data = None
    else:
        source = open_export_source(result, settings.data, notices.append)
        _check_source(source, form)
        with ExportFolder(dest, [*inputs, *source.inputs]) as folder:
            num_files = _write_images(folder, source, form, settings.dilate)
            folder.publish(_description(settings, result))
        data = source.dataset.root if source.dataset is not None else settings.data
        if form.in_order and source.dataset is None:
            notices.append(
                f"{form.tool} goes by position: it needs a mask for every image that it has, and"
                f" these are {num_files}"
            )
    _remember(result, dest)
    if quiet:
        return ExportSummary(dest, num_files, notices)
    _print(f"notice: {notice}" for notice in notices)
    what = "objects on frames" if form.content == "objects" else "files"
    then = form.then.format(dest=_quoted(dest), data=_quoted(data) if data else "<dataset>")
    _print([f"{num_files} {what} for {form.tool} in {shown(dest)}", f"then      {then}"])
    return ExportSummary(dest, num_files, notices)


def exports_of(result: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, description) of the exports of a result that are still there."""
    place = _absolute(result)
    exports = []
    for dest in _remembered(result):
        marker = read_marker(Path(dest))
        if marker is not None and marker.get("result") == place:
            exports.append((Path(dest), marker))
    return exports


def _remember(result: Path, dest: Path) -> None:
    """Note an export, so that `refilter` can renew it. A result that is read only goes without."""
    known = _remembered(result)
    if _absolute(dest) in known:
        return
    with suppress(OSError):
        text = json.dumps([*known, _absolute(dest)], indent=1) + "\n"
        temporary = result / f".{EXPORTS}.part"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(result / EXPORTS)


def _remembered(result: Path) -> list[str]:
    try:
        known = json.loads((result / EXPORTS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    return [dest for dest in known if isinstance(dest, str)] if isinstance(known, list) else []


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (follows no links)


def _checked(settings: ExportSettings) -> tuple[Path, Path, ExportFormat]:
    """The result, where to, and in which format."""
    if settings.result is None or settings.to is None or settings.dest is None:
        names = ", ".join(each.name for each in FORMATS)
        raise UserError(
            f"export needs a result folder, --to ({names}) and --dest; --list describes them"
        )
    if settings.dilate < 0:
        raise UserError(f"--dilate {settings.dilate} is below 0: transients can only grow")
    result = settings.result
    complete_publish(result)
    if not (result / MASKLETS).is_file() or not (result / MASK_FOLDER).is_dir():
        raise UserError(
            f"{shown(result)} is no result of `t3dgs-masks refine`: it needs {MASKLETS} and"
            f" {MASK_FOLDER}/"
        )
    return result, settings.dest, format_named(settings.to)


def _check_source(source: ExportSource, form: ExportFormat) -> None:
    if form.name == "nerfstudio" and (
        source.dataset is None or source.dataset.kind != "nerfstudio"
    ):
        raise UserError(
            f"--to nerfstudio needs a dataset with {TRANSFORMS_NAME}: give it with --data; COLMAP"
            " projects are for --to nerfstudio-colmap"
        )
    if form.needs_images and any(image.file is None for image in source.images):
        raise UserError(f"--to {form.name} needs the images themselves: give them with --data")
    if "{image}" in form.file_name and any(not image.path.suffix for image in source.images):
        raise UserError(
            f"--to {form.name} needs the names of the image files (.jpg or .png): say where they"
            " are with --data"
        )


def _description(settings: ExportSettings, result: Path) -> dict[str, object]:
    return {
        "to": settings.to,
        "result": _absolute(result),
        "data": None if settings.data is None else _absolute(settings.data),
        "dilate": settings.dilate,
    }


# --- Masks ------------------------------------------------------------------------------------


def _write_images(
    folder: ExportFolder, source: ExportSource, form: ExportFormat, dilate: int
) -> int:
    """A mask for every image, or every image with alpha; returns how many."""
    paths = _paths(source.images, form)
    for index, (image, path) in enumerate(zip(source.images, paths, strict=True)):
        whole = form.eval_is_whole and image.is_eval
        mask = source.mask(index, dilate=dilate, whole=whole)
        folder.write(path, _content(mask, image, form))
    if source.dataset is not None and form.eval_is_whole:
        _write_downscaled(folder, source, source.dataset, form, paths, dilate)
    return len(paths)


def _paths(images: Sequence[ExportImage], form: ExportFormat) -> list[str]:
    """Where every mask goes."""
    flat = flat_names([image.path.with_suffix("").as_posix() for image in images])
    if form.in_order:
        names = [image.path.as_posix() for image in images]
        by_position = [names.index(name) for name in natsorted(names)]
        if natsorted(flat) != [flat[index] for index in by_position]:
            for number, index in enumerate(by_position):
                flat[index] = f"{number:05d}"
    return [form.path(image.path, name) for image, name in zip(images, flat, strict=True)]


def _content(mask: TransientMask, image: ExportImage, form: ExportFormat) -> bytes:
    """The PNG of a mask, or of its image with the mask as alpha."""
    values = mask.static() if form.transient == 0 else ~mask.static()
    if form.content != "alpha":
        return mask_png(values)
    assert image.file is not None  # _check_source
    values = np.dstack([read_rgb(image.file, upright=False), values])
    buffer = BytesIO()
    Pillow.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def _write_downscaled(
    folder: ExportFolder,
    source: ExportSource,
    dataset: Dataset,
    form: ExportFormat,
    paths: Sequence[str],
    dilate: int,
) -> None:
    """Masks of ``images_2`` and so on, as nerfstudio looks for them; and its JSON file."""
    is_nerfstudio = form.name == "nerfstudio"
    for factor, images in _downscaled(dataset.root):
        for index, (image, path) in enumerate(zip(source.images, paths, strict=True)):
            # nerfstudio's own format drops the folders of downscaled images.
            copy = images / (
                Path(dataset.frames[index].source).name if is_nerfstudio else image.path
            )
            if copy.is_file():
                whole = form.eval_is_whole and image.is_eval
                mask = source.mask_of_copy(index, stored_size(copy), dilate=dilate, whole=whole)
                below = PurePosixPath(path).relative_to(form.folder).as_posix()
                folder.write(f"{form.folder}_{factor}/{below}", _content(mask, image, form))
        if is_nerfstudio:
            folder.link(images.name, Path(os.path.realpath(images)))
    if is_nerfstudio:
        sources = [frame.source for frame in dataset.frames]
        transforms = transforms_elsewhere(dataset, dict(zip(sources, paths, strict=True)))
        folder.write(TRANSFORMS_NAME, transforms)


def _downscaled(root: Path) -> Iterator[tuple[int, Path]]:
    """(factor, folder) of the downscaled images that a dataset has."""
    for folder in sorted(root.glob(f"{IMAGES}_*")):
        factor = folder.name.removeprefix(f"{IMAGES}_")
        if folder.is_dir() and factor.isascii() and factor.isdigit() and int(factor) > 1:
            yield int(factor), folder


# --- Objects ----------------------------------------------------------------------------------


def _image_names(result: Path, data: Path | None, file: MaskletFile, notify: Notify) -> list[str]:
    """What the frames are called in annotations: as their files, if those look the same."""
    manifest = read_manifest(result)
    if manifest is not None and any(frame.undistorted is not None for frame in manifest.frames):
        notify(
            "objects are of the undistorted views, which the dataset's image files do not show:"
            " frames are called <name>.png"
        )
        return [f"{name}.png" for name in file.frames]
    source = open_export_source(result, data, lambda _: None)
    of_path = {image.path.with_suffix("").as_posix(): image.path for image in source.images}
    return [(of_path.get(name) or PurePosixPath(f"{name}.png")).as_posix() for name in file.frames]


def _write_objects(
    folder: ExportFolder, file: MaskletFile, names: Sequence[str], result: Path, dilate: int
) -> int:
    if dilate:
        file = replace(
            file,
            masklets=tuple(
                replace(
                    each,
                    segmentations={
                        frame_idx: masks.encode(masks.dilate(masks.decode(rle), dilate))
                        for frame_idx, rle in each.segmentations.items()
                    },
                )
                for each in file.masklets
            ),
        )
    annotations = as_coco(file, names)
    folder.write("annotations.json", json.dumps(annotations).encode())
    video = Path(_absolute(result)).name
    folder.write("sav_auto.json", json.dumps(as_sav(file, video)).encode())
    return len(annotations["annotations"])


def _quoted(path: Path) -> str:
    return shlex.quote(shown(path))


def _print(lines: Iterator[str] | Sequence[str]) -> None:
    for line in lines:
        print(printable(line, sys.stdout))
