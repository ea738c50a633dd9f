"""Linear layers through oneDNN instead of the BLAS that PyTorch was built with, on CPUs.

PyTorch sends float32 matrix products to its BLAS, which on many processors leaves the widest
vector instructions unused: there oneDNN, which PyTorch carries too and uses for convolutions, is
about twice as fast. The sums are the same and are taken in another order (about 1e-6). And oneDNN
can apply an activation, or add something, while what it computed is still in the processor's
caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from sam2.modeling.sam2_utils import MLP
from torch import Tensor, nn

from t3dgs_masks.sam.stand_ins import Method, StandIns

Activation = Literal["none", "relu", "gelu"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda features: features,
    "relu": F.relu,
    "gelu": F.gelu,
}


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

    @classmethod
    def of(cls, layer: nn.Linear) -> PackedLinear:
        """That of a layer: as long as its weight does not change, the same one whenever it is asked
        for, so that the weight is packed once."""
        known, state = _OF_LAYERS.get(layer), _state_of(layer.weight)
        if known is None or known[0] != state:
            known = _OF_LAYERS[layer] = (state, cls(layer.weight, layer.bias))
        return known[1]

    def __call__(self, features: Tensor, then: Activation = "none") -> Tensor:
        """[..., C] float32 -> [..., L], with an activation applied."""
        if features.numel() == 0 or not is_available():
            return ACTIVATIONS[then](F.linear(features, self._weight, self._bias))
        fused = "none" if then == "gelu" and not _fuses_gelu() else then
        product = torch.ops.mkldnn._linear_pointwise
        mapped = product(features, self._in_order(), self._bias, fused, [], "none")
        return mapped if fused == then else ACTIVATIONS[then](mapped)

    def added_to(self, others: Tensor, features: Tensor) -> Tensor:
        """[..., L] and [..., C] float32 -> [..., L]: their sum with what it makes of `features`."""
        if features.numel() == 0 or not is_available():
            return others + F.linear(features, self._weight, self._bias)
        weight, others = self._in_order(), others.contiguous()
        product = torch.ops.mkldnn._linear_pointwise.binary
        return product(features, others, weight, self._bias, "add")

    def _in_order(self) -> Tensor:
        if self._packed is None:
            self._packed = _packed(self._weight)
        return self._packed


_State = tuple[int, int]
_OF_LAYERS: WeakKeyDictionary[nn.Linear, tuple[_State, PackedLinear]] = WeakKeyDictionary()


def _state_of(weight: Tensor) -> _State:
    """Which tensor it is, and how often it was written to."""
    return id(weight), 0 if weight.is_inference() else weight._version


def packed_layers(mlp: MLP) -> list[PackedLinear]:
    """Those of SAM2's small networks, in order."""
    return [PackedLinear.of(layer) for layer in mlp.layers if isinstance(layer, nn.Linear)]


_Affine = tuple[Tensor, Tensor | None]
"""[L, C] weight and [L] bias, float32."""


def merged(first: _Affine, second: _Affine) -> PackedLinear:
    """One map for two that follow each other with nothing between them, put together in double
    precision."""
    (before, offset), (after, bias) = (
        (weight.detach().double(), weight.new_zeros(()) if bias is None else bias.detach())
        for weight, bias in (first, second)
    )
    constant = after @ offset.double().expand(len(before)) + bias.double()
    return PackedLinear((after @ before).float(), constant.float())


def row_products(first: Tensor, second: Tensor) -> Tensor:
    """[..., C] and [L, C] float32 -> [..., L]: the dot product of every row with every row."""
    if first.numel() == 0 or not is_available():
        return F.linear(first, second)
    return torch.ops.mkldnn._linear_pointwise(first, second, None, "none", [], "")


class FastLinears:
    """All linear layers of a network, to be run through oneDNN for a while. Their weights must not
    change any more.

    There is nothing to gain or no way where the layers are not in float32 on a CPU, or PyTorch
    lacks oneDNN; then this changes nothing.

    Args:
        network: any network, in eval mode.
        left_alone: a part of it that stays as it is.
    """

    def __init__(self, network: nn.Module, left_alone: nn.Module | None = None) -> None:
        spared = set() if left_alone is None else set(left_alone.modules())
        forwards: list[Method] = []
        if can_be_fast(network):
            for module in network.modules():
                if type(module) is nn.Linear and module not in spared:
                    forwards.append((module, "forward", PackedLinear.of(module)))
                elif type(module) is MLP and module not in spared:
                    activation = _activation(module.act)
                    if activation is not None:
                        forwards.append((module, "forward", _fused_mlp(module, activation)))
        self._forwards = StandIns(forwards)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs, in inference mode, the layers compute so. Hooks run as ever, but
        for those of layers in SAM2's small networks (`MLP`). Blocks may be nested.

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


@cache
def _fuses_gelu() -> bool:
    """Whether oneDNN is fast at it: without AVX-512 its error function takes four times as long as
    PyTorch's, and a product with it a third longer."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def can_be_fast(network: nn.Module) -> bool:
    """Whether all of a network lies on a CPU in float32, and PyTorch has oneDNN."""
    plain = torch.device("cpu"), torch.float32
    return is_available() and all((p.device, p.dtype) == plain for p in network.parameters())


def _activation(module: nn.Module) -> Activation | None:
    """None: one that oneDNN is not asked for."""
    if type(module) is nn.GELU and module.approximate == "none":
        return "gelu"
    return "relu" if type(module) is nn.ReLU else None


def _fused_mlp(mlp: MLP, activation: Activation) -> Callable[[Tensor], Tensor]:
    """[..., C] -> [..., L], as sam2_utils.py:MLP."""
    *hidden, last = packed_layers(mlp)

    def forward(features: Tensor) -> Tensor:
        for layer in hidden:
            features = layer(features, activation)
        features = last(features)
        return F.sigmoid(features) if mlp.sigmoid_output else features

    return forward


def _packed(weight: Tensor) -> Tensor:
    if not is_available():
        return weight
    try:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    except (AttributeError, RuntimeError):  # as with the products themselves
        return weight
