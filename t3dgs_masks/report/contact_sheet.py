"""A contact sheet: a handful of frames, their coarse and refined masks, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from t3dgs_masks.masks import iou
from t3dgs_masks.types import BoolMask
from t3dgs_masks.types import Image as RgbImage

_Rgb = tuple[int, int, int]

_PAPER: _Rgb = (250, 250, 248)
_INK: _Rgb = (34, 36, 40)
_FAINT_INK: _Rgb = (116, 120, 128)
_HIT: _Rgb = (240, 242, 244)
_FALSE: _Rgb = (242, 153, 36)
_MISSED: _Rgb = (214, 48, 86)
_TINT: _Rgb = (226, 40, 92)
_MARGIN = 24
_GAP = 10
_CAPTION = 22
"""Height of the line of text below a panel."""
_FRAME, _COARSE, _REFINED = "Frame", "Coarse mask", "Refined mask"
_TRUTH, _OVERLAY = "Ground truth", "Refined, over the frame"


@dataclass(frozen=True)
class ContactRow:
    """One frame; all masks are [H, W] bool, True = transient."""

    title: str
    frame: RgbImage  # [H, W, 3]
    coarse: BoolMask | None  # None = there was no prompt
    refined: BoolMask
    truth: BoolMask | None = None


@dataclass(frozen=True)
class _Panel:
    picture: RgbImage  # [h, w, 3]
    caption: str


def contact_sheet(
    rows: Sequence[ContactRow],
    title: str = "",
    subtitle: str = "",
    panel_width: int = 256,
) -> RgbImage:
    """Draw the sheet: uint8 RGB [height, width, 3].

    Columns: frame, coarse mask, refined mask, ground truth, refined overlay; the second and the
    fourth are left out if no row has them. Where the truth is known, masks are coloured by where
    they are right, wrong or missing something, and captions give the IoU.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    with_truth = any(row.truth is not None for row in rows)
    headings = _headings(rows)
    table = [_panels(row, headings, panel_width) for row in rows]
    heights = [max(panel.picture.shape[0] for panel in panels) for panels in table]

    small, medium, large = (ImageFont.load_default(size) for size in (13, 15, 24))
    head = _MARGIN + (38 if title else 0) + (26 if subtitle else 0)
    top = head + 28
    width = 2 * _MARGIN + len(headings) * panel_width + (len(headings) - 1) * _GAP
    legend = 30 if with_truth else 0
    height = top + sum(heights) + len(rows) * (_CAPTION + _GAP) + legend + _MARGIN - _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN - 6), title, _INK, large)
    if subtitle:
        draw.text((_MARGIN, _MARGIN + (32 if title else -2)), subtitle, _FAINT_INK, medium)
    lefts = [_MARGIN + column * (panel_width + _GAP) for column in range(len(headings))]
    for left, heading in zip(lefts, headings, strict=True):
        draw.text((left, head), heading, _INK, medium)
    for panels, row_height in zip(table, heights, strict=True):
        for left, panel in zip(lefts, panels, strict=True):
            sheet.paste(Image.fromarray(panel.picture), (left, top))
            draw.text((left, top + row_height + 3), panel.caption, _FAINT_INK, small)
        top += row_height + _CAPTION + _GAP
    if with_truth:
        _draw_legend(draw, top, small)
    return np.asarray(sheet, np.uint8)


def _headings(rows: Sequence[ContactRow]) -> list[str]:
    headings = [_FRAME]
    if any(row.coarse is not None for row in rows):
        headings.append(_COARSE)
    headings.append(_REFINED)
    if any(row.truth is not None for row in rows):
        headings.append(_TRUTH)
    return [*headings, _OVERLAY]


def _panels(row: ContactRow, headings: Sequence[str], width: int) -> list[_Panel]:
    """One row's panels, in the order of the headings, each ``width`` pixels wide."""
    height = max(1, round(width * row.frame.shape[0] / row.frame.shape[1]))
    shrinks = width < row.frame.shape[1]
    frame = cv2.resize(
        row.frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    frame = np.asarray(frame, np.uint8)
    truth = None if row.truth is None else _resized(row.truth, width, height)
    panels = []
    for heading in headings:
        if heading == _FRAME:
            panels.append(_Panel(frame, row.title))
        elif heading == _OVERLAY:
            refined = _resized(row.refined, width, height)
            caption = f"{row.refined.mean():.1%} transient"
            panels.append(_Panel(_tinted(frame, refined), caption))
        else:
            mask = {_COARSE: row.coarse, _REFINED: row.refined, _TRUTH: row.truth}[heading]
            if mask is None:
                panels.append(_Panel(_dimmed(frame), "not given"))
                continue
            resized = _resized(mask, width, height)
            caption = f"{mask.mean():.1%} transient"
            if heading != _TRUTH and row.truth is not None:
                caption = f"IoU {iou(mask, row.truth):.2f}" if _any(mask, row.truth) else "empty"
            panels.append(_Panel(_compared(frame, resized, truth), caption))
    return panels


def _any(first: BoolMask, second: BoolMask) -> bool:
    return bool(first.any() or second.any())


def _resized(mask: BoolMask, width: int, height: int) -> BoolMask:
    """[H, W] bool at panel size, with smooth outlines."""
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft) >= 0.5


def _dimmed(frame: RgbImage) -> RgbImage:
    """The frame as a dark grey backdrop: enough to see where a mask lies."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.repeat((14 + 0.22 * grey)[..., None], 3, axis=2).astype(np.uint8)


def _compared(frame: RgbImage, mask: BoolMask, truth: BoolMask | None) -> RgbImage:
    """The mask over a dim frame; coloured by agreement where the truth is known."""
    picture = _dimmed(frame)
    if truth is None:
        picture[mask] = _HIT
        return picture
    picture[mask & truth] = _HIT
    picture[mask & ~truth] = _FALSE
    picture[truth & ~mask] = _MISSED
    return picture


def _tinted(frame: RgbImage, transient: BoolMask) -> RgbImage:
    """The frame with transient pixels ([H, W] bool) tinted and outlined."""
    blend: NDArray[np.float32] = frame.astype(np.float32)
    blend[transient] = 0.5 * blend[transient] + 0.5 * np.array(_TINT, np.float32)
    picture = blend.astype(np.uint8)
    contours, _ = cv2.findContours(transient.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _draw_legend(
    draw: ImageDraw.ImageDraw, top: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    left = float(_MARGIN)
    for colour, meaning in (
        (_HIT, "transient, found"),
        (_FALSE, "static, marked by mistake"),
        (_MISSED, "transient, missed"),
    ):
        box = (left, top + 4, left + 14, top + 18)
        draw.rectangle(box, fill=colour, outline=_FAINT_INK)
        draw.text((left + 21, top + 3), meaning, _FAINT_INK, font)
        left += 21 + draw.textlength(meaning, font) + 26
