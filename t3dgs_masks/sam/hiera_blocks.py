"""Blocks of the image encoder with the same result in fewer operations, for CPUs.

Hiera cuts the image into windows and pads what does not divide: at 256 px the windows of the
longest stage are 14 tokens wide and the image 16, so that two thirds of all tokens are zeros. What
is computed at their places is thrown away. As keys they do take part in the attention, but they are
all alike, a linear map of zero being its bias: n equal keys weigh as much as one of them whose
score is larger by log(n). Here only tokens of the image go through linear maps and attention, and
one key stands for all of the padding.

Windows are cut by one look-up of all tokens, in the order in which they are attended to. The
results differ from the stock network's by the order of float32 sums (about 1e-6).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from sam2.modeling.backbones.hieradet import MultiScaleAttention, MultiScaleBlock
from torch import Tensor, nn

from t3dgs_masks.sam.fast_linear import PackedLinear, packed_layers
from t3dgs_masks.sam.stand_ins import Method, StandIns


def fast_blocks(network: nn.Module) -> StandIns:
    """All blocks of Hiera in a network, to be computed so for a while.

    Args:
        network: on a CPU in float32, in eval mode; its weights must not change any more.
    """
    blocks = [block for block in network.modules() if _fits(block)]
    forwards: list[Method] = [(block, "forward", _FastBlock(block)) for block in blocks]
    return StandIns(forwards)


def _fits(block: nn.Module) -> TypeGuard[MultiScaleBlock]:
    """Whether it is put together as in all official configurations."""
    return (
        type(block) is MultiScaleBlock
        and type(block.attn) is MultiScaleAttention
        and block.attn.qkv.bias is not None
        and block.mlp.num_layers == 2
        and type(block.mlp.act) is nn.GELU
        and block.mlp.act.approximate == "none"
        and not block.mlp.sigmoid_output
        and block.q_stride in (None, (2, 2), [2, 2])
    )


@dataclass(frozen=True)
class _Windows:
    """Windows of one size, one after the other in an order of all tokens."""

    first: int  # in that order
    count: int
    rows: int
    columns: int

    @property
    def tokens(self) -> slice:
        return slice(self.first, self.first + self.count * self.rows * self.columns)


class _FastBlock:
    """Stands in for the `forward` of a block."""

    def __init__(self, block: MultiScaleBlock) -> None:
        self._block = block
        self._qkv = PackedLinear.of(block.attn.qkv)
        self._out = PackedLinear.of(block.attn.proj)
        self._head = block.dim_out // block.attn.num_heads
        self._widen, self._narrow = packed_layers(block.mlp)
        self._shortcut = PackedLinear.of(block.proj) if block.dim != block.dim_out else None

    def __call__(self, tokens: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H', W', C'], as hieradet.py:MultiScaleBlock.forward."""
        block = self._block
        if block.q_stride and any(side % 2 for side in (*tokens.shape[1:3], block.window_size)):
            # The padding of odd windows is pooled together with the image.
            return type(block).forward(block, tokens)
        normed = block.norm1(tokens)
        shortcut = tokens
        if self._shortcut is not None:
            shortcut = self._shortcut(normed)
            shortcut = _pooled(shortcut) if block.q_stride else shortcut
        tokens = self._out.added_to(shortcut, self._attended(normed))
        return self._narrow.added_to(tokens, self._widen(block.norm2(tokens), "gelu"))

    def _attended(self, tokens: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H', W', C'], before the attention's last linear map."""
        images, rows, columns, _ = tokens.shape
        window, stride = self._block.window_size, 2 if self._block.q_stride else 1
        flat = tokens.flatten(0, 2)
        if window == 0:
            whole = _Windows(0, images, rows, columns)
            found = self._attended_in(whole, self._qkv(flat))
        else:
            order, groups = _in_windows(images, rows, columns, window)
            mapped = self._qkv(flat[order])
            parts = [self._attended_in(group, mapped) for group in groups]
            together = parts[0] if len(parts) == 1 else torch.cat(parts)
            found = together[_back(images, rows // stride, columns // stride, window // stride)]
        return found.view(images, rows // stride, columns // stride, -1)

    def _attended_in(self, windows: _Windows, mapped: Tensor) -> Tensor:
        """Of all tokens in order, [N, 3 * C'], those of some windows: [n, C'].

        As hieradet.py:MultiScaleAttention.forward.
        """
        attention, block = self._block.attn, self._block
        own = mapped[windows.tokens].view(windows.count, -1, 3, attention.num_heads, self._head)
        queries, keys, values = own.unbind(2)  # [windows, L, heads, d] each
        if block.q_stride:
            unpooled = queries.reshape(windows.count, windows.rows, windows.columns, -1)
            queries = _pooled(unpooled).view(windows.count, -1, *queries.shape[2:])
        num_padded = block.window_size**2 - windows.rows * windows.columns
        weights = None
        if num_padded > 0:
            _, key, value = attention.qkv.bias.view(3, 1, 1, *keys.shape[2:])
            keys = torch.cat([keys, key.expand(len(keys), -1, -1, -1)], dim=1)
            values = torch.cat([values, value.expand(len(keys), -1, -1, -1)], dim=1)
            weights = keys.new_zeros(queries.shape[1], keys.shape[1])
            weights[:, -1] = math.log(num_padded)
        found = F.scaled_dot_product_attention(
            queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), weights
        )
        return found.transpose(1, 2).reshape(-1, attention.num_heads * self._head)


def _pooled(tokens: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, H/2, W/2, C], the largest of every four."""
    rows = torch.maximum(tokens[:, ::2], tokens[:, 1::2])
    return torch.maximum(rows[:, :, ::2], rows[:, :, 1::2])


@lru_cache(64)
def _in_windows(
    images: int, rows: int, columns: int, window: int
) -> tuple[Tensor, tuple[_Windows, ...]]:
    """Which token comes when, [images * rows * columns] int64, and the windows that follow each
    other then: whole ones, those that the edges cut, and the corner's."""
    tokens = torch.arange(images * rows * columns).view(images, rows, columns)
    parts: list[Tensor] = []
    groups: list[_Windows] = []
    first = 0
    for top, bottom, height in _spans(rows, window):
        for left, right, width in _spans(columns, window):
            part = tokens[:, top:bottom, left:right]
            cut = part.unflatten(1, (-1, height)).unflatten(3, (-1, width)).transpose(2, 3)
            parts.append(cut.flatten())
            groups.append(_Windows(first, part.numel() // (height * width), height, width))
            first += part.numel()
    return torch.cat(parts), tuple(groups)


def _spans(length: int, window: int) -> Iterator[tuple[int, int, int]]:
    """Begin and end of what is cut into whole windows, and of what is left, with the length of a
    window there."""
    whole = length // window * window
    if whole > 0:
        yield 0, whole, window
    if length > whole:
        yield whole, length, length - whole


@lru_cache(64)
def _back(images: int, rows: int, columns: int, window: int) -> Tensor:
    """When each token comes, in the order of `_in_windows`."""
    order, _ = _in_windows(images, rows, columns, window)
    return order.argsort()
