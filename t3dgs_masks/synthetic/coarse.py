"""What a half-trained splat would say about a capture: residuals and coarse transient masks.

No splat is trained here. Its typical faults are imitated on the known truth: a blurred static
scene with wrong colours, people partly baked into the render, faint trails of where they are in
neighbouring frames, floaters; and masks that miss people, have holes, spill over, and mark
static structure.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.masks import dilate
from t3dgs_masks.synthetic.capture import Capture
from t3dgs_masks.types import BoolMask, FloatMap

_REFERENCE_HEIGHT = 192
"""Lengths in pixels below are meant at this image height and grow with it."""


@dataclass(frozen=True)
class Faults:
    """How bad the half-trained splat is; the defaults give a coarse IoU of about 0.6."""

    missed_share: float = 0.18
    """Share of a person's frames in which the coarse mask does not know of them at all."""
    spill_px: float = 2.6
    """How far blobs reach over a person's outline, on average."""
    hole_share: float = 0.1
    """Share of a person's area that is eaten away by holes."""
    cut_probability: float = 0.22
    """Probability that a blob lacks the head or the feet as well."""
    false_positives: float = 1.4
    """Mean number of blobs on static structure in a frame, somewhere else on each."""
    lasting_false_positives: int = 2
    """Spots of the scene that are marked on most frames that see them."""
    blur_px: float = 0.9
    """Blur of the rendered static scene."""
    baked_opacity: float = 0.1
    """How much of a person the render shows, on average, where the mask knows of them."""
    residual_gain: float = 1.3
    """Stretch of the residuals to make use of [0, 1]; 1: exactly the mean |render - frame|."""


@dataclass(frozen=True)
class CoarsePrompts:
    """Prompts for every frame of a capture, and the render they were imagined from."""

    coarse: NDArray[np.bool_]  # [N, H, W] True = transient
    residual: NDArray[np.float32]  # [N, H, W] in [0, 1], stretched mean |render - frame|
    renders: NDArray[np.uint8]  # [N, H, W, 3] RGB


def half_trained_prompts(
    capture: Capture, seed: int, faults: Faults | None = None
) -> CoarsePrompts:
    """Imagine the prompts of a half-trained splat; the same arguments give the same bytes."""
    faults = faults or Faults()
    missed = _missed_frames(np.random.default_rng([seed, 0]), capture, faults.missed_share)
    spots = _lasting_spots(np.random.default_rng([seed, 1]), capture, faults)
    coarse = np.zeros_like(capture.transient_masks)
    residual = np.zeros(coarse.shape, np.float32)
    renders = np.empty_like(capture.frames)
    for index in range(capture.num_frames):
        rng = np.random.default_rng([seed, 2, index])
        marked = _mark_static(rng, capture, index, spots[index], faults)
        renders[index] = _render(rng, capture, index, missed[index], marked, faults)
        difference = capture.frames[index].astype(np.float32) - renders[index]
        stretched = faults.residual_gain * np.abs(difference).mean(axis=2) / 255
        residual[index] = np.minimum(stretched, 1.0)
        coarse[index] = marked
        for walker in np.flatnonzero(~missed[index]):
            coarse[index] |= _blob(rng, capture.object_masks[index, walker], faults)
    return CoarsePrompts(coarse, residual, renders)


def _scale(height: int) -> float:
    return height / _REFERENCE_HEIGHT


def _missed_frames(rng: np.random.Generator, capture: Capture, share: float) -> NDArray[np.bool_]:
    """[N, K] True = the coarse mask misses this person: runs of one to four frames."""
    visible = np.any(capture.object_masks, axis=(2, 3))
    missed = np.zeros_like(visible)
    for walker in range(visible.shape[1]):
        frames = np.flatnonzero(visible[:, walker])
        wanted = round(share * len(frames) * rng.uniform(0.85, 1.15))
        while missed[:, walker].sum() < wanted:
            left = wanted - int(missed[:, walker].sum())
            first = int(rng.integers(len(frames)))
            run = int(rng.integers(1, min(4, left) + 1))
            missed[frames[first : first + run], walker] = True
    return missed


def _noise_field(rng: np.random.Generator, height: int, width: int, grain_px: float) -> FloatMap:
    """Smooth noise with bumps of about ``grain_px``: float32 [H, W], standard deviation 1."""
    rows, columns = (max(2, round(side / grain_px)) + 1 for side in (height, width))
    grid = rng.standard_normal((rows, columns)).astype(np.float32)
    field = np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC))
    return ((field - field.mean()) / max(float(field.std()), 1e-6)).astype(np.float32)


def _blob(rng: np.random.Generator, person: BoolMask, faults: Faults) -> BoolMask:
    """The coarse mask of one visible person ([H, W] bool, True = person)."""
    area = np.count_nonzero(person)
    if not area:
        return person
    height, width = person.shape
    scale = _scale(height)
    # Thresholding a distance, so that the reach varies smoothly along the outline.
    distance = cv2.distanceTransform((~person).astype(np.uint8), cv2.DIST_L2, 5) / scale
    reach = faults.spill_px * (1 + 0.7 * _noise_field(rng, height, width, 14 * scale))
    blob = distance <= np.maximum(reach * rng.uniform(0.6, 1.4), 0)
    holes = _noise_field(rng, height, width, 9 * scale)
    inside = holes[person]
    blob &= holes <= np.quantile(inside, 1 - faults.hole_share * rng.uniform(0.3, 1.7))
    if rng.random() < faults.cut_probability:
        rows = np.flatnonzero(person.any(axis=1))
        cut = round(rng.uniform(0.1, 0.28) * (rows[-1] - rows[0] + 1))
        wave = 4 * scale * _noise_field(rng, 1, width, 12 * scale)[0]
        row_index = np.arange(height)[:, None] + wave[None]
        lacks_feet = rng.random() < 0.6
        blob &= row_index < rows[-1] - cut if lacks_feet else row_index > rows[0] + cut
    return blob


def _patch(
    rng: np.random.Generator, height: int, width: int, centre_xy: NDArray, radius: float
) -> BoolMask:
    """An irregular blob about a pixel position: [H, W] bool."""
    y, x = np.ogrid[:height, :width]
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    distance = np.hypot((x - centre_xy[0]) * stretch, (y - centre_xy[1]) / stretch)
    edge = radius * (1 + 0.3 * _noise_field(rng, height, width, radius))
    return distance <= edge


def _mark_static(
    rng: np.random.Generator,
    capture: Capture,
    index: int,
    spots: list[NDArray[np.float64]],
    faults: Faults,
) -> BoolMask:
    """Blobs on static structure of one frame: [H, W] bool, True = wrongly coarse."""
    height, width = capture.frames.shape[1:3]
    scale = _scale(height)
    marked = np.zeros((height, width), np.bool_)
    for spot in spots:
        marked |= _patch(rng, height, width, spot, rng.uniform(4, 7.5) * scale)
    # Edges of the static scene are where a blurred render is most wrong.
    grey = cv2.cvtColor(capture.static_frames[index], cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = cv2.GaussianBlur(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 2 * scale)), (0, 0), 2)
    chance = np.square(detail.astype(np.float64)).ravel()
    for _ in range(int(rng.poisson(faults.false_positives))):
        place = int(rng.choice(len(chance), p=chance / chance.sum()))
        centre = np.array([place % width, place // width])
        marked |= _patch(rng, height, width, centre, rng.uniform(3, 8) * scale)
    return marked & ~capture.transient_masks[index]


def _lasting_spots(
    rng: np.random.Generator, capture: Capture, faults: Faults
) -> list[list[NDArray[np.float64]]]:
    """Pixel positions [2] per frame of scene points that are marked again and again."""
    count = min(faults.lasting_false_positives, len(capture.seed_points_xyz))
    chosen = rng.choice(len(capture.seed_points_xyz), count, replace=False)
    points = capture.seed_points_xyz[chosen].astype(np.float64)
    spots: list[list[NDArray[np.float64]]] = []
    for pose, depth in zip(capture.camera_to_worlds, capture.static_depths, strict=True):
        seen = []
        local = (points - pose[:3, 3]) @ pose[:3, :3] * [1.0, -1.0, -1.0]
        for x, y, z in local:
            if z <= 0 or rng.random() > 0.7:
                continue
            pixel = (capture.intrinsics.matrix() @ [x / z, y / z, 1.0])[:2]
            column, row = np.floor(pixel).astype(int)
            in_view = 0 <= row < depth.shape[0] and 0 <= column < depth.shape[1]
            if in_view and abs(depth[row, column] - z) < 0.1 * z:
                seen.append(pixel)
        spots.append(seen)
    return spots


def _render(
    rng: np.random.Generator,
    capture: Capture,
    index: int,
    missed: NDArray[np.bool_],
    marked: BoolMask,
    faults: Faults,
) -> NDArray[np.uint8]:
    """The imagined render of one frame: uint8 [H, W, 3].

    Args:
        missed: [K] True = this person is so well baked in that the mask does not know of them.
        marked: [H, W] bool, True = static structure that the render gets wrong.
    """
    height, width = capture.frames.shape[1:3]
    scale = _scale(height)
    static = capture.static_frames[index].astype(np.float32)
    render = cv2.GaussianBlur(static, (0, 0), faults.blur_px * scale)
    for channel in range(3):
        render[..., channel] += 3.0 * _noise_field(rng, height, width, 40 * scale)
    for offset in (-5, -3, 3, 5):  # trails of where people are in neighbouring frames
        if 0 <= index + offset < capture.num_frames:
            render += 0.04 * _people(capture, index + offset, 3 * scale)
    people = _people(capture, index, 1.0 * scale)
    for walker, person in enumerate(capture.object_masks[index]):
        if not person.any():
            continue
        opacity = 0.75 if missed[walker] else faults.baked_opacity * rng.uniform(0.3, 1.7)
        field = opacity * (1 + 0.25 * _noise_field(rng, height, width, 25 * scale))
        near = dilate(person, round(3 * scale)).astype(np.float32)
        near = cv2.GaussianBlur(near, (0, 0), 1.5 * scale)
        render += people * np.clip(near * field, 0, 0.95)[..., None]
    # Wrong geometry: a marked spot shows the colours of its surroundings.
    soft = cv2.GaussianBlur(marked.astype(np.float32), (0, 0), 1.5 * scale)[..., None]
    render += soft * (cv2.GaussianBlur(static, (0, 0), 9 * scale) - render)
    return np.clip(render + 0.5, 0, 255).astype(np.uint8)


def _people(capture: Capture, index: int, blur_px: float) -> NDArray[np.float32]:
    """What people add to the static view of a frame, blurred: float32 [H, W, 3], signed."""
    frame, static = capture.frames[index], capture.static_frames[index]
    difference = frame.astype(np.float32) - static.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(difference, (0, 0), blur_px), np.float32)
