"""Position encodings of SAM2, each worked out once, and what it makes of there being no point.

They depend on the size of what they are for, and on nothing that an image or a mask says. SAM2
works most of them out for every call, and copies the others; at 256 px on a CPU that is a
twentieth of the image encoder. Where it is given no points, as while it tracks, it embeds two that
say so, by forty operations.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.position_encoding import PositionEmbeddingRandom, PositionEmbeddingSine
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from t3dgs_masks.sam.compilation import is_compiled
from t3dgs_masks.sam.stand_ins import Method, StandIns


class KnownPlaces:
    """Lets a model look position encodings up for a while. Its weights must not change any more,
    and the precision it runs in must always be the same.

    What it looks up is the same to the bit, and shared: nobody may write into it (SAM2 does not).

    Args:
        model: any SAM2 model, in eval mode.
    """

    def __init__(self, model: SAM2Base) -> None:
        self._model = model
        look_ups: list[Method] = []
        for module in model.modules():
            if isinstance(module, PositionEmbeddingSine):
                look_ups.append((module, "forward", _of_map(module)))
            elif isinstance(module, PositionEmbeddingRandom):
                look_ups.append((module, "forward", cache(module.forward)))  # of a size
            elif isinstance(module, Hiera):
                of_size = cache(module._get_pos_embed)
                look_ups.append((module, "_get_pos_embed", of_size))
        look_ups.append((model, "_forward_sam_heads", _heads_without_points(model)))
        self._look_ups = StandIns(look_ups)

    def in_place(self) -> AbstractContextManager[None]:
        """A block in which it does; blocks may be nested. A compiled model is left alone: it would
        be compiled again."""
        return nullcontext() if is_compiled(self._model) else self._look_ups.in_place()


def _of_map(module: PositionEmbeddingSine) -> Callable[[Tensor], Tensor]:
    """[B, C, h, w] features -> [B, C', h, w] float32, the encoding of their places."""
    known: dict[tuple[int, int], Tensor] = {}

    def look_up(features: Tensor) -> Tensor:
        size = (features.shape[-2], features.shape[-1])
        if size not in known:
            known[size] = PositionEmbeddingSine.forward(module, features[:1])
        return known[size].expand(features.shape[0], -1, -1, -1)

    return look_up


def _heads_without_points(model: SAM2Base) -> Callable[..., Any]:
    """`SAM2Base._forward_sam_heads` that knows the embedding of no points."""
    encoder = model.sam_prompt_encoder
    known: dict[int, Tensor] = {}

    def of_no_points(points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        batch = len(points)
        if batch not in known:
            known[batch] = type(encoder)._embed_points(encoder, points, labels, pad)
        return known[batch]

    without_points = StandIns([(encoder, "_embed_points", of_no_points)])

    def heads(backbone_features: Tensor, point_inputs: Any = None, *rest: Any, **named: Any) -> Any:
        with without_points.in_place() if point_inputs is None else nullcontext():
            return type(model)._forward_sam_heads(
                model, backbone_features, point_inputs, *rest, **named
            )

    return heads
