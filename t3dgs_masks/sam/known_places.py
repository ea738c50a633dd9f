"""Position encodings of SAM2, each worked out once.

They depend on the size of what they are for, and on nothing that an image or a mask says. SAM2
works most of them out for every call, and copies the others; at 256 px on a CPU that is a
twentieth of the image encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.position_encoding import PositionEmbeddingRandom, PositionEmbeddingSine
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from t3dgs_masks.sam.compilation import is_compiled


class KnownPlaces:
    """Lets a model look position encodings up for a while. Its weights must not change any more,
    and the precision it runs in must always be the same.

    What it looks up is the same to the bit, and shared: nobody may write into it (SAM2 does not).

    Args:
        model: any SAM2 model, in eval mode.
    """

    def __init__(self, model: SAM2Base) -> None:
        self._model = model
        self._attributes: list[tuple[dict[str, Any], str, Callable[..., Tensor]]] = []
        for module in model.modules():
            if isinstance(module, PositionEmbeddingSine):
                self._replace(module, "forward", _of_map(module))
            elif isinstance(module, PositionEmbeddingRandom):
                self._replace(module, "forward", cache(module.forward))  # of a size
            elif isinstance(module, Hiera):
                self._replace(module, "_get_pos_embed", cache(module._get_pos_embed))  # likewise

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs; blocks may be nested. A compiled model is left alone: it would be
        compiled again."""
        if is_compiled(self._model):
            yield
            return
        before = [(into, name, into.get(name)) for into, name, _ in self._attributes]
        for into, name, look_up in self._attributes:
            into[name] = look_up
        try:
            yield
        finally:
            for into, name, previous in before:
                if previous is None:
                    into.pop(name, None)
                else:
                    into[name] = previous

    def _replace(self, module: nn.Module, name: str, look_up: Callable[..., Tensor]) -> None:
        self._attributes.append((vars(module), name, look_up))


def _of_map(module: PositionEmbeddingSine) -> Callable[[Tensor], Tensor]:
    """[B, C, h, w] features -> [B, C', h, w] float32, the encoding of their places."""
    known: dict[tuple[int, int], Tensor] = {}

    def look_up(features: Tensor) -> Tensor:
        size = (features.shape[-2], features.shape[-1])
        if size not in known:
            known[size] = PositionEmbeddingSine.forward(module, features[:1])
        return known[size].expand(features.shape[0], -1, -1, -1)

    return look_up
