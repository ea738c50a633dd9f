"""Procedural 2D clips: moving textured objects over a cluttered static background.

They train and test the small SAM2 of this project. Every frame is drawn with numpy and cv2 from
a ``numpy.random.Generator``, so a seed always gives the same clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.synthetic.appearance import (
    SilhouetteKind,
    WalkerBuild,
    noise_texture,
    random_colour,
    silhouette,
    walker_silhouette,
    walker_texture,
)

_SPRITE = 96
"""Side of an object's texture and silhouette before it is scaled into the frame."""


@dataclass(frozen=True)
class Clip:
    """A clip and its ground truth."""

    frames: NDArray[np.uint8]
    """RGB, uint8 ``[T, H, W, 3]``."""
    object_masks: NDArray[np.bool_]
    """The visible part of each object, bool ``[T, K, H, W]``, True = object; may be empty."""


@dataclass(frozen=True)
class _MovingObject:
    """One object's look and path; lengths in pixels, angles in radians, time in frames."""

    texture: NDArray[np.uint8]
    still_silhouette: NDArray[np.uint8]
    build: WalkerBuild | None
    """Proportions of a walker, whose limbs move; None for a rigid object."""
    gait_phase: float
    gait_speed: float
    start: NDArray[np.float64]
    velocity: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    scale: float
    aspect: float
    """Width over height, relative to the sprite (frames are resized to squares before use)."""
    growth: float
    angle: float
    spin: float
    hidden: range
    """Frames in which the object is not drawn at all."""

    def silhouette_at(self, time: float) -> NDArray[np.uint8]:
        """Coverage uint8 ``[96, 96]`` in the object's own upright frame."""
        if self.build is None:
            return self.still_silhouette
        return walker_silhouette(_SPRITE, self.build, self.gait_phase + self.gait_speed * time)

    def affine_at(self, time: float) -> NDArray[np.float64]:
        """The 2 x 3 map from sprite pixels to frame pixels."""
        centre = self.start + self.velocity * time + 0.5 * self.acceleration * time * time
        scale = self.scale * np.exp(self.growth * time)
        angle = self.angle + self.spin * time
        cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
        linear = np.diag([self.aspect, 1.0]) @ np.array([[cosine, -sine], [sine, cosine]])
        offset = centre - linear @ np.full(2, _SPRITE / 2)
        return np.column_stack([linear, offset]).astype(np.float64)


def _draw_poster(
    rng: np.random.Generator, canvas: NDArray[np.uint8], wall: NDArray[np.float32]
) -> None:
    """Draw one upright textured rectangle (poster, box, cupboard) in place."""
    height, width = canvas.shape[:2]
    box_width, box_height = (int(side) for side in rng.uniform(0.04, 0.3, 2) * width)
    left = int(rng.uniform(-0.05, 0.95) * width)
    top = int(rng.uniform(-0.05, 0.95) * height)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + box_width, width), min(top + box_height, height)
    if x1 - x0 < 3 or y1 - y0 < 3:
        return
    plain = wall + rng.standard_normal(3) * 25 if rng.random() < 0.5 else random_colour(rng)
    canvas[y0:y1, x0:x1] = noise_texture(rng, y1 - y0, x1 - x0, plain, rng.uniform(2, 20))
    if rng.random() < 0.5:
        border = [float(channel) for channel in random_colour(rng)]
        thickness = int(rng.integers(1, 5))
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), border, thickness)
    if rng.random() < 0.4:
        for shelf in np.linspace(y0, y1, int(rng.integers(3, 7)))[1:-1]:
            cv2.line(canvas, (x0, int(shelf)), (x1 - 1, int(shelf)), (30, 30, 30), 1)


def _draw_line(
    rng: np.random.Generator, canvas: NDArray[np.uint8], wall: NDArray[np.float32]
) -> None:
    """Draw one thin line (skirting, cable, edge of a window) in place."""
    side = canvas.shape[0]
    start = rng.uniform(0, side, 2)
    end = start + rng.uniform(-0.35, 0.35, 2) * side
    colour = [float(channel) for channel in np.clip(wall + rng.standard_normal(3) * 30, 0, 255)]
    ends = [(int(x), int(y)) for x, y in (start, end)]
    cv2.line(canvas, ends[0], ends[1], colour, int(rng.integers(1, 5)), cv2.LINE_AA)


def draw_background(
    rng: np.random.Generator, side: int, clutter: bool = True
) -> tuple[NDArray[np.uint8], list[NDArray[np.float32]]]:
    """Draw a static background: RGB uint8 ``[side, side, 3]`` and its main colours.

    A textured wall, often with a floor, and with ``clutter`` upright rectangles and lines.
    """
    wall = random_colour(rng, low=25, high=230)
    colours = [wall]
    # Half resolution: the finest grain of a background should be softer than an object's edge.
    half = max(2, side // 2)
    coarse = noise_texture(rng, half, half, wall, rng.uniform(3, 35))
    canvas = np.ascontiguousarray(cv2.resize(coarse, (side, side))).astype(np.uint8)
    if rng.random() < 0.5:
        floor = random_colour(rng, low=25, high=230)
        colours.append(floor)
        horizon = int(rng.uniform(0.45, 0.85) * side)
        strip = noise_texture(rng, side - horizon, side, floor, rng.uniform(3, 25))
        canvas[horizon:] = strip
    if clutter:
        for _ in range(int(rng.integers(0, 10))):
            draw = _draw_poster if rng.random() < 0.6 else _draw_line
            draw(rng, canvas, wall)
    return canvas, colours


def _sample_path(
    rng: np.random.Generator, num_frames: int, size: int, motion: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and velocity (pixels, pixels per frame); some objects enter or leave the frame."""
    start = rng.uniform(0.15, 0.85, 2) * size
    velocity = rng.standard_normal(2) * 0.022 * size * motion
    if num_frames > 1 and motion > 0 and rng.random() < 0.2:
        # Cross the frame's edge within the clip, inwards or outwards.
        outside = start.copy()
        outside[0] = rng.choice([-0.3, 1.3]) * size
        duration = max(num_frames - 1, 3)
        if rng.random() < 0.5:
            velocity = (outside - start) / duration
        else:
            velocity = (start - outside) / duration
            start = outside
    return start, velocity


def _sample_hidden(rng: np.random.Generator, num_frames: int) -> range:
    """Frames in which an object is not drawn (a jump cut); empty for nine objects in ten."""
    if num_frames < 3 or rng.random() > 0.1:
        return range(0)
    first = int(rng.integers(1, num_frames))
    return range(first, first + int(rng.integers(1, num_frames)))


def _sample_object(
    rng: np.random.Generator,
    avoid: list[NDArray[np.float32]],
    num_frames: int,
    size: int,
    motion: float,
    walker_share: float,
) -> _MovingObject:
    """Draw one object whose colour differs from those in ``avoid``; adds its own to the list."""
    colour = random_colour(rng, avoid=avoid)
    avoid.append(colour)
    amplitude = rng.uniform(3, 28)
    is_walker = rng.random() < walker_share
    kind: SilhouetteKind = "ellipse" if rng.random() < 0.5 else "polygon"
    build = WalkerBuild.sample(rng) if is_walker else None
    if is_walker and rng.random() < 0.75:
        texture = walker_texture(rng, _SPRITE, colour, amplitude)
    else:
        texture = noise_texture(rng, _SPRITE, _SPRITE, colour, amplitude)
    start, velocity = _sample_path(rng, num_frames, size, motion)
    return _MovingObject(
        texture=texture,
        still_silhouette=silhouette(rng, _SPRITE, kind),
        build=build,
        gait_phase=rng.uniform(0, 2 * np.pi),
        gait_speed=rng.uniform(0.2, 0.9) * motion,
        start=start,
        velocity=velocity,
        acceleration=rng.standard_normal(2) * 0.003 * size * motion,
        scale=np.exp(rng.uniform(np.log(0.32), np.log(0.95))) * size / _SPRITE,
        aspect=np.exp(rng.uniform(np.log(0.6), np.log(1.2))),
        growth=rng.normal() * 0.012 * motion,
        angle=rng.normal() * (0.08 if is_walker else 1.0),
        spin=rng.normal() * (0.01 if is_walker else 0.03) * motion,
        hidden=_sample_hidden(rng, num_frames),
    )


def _paint(
    image: NDArray[np.float32],
    masks: NDArray[np.bool_],
    index: int,
    item: _MovingObject,
    time: int,
    drift: NDArray[np.float64],
) -> None:
    """Draw object ``index`` into one frame (float32 ``[H, W, 3]``) and its masks, in place.

    ``masks`` is bool ``[K, H, W]``; objects drawn earlier lose the pixels that are covered now.
    ``drift`` is how far the camera has moved, in pixels.
    """
    height, width = image.shape[:2]
    affine = item.affine_at(time)
    affine[:, 2] -= drift
    corners = np.array([[0, 0, 1], [_SPRITE, 0, 1], [0, _SPRITE, 1], [_SPRITE, _SPRITE, 1.0]])
    corners = corners @ affine.T
    x0, y0 = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if x1 <= x0 or y1 <= y0:
        return
    affine[:, 2] -= (x0, y0)
    shape = (int(x1 - x0), int(y1 - y0))
    coverage = cv2.warpAffine(item.silhouette_at(time), affine, shape, flags=cv2.INTER_LINEAR)
    texture = cv2.warpAffine(
        item.texture,
        affine,
        shape,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    alpha = (coverage.astype(np.float32) / 255)[..., None]
    window = image[y0:y1, x0:x1]
    window += (texture.astype(np.float32) - window) * alpha
    covered = coverage > 127
    masks[:index, y0:y1, x0:x1] &= ~covered
    masks[index, y0:y1, x0:x1] = covered


def _sample_pillar(rng: np.random.Generator, size: int) -> tuple[int, int, NDArray[np.float32]]:
    """A static upright occluder: left edge, width (pixels) and colour."""
    return int(rng.uniform(0.1, 0.8) * size), int(rng.uniform(0.05, 0.2) * size), random_colour(rng)


def make_clip(
    rng: np.random.Generator,
    num_frames: int,
    size: int = 256,
    max_objects: int = 3,
    motion: float = 1.0,
    walker_share: float = 0.55,
    clutter: bool = True,
) -> Clip:
    """Draw a clip of ``num_frames`` square frames with one to ``max_objects`` moving objects.

    ``motion`` scales all speeds (0: a still scene). ``walker_share`` is the probability of an
    object to be a person-like figure. Objects may overlap, leave or enter the frame, pass behind
    a pillar, or be hidden for some frames; later objects are in front. ``clutter`` adds static
    rectangles and lines, which are part of the background.
    """
    canvas_side = int(size * 1.5)
    background, avoid = draw_background(rng, canvas_side, clutter)
    count = int(rng.integers(1, max_objects + 1))
    items = [
        _sample_object(rng, avoid, num_frames, size, motion, walker_share) for _ in range(count)
    ]
    pillar = _sample_pillar(rng, size) if rng.random() < (0.2 if num_frames > 1 else 0.06) else None
    pan_start = rng.uniform(0.1, 0.4, 2) * size
    pan_speed = rng.standard_normal(2) * 0.01 * size * motion
    zoom, zoom_speed = rng.uniform(0.9, 1.15), rng.normal() * 0.006 * motion
    light_speed = rng.normal() * 0.01 * motion
    grain = rng.uniform(1, 5)

    frames = np.empty((num_frames, size, size, 3), np.uint8)
    masks = np.zeros((num_frames, count, size, size), np.bool_)
    for time in range(num_frames):
        zoom_now = zoom * (1 + zoom_speed * time)
        pan = pan_start + pan_speed * time
        view = np.array([[zoom_now, 0, -pan[0] * zoom_now], [0, zoom_now, -pan[1] * zoom_now]])
        image = cv2.warpAffine(
            background, view, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        ).astype(np.float32)
        for index, item in enumerate(items):
            if time not in item.hidden:
                _paint(image, masks[time], index, item, time, pan_speed * time)
        if pillar is not None:
            left = int(pillar[0] - pan_speed[0] * time)
            columns = slice(max(left, 0), max(left + pillar[1], 0))
            image[:, columns] = pillar[2]
            masks[time][..., columns] = False
        image *= 1 + light_speed * time
        noise = rng.standard_normal((size // 2, size // 2)).astype(np.float32) * np.float32(grain)
        image += cv2.resize(noise, (size, size))[..., None]
        frames[time] = np.clip(image, 0, 255)
    return Clip(frames, masks)
