"""Masks on their way from and to a network: packed, an eighth of the bytes travels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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


def unpacked(masks: Sequence[BitMask], device: torch.device) -> Tensor:
    """K masks of one size, at least one -> [K, H, W] bool on a device."""
    if device.type == "cpu":
        return torch.stack([torch.from_numpy(bits.unpack(mask)) for mask in masks])
    octets = np.stack([mask.words.view(np.uint8) for mask in masks])
    return unpacked_octets(torch.from_numpy(octets).to(device), masks[0].height, masks[0].width)


def packed_octets(masks: Tensor) -> Tensor:
    """[K, H, W] bool -> [K, ceil(H * W / 8)] uint8: eight pixels to a byte, columns first, the
    first pixel in the lowest bit."""
    pixels = masks.transpose(1, 2).flatten(1).to(torch.uint8)
    groups = F.pad(pixels, (0, -pixels.shape[1] % 8)).unflatten(1, (-1, 8))
    return (groups << _places(masks.device)).sum(dim=2, dtype=torch.uint8)


def unpacked_octets(octets: Tensor, height: int, width: int) -> Tensor:
    """The other way round: [K, at least ceil(H * W / 8)] uint8 -> [K, H, W] bool."""
    pixels = (octets[:, :, None] >> _places(octets.device)) & 1
    columns = pixels.flatten(1)[:, : height * width].unflatten(1, (width, height))
    return columns.transpose(1, 2).bool()


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
