"""Image files in, arrays out: what frames and prompts have in common.

Everything that can be wrong with a file is told as a `UserError` that names the file. Of animated
and multi-page files the first picture counts.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from natsort import natsort_keygen
from numpy.typing import NDArray
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pillow
from PIL.TiffImagePlugin import TiffImageFile

from t3dgs_masks.errors import UserError
from t3dgs_masks.types import FloatMap, Image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_ORIENTATION = 256, 257, 274
_WIDE_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_TURN_OF_ORIENTATION = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
_DIGEST_CHUNK = 1 << 20
_natural_key = natsort_keygen()


# --- Folders ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FolderScan:
    """The files of a folder, by name and in natural order."""

    files: dict[str, Path]
    """Relative path with '/' and without its suffix -> the file."""
    strays: tuple[Path, ...]
    """Files of other kinds, in natural order; hidden ones are not even counted."""


def scan_folder(
    root: Path,
    suffixes: Collection[str] = IMAGE_SUFFIXES,
    *,
    skip_folders: Collection[str] = (),
) -> FolderScan:
    """Find all files with one of `suffixes` (lower case, any case on disk) below `root`.

    Hidden files and folders are passed over. Links to folders are followed, but each real folder
    is read once, so that loops end.

    Args:
        root: an existing folder.
        suffixes: what to look for.
        skip_folders: names of folders directly in `root` to leave out.

    Raises:
        UserError: two files whose names differ in the suffix alone; a folder that cannot be read.
    """
    wanted: list[Path] = []
    strays: list[Path] = []
    for path in _visible_files(root, skip_folders):
        (wanted if path.suffix.lower() in suffixes else strays).append(path)
    files: dict[str, Path] = {}
    for path in sorted(wanted, key=lambda path: natural_key(path.relative_to(root).as_posix())):
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in files:
            raise UserError(
                f"{shown(files[name])} and {shown(path)} differ only in their suffix, so that"
                " their results would have one name: rename or remove one of them"
            )
        files[name] = path
    names = sorted(files, key=natural_key)
    strays.sort(key=lambda path: natural_key(path.relative_to(root).as_posix()))
    return FolderScan({name: files[name] for name in names}, tuple(strays))


def natural_key(name: str) -> tuple[object, ...]:
    """Sort key of a '/'-separated name: folder by folder, ``frame_2`` before ``frame_10``.

    Names that are equal as numbers (``a1``, ``a01``) are ordered by their characters.
    """
    return (tuple(_natural_key(part) for part in name.split("/")), name)


def _visible_files(root: Path, skip_folders: Collection[str]) -> Iterator[Path]:
    """All files below `root`; what is reached both directly and through a link comes once, under
    its direct path, which is why links wait until the real folders are done."""
    real, links = deque([root]), deque[Path]()
    seen: set[tuple[int, int]] = set()
    while real or links:
        folder = (real or links).popleft()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as problem:
            raise UserError(
                f"cannot read the folder {shown(folder)}: {problem.strerror}; check its permissions"
            ) from problem
        for entry in entries:
            is_folder = _is(entry, entry.is_dir)
            skipped = folder == root and entry.name in skip_folders and is_folder
            if entry.name.startswith(".") or skipped:
                continue
            if is_folder:
                (links if entry.is_symlink() else real).append(Path(entry.path))
            elif _is(entry, entry.is_file) or _is_dangling(entry):
                # A dangling link counts, so that reading it says what is wrong. Pipes and
                # devices do not: reading them could wait for ever.
                yield Path(entry.path)


def _is(entry: os.DirEntry[str], kind: Callable[[], bool]) -> bool:
    """`kind` (a method of `entry`); False for a link that cannot be followed, as of a loop."""
    try:
        return kind()
    except OSError:
        if entry.is_symlink():
            return False
        raise


def _is_dangling(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110


def shown(path: Path | str) -> str:
    """A path as text for a message: one line, printable, whatever bytes the file name has."""
    text = os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal. Raises UserError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_DIGEST_CHUNK):
                digest.update(chunk)
    except OSError as problem:
        raise UserError(
            f"cannot read {shown(path)}: {problem.strerror}; check that it still exists"
        ) from problem
    return digest.hexdigest()


# --- Pixels -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planes:
    """An image as it was stored, upright, with the range its numbers are meant in."""

    colour: NDArray[Any]  # [H, W] or [H, W, 3] RGB; uint8, uint16, int32 or float32
    alpha: NDArray[np.uint8] | None  # [H, W], 255 = opaque
    full_scale: float  # the number that stands for white
    lossless: bool  # False for JPEG, whose numbers are approximate

    def luminance(self) -> NDArray[Any]:
        """[H, W] brightness of `colour` in its own range (ITU-R BT.601 weights)."""
        if self.colour.ndim == 2:
            return self.colour
        return cv2.cvtColor(self.colour, cv2.COLOR_RGB2GRAY)

    def channel_mean(self) -> FloatMap:
        """[H, W] float32 mean magnitude over the colour channels; white = 1."""
        if self.colour.dtype == np.uint8:
            levels = np.arange(256, dtype=np.float32) / np.float32(self.full_scale)
            magnitude = cv2.LUT(self.colour, levels)  # a third of the time
        else:
            magnitude = np.abs(self.colour.astype(np.float32)) / np.float32(self.full_scale)
        if magnitude.ndim == 3:  # numpy's mean of so few takes five times as long
            channels = np.moveaxis(magnitude, 2, 0)
            magnitude = reduce(np.add, channels) / np.float32(len(channels))
        return np.asarray(magnitude, dtype=np.float32)


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image as it is meant to be seen, from its header alone.

    Raises:
        UserError: not an image, or its header is broken.
    """
    with _opened(path) as image:
        if isinstance(image, TiffImageFile):
            # Pillow's `size` is the stored or the turned one, depending on its version.
            width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
            orientation = image.tag_v2.get(_TIFF_ORIENTATION, 1)
        else:
            (width, height), orientation = image.size, _orientation(image)
        turned = orientation in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def stored_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image as `read_rgb` gives it with ``upright=False``, from its header.

    Raises:
        UserError: not an image, or its header is broken.
    """
    with _opened(path) as image:
        return image.height, image.width


def is_turned(path: Path) -> bool:
    """Whether the EXIF orientation wants the stored pixels turned or mirrored.

    Raises:
        UserError: not an image, or its header is broken.
    """
    with _opened(path) as image:
        return _orientation(image) != 1


def read_rgb(path: Path, *, upright: bool = True) -> Image:
    """[H, W, 3] uint8 RGB of any image mode, upright.

    With ``upright=False`` the EXIF orientation is not looked at, as in the image loaders of splat
    trainers, so that cameras and masks fit.

    Alpha is dropped: the colours are taken as stored, also where they are transparent. 16-bit
    values are scaled from 0..65535, floats from 0..1 (or 0..255, 0..65535 if they exceed it).

    Raises:
        UserError: not an image, truncated, or too large to be meant.
    """
    with _opened(path) as image:
        if upright:
            image = _upright(image)
        else:
            image.load()
        if image.mode in _WIDE_MODES:
            values, full_scale = _wide_values(image)
            scaled = np.nan_to_num(values.astype(np.float64)) * (255.0 / full_scale)
            grey = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode in ("RGBa", "La"):  # premultiplied: Pillow knows no direct way to RGB
            image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_planes(path: Path) -> Planes:
    """An image of any mode for measuring rather than for seeing; see `Planes`.

    Palettes are resolved. TIFFs of float colour, which Pillow does not know, are read as well.

    Raises:
        UserError: not an image, truncated, or too large to be meant.
    """
    if path.suffix.lower() in (".tif", ".tiff") and (planes := _float_colour_tiff(path)):
        return planes
    with _opened(path) as image:
        # MPO is what Pillow calls the JPEGs of phones that carry a second picture.
        lossless = image.format not in ("JPEG", "MPO")
        image = _upright(image)
        if image.mode in _WIDE_MODES:
            values, full_scale = _wide_values(image)
            return Planes(values, None, full_scale, lossless)
        alpha = None
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            if image.mode == "La":
                image = image.convert("LA")
            image = image.convert("RGBA")
            alpha = np.array(image.getchannel("A"))
        mode = "L" if image.mode in ("1", "L") else "RGB"
        return Planes(np.array(image.convert(mode)), alpha, 255.0, lossless)


@contextmanager
def _opened(path: Path) -> Iterator[Pillow.Image]:
    """The image, not yet decoded; whatever goes wrong while it is open becomes a UserError."""
    try:
        with warnings.catch_warnings():
            # Remarks on metadata and on large sizes; what is really too large is an error.
            warnings.simplefilter("ignore")
            with Pillow.open(path, formats=_FORMATS) as image:
                yield image
    except UserError:
        raise
    except Exception as problem:  # Pillow's readers raise anything on broken bytes
        raise UserError(
            f"cannot read the image {shown(path)}: {_reason(problem)}; replace or remove it"
        ) from problem


def _reason(problem: Exception) -> str:
    if isinstance(problem, UnidentifiedImageError):
        return "it is empty, broken or not a JPEG, PNG, WebP, TIFF or BMP"
    if isinstance(problem, Pillow.DecompressionBombError):
        return "it declares more pixels than an image can sensibly have"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return " ".join(str(problem).split()) or type(problem).__name__


def _orientation(image: Pillow.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if there is none or it makes no sense.

    A PNG's counts only if it stands before the pixels: else one would have to decode the file
    to learn the image's size.
    """
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block does not make the pixels worse
        return 1
    return orientation if orientation in _TURN_OF_ORIENTATION else 1


def _upright(image: Pillow.Image) -> Pillow.Image:
    if image.format == "TIFF":
        image.load()  # turns the image, and removes the tag, in recent versions of Pillow
    turn = _TURN_OF_ORIENTATION.get(_orientation(image))
    if turn is None:
        image.load()
        return image
    return image.transpose(turn)


def _wide_values(image: Pillow.Image) -> tuple[NDArray[Any], float]:
    """[H, W] values of a mode of more than 8 bits, and the number that stands for white."""
    if image.mode == "F":
        values = np.array(image, dtype=np.float32)
        return values, _float_scale(values)
    values = np.array(image)
    if image.mode != "I":
        return values.astype(np.uint16), 65535.0
    # Mode I is a 16-bit image in most cases, and a true 32-bit one if it says so.
    return values, 65535.0 if values.max(initial=0) <= 65535 else float(2**31 - 1)


def _float_scale(values: NDArray[np.float32]) -> float:
    finite = values[np.isfinite(values)]
    highest = float(finite.max(initial=0.0))
    return next((scale for scale in (1.0, 255.0, 65535.0) if highest <= scale), highest)


def _float_colour_tiff(path: Path) -> Planes | None:
    """A TIFF of three or four float channels; None for every other one (Pillow's business)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Pillow.open(path, formats=_FORMATS):
                return None
    except UnidentifiedImageError:
        pass
    except Exception:  # told properly by the reader that comes next
        return None
    try:
        values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if values is None or values.ndim != 3 or values.dtype.kind != "f":
        return None
    colour = np.ascontiguousarray(values[:, :, 2::-1], dtype=np.float32)  # OpenCV stores BGR
    return Planes(colour, None, _float_scale(colour), lossless=True)
