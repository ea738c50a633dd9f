"""What masks look like at frame size, without bringing them there.

SAM's masks are small maps of logits that are enlarged bilinearly and cut off at a threshold. Every
pixel of the large map lies in a cell between four pixels of the small one, and its logit between
theirs: where all four are above a threshold, or below, nothing has to be computed. That leaves the
cells that an outline runs through, a few hundred out of tens of thousands.

Rounding is left to the one who enlarges: a logit this close to a threshold could fall on either
side of it. Areas and boxes come as bounds, which mostly coincide; where they do not, and it
matters, the mask has to be enlarged after all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BUSY = 0.1
"""Share of cells with an outline in them from which on enlarging is as cheap."""
_ROUNDING = 2e-4
"""Of a cell's range: float32 coordinates in maps of up to 1,000 pixels are more exact than that."""
_ROUNDING_OF_LOGITS = 1e-6


@dataclass(frozen=True)
class Bounds:
    """Areas and boxes of P masks at frame size, each from below and from above."""

    areas: Tensor  # [2, T, P] int64 pixels, by threshold
    boxes: Tensor  # [2, P, 4] int64 left, top, right, bottom of what is above 0; 0 if it is nothing


class _Axis:
    """Along one side: which pixels of the frame lie in which cell, and where in it."""

    def __init__(self, small: int, large: int, device: torch.device) -> None:
        # aten/src/ATen/native/UpSample.h, with align_corners=False, in float64.
        places = (torch.arange(large, dtype=torch.float64) + 0.5) * small / large - 0.5
        places.clamp_(min=0.0)
        cells = places.long().clamp_(max=small - 1)
        counts = torch.bincount(cells, minlength=small)
        first = counts.cumsum(0) - counts
        steps = torch.arange(int(counts.max()))
        pixels = (first[:, None] + steps).clamp_(max=large - 1)
        weights = (places - cells)[pixels].float()
        weights.masked_fill_(steps >= counts[:, None], math.nan)
        self.large = large
        self.counts = counts.to(device)  # [small] pixels in a cell
        self.first = first.to(device)  # [small] index of its first pixel
        self.pixels = pixels.to(device)  # [small, most] index of every pixel of a cell
        self.weights = weights.to(device)
        """[small, most] of the cell's far end at its pixels; NaN where it has fewer."""


@dataclass(frozen=True)
class _Cells:
    """Of P maps: what the logits of pixels in a cell lie between, rounding included; [P, h, w]."""

    logits: Tensor  # of the cell's first pixel
    lowest: Tensor
    highest: Tensor
    margin: Tensor  # what rounding can make of a logit in the cell


@dataclass(frozen=True)
class _Outline:
    """The cells that have pixels on both sides of a threshold, or could have."""

    inside: Tensor  # [P, h, w] bool, cells that are above it as a whole
    mask: Tensor  # [M] which map a cell of the outline belongs to
    row: Tensor  # [M] where it is there
    column: Tensor  # [M]
    found: tuple[Tensor, Tensor]  # [M, r, c] bool, its pixels above: for certain, and possibly


class Enlarger:
    """Tells of maps of one size what they are at another one.

    Args:
        small: (h, w) of the maps.
        large: (H, W) of the frames.
        thresholds: logits at which areas are measured.
        device: where the maps are.
    """

    def __init__(
        self,
        small: tuple[int, int],
        large: tuple[int, int],
        thresholds: tuple[float, ...],
        device: torch.device,
    ) -> None:
        self._rows = _Axis(small[0], large[0], device)
        self._columns = _Axis(small[1], large[1], device)
        self._sizes = self._rows.counts[:, None] * self._columns.counts  # [h, w] pixels in a cell
        self._thresholds = thresholds

    def bounds(self, logits: Tensor) -> Bounds | None:
        """Of [P, h, w] float32; None if they are so busy that enlarging them is as cheap."""
        lowest, highest = _extremes(logits)
        margin = _ROUNDING * (highest - lowest)
        margin += _ROUNDING_OF_LOGITS * torch.maximum(highest.abs(), lowest.abs())
        cells = _Cells(logits, lowest - margin, highest + margin, margin)
        areas = []
        for level in self._thresholds:
            outline = self._outline(cells, level)
            if outline is None:
                return None
            areas.append(self._areas(outline))
        outline = self._outline(cells, 0.0)
        if outline is None:
            return None
        return Bounds(torch.stack(areas, dim=1), self._boxes(outline))

    def _outline(self, cells: _Cells, level: float) -> _Outline | None:
        inside = cells.lowest > level
        mask, row, column = ((cells.highest > level) & ~inside).nonzero(as_tuple=True)
        if len(mask) > _BUSY * inside.numel():
            return None
        pixels = self._pixels(cells.logits, mask, row, column)
        margin = cells.margin[mask, row, column, None, None]
        found = (pixels > level + margin, pixels > level - margin)
        return _Outline(inside, mask, row, column, found)

    def _areas(self, outline: _Outline) -> Tensor:
        """[2, P] int64, from below and from above."""
        whole = torch.where(outline.inside, self._sizes, 0).flatten(1).sum(1)
        # By way of float32, which is summed several times as fast as bool.
        parts = (found.flatten(1).float().sum(1).long() for found in outline.found)
        return torch.stack([whole.index_add(0, outline.mask, part) for part in parts])

    def _boxes(self, outline: _Outline) -> Tensor:
        """[2, P, 4] int64, from below and from above."""
        # Where frames are smaller than maps, some cells have no pixels.
        inside = outline.inside & (self._sizes > 0)
        rows, columns = inside.any(2), inside.any(1)
        boxes = []
        for found in outline.found:
            top, bottom = self._span(self._rows, rows, outline.mask, outline.row, found.any(2))
            left, right = self._span(
                self._columns, columns, outline.mask, outline.column, found.any(1)
            )
            box = torch.stack([left, top, right, bottom], dim=1)
            boxes.append(torch.where((right < 0)[:, None], 0, box))
        return torch.stack(boxes)

    def _pixels(self, logits: Tensor, mask: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """[M, r, c] logits of all pixels in M cells; NaN, which is above nothing, beyond them."""
        below = (row + 1).clamp(max=logits.shape[1] - 1)
        beside = (column + 1).clamp(max=logits.shape[2] - 1)
        down = self._rows.weights[row]  # [M, r]
        across = self._columns.weights[column][:, None, :]  # [M, 1, c]
        left = torch.lerp(logits[mask, row, column, None], logits[mask, below, column, None], down)
        right = torch.lerp(logits[mask, row, beside, None], logits[mask, below, beside, None], down)
        return torch.lerp(left[:, :, None], right[:, :, None], across)

    def _span(
        self, axis: _Axis, cells: Tensor, mask: Tensor, cell: Tensor, found: Tensor
    ) -> tuple[Tensor, Tensor]:
        """First and last pixel along one side, [P] each; last -1 where there is none.

        Args:
            axis: that side.
            cells: [P, n] bool, cells that are inside as a whole.
            mask: [M] which mask a cell that is not belongs to.
            cell: [M] where it is along that side.
            found: [M, most] bool, pixels of such a cell that are inside.
        """
        first = torch.where(cells, axis.first, axis.large).amin(1)
        last = torch.where(cells, axis.first + axis.counts - 1, -1).amax(1)
        pixels = axis.pixels[cell]
        firsts = torch.where(found, pixels, axis.large).amin(1)
        lasts = torch.where(found, pixels, -1).amax(1)
        first = first.scatter_reduce(0, mask, firsts, "amin")
        return first, last.scatter_reduce(0, mask, lasts, "amax")


def _extremes(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest of the four logits around every cell, [P, h, w] each."""
    beside = torch.cat([logits[:, :, 1:], logits[:, :, -1:]], dim=2)
    low, high = torch.minimum(logits, beside), torch.maximum(logits, beside)
    low_below = torch.cat([low[:, 1:], low[:, -1:]], dim=1)
    high_below = torch.cat([high[:, 1:], high[:, -1:]], dim=1)
    return torch.minimum(low, low_below), torch.maximum(high, high_below)
