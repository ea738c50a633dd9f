"""The two files of a COLMAP model that say what was seen from where: ``cameras``, ``images``.

Read here rather than by COLMAP's own library, which trusts what it reads: a damaged file makes it
ask for terabytes, or write past its buffers. Whatever is in a file, reading it takes memory and
time in proportion to its size and ends with numbers or a ValueError.

The layout is COLMAP's: https://colmap.github.io/format.html. Models of newer versions, which have
``rigs`` and ``frames`` too, keep every image's own pose in ``images``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MODELS: tuple[tuple[str, int], ...] = (  # name, number of parameters; by their number in files
    ("SIMPLE_PINHOLE", 3),
    ("PINHOLE", 4),
    ("SIMPLE_RADIAL", 4),
    ("RADIAL", 5),
    ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12),
    ("FOV", 5),
    ("SIMPLE_RADIAL_FISHEYE", 4),
    ("RADIAL_FISHEYE", 5),
    ("THIN_PRISM_FISHEYE", 12),
    ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    ("SIMPLE_DIVISION", 4),
    ("DIVISION", 5),
    ("SIMPLE_FISHEYE", 3),
    ("FISHEYE", 4),
    ("EUCM", 6),
    ("EQUIRECTANGULAR", 2),
)
_NUM_PARAMS: dict[str, int] = dict(_MODELS)
_LONGEST_SIDE = 1 << 31
_BYTES_OF_POINT = 24
_POSE = struct.Struct("<I7dI")  # number of the image, quaternion, translation, number of the camera
_CAMERA = struct.Struct("<IiQQ")  # number of the camera, number of its model, width, height


@dataclass(frozen=True)
class ColmapCamera:
    """A camera as COLMAP has it."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """A registered image."""

    number: int
    name: str
    """Relative to the folder of the images; may be any text."""
    camera: int
    rotation: NDArray[np.float64]
    """[3, 3] world to camera; x right, y down, z forward."""
    translation: NDArray[np.float64]
    """[3] world to camera."""


def read_cameras(file: Path) -> dict[int, ColmapCamera]:
    """The cameras in ``cameras.bin`` or ``cameras.txt``, by their numbers.

    Raises:
        ValueError: it is cut short, or damaged otherwise.
        OSError: it cannot be read.
    """
    found = _cameras_of_text(file) if file.suffix == ".txt" else _cameras_of_bytes(file)
    cameras: dict[int, ColmapCamera] = {}
    for number, camera in found:
        if not (1 <= camera.width < _LONGEST_SIDE and 1 <= camera.height < _LONGEST_SIDE):
            raise ValueError(f"camera {number} is of {camera.width} x {camera.height} pixels")
        cameras[number] = camera
    return cameras


def read_images(file: Path) -> list[ColmapImage]:
    """The registered images in ``images.bin`` or ``images.txt``, in the order of their numbers.

    Raises:
        ValueError: it is cut short, or damaged otherwise.
        OSError: it cannot be read.
    """
    found = _images_of_text(file) if file.suffix == ".txt" else _images_of_bytes(file)
    images = {image.number: image for image in found}
    return [images[number] for number in sorted(images)]


def _image(number: int, pose: tuple[float, ...], camera: int, name: str) -> ColmapImage:
    w, x, y, z = np.array(pose[:4]) / max(float(np.linalg.norm(pose[:4])), 1e-300)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return ColmapImage(number, name, camera, rotation, np.array(pose[4:]))


# --- Binary -----------------------------------------------------------------------------------


class _Bytes:
    """The content of a file, taken from the front."""

    def __init__(self, file: Path) -> None:
        self._name = file.name
        self._content = file.read_bytes()
        self._at = 0

    def take(self, layout: struct.Struct) -> tuple[int | float, ...]:
        """The next values."""
        return layout.unpack_from(self._content, self.skip(layout.size))

    def text(self) -> str:
        """The next text, which a zero byte ends."""
        end = self._content.find(b"\0", self._at)
        if end < 0:
            raise ValueError(f"{self._name} is cut short")
        begin = self.skip(end - self._at + 1)
        return os.fsdecode(self._content[begin:end])

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; returns where they begin."""
        begin = self._at
        if size > len(self._content) - begin:
            raise ValueError(f"{self._name} is cut short")
        self._at += size
        return begin


_COUNT = struct.Struct("<Q")


def _cameras_of_bytes(file: Path) -> Iterator[tuple[int, ColmapCamera]]:
    content = _Bytes(file)
    (count,) = content.take(_COUNT)
    for _ in range(int(count)):  # a wrong count comes to the end of the file
        number, model, width, height = map(int, content.take(_CAMERA))
        if not 0 <= model < len(_MODELS):
            raise ValueError(f"{file.name} has a camera of the unknown model {model}")
        name, num_params = _MODELS[model]
        params = content.take(struct.Struct(f"<{num_params}d"))
        yield number, ColmapCamera(name, width, height, params)


def _images_of_bytes(file: Path) -> Iterator[ColmapImage]:
    content = _Bytes(file)
    (count,) = content.take(_COUNT)
    for _ in range(int(count)):
        number, *pose, camera = content.take(_POSE)
        name = content.text()
        (num_points,) = content.take(_COUNT)
        content.skip(int(num_points) * _BYTES_OF_POINT)
        yield _image(int(number), tuple(pose), int(camera), name)


# --- Text -------------------------------------------------------------------------------------


def _lines(file: Path) -> list[str]:
    return os.fsdecode(file.read_bytes()).split("\n")


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _cameras_of_text(file: Path) -> Iterator[tuple[int, ColmapCamera]]:
    for line in filter(_is_content, _lines(file)):
        number, model, width, height, *params = [*line.split(), *[""] * 4]
        params = tuple(map(float, filter(None, params)))
        if len(params) != _NUM_PARAMS.get(model):
            raise ValueError(f"{file.name} has a {model!r} camera with {len(params)} parameters")
        yield int(number), ColmapCamera(model, int(width), int(height), params)


def _images_of_text(file: Path) -> Iterator[ColmapImage]:
    lines = iter(_lines(file))
    for line in lines:
        if not _is_content(line):
            continue
        words = line.split(maxsplit=9)
        if len(words) < 10:
            raise ValueError(f"{file.name} has an image of {len(words)} entries rather than 10")
        pose = tuple(map(float, words[1:8]))
        yield _image(int(words[0]), pose, int(words[8]), words[9].rstrip())
        next(lines, None)  # its points, on a line that may be empty
