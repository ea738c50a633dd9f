"""The configuration (YAML) of a SAM2 checkpoint: find it, check it, build the network from it.

A configuration names Python classes to call, and it may come from a stranger's file. It is
therefore reduced to plain data first, and only classes that the official configurations use are
ever called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from t3dgs_masks.errors import UserError

MAX_CONFIG_CHARS = 65536

PREDICTOR_TARGET = "sam2.sam2_video_predictor.SAM2VideoPredictor"

# A prefix would not do: `sam2.build_sam.os.system` also starts with "sam2.".
_ALLOWED_TARGETS = frozenset(
    {
        PREDICTOR_TARGET,
        "sam2.modeling.backbones.hieradet.Hiera",
        "sam2.modeling.backbones.image_encoder.FpnNeck",
        "sam2.modeling.backbones.image_encoder.ImageEncoder",
        "sam2.modeling.memory_attention.MemoryAttention",
        "sam2.modeling.memory_attention.MemoryAttentionLayer",
        "sam2.modeling.memory_encoder.CXBlock",
        "sam2.modeling.memory_encoder.Fuser",
        "sam2.modeling.memory_encoder.MaskDownSampler",
        "sam2.modeling.memory_encoder.MemoryEncoder",
        "sam2.modeling.position_encoding.PositionEmbeddingSine",
        "sam2.modeling.sam.transformer.RoPEAttention",
    }
)

# sam2/build_sam.py:build_sam2_video_predictor(apply_postprocessing=True), but for holes: sam2
# fills them only where its CUDA extension happens to be built, so filling is a step of our own.
_OVERRIDES: dict[str, Any] = {
    "_target_": PREDICTOR_TARGET,
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
    "fill_hole_area": 0,
    "compile_image_encoder": False,
}

# (embed_dim of the trunk, number of its blocks) -> size in the official file names
_OFFICIAL_TRUNKS = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
# Parameters that SAM 2.1 added (no_obj_embed_spatial, proj_tpos_enc_in_obj_ptrs).
_KEYS_OF_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight")


@dataclass(frozen=True)
class Sam2Config:
    """The text of a configuration, and what to call it in messages."""

    label: str
    text: str


def official_config_names() -> dict[str, str]:
    """Short name -> name inside the sam2 package, of the eight official configurations."""
    return {
        f"sam{version}_hiera_{size}.yaml": f"configs/sam{version}/sam{version}_hiera_{size}.yaml"
        for version in ("2.1", "2")
        for size in _OFFICIAL_TRUNKS.values()
    }


def find_config(name_or_path: str) -> Sam2Config:
    """The configuration of that name: short (``sam2_hiera_l.yaml``), inside the sam2 package
    (``configs/sam2.1/sam2.1_hiera_l.yaml``), or the path of a file."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return Sam2Config(str(path), _read_text(path))
    official = official_config_names()
    short = path.name if path.suffix == ".yaml" else f"{path.name}.yaml"
    package_name = official.get(short)
    if package_name is None or str(path.parent) not in {".", str(Path(package_name).parent)}:
        raise UserError(
            f"--sam2-config {name_or_path} is neither a file nor an official configuration "
            f"({', '.join(official)}); leave it away to have it found."
        )
    text = resources.files("sam2").joinpath(package_name).read_text(encoding="utf-8")
    return Sam2Config(short, text)


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_CONFIG_CHARS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The SAM2 configuration {path} cannot be read as text: {error}") from error


def fitting_config_name(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Short name of the official configuration that a SAM2 checkpoint's tensors fit, or None."""
    patch_embed = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    if patch_embed is None:
        return None
    blocks = {key.split(".")[3] for key in tensors if key.startswith("image_encoder.trunk.blocks.")}
    size = _OFFICIAL_TRUNKS.get((patch_embed.shape[0], len(blocks)))
    if size is None:
        return None
    version = "2.1" if any(key in tensors for key in _KEYS_OF_2_1) else "2"
    return f"sam{version}_hiera_{size}.yaml"


def parse_model_section(config: Sam2Config, image_size: int | None = None) -> dict[str, Any]:
    """The configuration's ``model`` as plain data, with our overrides, and safe to build."""
    from omegaconf import OmegaConf

    if len(config.text) > MAX_CONFIG_CHARS:
        raise UserError(f"{config.label} is too long for a SAM2 configuration.")
    try:
        content = OmegaConf.to_container(OmegaConf.create(config.text), resolve=True)
    except Exception as error:  # YAML and OmegaConf errors have no common base
        reason = str(error).split("\n", maxsplit=1)[0]
        raise UserError(f"{config.label} is not a SAM2 configuration: {reason}") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise UserError(f"{config.label} is not a SAM2 configuration: it has no 'model' section.")
    model = _with_overrides(model)
    if image_size is not None:
        model["image_size"] = image_size
    _check_targets(model, config.label)
    _check_image_size(model.get("image_size"), config.label)
    return model


def _with_overrides(model: Mapping[Any, Any]) -> dict[str, Any]:
    merged = {**model, **_OVERRIDES}
    extra_args = model.get("sam_mask_decoder_extra_args")
    if isinstance(extra_args, Mapping):
        merged["sam_mask_decoder_extra_args"] = {
            **extra_args,
            **_OVERRIDES["sam_mask_decoder_extra_args"],
        }
    return merged


def _check_targets(model: object, label: str) -> None:
    for target in _targets(model):
        if target not in _ALLOWED_TARGETS:
            raise UserError(
                f"{label} asks to call '{str(target)[:80]}', which is no part of SAM2; it was not "
                "called, and the configuration is not used."
            )


def _targets(node: object) -> Iterator[object]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _check_image_size(image_size: object, label: str) -> None:
    # The trunk's coarsest features are 1/32 of the image, and the levels have to line up.
    if not isinstance(image_size, int) or image_size < 32 or image_size % 32:
        raise UserError(
            f"The image size of a SAM2 network must be a multiple of 32, not {image_size} "
            f"({label})."
        )


def build_predictor(model_section: Mapping[str, Any], label: str) -> Any:
    """A SAM2VideoPredictor with random weights, in eval mode, on the CPU.

    Built from the text alone rather than through hydra's search path, so that configurations
    from the package, from files and from inside checkpoints are one case.
    """
    import sam2  # noqa: F401  (its import sets hydra up)
    from hydra.utils import instantiate

    try:
        model = instantiate(dict(model_section), _recursive_=True)
    except Exception as error:  # whatever the classes make of nonsensical settings
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).split("\n")[0]
        raise UserError(f"{label} cannot be built as a SAM2 network: {reason}") from error
    return model.eval()
