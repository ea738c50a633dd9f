"""Recognise the architecture of a SAM1 checkpoint from the shapes of its tensors.

Covers ViT-B, ViT-L and ViT-H, and any other sizes of the same classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

# (embed_dim, depth) -> name in segment_anything/build_sam.py
_OFFICIAL_NAMES = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
_DECODER_HEADS = 8  # segment_anything/build_sam.py; not to be seen in any shape


@dataclass(frozen=True)
class Sam1Architecture:
    """Arguments of segment_anything's classes (segment_anything/build_sam.py:_build_sam)."""

    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    window_size: int
    global_attn_indexes: tuple[int, ...]
    prompt_embed_dim: int
    mask_in_chans: int
    num_multimask_outputs: int
    decoder_depth: int
    decoder_mlp_dim: int
    decoder_downsample_rate: int
    iou_head_depth: int
    iou_head_hidden_dim: int

    @property
    def name(self) -> str:
        """``vit_b``, ``vit_l``, ``vit_h``, or ``custom``."""
        return _OFFICIAL_NAMES.get((self.embed_dim, self.depth), "custom")


def recognise_sam1(tensors: Mapping[str, torch.Tensor]) -> Sam1Architecture:
    """Raises KeyError, IndexError, ValueError or ZeroDivisionError if the shapes make no sense."""
    encoder = "image_encoder."
    decoder = "mask_decoder."
    patch = tensors[f"{encoder}patch_embed.proj.weight"]
    embed_dim, patch_size = patch.shape[0], patch.shape[-1]
    grid_size = tensors[f"{encoder}pos_embed"].shape[1]
    depth = _count(tensors, f"{encoder}blocks.")
    # Tables of relative positions are [2 * extent - 1, channels per head].
    tables = [tensors[f"{encoder}blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
    extents = [(table.shape[0] + 1) // 2 for table in tables]
    prompt_embed_dim = tensors["prompt_encoder.no_mask_embed.weight"].shape[1]
    attention = f"{decoder}transformer.layers.0.cross_attn_token_to_image"
    inner_dim = tensors[f"{attention}.q_proj.weight"].shape[0]
    return Sam1Architecture(
        image_size=grid_size * patch_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=embed_dim // tables[0].shape[1],
        mlp_ratio=tensors[f"{encoder}blocks.0.mlp.lin1.weight"].shape[0] / embed_dim,
        window_size=_window_size(extents, grid_size),
        global_attn_indexes=tuple(i for i in range(depth) if extents[i] == grid_size),
        prompt_embed_dim=prompt_embed_dim,
        mask_in_chans=tensors["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        num_multimask_outputs=tensors[f"{decoder}mask_tokens.weight"].shape[0] - 1,
        decoder_depth=_count(tensors, f"{decoder}transformer.layers."),
        decoder_mlp_dim=tensors[f"{decoder}transformer.layers.0.mlp.lin1.weight"].shape[0],
        decoder_downsample_rate=prompt_embed_dim // inner_dim,
        iou_head_depth=_count(tensors, f"{decoder}iou_prediction_head.layers."),
        iou_head_hidden_dim=tensors[f"{decoder}iou_prediction_head.layers.0.weight"].shape[0],
    )


def _count(keys: Iterable[str], prefix: str) -> int:
    """How many modules are numbered under `prefix`."""
    return len({key[len(prefix) :].split(".")[0] for key in keys if key.startswith(prefix)})


def _window_size(extents: list[int], grid_size: int) -> int:
    windows = {extent for extent in extents if extent != grid_size}
    if len(windows) > 1:
        raise ValueError(f"attention windows of several sizes: {sorted(windows)}")
    return windows.pop() if windows else 0


def build_sam1(architecture: Sam1Architecture) -> Any:
    """A `segment_anything.modeling.Sam` with random weights, in eval mode, on the CPU."""
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    a = architecture
    grid_size = a.image_size // a.patch_size
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=a.image_size,
            patch_size=a.patch_size,
            embed_dim=a.embed_dim,
            depth=a.depth,
            num_heads=a.num_heads,
            mlp_ratio=a.mlp_ratio,
            out_chans=a.prompt_embed_dim,
            qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),  # pyright: ignore[reportArgumentType]
            use_rel_pos=True,
            window_size=a.window_size,
            global_attn_indexes=a.global_attn_indexes,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=a.prompt_embed_dim,
            image_embedding_size=(grid_size, grid_size),
            input_image_size=(a.image_size, a.image_size),
            mask_in_chans=a.mask_in_chans,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=a.num_multimask_outputs,
            transformer=TwoWayTransformer(
                depth=a.decoder_depth,
                embedding_dim=a.prompt_embed_dim,
                mlp_dim=a.decoder_mlp_dim,
                num_heads=_DECODER_HEADS,
                attention_downsample_rate=a.decoder_downsample_rate,
            ),
            transformer_dim=a.prompt_embed_dim,
            iou_head_depth=a.iou_head_depth,
            iou_head_hidden_dim=a.iou_head_hidden_dim,
        ),
    )
    return sam.eval()
