"""`manifest.json`: leads every frame of a folder back to where it came from.

It lies beside prepared frames, and in every result and prompt folder that was made from a dataset,
so that `apply` knows which file a mask belongs to and which geometry it has.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from t3dgs_masks.datasets.dataset import Camera, Dataset, DatasetFrame, DatasetKind, Split
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown
from t3dgs_masks.io.whole_file import write_whole

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1

_PROGRAM = "t3dgs_masks"
_LONGEST_SIDE = 1 << 20  # pixels; more is damage


@dataclass(frozen=True)
class ManifestFrame:
    """Where one frame came from."""

    name: str
    """Name of the frame, and of its mask, in this folder (no suffix)."""
    source: str
    """Image file relative to the dataset's root, with '/'; of a video, ``<file name>#<index>``.
    It says which frame of the dataset is meant, as `DatasetFrame.source` does; it is not checked
    to stay inside of the root, so write nothing by it."""
    split: Split | None = None
    camera: Camera | None = None
    """Of the source image file."""
    undistorted: Camera | None = None
    """Set if this folder's images show the source *undistorted* (and cropped, rescaled): the
    pinhole camera that they show it with. None: same geometry as the source file, whatever the
    scale."""


@dataclass(frozen=True)
class Manifest:
    """All frames of a folder, in order."""

    root: str
    """The dataset's root (or the video file), absolute."""
    kind: DatasetKind
    frames: Sequence[ManifestFrame]

    def to_json(self) -> dict[str, object]:
        return {"program": _PROGRAM, "version": MANIFEST_VERSION, **asdict(self)}


def manifest_of(dataset: Dataset, frames: Iterable[DatasetFrame]) -> Manifest:
    """The manifest of `frames` (in the files' own geometry), which are some of `dataset`."""
    return Manifest(
        os.path.abspath(dataset.root),  # noqa: PTH100 (as text, with '..' folded away)
        dataset.kind,
        tuple(ManifestFrame(f.name, f.source, f.split, f.camera) for f in frames),
    )


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """Write `folder/manifest.json`, whole or not at all; returns its path."""
    path = folder / MANIFEST_NAME
    write_whole(path, f"{json.dumps(manifest.to_json(), indent=2)}\n".encode())
    return path


def read_manifest(folder: Path) -> Manifest | None:
    """Read `folder/manifest.json`; None if there is none, or if it is another program's.

    What comes back is safe to use: frame names are unique and lead into a folder, never out of
    it; cameras are whole and finite.

    Raises:
        UserError: the file cannot be read, is not JSON, or is ours but not as we write it.
    """
    path = folder / MANIFEST_NAME
    try:
        contents = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(
            f"cannot read {shown(path)}: {error.strerror}; check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{shown(path)} is not valid JSON: make its folder again, or remove the file"
        ) from error
    if not isinstance(contents, dict) or contents.get("program") != _PROGRAM:
        return None
    try:
        return _parse(contents)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{shown(path)} is not a manifest that this program can use: {shown(what)}; make its"
            " folder again"
        ) from error


def _parse(contents: dict[str, Any]) -> Manifest:
    if contents["version"] != MANIFEST_VERSION:
        raise ValueError(f"version {contents['version']!r}, this program reads {MANIFEST_VERSION}")
    root = _text(contents["root"], "root")
    if not Path(root).is_absolute():
        raise ValueError(f"root {root!r} is not absolute")
    kind = contents["kind"]
    if kind not in get_args(DatasetKind):
        raise ValueError(f"kind {kind!r}")
    listed = contents["frames"]
    if not isinstance(listed, list) or not listed:
        raise TypeError("frames is not a list of at least one")
    frames = tuple(map(_parse_frame, listed))
    for what, values in (
        ("name", [frame.name for frame in frames]),
        ("source", [frame.source for frame in frames]),
    ):
        if len(set(values)) != len(values):
            raise ValueError(f"a {what} occurs twice")
    return Manifest(root, kind, frames)


def _parse_frame(item: object) -> ManifestFrame:
    if not isinstance(item, dict):
        raise TypeError("a frame is not an object")
    name = _text(item["name"], "name")
    parts = name.replace("\\", "/").split("/") if os.name == "nt" else name.split("/")
    if any(part in ("", ".", "..") for part in parts) or (os.name == "nt" and ":" in name):
        raise ValueError(f"name {name!r} leads out of the folder")
    split = item["split"]
    if split is not None and split not in get_args(Split):
        raise ValueError(f"split {split!r} of {name!r}")
    return ManifestFrame(
        name,
        _text(item["source"], "source"),
        split,
        _parse_camera(item["camera"], f"camera of {name!r}"),
        _parse_camera(item["undistorted"], f"undistorted of {name!r}"),
    )


def _parse_camera(item: object, what: str) -> Camera | None:
    if item is None:
        return None
    if not isinstance(item, dict):
        raise TypeError(f"{what} is not an object")
    known = {field.name: field.default is MISSING for field in fields(Camera)}
    unknown = sorted(map(str, item.keys() - known))
    if unknown:
        raise ValueError(f"{what} has {unknown[0]!r}")
    values: dict[str, Any] = {}
    for key, required in known.items():
        if key in item:
            values[key] = _camera_value(item[key], key, what)
        elif required:
            raise ValueError(f"{what} has no {key}")
    if min(values["fl_x"], values["fl_y"]) <= 0:
        raise ValueError(f"{what} has a focal length that is not above 0")
    return Camera(**values)


def _camera_value(value: object, key: str, what: str) -> float | int | bool:
    if key == "fisheye":
        if isinstance(value, bool):
            return value
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        pass
    elif key in ("width", "height"):
        if isinstance(value, int) and 1 <= value <= _LONGEST_SIDE:
            return value
    else:
        number = float(value)
        if math.isfinite(number):
            return number
    raise ValueError(f"{what} has {key} {value!r}")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError(f"{what} is not a usable text")
    try:
        os.fsencode(value)
    except UnicodeError as error:
        raise ValueError(f"{what} is not a usable text") from error
    return value
