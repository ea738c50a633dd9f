"""Masks from a network, packed where they are: an eighth of the bytes leaves the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from t3dgs_masks import bits
from t3dgs_masks.types import BitMask


def packed(masks: Tensor) -> list[BitMask]:
    """[K, H, W] bool on any device -> K masks."""
    if masks.device.type == "cpu":
        return [bits.pack(mask) for mask in masks.numpy()]
    height, width = masks.shape[1:]
    octets = packed_octets(masks).cpu().numpy()
    return [bits.from_bytes(height, width, row) for row in octets]


def packed_octets(masks: Tensor) -> Tensor:
    """[K, H, W] bool -> [K, ceil(H * W / 8)] uint8: eight pixels to a byte, columns first, the
    first pixel in the lowest bit."""
    pixels = masks.transpose(1, 2).flatten(1).to(torch.uint8)
    groups = F.pad(pixels, (0, -pixels.shape[1] % 8)).unflatten(1, (-1, 8))
    weights = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=masks.device)
    return (groups * weights).sum(dim=2, dtype=torch.uint8)
