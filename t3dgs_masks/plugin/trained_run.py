"""Opens a finished splatfacto run, stock or ours, wherever its folder is now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.utils.rich_utils import CONSOLE

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown
from t3dgs_masks.plugin.cpu import splatfacto_on, without_lpips
from t3dgs_masks.plugin.run_config import read_run_config


@dataclass(frozen=True)
class TrainedRun:
    """A run with its dataset loaded, on its device."""

    step: int
    datamanager: FullImageDatamanager
    model: SplatfactoModel


def open_run(config_path: Path, data: Path | None, device: torch.device) -> TrainedRun:
    """Load the latest checkpoint of a run, and the dataset that it was trained on.

    Args:
        config_path: its `config.yml`.
        data: the dataset, if it is no longer where the run had it.
        device: where model and images go.

    Raises:
        UserError: no such run, not a splatfacto, or the dataset is gone.
    """
    config = _read_config(config_path)
    checkpoint = _latest_checkpoint(config_path.parent / config.relative_model_dir)
    _settle_data(config, data)
    _settle_cache(config, device)
    on_cpu = splatfacto_on(device) if device.type == "cpu" else nullcontext()
    with on_cpu, without_lpips(), quiet_console():
        pipeline = config.pipeline.setup(device=str(device), test_mode="val")
    datamanager, model = pipeline.datamanager, pipeline.model
    if not (isinstance(datamanager, FullImageDatamanager) and isinstance(model, SplatfactoModel)):
        raise UserError(
            f"{shown(config_path)} is a run of {config.method_name}: prompts are made from"
            " splatfacto and t3dgs-splatfacto"
        )
    state = _read_checkpoint(checkpoint)
    pipeline.load_pipeline(state["pipeline"], state["step"])
    pipeline.eval()
    with quiet_console():
        _ = datamanager.cached_train  # read and undistorted now
    return TrainedRun(int(state["step"]), datamanager, model)


def _read_config(path: Path) -> TrainerConfig:
    try:
        config = read_run_config(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{shown(path)} is not a config.yml that can be read: {error}") from error
    if not isinstance(config, TrainerConfig):
        raise UserError(f"{shown(path)} is not the config.yml of a nerfstudio run")
    return config


def _latest_checkpoint(folder: Path) -> Path:
    checkpoints = sorted(folder.glob("step-*.ckpt"))
    if not checkpoints:
        raise UserError(f"the run has no checkpoint in {shown(folder)}: train it first")
    return checkpoints[-1]


def _settle_data(config: TrainerConfig, data: Path | None) -> None:
    """Make the datamanager read `data`, or what the run has read."""
    settings: Any = config.pipeline.datamanager
    found = data or settings.data or settings.dataparser.data
    if not Path(found).exists():
        raise UserError(
            f"the dataset {shown(Path(found))} of this run is not there: run from the folder where"
            " it was trained, or give --data"
        )
    settings.data = Path(found)


def _settle_cache(config: TrainerConfig, device: torch.device) -> None:
    """Keep images where they can be kept."""
    settings = config.pipeline.datamanager
    if device.type == "cpu" and isinstance(settings, FullImageDatamanagerConfig):
        settings.cache_images = "gpu"  # "cpu" pins memory, which needs CUDA


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        with _numpy_numbers_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it meets: zip, pickle and key errors
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the checkpoint {shown(path)} cannot be read: {reason}") from error


@contextmanager
def quiet_console() -> Iterator[None]:
    """nerfstudio tells how it reads a dataset; our commands say what they do themselves."""
    was_quiet = CONSOLE.quiet
    CONSOLE.quiet = True
    try:
        yield
    finally:
        CONSOLE.quiet = was_quiet


@contextmanager
def _numpy_numbers_allowed() -> Iterator[None]:
    """Stock schedules leave numpy numbers in a checkpoint, under numpy 1's or numpy 2's name."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    allowed: list[Any] = [np.dtype, *kinds, *((scalar, name) for name in names)]
    with torch.serialization.safe_globals(allowed):
        yield
