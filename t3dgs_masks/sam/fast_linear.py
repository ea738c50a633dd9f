"""Linear layers through oneDNN instead of the BLAS that PyTorch was built with, on CPUs.

PyTorch sends float32 matrix products to its BLAS, which on many processors leaves the widest
vector instructions unused: there oneDNN, which PyTorch carries too and uses for convolutions, is
about twice as fast. The sums are the same and are taken in another order (about 1e-6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeGuard

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from sam2.modeling.backbones.hieradet import MultiScaleAttention, MultiScaleBlock
from torch import Tensor, nn

from t3dgs_masks.sam.padded_windows import WindowsWithoutPadding
from t3dgs_masks.sam.stand_ins import StandIns


class PackedLinear:
    """A linear map by a weight that never changes: oneDNN keeps it in the order in which it is
    read, so that it need not be brought into it for every product. The numbers are the same.

    Args:
        weight: [L, C] float32.
        bias: [L] float32; None: there is none.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias
        self._packed: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        """[..., C] float32 -> [..., L]."""
        if self._packed is None:
            self._packed = _packed(self._weight)
        if features.numel() == 0:
            return F.linear(features, self._weight, self._bias)
        return _linear(features, self._packed, self._bias)


def row_products(first: Tensor, second: Tensor) -> Tensor:
    """[..., C] and [L, C] float32 -> [..., L]: the dot product of every row with every row."""
    return _linear(first, second, None)


class FastLinears:
    """All linear layers of a network, to be run through oneDNN for a while, on tokens that matter
    (`padded_windows`). Their weights must not change any more.

    There is nothing to gain or no way where the layers are not in float32 on a CPU, or PyTorch
    lacks oneDNN; then this changes nothing.

    Args:
        network: any network, in eval mode.
        left_alone: a part of it that stays as it is.
    """

    def __init__(self, network: nn.Module, left_alone: nn.Module | None = None) -> None:
        spared = set() if left_alone is None else set(left_alone.modules())
        layers = [m for m in network.modules() if type(m) is nn.Linear and m not in spared]
        if not is_available() or not all(_is_plain(layer) for layer in layers):
            layers = []
        maps = {layer: PackedLinear(layer.weight, layer.bias) for layer in layers}
        forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {**maps}
        for block in network.modules():
            if _has_windows(block) and block.attn.qkv in maps and block.attn.proj in maps:
                before, after = maps[block.attn.qkv], maps[block.attn.proj]
                forwards.update(WindowsWithoutPadding(block, before, after).forwards())
        self._forwards = StandIns([(module, "forward", f) for module, f in forwards.items()])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs, in inference mode, the layers compute so; hooks and all are as
        ever. Blocks may be nested.

        Numbers below 1e-38 count as 0 there: a softmax over thousands of tokens makes many of them,
        and takes twice as long over it.
        """
        is_first = len(self._forwards) > 0 and not self._forwards.are_in_place
        with self._forwards.in_place():
            if is_first:
                torch.set_flush_denormal(True)
            try:
                yield
            finally:
                if is_first:
                    torch.set_flush_denormal(False)


@cache
def is_available() -> bool:
    """Whether this PyTorch can do it: the operator is one of those that its compiler emits."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        one = torch.ones(1, 1)
        torch.ops.mkldnn._linear_pointwise(one, one, None, "none", [], "")
    except (AttributeError, RuntimeError):  # not known, or not for this processor
        return False
    return True


def _is_plain(layer: nn.Module) -> bool:
    weight = layer.weight
    return isinstance(weight, Tensor) and (weight.device.type, weight.dtype) == (
        "cpu",
        torch.float32,
    )


def _has_windows(block: nn.Module) -> TypeGuard[MultiScaleBlock]:
    # Of others, nothing is known about where their windows' padding is.
    return (
        type(block) is MultiScaleBlock
        and type(block.attn) is MultiScaleAttention
        and block.window_size > 0
        and block.attn.qkv.bias is not None
    )


def _packed(weight: Tensor) -> Tensor:
    if not is_available():
        return weight
    try:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    except (AttributeError, RuntimeError):  # as with the products themselves
        return weight


def _linear(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if features.numel() == 0 or not is_available():
        return F.linear(features, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(features, weight, bias, "none", [], "")
