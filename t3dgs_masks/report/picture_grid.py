"""Pictures in rows and columns, with headings: for comparing renders by eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t3dgs_masks.types import Image as RgbImage

_PAPER = (250, 250, 248)
_INK = (34, 36, 40)
_FAINT_INK = (116, 120, 128)
_MARGIN = 24
_GAP = 10
_CAPTION = 22


@dataclass(frozen=True)
class GridColumn:
    """One column: as many pictures as every other column has."""

    heading: str
    pictures: Sequence[RgbImage]  # each [H, W, 3]
    captions: Sequence[str]


def picture_grid(
    columns: Sequence[GridColumn], title: str, subtitle: str, panel_width: int = 256
) -> RgbImage:
    """Draw the grid: uint8 RGB [height, width, 3].

    Raises:
        ValueError: no pictures, or columns of different lengths.
    """
    lengths = {len(column.pictures) for column in columns}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError("a picture grid needs columns of one length, at least 1")
    panels = [
        [_at_width(picture, panel_width) for picture in column.pictures] for column in columns
    ]
    row_heights = [max(panel.shape[0] for panel in row) for row in zip(*panels, strict=True)]
    small, medium, large = (ImageFont.load_default(size) for size in (13, 15, 24))
    top = _MARGIN + 64 + 28
    width = 2 * _MARGIN + len(columns) * (panel_width + _GAP) - _GAP
    height = top + sum(row_heights) + len(row_heights) * (_CAPTION + _GAP) - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 6), title, _INK, large)
    draw.text((_MARGIN, _MARGIN + 32), subtitle, _FAINT_INK, medium)
    for index, column in enumerate(columns):
        left, y = _MARGIN + index * (panel_width + _GAP), top
        draw.text((left, y - 28), column.heading, _INK, medium)
        for panel, caption, row_height in zip(
            panels[index], column.captions, row_heights, strict=True
        ):
            sheet.paste(Image.fromarray(panel), (left, y))
            draw.text((left, y + row_height + 3), caption, _FAINT_INK, small)
            y += row_height + _CAPTION + _GAP
    return np.asarray(sheet, np.uint8)


def _at_width(picture: RgbImage, width: int) -> RgbImage:
    height = max(1, round(width * picture.shape[0] / picture.shape[1]))
    shrinks = width < picture.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=interpolation), np.uint8)
