"""ConvNeXt blocks of the memory encoder with the same result in fewer operations, for CPUs.

The scale of a block's result goes into its last linear map beforehand, and that map adds what the
block began with. The results differ from the stock network's by the order of float32 sums (about
1e-6).
"""

from __future__ import annotations

from sam2.modeling.memory_encoder import CXBlock
from torch import Tensor, nn

from t3dgs_masks.sam.fast_linear import PackedLinear
from t3dgs_masks.sam.fused_norms import over_last
from t3dgs_masks.sam.stand_ins import Method, StandIns


def fast_fusers(network: nn.Module) -> StandIns:
    """All such blocks of a network, to be computed so for a while.

    Args:
        network: on a CPU in float32, in eval mode; its weights must not change any more.
    """
    forwards: list[Method] = [
        (block, "forward", _FastFuser(block))
        for block in network.modules()
        if type(block) is CXBlock
    ]
    return StandIns(forwards)


class _FastFuser:
    """Stands in for the `forward` of a block."""

    def __init__(self, block: CXBlock) -> None:
        self._block = block
        self._widen = PackedLinear.of(block.pwconv1)
        narrow = block.pwconv2
        self._narrow = PackedLinear.of(narrow)
        if block.gamma is not None:
            scale = block.gamma.detach()
            weight = scale[:, None] * narrow.weight.detach()
            self._narrow = PackedLinear(weight, scale * narrow.bias.detach())

    def __call__(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w], as memory_encoder.py:CXBlock.forward."""
        mixed = self._block.dwconv(features).permute(0, 2, 3, 1)
        hidden = self._widen(over_last(self._block.norm, mixed), "gelu")
        return self._narrow.added_to(features.permute(0, 2, 3, 1), hidden).permute(0, 3, 1, 2)
