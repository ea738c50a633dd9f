"""Linear layers through oneDNN instead of the BLAS that PyTorch was built with, on CPUs.

PyTorch sends float32 matrix products to its BLAS, which on many processors leaves the widest
vector instructions unused: there oneDNN, which PyTorch carries too and uses for convolutions, is
about twice as fast. The sums are the same and are taken in another order (about 1e-6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn


def row_products(first: Tensor, second: Tensor) -> Tensor:
    """[..., C] and [L, C] float32 -> [..., L]: the dot product of every row with every row."""
    return _linear(first, second, None)


class FastLinears:
    """All linear layers of a network, to be run through oneDNN for a while.

    There is nothing to gain or no way where the layers are not in float32 on a CPU, or PyTorch
    lacks oneDNN; then this changes nothing.

    Args:
        network: any network, in eval mode.
        left_alone: a part of it that stays as it is.
    """

    def __init__(self, network: nn.Module, left_alone: nn.Module | None = None) -> None:
        spared = set() if left_alone is None else set(left_alone.modules())
        layers = [m for m in network.modules() if type(m) is nn.Linear and m not in spared]
        usable = is_available() and all(_is_plain(layer) for layer in layers)
        self._forwards = [(vars(layer), _forward_of(layer)) for layer in layers if usable]
        self._depth = 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs, in inference mode, the layers compute so; hooks and all are as
        ever. Blocks may be nested."""
        self._depth += 1
        if self._depth == 1:
            for attributes, forward in self._forwards:
                attributes["forward"] = forward
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                for attributes, _ in self._forwards:
                    attributes.pop("forward", None)


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


def _forward_of(layer: Any) -> Callable[[Tensor], Tensor]:
    def forward(features: Tensor) -> Tensor:
        return _linear(features, layer.weight, layer.bias)

    return forward


def _linear(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if features.numel() == 0 or not is_available():
        return F.linear(features, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(features, weight, bias, "none", [], "")
