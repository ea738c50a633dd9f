"""Windows of the image encoder without their padding.

Hiera cuts the image into windows and pads what does not divide: at 256 px the windows of the
longest stage are 14 tokens wide and the image 16, so that two thirds of all tokens are zeros. They
take part in the attention, so something must be there, but a linear map takes all of them to its
bias, and what comes out at their places is thrown away. Here only tokens of the image are mapped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from sam2.modeling.backbones.hieradet import MultiScaleBlock
from sam2.modeling.backbones.utils import window_partition
from torch import Tensor, nn

LinearMap = Callable[[Tensor], Tensor]
"""[..., C] -> [..., L]."""


class WindowsWithoutPadding:
    """What to compute in a block of Hiera and in the two linear layers of its attention.

    Args:
        block: one that works on windows.
        before, after: how its layers `attn.qkv` and `attn.proj` are computed.
    """

    def __init__(self, block: MultiScaleBlock, before: LinearMap, after: LinearMap) -> None:
        self._block = block
        self._before = before
        self._after = after
        self._size = 0, 0, 0  # images, rows, columns of the block's input

    def forwards(self) -> list[tuple[nn.Module, LinearMap]]:
        """What takes the place of which module's `forward`."""
        attention = self._block.attn
        return [(self._block, self._run), (attention.qkv, self._map), (attention.proj, self._out)]

    def _run(self, tokens: Tensor) -> Tensor:
        """[B, H, W, C], as hieradet.py:MultiScaleBlock.forward."""
        self._size = tokens.shape[0], tokens.shape[1], tokens.shape[2]
        return type(self._block).forward(self._block, tokens)

    def _map(self, windows: Tensor) -> Tensor:
        """[windows, S, S, C] -> [windows, S, S, L]."""
        places = image_places(*self._size, self._block.window_size)
        if places is None:
            return self._before(windows)
        mapped = self._before(windows.flatten(0, 2)[places])
        everywhere = self._block.attn.qkv.bias.repeat(windows[..., 0].numel(), 1)
        everywhere[places] = mapped
        return everywhere.unflatten(0, windows.shape[:3])

    def _out(self, windows: Tensor) -> Tensor:
        """Likewise, zeros where there is no image; in the last block of a stage pixels have been
        pooled before."""
        images, rows, columns = self._size
        stride = self._block.q_stride or (1, 1)
        places = image_places(
            images, rows // stride[0], columns // stride[1], self._block.window_size // stride[0]
        )
        if places is None:
            return self._after(windows)
        mapped = self._after(windows.flatten(0, 2)[places])
        everywhere = mapped.new_zeros(windows[..., 0].numel(), mapped.shape[-1])
        everywhere[places] = mapped
        return everywhere.unflatten(0, windows.shape[:3])


@lru_cache(64)
def image_places(images: int, rows: int, columns: int, window: int) -> Tensor | None:
    """Which tokens of all windows, one after the other, belong to the image: [images * rows *
    columns] int64; None: all of them."""
    if rows % window == 0 and columns % window == 0:
        return None
    windows, _ = window_partition(torch.ones(images, rows, columns, 1), window)
    return windows.flatten().nonzero()[:, 0]
