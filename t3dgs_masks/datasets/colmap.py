"""Read a COLMAP project: a sparse model beside a folder ``images/``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from t3dgs_masks.datasets.colmap_files import ColmapCamera, ColmapImage, read_cameras, read_images
from t3dgs_masks.datasets.dataset import (
    Camera,
    Dataset,
    DatasetFrame,
    Split,
    frame_names,
    missing_image,
)
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import natural_key, shown

IMAGES_FOLDER = "images"
MASKS_FOLDER = "masks"

_MODEL_FOLDERS = ("colmap/sparse/0", "sparse/0", "sparse")  # the first is nerfstudio's default
_TRAIN_LIST = "train_list.txt"
_EVAL_LISTS = ("test_list.txt", "val_list.txt", "validation_list.txt")


def find_model(root: Path) -> Path | None:
    """The folder of the sparse model (``cameras`` and ``images``, .bin or .txt) of the project in
    `root`; None if there is none, or no ``images/`` beside it."""
    if not (root / IMAGES_FOLDER).is_dir():
        return None
    for folder in _MODEL_FOLDERS:
        if _suffix_of(root / folder) is not None:
            return root / folder
    return None


def open_colmap(path: Path) -> Dataset:
    """Read a COLMAP project; of the images nothing but their presence is checked.

    Frames are the registered images. ``train_list.txt`` and ``test_list.txt`` (nerfstudio's) give
    the split; ``masks/<image name>.png`` is a frame's mask if it exists. Poses are in the world of
    the model: nerfstudio turns that one further, unless it is told not to
    (``assume_colmap_world_coordinate_convention``). `camera` is None for camera models other than
    those with OpenCV's pinhole or fisheye distortion.

    Args:
        path: the folder that holds ``images/`` and ``sparse/0``, ``sparse`` or
            ``colmap/sparse/0``.

    Raises:
        UserError: no such project, a broken model, no registered images, one without its file,
            or a split that names unknown images.
    """
    model = find_model(path)
    if model is None:
        raise UserError(
            f"{shown(path)} is no COLMAP project: it needs images/, and cameras and images (.bin"
            " or .txt) in sparse/0"
        )
    views = _read_model(model)
    if not views:
        raise UserError(f"{shown(model)} has no registered images: run COLMAP's mapper again")
    images = [path / IMAGES_FOLDER / view.name for view in views]
    for image in images:
        if not os.path.isfile(image):  # noqa: PTH113 (never raises, whatever the name)
            raise missing_image(image, model)
    names = frame_names(images, model)
    splits = _splits(path, {view.name for view in views})
    frames = [
        DatasetFrame(
            name=name,
            source=PurePosixPath(IMAGES_FOLDER, view.name).as_posix(),
            image=image,
            split=splits.get(view.name),
            camera=view.camera,
            camera_to_world=view.camera_to_world,
            mask=_mask(path, view.name),
        )
        for name, view, image in zip(names, views, images, strict=True)
    ]
    frames.sort(key=lambda frame: natural_key(frame.name))
    return Dataset(path, "colmap", frames, described_by=model)


# --- Model ------------------------------------------------------------------------------------


class _View:
    """A registered image of a model."""

    def __init__(self, image: ColmapImage, camera: ColmapCamera) -> None:
        self.name = image.name
        self.camera = _camera(camera)
        position = -image.rotation.T @ image.translation
        x, y, z = image.rotation  # the camera's axes in the world
        rows = [
            (float(x[i]), float(-y[i]), float(-z[i]), float(position[i])) for i in range(3)
        ]  # OpenGL: y up, looking along -z
        self.camera_to_world = (*rows, (0.0, 0.0, 0.0, 1.0))

    @property
    def is_finite(self) -> bool:
        camera = () if self.camera is None else vars(self.camera).values()
        return all(map(math.isfinite, (*camera, *(v for row in self.camera_to_world for v in row))))


def _suffix_of(model: Path) -> str | None:
    """Of text and binary the one that nerfstudio would read; None if neither is there."""
    for suffix in (".txt", ".bin"):
        if all((model / f"{part}{suffix}").is_file() for part in ("cameras", "images")):
            return suffix
    return None


def _read_model(model: Path) -> list[_View]:
    suffix = _suffix_of(model)
    try:
        cameras = read_cameras(model / f"cameras{suffix}")
        views = []
        for image in read_images(model / f"images{suffix}"):
            if image.camera not in cameras:
                raise ValueError(f"there is no camera {image.camera} for {image.name}")
            views.append(_View(image, cameras[image.camera]))
        if not (model / f"points3D{suffix}").is_file():
            raise ValueError(f"it has no points3D{suffix}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot read the COLMAP model {shown(model)}: {shown(reason)}; check that it is whole"
        ) from error
    for view in views:
        if not view.name or "\0" in view.name:
            raise UserError(
                f"the COLMAP model {shown(model)} has an image without a usable name: check that"
                " it is whole"
            )
        if not view.is_finite:
            raise UserError(
                f"the COLMAP model {shown(model)} has NaN or infinite numbers for"
                f" {shown(view.name)}: run the mapper again, or remove the image from the model"
            )
    return views


_Intrinsics = tuple[float, float, float, float]


def _one_focal_length(p: Sequence[float]) -> _Intrinsics:
    return p[0], p[0], p[1], p[2]


def _two_focal_lengths(p: Sequence[float]) -> _Intrinsics:
    return p[0], p[1], p[2], p[3]


# COLMAP's camera model -> how its parameters begin, names of the further ones, fisheye or not.
_MODELS: dict[str, tuple[Callable[[Sequence[float]], _Intrinsics], tuple[str, ...], bool]] = {
    "SIMPLE_PINHOLE": (_one_focal_length, (), False),
    "PINHOLE": (_two_focal_lengths, (), False),
    "SIMPLE_RADIAL": (_one_focal_length, ("k1",), False),
    "RADIAL": (_one_focal_length, ("k1", "k2"), False),
    "OPENCV": (_two_focal_lengths, ("k1", "k2", "p1", "p2"), False),
    "FULL_OPENCV": (_two_focal_lengths, ("k1", "k2", "p1", "p2", "k3"), False),
    "SIMPLE_RADIAL_FISHEYE": (_one_focal_length, ("k1",), True),
    "RADIAL_FISHEYE": (_one_focal_length, ("k1", "k2"), True),
    "OPENCV_FISHEYE": (_two_focal_lengths, ("k1", "k2", "k3", "k4"), True),
}


def _camera(camera: ColmapCamera) -> Camera | None:
    params = camera.params
    if camera.model not in _MODELS:
        return None
    if camera.model == "FULL_OPENCV" and any(params[9:12]):
        return None  # its denominator (k4..k6) has no counterpart
    intrinsics, further, fisheye = _MODELS[camera.model]
    first = 4 if intrinsics is _two_focal_lengths else 3
    distortion = dict(zip(further, params[first:], strict=False))
    return Camera(*intrinsics(params), camera.width, camera.height, **distortion, fisheye=fisheye)


# --- What lies beside the model ---------------------------------------------------------------


def _splits(root: Path, names: set[str]) -> dict[str, Split]:
    """Split by image name; empty if the project has none of its own."""
    train = _list(root / _TRAIN_LIST, names)
    evaluations = [_list(root / name, names) for name in _EVAL_LISTS]
    evaluation = set[str]().union(*(listed for listed in evaluations if listed is not None))
    if train is None:
        if all(listed is None for listed in evaluations):
            return {}
        train = names - evaluation
    return {name: "train" if name in train else "eval" for name in names}


def _list(file: Path, names: set[str]) -> set[str] | None:
    """The image names in a list; None if there is no such file."""
    if not file.is_file():
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read {shown(file)}: {reason}; replace or remove it") from error
    listed = {PurePosixPath(line).as_posix() for line in lines if line}
    unknown = sorted(listed - {PurePosixPath(name).as_posix() for name in names}, key=natural_key)
    if unknown:
        raise UserError(
            f"{shown(file)} names {shown(unknown[0])}, which the COLMAP model does not have:"
            " correct the list"
        )
    return {name for name in names if PurePosixPath(name).as_posix() in listed}


def _mask(root: Path, image_name: str) -> Path | None:
    mask = (root / MASKS_FOLDER / image_name).with_suffix(".png")
    return mask if mask.is_file() else None
