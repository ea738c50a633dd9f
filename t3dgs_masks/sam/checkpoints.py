"""From the name or path of a checkpoint to a network that is ready to run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from t3dgs_masks.errors import UserError
from t3dgs_masks.sam import catalogue, download
from t3dgs_masks.sam.cast_weights import cast_weights
from t3dgs_masks.sam.catalogue import Family
from t3dgs_masks.sam.checkpoint_files import CheckpointFile, printable, read_checkpoint
from t3dgs_masks.sam.devices import Precision, PrecisionName, choose_precision, resolve_device
from t3dgs_masks.sam.empty_networks import Uninitialised
from t3dgs_masks.sam.model_configs import (
    Sam2Config,
    build_predictor,
    find_config,
    fitting_config_name,
    parse_model_section,
)
from t3dgs_masks.sam.sam1_architecture import build_sam1, recognise_sam1

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor
    from segment_anything.modeling import Sam

_MAX_NOTICE_CHARS = 300


@dataclass(frozen=True)
class RecommendedThresholds:
    """Proposal thresholds that a checkpoint's maker found to suit it."""

    pred_iou_thresh: float
    stability_score_thresh: float


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What is known of a loaded network besides the network."""

    name: str  # for reports: the catalogue's name, else the file name
    checkpoint_path: Path
    checkpoint_sha256: str
    device: torch.device
    precision: Precision
    architecture: str  # SAM2: the configuration's name; SAM1: vit_b, vit_l, vit_h or custom
    recommended: RecommendedThresholds | None
    notice: str | None  # one line that the checkpoint's maker wants read at every use


@dataclass(frozen=True)
class LoadedSam2(LoadedCheckpoint):
    """A SAM2 network on its device, in eval mode."""

    model: SAM2VideoPredictor


@dataclass(frozen=True)
class LoadedSam1(LoadedCheckpoint):
    """A SAM1 network on its device, in eval mode."""

    model: Sam


def resolve_checkpoint(
    name_or_path: str | os.PathLike[str], family: Family = "sam2", hub: Path | None = None
) -> Path:
    """The file of a checkpoint given by path or by name; a named one is fetched once.

    Args:
        name_or_path: an existing file wins over a name of the same spelling.
        family: ``sam2`` or ``sam1``.
        hub: folder that stands in for the Hugging Face hub (see `download`).
    """
    value = os.fspath(name_or_path)
    path = Path(value).expanduser()
    if path.is_file():
        return path
    entry = catalogue.find_entry(value)
    if entry is None:
        if path.is_dir():
            raise UserError(f"{value} is a folder, not a checkpoint file.")
        raise UserError(catalogue.explain_missing(value, family))
    if entry.family != family:
        raise UserError(
            f"'{entry.name}' is a {entry.family.upper()} checkpoint where {family.upper()} is "
            f"expected; choose among {', '.join(catalogue.names(family))}."
        )
    return download.fetch(entry, hub)


def load_sam2(
    checkpoint: str | os.PathLike[str],
    config: str | None = None,
    device: str | torch.device = "auto",
    *,
    precision: PrecisionName = "auto",
    image_size: int | None = None,
    hub: Path | None = None,
) -> LoadedSam2:
    """Load a SAM2 video predictor; it is to run within its `precision.autocast()`.

    Args:
        checkpoint: name or path, see `resolve_checkpoint`.
        config: name or path, see `model_configs.find_config`. Default: the one embedded in the
            checkpoint, else the official one that fits its tensors.
        device: see `devices.resolve_device`.
        precision: see `devices.choose_precision`.
        image_size: side of the square the network sees, a multiple of 32; default: the
            configuration's.
        hub: see `resolve_checkpoint`.
    """
    target = resolve_device(device)
    numbers = choose_precision(target, precision)
    file = read_checkpoint(resolve_checkpoint(checkpoint, "sam2", hub), "sam2")
    chosen = _choose_config(file, config)
    section = parse_model_section(chosen, image_size)
    with Uninitialised():
        model = build_predictor(section, chosen.label)
    problem = _mismatch(model, file.tensors)
    if problem is not None:
        raise UserError(_explain_config_mismatch(file, chosen, problem))
    _fill(model, file)
    cast_weights(model, numbers)
    return LoadedSam2(
        **_describe(file, checkpoint, target, numbers, chosen.label), model=model.to(target)
    )


def load_sam1(
    checkpoint: str | os.PathLike[str],
    device: str | torch.device = "auto",
    *,
    precision: PrecisionName = "auto",
    hub: Path | None = None,
) -> LoadedSam1:
    """Load a SAM1 network, likewise; its architecture is recognised from the file (see
    `load_sam2`)."""
    target = resolve_device(device)
    numbers = choose_precision(target, precision)
    file = read_checkpoint(resolve_checkpoint(checkpoint, "sam1", hub), "sam1")
    try:
        architecture = recognise_sam1(file.tensors)
        with Uninitialised():
            model = build_sam1(architecture)
    except Exception as error:  # shapes from a stranger's file can break any of the classes
        raise UserError(_explain_foreign_sam1(file, f"{error}")) from error
    problem = _mismatch(model, file.tensors)
    if problem is not None:
        raise UserError(_explain_foreign_sam1(file, problem))
    _fill(model, file)
    cast_weights(model, numbers)
    return LoadedSam1(
        **_describe(file, checkpoint, target, numbers, architecture.name), model=model.to(target)
    )


def _choose_config(file: CheckpointFile, given: str | None) -> Sam2Config:
    if given is not None:
        return find_config(given)
    embedded = file.extras.get("config")
    if isinstance(embedded, str):
        return Sam2Config(f"the configuration inside {file.path.name}", embedded)
    # The tensors say all that the official configurations differ in, so the file's name, which
    # people change, is not asked.
    fitting = fitting_config_name(file.tensors)
    if fitting is None:
        raise UserError(
            f"{file.path} is a SAM2 checkpoint of none of the official sizes; give its "
            "configuration with --sam2-config PATH.yaml."
        )
    return find_config(fitting)


def _mismatch(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> str | None:
    """How tensors fail to fit a network, in a few words; None if they fit."""
    expected = model.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    surplus = sorted(tensors.keys() - expected.keys())
    shared = expected.keys() & tensors.keys()
    reshaped = sorted(key for key in shared if expected[key].shape != tensors[key].shape)
    kinds = {"missing": missing, "unknown": surplus, "of another shape": reshaped}
    counts = ", ".join(f"{len(keys)} {what}" for what, keys in kinds.items() if keys)
    if not counts:
        return None
    example = next(keys[0] for keys in kinds.values() if keys)
    return f"tensors {counts} (such as {printable(example)[:80]})"


def _fill(model: torch.nn.Module, file: CheckpointFile) -> None:
    """Copy the tensors into a network whose names and shapes they fit."""
    try:
        model.load_state_dict(file.tensors)
    except Exception as error:  # sparse, quantised or dataless tensors
        reason = printable(str(error))[-200:]
        raise UserError(f"{file.path} holds tensors that cannot be used: {reason}") from error
    for name, tensor in model.state_dict().items():
        if not _is_finite(tensor):
            raise UserError(
                f"{file.path} holds NaN or infinite numbers ({name}): it is damaged, or its "
                "training failed; get it again (`t3dgs-masks models list`)."
            )


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are. Their extremes tell, in a thirtieth of the time."""
    return tensor.numel() == 0 or all(math.isfinite(extreme) for extreme in tensor.aminmax())


def _explain_config_mismatch(file: CheckpointFile, config: Sam2Config, problem: str) -> str:
    fitting = fitting_config_name(file.tensors)
    if isinstance(file.extras.get("config"), str):
        remedy = "it should fit the one it carries: leave --sam2-config away, or get a new copy"
    elif fitting is None:
        remedy = "no official configuration does: give the one it was trained with (--sam2-config)"
    elif fitting != config.label:
        remedy = f"{fitting} fits it: give that, or leave --sam2-config away"
    else:
        remedy = "the file is incomplete or altered: get it again (`t3dgs-masks models list`)"
    return f"{file.path} does not fit {config.label}: {problem}; {remedy}."


def _explain_foreign_sam1(file: CheckpointFile, problem: str) -> str:
    return (
        f"{file.path} is not a checkpoint of the original SAM1 (ViT-B, L, H): "
        f"{printable(problem)}; `t3dgs-masks models download vit_h` fetches one."
    )


def _describe(
    file: CheckpointFile,
    asked_for: str | os.PathLike[str],
    device: torch.device,
    precision: Precision,
    architecture: str,
) -> dict[str, Any]:
    """Fields of `LoadedCheckpoint`."""
    entry = catalogue.find_entry(os.fspath(asked_for)) or catalogue.find_entry_of_file(file.path)
    return {
        "name": entry.name if entry is not None else file.path.name,
        "checkpoint_path": file.path,
        "checkpoint_sha256": download.file_sha256(file.path),
        "device": device,
        "precision": precision,
        "architecture": architecture,
        "recommended": _recommended(file.extras.get("recommended")),
        "notice": _notice(file.extras.get("notice")),
    }


def _recommended(value: object) -> RecommendedThresholds | None:
    """The thresholds a checkpoint carries, if they make sense."""
    if not isinstance(value, Mapping):
        return None
    thresholds = [value.get("pred_iou_thresh"), value.get("stability_score_thresh")]
    if not all(isinstance(t, (int, float)) and 0 <= t <= 1 for t in thresholds):
        return None
    return RecommendedThresholds(*(float(t) for t in thresholds if t is not None))


def _notice(value: object) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    return printable(value)[:_MAX_NOTICE_CHARS]
