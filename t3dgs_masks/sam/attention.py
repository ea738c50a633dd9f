"""SAM2's memory attention with the same result in fewer operations, for CPUs.

Stock memory attention is most of what tracking costs on a CPU. Four things about it need not be:

- Values are a linear map of what is attended to, and softmax weights add up to one, so the map can
  be applied after the weighted sum: softmax(QK')(MW + b) = (softmax(QK')M)W + b. Memories have a
  quarter of the channels and many times the tokens of the queries. And it is followed by another
  linear map, so that both can be one.
- All objects of a frame start from the same image features, so the first self-attention, which
  sees nothing else, is the same for all of them.
- Rotary position encodings can be applied in place, and object after object fits into a
  processor's caches where a batch does not.
- Objects know nothing of each other, so each can have cores of its own (`side_by_side`).

Where the order of sums is free, activations and residuals go along with linear maps as well
(`fast_linear`).

Nothing is approximated: results differ by the order of float32 sums (about 1e-6), as those of a
batch do anyway. A lone object, which could have the stock network's result to the bit, gets it
unless the order of sums is free (`devices.Precision`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from t3dgs_masks.sam.fast_linear import (
    ACTIVATIONS,
    Activation,
    PackedLinear,
    merged,
    row_products,
)
from t3dgs_masks.sam.side_by_side import SideBySide
from t3dgs_masks.sam.stand_ins import StandIns

_SCORES_AT_ONCE = 1 << 24  # 64 MB for all threads; all of one object's at 1024 px are 1 GB


class LeanMemoryAttention:
    """Stands in for a `MemoryAttention` in eval mode; see `fits` for which.

    Args:
        stock: the network whose weights are used.
        reordered_sums: see `devices.Precision`.
    """

    def __init__(self, stock: MemoryAttention, reordered_sums: bool = False) -> None:
        self._stock = stock
        self._reordered_sums = reordered_sums
        self._products = row_products if reordered_sums else _products
        self._layers = [_Layer(layer, reordered_sums) for layer in stock.layers]
        self._objects = SideBySide(flush_denormals=reordered_sums)
        self._scores_at_once = _SCORES_AT_ONCE
        self._rotations: dict[int, Tensor] = {}  # number of query tokens -> [T, C/2] complex

    @staticmethod
    def fits(stock: torch.nn.Module) -> bool:
        """Whether a network is put together like those of all official configurations, and lies
        on a CPU in float32."""
        return (
            isinstance(stock, MemoryAttention)
            and stock.pos_enc_at_input
            and stock.batch_first
            and all(isinstance(layer, MemoryAttentionLayer) for layer in stock.layers)
            and all(_layer_fits(layer) for layer in stock.layers)
            and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in stock.parameters())
        )

    def in_place_in(self, model: SAM2Base) -> AbstractContextManager[None]:
        """A block in which `model` calls this instead of the stock `forward`, hooks and all; other
        users of the model keep the stock one."""
        return StandIns([(model.memory_attention, "forward", self)]).in_place()

    def __call__(
        self,
        curr: list[Tensor],
        memory: Tensor,
        curr_pos: list[Tensor],
        memory_pos: Tensor,
        num_obj_ptr_tokens: int = 0,
    ) -> Tensor:
        """As `MemoryAttention.forward`.

        Args:
            curr: one tensor [T, B, C], features of the current frame.
            memory: [L, B, M], memories and, at the end, object pointers.
            curr_pos: one tensor [T, B, C].
            memory_pos: [L, B, M].
            num_obj_ptr_tokens: how many of the L tokens are of object pointers.

        Returns:
            [T, B, C].
        """
        if memory.shape[1] == 1 and not self._reordered_sums:
            return MemoryAttention.forward(
                self._stock,
                curr=curr,  # type: ignore[arg-type]  # a list in SAM2's own calls too
                memory=memory,
                curr_pos=curr_pos,  # type: ignore[arg-type]
                memory_pos=memory_pos,
                num_obj_ptr_tokens=num_obj_ptr_tokens,
            )
        self._scores_at_once = _SCORES_AT_ONCE // min(memory.shape[1], torch.get_num_threads())
        features = (curr[0] + 0.1 * curr_pos[0]).transpose(0, 1)  # [B, T, C]
        values = memory.transpose(0, 1)  # [B, L, M]
        keys = values.contiguous() + memory_pos.transpose(0, 1)
        rotation = self._rotation(features.shape[1])
        num_rotated = keys.shape[1] - num_obj_ptr_tokens
        first, *others = self._layers
        # Expanded from one frame: the batch has a stride of 0.
        is_shared = curr[0].stride(1) == 0
        start = self._self_attend(first, features[:1] if is_shared else features, rotation)

        def of_object(slot: int) -> Tensor:
            here = slice(slot, slot + 1)
            memories = keys[here], values[slot].t().contiguous(), num_rotated
            output = self._look_up(first, start if is_shared else start[here], memories, rotation)
            for layer in others:
                output = self._self_attend(layer, output, rotation)
                output = self._look_up(layer, output, memories, rotation)
            return self._stock.norm(output)

        outputs = self._objects.map(of_object, keys.shape[0])
        return torch.cat(outputs).transpose(0, 1)

    def _self_attend(self, layer: _Layer, features: Tensor, rotation: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C], residual included."""
        normed = layer.stock.norm1(features)
        queries = _rotated(layer.own.queries(normed), rotation)
        keys = _rotated(layer.own.keys(normed), rotation)
        channels = normed.transpose(1, 2).contiguous()
        found = [self._attended(*own) for own in zip(queries, keys, channels, strict=True)]
        return layer.own.out.added_to(features, torch.stack(found))

    def _look_up(
        self,
        layer: _Layer,
        features: Tensor,
        memories: tuple[Tensor, Tensor, int],
        rotation: Tensor,
    ) -> Tensor:
        """Cross-attention and feed-forward part: [1, T, C] -> [1, T, C], residuals included.

        Args:
            layer: one of memory attention's.
            features: [1, T, C].
            memories: keys [1, L, M], values [M, L] channel by channel, and how many of the L have a
                place in the image.
            rotation: [T, C/2] complex.
        """
        keys, channels, num_rotated = memories
        queries = _rotated(layer.across.queries(layer.stock.norm2(features)), rotation)
        projected = layer.across.keys(keys)
        _rotated(projected[:, :num_rotated], rotation)
        found = self._attended(queries[0], projected[0], channels)[None]
        features = layer.across.out.added_to(features, found)
        return layer.narrow.added_to(features, layer.widen(layer.stock.norm3(features), "relu"))

    def _attended(self, queries: Tensor, keys: Tensor, channels: Tensor) -> Tensor:
        """[T, C], [L, C] and [M, L] -> [T, M], dot product attention with what is attended to given
        channel by channel."""
        rows = max(1, self._scores_at_once // keys.shape[0])
        found: list[Tensor] = []
        for some in queries.split(rows):
            scores = self._products(some, keys)
            torch.softmax(scores, dim=-1, out=scores)  # where it is: they are megabytes
            found.append(self._products(scores, channels))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _rotation(self, num_tokens: int) -> Tensor:
        known = self._rotations.get(num_tokens)
        if known is None:
            side = round(num_tokens**0.5)
            known = self._layers[0].stock.self_attn.compute_cis(end_x=side, end_y=side)
            self._rotations[num_tokens] = known
        return known


class _Map(Protocol):
    """A linear map, as `PackedLinear`."""

    def __call__(self, features: Tensor, then: Activation = "none") -> Tensor: ...

    def added_to(self, others: Tensor, features: Tensor) -> Tensor: ...


class _StockMap:
    """Layers one after the other, as they are."""

    def __init__(self, *layers: nn.Module, scale: float = 1.0) -> None:
        self._layers = layers
        self._scale = scale

    def __call__(self, features: Tensor, then: Activation = "none") -> Tensor:
        for layer in self._layers:
            features = layer(features)
        if self._scale != 1.0:
            features = features.mul_(self._scale)
        return ACTIVATIONS[then](features)

    def added_to(self, others: Tensor, features: Tensor) -> Tensor:
        return others + self(features)


class _Attention:
    """The linear maps of one attention."""

    def __init__(self, stock: Any, reordered_sums: bool) -> None:
        # Scores are scaled dot products: the scale can be that of the queries.
        scale = stock.internal_dim**-0.5
        self.queries: _Map = _StockMap(stock.q_proj, scale=scale)  # [..., C] -> [..., C]
        self.keys: _Map = _StockMap(stock.k_proj)  # [..., M] -> [..., C]
        self.out: _Map = _StockMap(stock.v_proj, stock.out_proj)
        """[..., M] weighted sum of what is attended to -> [..., C] the attention's result."""
        if reordered_sums:
            query, value, out = stock.q_proj, stock.v_proj, stock.out_proj
            self.queries = PackedLinear(scale * query.weight.detach(), scale * query.bias.detach())
            self.keys = PackedLinear.of(stock.k_proj)
            self.out = merged((value.weight, value.bias), (out.weight, out.bias))


class _Layer:
    """A `MemoryAttentionLayer` and its linear maps."""

    def __init__(self, stock: Any, reordered_sums: bool) -> None:
        self.stock = stock
        self.own = _Attention(stock.self_attn, reordered_sums)
        self.across = _Attention(stock.cross_attn_image, reordered_sums)
        self.widen: _Map = _StockMap(stock.linear1)
        self.narrow: _Map = _StockMap(stock.linear2)
        if reordered_sums:
            self.widen = PackedLinear.of(stock.linear1)
            self.narrow = PackedLinear.of(stock.linear2)


def _layer_fits(layer: Any) -> bool:
    own, across = layer.self_attn, layer.cross_attn_image
    return (
        not layer.pos_enc_at_attn
        and layer.pos_enc_at_cross_attn_keys
        and not layer.pos_enc_at_cross_attn_queries
        and layer.activation_str == "relu"
        and isinstance(own, RoPEAttention)
        and isinstance(across, RoPEAttention)
        and own.num_heads == across.num_heads == 1
        and own.internal_dim == across.internal_dim
        and across.rope_k_repeat
    )


def _rotated(tokens: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position encoding of [B, n * T, C] with [T, C/2] complex, in place."""
    batch, length, channels = tokens.shape
    period = rotation.shape[0]
    pairs = tokens.view(batch, length // period, period, channels // 2, 2)
    torch.view_as_complex(pairs).mul_(rotation)
    return tokens


def _products(first: Tensor, second: Tensor) -> Tensor:
    """[T, C] and [L, C] -> [T, L]: the dot product of every row with every row."""
    return first @ second.t()
