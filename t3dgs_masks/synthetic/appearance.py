"""Textures and silhouettes of the procedural scenes: pure functions of a numpy random generator.

Colours are RGB in 0..255. A silhouette is a coverage map, uint8 ``[size, size]``, 255 inside the
object and 0 outside, with an anti-aliased edge; ``silhouette > 127`` is its object mask
(True = object).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

SilhouetteKind = Literal["ellipse", "polygon", "walker"]
SILHOUETTE_KINDS: tuple[SilhouetteKind, ...] = get_args(SilhouetteKind)

WALKER_CHIN = 0.27
"""Height of a walker's chin, as a fraction of the silhouette's size from its top."""
WALKER_WAIST = 0.56
"""Height of a walker's waist, as a fraction of the silhouette's size from its top."""

_INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)
_WHITE = (255,)


def random_colour(
    rng: np.random.Generator,
    avoid: ArrayLike = (),
    min_distance: float = 80.0,
    low: float = 10.0,
    high: float = 245.0,
) -> NDArray[np.float32]:
    """Draw an RGB colour, float32 ``[3]`` in ``low..high``.

    ``avoid`` (``[N, 3]``, may be empty) lists colours to stay ``min_distance`` (sum of absolute
    channel differences) away from; the rule is given up after 20 draws.
    """
    others = np.asarray(avoid, dtype=np.float32).reshape(-1, 3)
    colour = rng.uniform(low, high, 3).astype(np.float32)
    for _ in range(20):
        if not len(others) or np.abs(others - colour).sum(axis=1).min() >= min_distance:
            break
        colour = rng.uniform(low, high, 3).astype(np.float32)
    return colour


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, coarsest: int = 2, finest: int = 48
) -> NDArray[np.float32]:
    """Sum of one to three random grids scaled up to ``[height, width]``: float32, about N(0, 1)."""
    noise = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        columns = int(np.exp(rng.uniform(np.log(coarsest), np.log(finest))))
        rows = int(columns * np.exp(rng.uniform(-0.8, 0.8)))
        grid = rng.standard_normal((max(2, rows), max(2, columns))).astype(np.float32)
        interpolation = _INTERPOLATIONS[int(rng.integers(len(_INTERPOLATIONS)))]
        layer = cv2.resize(grid, (width, height), interpolation=interpolation)
        noise += layer * np.float32(rng.uniform(0.3, 1.0))
    return noise


def _stripes(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Sine or square stripes of a random direction and period: float32 ``[height, width]``."""
    angle = rng.uniform(0, np.pi)
    period = rng.uniform(0.06, 0.3) * max(height, width)
    columns = np.arange(width, dtype=np.float32)[None]
    rows = np.arange(height, dtype=np.float32)[:, None]
    wave = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * (2 * np.pi / period))
    return np.sign(wave) if rng.random() < 0.5 else wave


def _gradient(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """A linear ramp of a random direction: float32 ``[height, width]``, about -2..2."""
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(rng.uniform(-1, 1))
    across = np.linspace(-1, 1, width, dtype=np.float32)[None] * np.float32(rng.uniform(-1, 1))
    return 2 * (down + across)


def noise_texture(
    rng: np.random.Generator, height: int, width: int, base_rgb: ArrayLike, amplitude: float
) -> NDArray[np.uint8]:
    """A random texture about a base colour: uint8 RGB ``[height, width, 3]``.

    Multi-scale noise, in about a third of the draws with stripes and in a quarter with a colour
    gradient. ``amplitude`` is the standard deviation of the noise in 0..255 units: 3 is almost
    plain, 40 is strong.
    """
    texture = np.empty((height, width, 3), np.float32)
    texture[:] = np.asarray(base_rgb, np.float32)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction) + 1e-6
    # Mostly a change of brightness, partly of hue, as in photographs.
    tint = (0.6 * direction + 0.4 / np.sqrt(3)).astype(np.float32)
    texture += (smooth_noise(rng, height, width) * np.float32(amplitude))[..., None] * tint
    pattern = rng.random()
    if pattern < 0.6:
        hue = rng.standard_normal(3).astype(np.float32) * np.float32(amplitude)
        if pattern < 0.35:
            texture += _stripes(rng, height, width)[..., None] * hue * rng.uniform(0.3, 1.0)
        else:
            texture += _gradient(rng, height, width)[..., None] * hue
    return np.clip(texture, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class WalkerBuild:
    """The proportions of one person-like figure, as fractions of the silhouette's size."""

    torso_half_width: float
    limb_thickness: float
    stride: float
    """Largest sideways offset of a foot from the middle."""
    arm_reach: float
    head_offset: float

    @staticmethod
    def sample(rng: np.random.Generator) -> WalkerBuild:
        """Draw the proportions of a new figure."""
        return WalkerBuild(
            torso_half_width=rng.uniform(0.08, 0.13),
            limb_thickness=rng.uniform(0.07, 0.10),
            stride=rng.uniform(0.05, 0.18),
            arm_reach=rng.uniform(0.02, 0.12),
            head_offset=rng.uniform(-0.03, 0.03),
        )


def walker_silhouette(size: int, build: WalkerBuild, phase: float) -> NDArray[np.uint8]:
    """Coverage uint8 ``[size, size]`` of a figure seen at gait ``phase`` (radians, period 2 pi).

    The head begins at about 7 % of the height, the feet end at about 98 %. ``WALKER_CHIN`` and
    ``WALKER_WAIST`` tell where head, upper body and legs meet.
    """
    canvas = np.zeros((size, size), np.uint8)
    middle = 0.5

    def point(x: float, y: float) -> tuple[int, int]:
        return round(x * size), round(y * size)

    def limb(start: tuple[float, float], end: tuple[float, float], thickness: float) -> None:
        pixels = max(2, round(thickness * size))
        cv2.line(canvas, point(*start), point(*end), _WHITE, pixels, cv2.LINE_AA)

    def disc(x: float, y: float, half_width: float, half_height: float) -> None:
        axes = (max(1, int(half_width * size)), max(1, int(half_height * size)))
        cv2.ellipse(canvas, point(x, y), axes, 0, 0, 360, _WHITE, -1, cv2.LINE_AA)

    disc(middle + build.head_offset, 0.17, 0.075, 0.095)
    limb((middle, 0.22), (middle, 0.30), build.torso_half_width)
    disc(middle, 0.42, build.torso_half_width, 0.20)
    for side in (-1.0, 1.0):
        swing = np.sin(phase) * side
        foot = middle + side * 0.03 + swing * build.stride
        knee = middle + side * 0.04 + swing * build.stride * 0.5 + 0.02
        hip = middle + side * build.torso_half_width * 0.5
        limb((hip, 0.55), (knee, 0.75), build.limb_thickness)
        limb((knee, 0.75), (foot, 0.94), build.limb_thickness * 0.8)
        shoulder = middle + side * build.torso_half_width * 0.8
        hand = middle + side * (build.torso_half_width + build.arm_reach) - swing * 0.06
        limb((shoulder, 0.29), (hand, 0.50), build.limb_thickness * 0.7)
    return canvas


def walker_texture(
    rng: np.random.Generator, size: int, base_rgb: ArrayLike, amplitude: float
) -> NDArray[np.uint8]:
    """Head, upper body and legs of different colours: uint8 RGB ``[size, size, 3]``.

    ``base_rgb`` colours the upper body. The bands meet at ``WALKER_CHIN`` and ``WALKER_WAIST``,
    so the texture fits the walker silhouettes of the same size.
    """
    texture = noise_texture(rng, size, size, base_rgb, amplitude)
    waist, chin = int(WALKER_WAIST * size), int(WALKER_CHIN * size)
    texture[waist:] = noise_texture(rng, size - waist, size, random_colour(rng), amplitude)
    face = random_colour(rng, low=60.0, high=230.0)
    texture[:chin] = noise_texture(rng, chin, size, face, min(amplitude, 8.0))
    if rng.random() < 0.6:
        hair = int(0.13 * size)
        texture[:hair] = random_colour(rng, low=5.0, high=160.0).astype(np.uint8)
    return texture


def _ellipse(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    canvas = np.zeros((size, size), np.uint8)
    half_width, half_height = (int(axis) for axis in rng.uniform(0.22, 0.42, 2) * size)
    centre = (size // 2, size // 2)
    angle = rng.uniform(0, 180)
    cv2.ellipse(canvas, centre, (half_width, half_height), angle, 0, 360, _WHITE, -1, cv2.LINE_AA)
    return canvas


def _polygon(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    canvas = np.zeros((size, size), np.uint8)
    corners = int(rng.integers(3, 9))
    step = 2 * np.pi / corners
    angles = (np.arange(corners) + rng.uniform(0, 0.8, corners)) * step
    radii = rng.uniform(0.24, 0.44, corners) * size
    outline = size / 2 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cv2.fillPoly(canvas, [outline.astype(np.int32)], _WHITE, cv2.LINE_AA)
    return canvas


def silhouette(rng: np.random.Generator, size: int, kind: SilhouetteKind) -> NDArray[np.uint8]:
    """Draw a random centred silhouette: coverage uint8 ``[size, size]``, 255 = object."""
    if kind == "ellipse":
        return _ellipse(rng, size)
    if kind == "polygon":
        return _polygon(rng, size)
    if kind == "walker":
        return walker_silhouette(size, WalkerBuild.sample(rng), rng.uniform(0, 2 * np.pi))
    raise ValueError(f"unknown silhouette kind {kind!r}, expected one of {SILHOUETTE_KINDS}")
