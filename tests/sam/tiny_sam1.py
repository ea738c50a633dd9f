"""A SAM1 checkpoint of the official (flat) format at tiny cost, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from t3dgs_masks.sam.sam1_architecture import Sam1Architecture, build_sam1

TINY_SAM1 = Sam1Architecture(
    image_size=128,
    patch_size=16,
    embed_dim=32,
    depth=2,
    num_heads=4,
    mlp_ratio=4.0,
    window_size=3,
    global_attn_indexes=(1,),
    prompt_embed_dim=32,
    mask_in_chans=16,
    num_multimask_outputs=3,
    decoder_depth=2,
    decoder_mlp_dim=64,
    decoder_downsample_rate=2,
    iou_head_depth=3,
    iou_head_hidden_dim=32,
)


def write_tiny_sam1(path: Path, seed: int = 0, architecture: Sam1Architecture = TINY_SAM1) -> Path:
    """Write a SAM1 checkpoint with random weights to `path`; about 0.5 MB.

    With random weights no mask passes SAM's default thresholds; the masks mean nothing anyway.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build_sam1(architecture)
        # Relative positions start at zero, which would hide mistakes in how they are loaded.
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(sam.state_dict(), path)
    return path
