"""Read a checkpoint file that may be anything, without ever running code from it."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from t3dgs_masks.errors import UserError
from t3dgs_masks.sam.catalogue import Family, find_entry_of_file

FileKind = Literal["sam2", "sam1", "other"]

_HEAD_BYTES = 512
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_SAM2_KEY = "image_encoder.trunk.patch_embed.proj.weight"
_SAM1_KEY = "image_encoder.patch_embed.proj.weight"
_TRANSFORMERS_KEYS = ("vision_encoder.patch_embed.", "vision_encoder.backbone.")


@dataclass(frozen=True)
class CheckpointFile:
    """What a checkpoint file holds: tensors by name, and what else its maker put beside them."""

    path: Path
    kind: FileKind
    tensors: dict[str, torch.Tensor] = field(repr=False)
    extras: dict[str, Any] = field(repr=False)


def read_checkpoint(path: Path, family: Family) -> CheckpointFile:
    """Read the tensors of a checkpoint of `family`; any other file is a one-line UserError."""
    remedy = _remedy(path, family)
    problem = _problem_at_first_sight(path)
    if problem is not None:
        raise UserError(f"{path} {problem}; {remedy}.")
    content = _load(path, remedy)
    tensors, extras = _split(content)
    kind = _kind_of(tensors)
    if kind != family:
        raise UserError(f"{path} {_wrong_kind(tensors, kind, family)}; {remedy}.")
    return CheckpointFile(path, kind, tensors, extras)


def _remedy(path: Path, family: Family) -> str:
    known = find_entry_of_file(path)
    if known is not None and known.family == family:
        name = known.name
    else:
        name = "sam2.1-hiera-large" if family == "sam2" else "vit_h"
    return f"`t3dgs-masks models download {name}` fetches an official one"


def _problem_at_first_sight(path: Path) -> str | None:
    """What is wrong with the file, judged by its first bytes; None if it may be a checkpoint."""
    if path.is_dir():
        return "is a folder, not a checkpoint file"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    text = head.lstrip().lower()
    if not head:
        return "is empty (0 bytes)"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-LFS pointer, not the checkpoint itself (`git lfs pull` gets it)"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page saved under this name, not a checkpoint"
    if head[8:10] == b'{"':
        return "is a safetensors file; the official PyTorch file is needed"
    if head.startswith(_ZIP_MAGIC):
        return _problem_of_zip(path)
    if not head.startswith(_PICKLE_MAGIC):
        return "is not a PyTorch checkpoint"
    return None


def _problem_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        # The table of contents is at the end of a zip file: without it, the end is missing.
        return f"is truncated or damaged ({path.stat().st_size} bytes)"
    if not any(name.split("/")[-1] == "data.pkl" for name in names):
        return "is a zip file, but not a PyTorch checkpoint"
    return None


def _load(path: Path, remedy: str) -> object:
    # `weights_only` refuses everything but tensors and plain containers, and runs nothing. The
    # old format, which is not a zip file, cannot be mapped into memory.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual files; ours to judge, in one line
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # torch raises whatever its parsers stumble over
        text = str(error)
        if "WeightsUnpickler" in text or "weights_only" in text or "Unsupported global" in text:
            problem = "holds Python objects besides tensors, and code in checkpoints is never run"
        else:
            problem = f"is truncated or damaged ({path.stat().st_size} bytes)"
        raise UserError(f"{path} {problem}; {remedy}.") from error


def _split(content: object) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and extras of ``{"model": tensors, ...}`` (SAM2) or a flat dict (SAM1)."""
    if not isinstance(content, Mapping):
        return {}, {}
    nested = content.get("model")
    if isinstance(nested, Mapping):
        extras = {key: value for key, value in content.items() if key != "model"}
    else:
        nested, extras = content, {}
    tensors = {
        key: value
        for key, value in nested.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    return tensors, extras


def _kind_of(tensors: Mapping[str, torch.Tensor]) -> FileKind:
    if _SAM2_KEY in tensors:
        return "sam2"
    return "sam1" if _SAM1_KEY in tensors else "other"


def _wrong_kind(tensors: Mapping[str, torch.Tensor], kind: FileKind, family: Family) -> str:
    wanted = "SAM2" if family == "sam2" else "SAM1"
    if kind != "other":
        flag = "--sam2-checkpoint" if kind == "sam2" else "--sam-checkpoint"
        return f"is a {kind.upper()} checkpoint where {wanted} is expected (it goes to {flag})"
    if any(key.startswith(_TRANSFORMERS_KEYS) for key in tensors):
        return f"is in the format of transformers, not of the original {wanted}"
    if not tensors:
        return f"holds no tensors by name, so it is no {wanted} checkpoint"
    return (
        f"is a checkpoint of some other network, not of {wanted} (first tensor: '{min(tensors)}')"
    )


def printable(text: str) -> str:
    """On one line and free of control characters: text from a file must not drive a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
