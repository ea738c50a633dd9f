"""The images that masks are exported for, and the mask of each, as the image file lies on disk.

Best from the dataset, or the folder of images, that the result was made from: it knows names,
sizes, lenses and the user's own masks. Without it, what the result itself knows has to do.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image as Pillow

from t3dgs_masks.datasets.apply_record import UserMasks, read_record
from t3dgs_masks.datasets.dataset import Dataset, DatasetFrame, DatasetKind
from t3dgs_masks.datasets.export_formats import IMAGES
from t3dgs_masks.datasets.geometry import fits, scaled, to_file_geometry
from t3dgs_masks.datasets.manifest import Manifest, ManifestFrame, read_manifest
from t3dgs_masks.datasets.mask_folder import open_mask_folder
from t3dgs_masks.datasets.opening import open_dataset
from t3dgs_masks.datasets.prepared import find_prepared
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import read_planes, scan_folder, shown, stored_size
from t3dgs_masks.io.publish import MASK_FOLDER
from t3dgs_masks.masks import TransientMask

Notify = Callable[[str], None]


@dataclass(frozen=True)
class ExportImage:
    """One image that a mask is exported for."""

    path: PurePosixPath
    """Below the folder of images; without a suffix if nobody knows it."""
    file: Path | None
    """None: it is not known where it is."""
    is_eval: bool = False


class ExportSource(ABC):
    """Images and their masks."""

    images: Sequence[ExportImage]

    @property
    def dataset(self) -> Dataset | None:
        """The posed dataset that the images are of, if they are of one."""
        return None

    @property
    def inputs(self) -> Sequence[Path]:
        """Folders of the images."""
        return sorted({image.file.parent for image in self.images if image.file is not None})

    @abstractmethod
    def mask(self, index: int, *, dilate: int = 0, whole: bool = False) -> TransientMask:
        """The mask of an image at the size of its file, in the geometry of the file as stored.

        Args:
            index: which of `images`.
            dilate: pixels that transients of the result grow by; the user's own masks do not.
            whole: leave out the result's mask, not the user's own.
        """

    def mask_of_copy(
        self, index: int, size: tuple[int, int], *, dilate: int = 0, whole: bool = False
    ) -> TransientMask:
        """`mask` for a copy of the image that is reduced to (height, width) `size`."""
        return scaled(self.mask(index, dilate=dilate, whole=whole), size)


def open_export_source(result: Path, data: Path | None, notify: Notify) -> ExportSource:
    """Find the images of a result, and the masks that belong to them.

    Args:
        result: a result folder of `refine`.
        data: the dataset, COLMAP project or folder of images that it was made from. None: where
            the result's manifest says.
        notify: takes one-line notices for the user.

    Raises:
        UserError: there is no such dataset, or its images have nothing to do with the result.
    """
    manifest = read_manifest(result)
    if data is not None:
        return DatasetMasks(result, _open_images(data), notify)
    if manifest is not None and manifest.kind != "video":
        root = Path(manifest.root)
        if root.is_dir():
            return DatasetMasks(result, _open_images(root), notify)
        notify(
            f"{shown(manifest.root)}, where the images came from, is not there any more: names are"
            " taken from the manifest; --data says where the images are now"
        )
    return ResultMasks(result, manifest)


def _open_images(data: Path) -> Dataset:
    """A dataset, or the images of a folder as one without poses."""
    if not data.exists():
        raise UserError(f"there is no {shown(data)}: --data names a dataset or a folder of images")
    dataset = open_dataset(data)
    if dataset is not None:
        return dataset
    if not data.is_dir():
        raise UserError(
            f"{shown(data)} is no dataset and no folder of images: --data needs one of them"
        )
    prepared = find_prepared(data)
    folder = prepared[0] / IMAGES if prepared is not None else data
    files = scan_folder(folder).files
    if not files:
        raise UserError(f"{shown(folder)} holds no images: --data names the folder they are in")
    frames = [
        DatasetFrame(name, file.relative_to(folder).as_posix(), file, None, None, None, None)
        for name, file in files.items()
    ]
    return Dataset(folder, "folder", frames, folder)


class DatasetMasks(ExportSource):
    """Masks for all images of a dataset or folder; where the result has none, all is static."""

    def __init__(self, result: Path, dataset: Dataset, notify: Notify) -> None:
        self._dataset = dataset
        self._masks = open_mask_folder(result, dataset, notify=notify)
        self._own = UserMasks(dataset.root, read_record(dataset.root))
        paths = _below_images([frame.source for frame in dataset.frames], dataset.kind)
        self.images = [
            ExportImage(
                # `name` never leads out of a folder, whatever the source is.
                path
                or PurePosixPath(frame.name).with_name(
                    PurePosixPath(frame.name).name + frame.image.suffix
                ),
                frame.image,
                frame.split == "eval",
            )
            for frame, path in zip(dataset.frames, paths, strict=True)
        ]
        combined = sum(self._own.of(frame) is not None for frame in dataset.frames)
        if combined:
            notify(f"{combined} masks are combined with the dataset's own (static where both are)")

    @property
    def dataset(self) -> Dataset | None:
        return self._dataset if self._dataset.kind in ("nerfstudio", "colmap") else None

    def mask(self, index: int, *, dilate: int = 0, whole: bool = False) -> TransientMask:
        size = stored_size(self._dataset.frames[index].image)
        return self.mask_of_copy(index, size, dilate=dilate, whole=whole)

    def mask_of_copy(
        self, index: int, size: tuple[int, int], *, dilate: int = 0, whole: bool = False
    ) -> TransientMask:
        frame = self._dataset.frames[index]
        given = None if whole else self._masks.mask_of(frame)
        mask = TransientMask(np.zeros(size, np.bool_))
        if given is not None:
            if given.camera is None:
                mask = scaled(given.transient, size)
            elif frame.camera is not None:
                mask = to_file_geometry(given.transient, given.camera, frame.camera, size=size)
            else:
                raise _no_camera(frame.source)
            mask = mask.dilated(math.ceil(dilate * size[0] / stored_size(frame.image)[0]))
        own = self._own.of(frame)
        if own is None:
            return mask
        return TransientMask(mask.pixels | _own_mask(own, size).pixels)


class ResultMasks(ExportSource):
    """Masks of a result whose images are not at hand."""

    def __init__(self, result: Path, manifest: Manifest | None) -> None:
        files = scan_folder(result / MASK_FOLDER).files
        if not files:
            raise UserError(f"{shown(result / MASK_FOLDER)} holds no masks: run `refine` again")
        described = {frame.name: frame for frame in manifest.frames} if manifest else {}
        sources = [described[name].source for name in files if name in described]
        paths = [None] * len(files)
        if manifest is not None and manifest.kind != "video" and len(sources) == len(files):
            paths = _below_images(sources, manifest.kind)
        self.images = [
            ExportImage(
                path or PurePosixPath(name),
                None,
                name in described and described[name].split == "eval",
            )
            for name, path in zip(files, paths, strict=True)
        ]
        self._files: list[tuple[Path, ManifestFrame | None]] = [
            (file, described.get(name)) for name, file in files.items()
        ]

    def mask(self, index: int, *, dilate: int = 0, whole: bool = False) -> TransientMask:
        file, frame = self._files[index]
        mask = TransientMask(read_planes(file).luminance() <= 127)
        if whole:
            mask = TransientMask(np.zeros_like(mask.pixels))
        if frame is not None and frame.undistorted is not None:
            if frame.camera is None:
                raise _no_camera(frame.source)
            mask = to_file_geometry(mask, frame.undistorted, frame.camera)
        return mask.dilated(dilate)


def _no_camera(source: str) -> UserError:
    return UserError(
        f"the mask of {shown(source)} is of an undistorted view, but there is no camera for it that"
        " could tell where it belongs"
    )


def _below_images(sources: Sequence[str], kind: DatasetKind) -> list[PurePosixPath | None]:
    """Paths below the folder of images: ``images/``, or that which all images of a dataset share.
    None if one of them leads out of the root."""
    paths = [PurePosixPath(source) for source in sources]
    if any(path.is_absolute() or ".." in path.parts or "\\" in os.fspath(path) for path in paths):
        return [None] * len(paths)
    if all(path.parts[0] == IMAGES and len(path.parts) > 1 for path in paths):
        return [path.relative_to(IMAGES) for path in paths]
    if kind == "folder":
        return list(paths)
    shared = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(shared) for path in paths]


def _own_mask(path: Path, size: tuple[int, int]) -> TransientMask:
    """The user's own mask at (height, width) `size`, read as trainers do: what is not 0 is static.

    Raises:
        UserError: it cannot be read, or has other proportions.
    """
    try:
        with Pillow.open(path) as opened:
            pixels = np.array(opened)
    except Exception as error:
        raise UserError(
            f"cannot read the dataset's own mask {shown(path)}: restore it, or remove its mask_path"
        ) from error
    if pixels.ndim == 3:
        colours = pixels[..., :1] if pixels.shape[2] == 2 else pixels[..., :3]
        pixels = colours.any(axis=2)
    mask = TransientMask(pixels == 0)
    if not fits(mask, size):
        height, width = pixels.shape
        raise UserError(
            f"the dataset's own mask {shown(path)} is {width}x{height}, but its image"
            f" {size[1]}x{size[0]}: they have to differ in scale only"
        )
    return scaled(mask, size)
