"""Pictures for the HTML report: thumbnails of a sequence, small enough to lie in one file.

Sizes follow a budget: many frames get smaller pictures than few. Masks are sampled at pixel
centres, so that the union of sampled masks is the sampled union.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import WebPImagePlugin

from t3dgs_masks import bits, masks
from t3dgs_masks.report.overlay import object_colour
from t3dgs_masks.types import BoolMask, FramePrompt, Image, Rle

PICTURE_BUDGET = 18_000_000  # characters for all frames; what else is in the file is small

_LONGEST_SIDE, _SHORTEST_LONG_SIDE = 960, 320  # of a photo's longer side, pixels
_CHARACTERS_PER_PIXEL = 0.1  # of a photo with much detail, at the best quality
_LONGEST_GRID, _SHORTEST_LONG_GRID = 640, 192
_CHARACTERS_PER_MASK_COLUMN = 0.6  # of the whole grid: most objects are small
_PHOTOS_SHARE, _MASKS_SHARE = 0.6, 0.3  # of the budget; the rest is for the prompts
_RESIDUAL_SCALE, _LONGEST_RESIDUAL = 0.5, 320  # of a photo's size: they are smooth
_LARGE = 1 << 17
"""Pixels of a photo. Of a smaller one it matters more how many bytes its pictures take; of a larger
one, how long: as JPEG they take an eighth of the time and a third more bytes."""

_WEBP = WebPImagePlugin.WebPImageFile.format
"""Imported, so that Pillow need not load all its formats when the first of these is written."""


class _Format(NamedTuple):
    """What makes a picture of pixels."""

    name: Literal["JPEG", "WEBP"]
    quality: int

    def encoded(self, image: NDArray[np.uint8]) -> str:
        """As base64; [h, w] or [h, w, 3] uint8 RGB."""
        make = _jpeg if self.name == "JPEG" else _webp
        return base64.b64encode(make(image, self.quality)).decode("ascii")


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes | memoryview:
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    _, encoded = cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.data


def _webp(image: NDArray[np.uint8], quality: int) -> bytes:
    buffer = BytesIO()
    PilImage.fromarray(image).save(buffer, _WEBP, quality=quality, method=_WEBP_EFFORT)
    return buffer.getvalue()


class _Step(NamedTuple):
    """One way to make a photo."""

    format: _Format
    scale: float
    characters: float  # relative to the first step


# Of 6. With 4, pictures are 4 to 6 % smaller than with 2 and take 2.5 times as long.
_WEBP_EFFORT = 2
# From the best to the smallest. Of photographs enlarged twice, WebP's 40 is hard to tell from 76,
# which takes more than half as much again; JPEG's 50 is at least as good.
_SMALL_STEPS = (
    _Step(_Format("WEBP", 40), 1.0, 1.0),
    _Step(_Format("WEBP", 30), 1.0, 0.85),
    _Step(_Format("WEBP", 20), 1.0, 0.7),
    _Step(_Format("WEBP", 40), 0.6, 0.4),
    _Step(_Format("WEBP", 30), 0.4, 0.2),
)
_LARGE_STEPS = (
    _Step(_Format("JPEG", 50), 1.0, 1.0),
    _Step(_Format("JPEG", 35), 1.0, 0.78),
    _Step(_Format("WEBP", 20), 1.0, 0.46),
    _Step(_Format("WEBP", 40), 0.6, 0.27),
    _Step(_Format("WEBP", 30), 0.4, 0.13),
)
_SMALL_RESIDUAL, _LARGE_RESIDUAL = _Format("WEBP", 30), _Format("JPEG", 30)
_PORTRAIT = _Format("WEBP", 60)

_PORTRAIT_SIZE = (136, 136)  # width, height
_PORTRAIT_MARGIN = 0.1  # of the object's longer side, on each of its sides
_BRIGHT_RESIDUAL = 99.5  # percentile that is shown as the brightest
_LEAST_BRIGHT_RESIDUAL = 0.02

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class FramePictures:
    """What the page shows of one frame; None for what there is not."""

    photo: str | None = None
    """JPEG or WebP, as base64."""
    coarse: str | None = None
    """COCO run lengths on the coarse grid, True = transient."""
    residual: str | None = None
    """Grey JPEG or WebP as base64: 255 times the square root of the residual."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a whole sequence."""

    frames: Sequence[FramePictures]
    grid: Size
    """Of the object masks."""
    coarse_grid: Size
    masks: Mapping[int, Mapping[int, str]]
    """object id -> frame index -> COCO run lengths on the grid."""
    portraits: Mapping[int, str]
    """object id -> WebP of the object, as base64."""
    residual_top: float | None
    """The residual that is shown as the brightest; None without residuals."""


class PictureCollector:
    """Takes the frames of a sequence one by one, and keeps what the page needs of them.

    What a frame looks like does not depend on when it comes, or on other frames. Frames, and the
    photo and the prompt of one, may be taken by different threads at once.
    """

    def __init__(
        self,
        num_frames: int,
        height: int,
        width: int,
        *,
        num_masks: int | None = None,
        budget: int = PICTURE_BUDGET,
    ) -> None:
        """
        Args:
            num_frames: length of the sequence.
            height: of the frames, pixels.
            width: likewise.
            num_masks: how many object masks there will be; can also be told later.
            budget: characters that all pictures together should not exceed. Not kept where it
                would make them useless (thousands of frames).
        """
        self._num_frames = num_frames
        self._size = (height, width)
        self._budget = budget
        self._photo_size = self._size_of_photos()
        self._coarse_sampler = _Sampler(_fitted(self._size, _LONGEST_GRID))
        longest = min(_LONGEST_RESIDUAL, round(_RESIDUAL_SCALE * max(self._photo_size)))
        self._residual_size = _fitted(self._photo_size, longest)
        self._photos: dict[int, str] = {}
        self._prompts: dict[int, FramePictures] = {}  # without photos
        self._brightest: dict[int, float] = {}  # residual of a frame
        self._masks: dict[int, dict[int, str]] = {}  # frame index -> object id -> run lengths
        self._portraits: dict[int, str] = {}
        self.expect_masks(num_masks or 0)

    def expect_masks(self, num_masks: int) -> None:
        """Choose the grid for this many object masks; to be called before the first of them."""
        columns = self._budget * _MASKS_SHARE / _CHARACTERS_PER_MASK_COLUMN / max(1, num_masks)
        longest = min(_LONGEST_GRID, max(_SHORTEST_LONG_GRID, int(columns)))
        self._sampler = _Sampler(_fitted(self._size, longest))

    def has_photo(self, frame_idx: int) -> bool:
        """Whether this frame came with its photo already."""
        return frame_idx in self._photos

    def has_prompt(self, frame_idx: int) -> bool:
        """Whether `add_prompt` was called for this frame."""
        return frame_idx in self._prompts

    def add_prompt(self, frame_idx: int, prompt: FramePrompt) -> None:
        """Take the coarse mask and the residual of a frame."""
        coarse = self._coarse_sampler.runs(masks.encode(prompt.coarse))
        residual = None
        if prompt.residual is not None:
            roots = cv2.sqrt(_resized(prompt.residual, self._residual_size))
            levels = np.asarray(cv2.convertScaleAbs(roots, alpha=255), np.uint8)  # rounded
            stride = 2 if self._is_large else 1
            bright = float(np.percentile(roots[::stride, ::stride], _BRIGHT_RESIDUAL)) ** 2
            self._brightest[frame_idx] = max(bright, _LEAST_BRIGHT_RESIDUAL)
            residual = (_LARGE_RESIDUAL if self._is_large else _SMALL_RESIDUAL).encoded(levels)
        self._prompts[frame_idx] = FramePictures(coarse=coarse, residual=residual)

    def add_photo(self, frame_idx: int, image: Image) -> None:
        """Take the photo of a frame: [h, w, 3] uint8 RGB at any size."""
        self._photos[frame_idx] = self._photo(image)

    def add_frame(
        self,
        frame_idx: int,
        image: Image | None,
        found: Mapping[int, Rle],
        portraits_of: Collection[int] = (),
    ) -> None:
        """Take the objects on a frame, and its photo if that has not come before.

        Args:
            frame_idx: which frame.
            image: [h, w, 3] uint8 RGB at any size; None if there is none.
            found: object id -> mask, True = object.
            portraits_of: objects that this frame shows best.
        """
        self._masks[frame_idx] = {k: self._sampler.runs(mask) for k, mask in found.items()}
        for object_id in portraits_of:
            if image is not None and object_id in found:
                mask = masks.decode(found[object_id])
                self._portraits[object_id] = _portrait(image, mask, object_colour(object_id))
        if image is not None and not self.has_photo(frame_idx):
            self.add_photo(frame_idx, image)

    def collected(self) -> Pictures:
        """All of it."""
        return Pictures(
            frames=tuple(
                replace(self._prompts.get(t, FramePictures()), photo=self._photos.get(t))
                for t in range(self._num_frames)
            ),
            grid=self._sampler.size,
            coarse_grid=self._coarse_sampler.size,
            masks=_by_object(self._masks),
            portraits=dict(sorted(self._portraits.items())),
            residual_top=max(self._brightest.values(), default=None),
        )

    @property
    def _is_large(self) -> bool:
        return self._photo_size[0] * self._photo_size[1] >= _LARGE

    @property
    def _photo_allowance(self) -> float:
        """Characters."""
        return self._budget * _PHOTOS_SHARE / max(1, self._num_frames)

    def _size_of_photos(self) -> Size:
        """As large as the budget allows at the best quality."""
        height, width = self._size
        shrink = math.sqrt(self._photo_allowance / _CHARACTERS_PER_PIXEL / (height * width))
        longest = int(max(height, width) * shrink)
        return _fitted(self._size, min(_LONGEST_SIDE, max(_SHORTEST_LONG_SIDE, longest)))

    def _photo(self, image: Image) -> str:
        """The photo at the best quality that its share of the budget pays for."""
        small = _resized(image, _fitted((image.shape[0], image.shape[1]), max(self._photo_size)))
        steps = _LARGE_STEPS if self._is_large else _SMALL_STEPS
        encoded, affordable = "", math.inf
        for step in steps:
            # What steps give is known well enough not to try them all.
            if step.characters > affordable and step is not steps[-1]:
                continue
            size = _fitted((small.shape[0], small.shape[1]), round(step.scale * max(small.shape)))
            encoded = step.format.encoded(_resized(small, size))
            if len(encoded) <= self._photo_allowance:
                break
            affordable = step.characters * self._photo_allowance / len(encoded)
        return encoded


class _Sampler:
    """Masks of any size, sampled at the pixel centres of one grid."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self._at: dict[Size, tuple[NDArray[np.intp], NDArray[np.intp]]] = {}

    def runs(self, mask: Rle) -> str:
        """COCO run lengths of a mask on the grid."""
        source = mask.height, mask.width
        if source != self.size:
            if source not in self._at:
                self._at[source] = (
                    _centres(mask.height, self.size[0]),
                    _centres(mask.width, self.size[1]),
                )
            rows, columns = self._at[source]
            pixels = bits.run_pixels(mask).reshape(mask.width, mask.height)  # columns first
            mask = masks.encode(pixels[columns][:, rows].T.view(np.bool_))
        return mask.counts.decode("ascii")


def _by_object(runs: Mapping[int, Mapping[int, str]]) -> dict[int, dict[int, str]]:
    """frame index -> object id -> run lengths, the other way round and in order."""
    found: dict[int, dict[int, str]] = {}
    for frame_idx in sorted(runs):
        for object_id, of_object in runs[frame_idx].items():
            found.setdefault(object_id, {})[frame_idx] = of_object
    return {object_id: found[object_id] for object_id in sorted(found)}


def _centres(source: int, target: int) -> NDArray[np.intp]:
    return ((2 * np.arange(target) + 1) * source) // (2 * target)


def _fitted(size: Size, longest: int) -> Size:
    """`size` reduced so that its longer side has at most `longest` pixels."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(image: NDArray, size: Size) -> NDArray:
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=method))


def _portrait(image: Image, mask: BoolMask, colour: tuple[int, int, int]) -> str:
    """The object in its surroundings, which are dimmed, outlined in its colour."""
    height, width = image.shape[:2]
    at_image = mask
    if mask.shape != (height, width):
        resized = cv2.resize(
            mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
        )
        at_image = np.asarray(resized).astype(bool)
    left, top, right, bottom = _window(at_image)
    crop = image[top:bottom, left:right]
    shape = at_image[top:bottom, left:right]
    size = _fitted_within((bottom - top, right - left), _PORTRAIT_SIZE)
    small = _resized(crop, size).astype(np.float32)
    inside = _resized(shape.astype(np.float32), size)
    picture = small * (0.45 + 0.55 * inside[..., None])
    canvas = np.ascontiguousarray(picture.round().astype(np.uint8))
    contours, _ = cv2.findContours(
        (inside >= 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(canvas, contours, -1, colour, 2, cv2.LINE_AA)
    return _PORTRAIT.encoded(canvas)


def _window(mask: BoolMask) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) around an object, in the proportions of a portrait if the image
    is large enough."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, width, height
    tall, wide = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    margin = _PORTRAIT_MARGIN * max(tall, wide) + 2
    aspect = _PORTRAIT_SIZE[0] / _PORTRAIT_SIZE[1]
    needed_height = max(tall + 2 * margin, (wide + 2 * margin) / aspect)
    needed_width = needed_height * aspect
    top, bottom = _span((rows[0] + rows[-1] + 1) / 2, needed_height, height)
    left, right = _span((columns[0] + columns[-1] + 1) / 2, needed_width, width)
    return left, top, right, bottom


def _span(centre: float, length: float, limit: int) -> tuple[int, int]:
    """An interval of `length` around `centre`, moved and cut so that it lies in [0, limit]."""
    begin = round(max(0.0, min(centre - length / 2, limit - length)))
    return begin, max(begin + 1, min(limit, round(begin + length)))


def _fitted_within(size: Size, box: tuple[int, int]) -> Size:
    """`size` scaled to fill a box (width, height), up or down."""
    scale = min(box[0] / size[1], box[1] / size[0])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
