"""SAM2 checkpoints of the official format, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from t3dgs_masks.sam.model_configs import build_predictor, find_config, parse_model_section


def write_random_sam2(
    path: Path,
    config: str = "sam2.1_hiera_t",
    image_size: int | None = None,
    *,
    embed_config: bool | None = None,
    seed: int = 0,
) -> Path:
    """Write ``{"model": tensors}``, as the official files are, for an official or own `config`.

    The size of the image is in no tensor. For another than the configuration's, the
    configuration with `image_size` in it is written into the file too (``"config"``), unless
    `embed_config` says otherwise.
    """
    source = find_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_predictor(parse_model_section(source, image_size), source.label)
    content: dict[str, object] = {"model": model.state_dict()}
    if embed_config if embed_config is not None else image_size is not None:
        content["config"] = _with_image_size(source.text, image_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def _with_image_size(text: str, image_size: int | None) -> str:
    from omegaconf import OmegaConf

    config = OmegaConf.create(text)
    if image_size is not None:
        OmegaConf.update(config, "model.image_size", image_size)
    return OmegaConf.to_yaml(config)
