"""Normalisation over channels by one operation of PyTorch instead of ten, on CPUs.

SAM2 writes it out in its memory encoder and mask decoder (sam2_utils.py:LayerNorm2d), and each of
the ten goes through memory: for a batch of objects that takes up to five times as long. The sums
are the same and are taken in another order (about 1e-6).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from t3dgs_masks.sam.stand_ins import Method, StandIns

_FEWEST_CHANNELS = 16  # with fewer, PyTorch's operation is the slower one


def fused_norms(network: nn.Module) -> StandIns:
    """All normalisations over channels of a network, to be done so for a while.

    Args:
        network: any network on a CPU, in eval mode, whose weights do not change any more.
    """
    forwards: list[Method] = [
        (norm, "forward", _fused(norm))
        for norm in network.modules()
        if type(norm) is LayerNorm2d and len(norm.weight) >= _FEWEST_CHANNELS
    ]
    return StandIns(forwards)


def _fused(norm: LayerNorm2d) -> Callable[[Tensor], Tensor]:
    """[B, C, h, w] -> [B, C, h, w]."""

    def forward(features: Tensor) -> Tensor:
        return over_last(norm, features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return forward


def over_last(norm: LayerNorm2d, features: Tensor) -> Tensor:
    """[..., C] -> [..., C], channels last."""
    return F.layer_norm(features, norm.weight.shape, norm.weight, norm.bias, norm.eps)
