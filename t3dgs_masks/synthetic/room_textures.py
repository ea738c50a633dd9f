"""What the room's surfaces look like: walls, ceiling, floor and the sides of furniture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.synthetic.appearance import (
    WalkerBuild,
    noise_texture,
    random_colour,
    smooth_noise,
    walker_silhouette,
    walker_texture,
)
from t3dgs_masks.synthetic.geometry import HALF_ROOM, ROOM_HEIGHT, Box, Quad

Texture = NDArray[np.uint8]  # [h, w, 3] RGB

_TEXELS_PER_METRE = 90.0
_LIGHT = np.array([0.42, 0.24, 0.87])
_CALM_SATURATION = np.float32(0.3)  # of the room's colours
_CALM_BLACK = np.float32(95)  # what black becomes in a calm room, 0..255


def calmed(texture: Texture) -> Texture:
    """A texture of the room with most of its colour taken away and its darks lifted."""
    values = texture.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    muted = grey + (values - grey) * _CALM_SATURATION
    return (_CALM_BLACK + muted * (1 - _CALM_BLACK / 255)).astype(np.uint8)


def _texels(metres: float) -> int:
    return max(8, round(metres * _TEXELS_PER_METRE))


def _rgb(colour: NDArray[np.float32]) -> list[float]:
    return [float(channel) for channel in np.clip(colour, 0, 255)]


def _darken_borders(texture: Texture, reach_metres: float, depth: float) -> Texture:
    """Less light reaches corners: down to ``1 - depth`` at the border."""
    reach = reach_metres * _TEXELS_PER_METRE
    falloffs = []
    for size in texture.shape[:2]:
        positions = np.arange(size, dtype=np.float32) + 0.5
        distance = np.minimum(positions, size - positions)
        falloffs.append(1 - depth * np.exp(-distance / reach))
    light = falloffs[0][:, None] * falloffs[1][None]
    return (texture * light[..., None]).astype(np.uint8)


def _poster(rng: np.random.Generator, height: int, width: int) -> Texture:
    """A framed picture; some show a person, which must not be taken for one."""
    picture = noise_texture(rng, height, width, random_colour(rng), rng.uniform(10, 40))
    if rng.random() < 0.35:
        side = min(height, width)
        figure = walker_silhouette(side, WalkerBuild.sample(rng), rng.uniform(0, 6))
        top, left = (height - side) // 2, (width - side) // 2
        alpha = (figure / 255.0)[..., None]
        window = picture[top : top + side, left : left + side]
        clothes = walker_texture(rng, side, random_colour(rng), 8.0)
        window[:] = (window * (1 - alpha) + clothes * alpha).astype(np.uint8)
    frame = _rgb(random_colour(rng))
    cv2.rectangle(picture, (0, 0), (width - 1, height - 1), frame, int(rng.integers(3, 7)))
    return picture


def wall_texture(
    rng: np.random.Generator, colour: NDArray[np.float32], panel: NDArray[np.float32] | None
) -> Texture:
    """A wall with pictures, a skirting board and, where given, a lower panel of colour."""
    height, width = _texels(ROOM_HEIGHT), _texels(2 * HALF_ROOM)
    wall = noise_texture(rng, height, width, colour, rng.uniform(4, 10))
    if panel is not None:
        rows = _texels(0.95)
        wall[-rows:] = noise_texture(rng, rows, width, panel, rng.uniform(4, 9))
        cv2.line(wall, (0, height - rows), (width, height - rows), _rgb(panel * 0.6), 3)
    left = _texels(rng.uniform(0.1, 0.6))
    while True:
        poster_width, poster_height = (_texels(side) for side in rng.uniform(0.45, 1.1, 2))
        if left + poster_width >= width:
            break
        top = int(rng.uniform(_texels(0.35), _texels(1.85) - poster_height))
        poster = _poster(rng, poster_height, poster_width)
        wall[top : top + poster_height, left : left + poster_width] = poster
        left += poster_width + _texels(rng.uniform(0.15, 0.9))
    skirting = _texels(0.09)
    wall[-skirting:] = np.clip(colour * 0.45, 0, 255).astype(np.uint8)
    return _darken_borders(wall, 0.35, 0.3)


def ceiling_texture(rng: np.random.Generator) -> Texture:
    """An almost even grey."""
    side = _texels(2 * HALF_ROOM)
    ceiling = np.full((side, side, 3), 205, np.float32)
    ceiling += smooth_noise(rng, *ceiling.shape[:2])[..., None] * 6
    return _darken_borders(np.clip(ceiling, 0, 255).astype(np.uint8), 0.3, 0.3)


def floor_texture(
    rng: np.random.Generator, colour: NDArray[np.float32], furniture: list[Box]
) -> Texture:
    """Boards or tiles, a rug, and the shadow of every box. Row 0 lies at the largest y."""
    side = _texels(2 * HALF_ROOM)
    floor = noise_texture(rng, side, side, colour, rng.uniform(5, 12))
    board = rng.uniform(0.2, 0.6)
    grout = _rgb(colour * 0.72)
    tiles = rng.random() < 0.5
    for line in np.arange(0, 2 * HALF_ROOM, board):
        position = _texels(line)
        cv2.line(floor, (position, 0), (position, side), grout, 1)
        if tiles:
            cv2.line(floor, (0, position), (side, position), grout, 1)
    rug_height, rug_width = (_texels(length) for length in rng.uniform(1.4, 2.4, 2))
    top, left = (side - rug_height) // 2, (side - rug_width) // 2
    rug = noise_texture(rng, rug_height, rug_width, random_colour(rng), rng.uniform(10, 22))
    border = _rgb(random_colour(rng))
    cv2.rectangle(rug, (4, 4), (rug_width - 5, rug_height - 5), border, 5)
    floor[top : top + rug_height, left : left + rug_width] = rug
    light = np.full((side, side), 1.0, np.float32)
    to_texels = np.array([_TEXELS_PER_METRE, -_TEXELS_PER_METRE])
    for box in furniture:
        x, y = box.centre * to_texels + HALF_ROOM * _TEXELS_PER_METRE
        size = (np.array([box.half_width, box.half_depth]) * 2 + 0.12) * _TEXELS_PER_METRE
        outline = cv2.boxPoints(
            ((float(x), float(y)), (float(size[0]), float(size[1])), float(-np.rad2deg(box.yaw)))
        )
        cv2.fillPoly(light, [outline.astype(np.int32)], (0.45,))
    light = cv2.blur(cv2.blur(light, (15, 15)), (15, 15))
    return _darken_borders((floor * light[..., None]).astype(np.uint8), 0.3, 0.35)


def _draw_books(rng: np.random.Generator, front: Texture) -> None:
    """Rows of coloured spines, in place."""
    height, width = front.shape[:2]
    shelf_height = _texels(rng.uniform(0.28, 0.4))
    for top in range(3, height - shelf_height, shelf_height):
        bottom = top + shelf_height - 5
        cv2.rectangle(front, (4, top), (width - 5, bottom), (28, 24, 22), -1)
        left = 5
        while left < width - 12:
            spine = int(rng.integers(3, 11))
            spine_top = top + int(rng.integers(2, max(3, shelf_height // 3)))
            colour = _rgb(random_colour(rng, low=25, high=225))
            cv2.rectangle(front, (left, spine_top), (left + spine - 1, bottom), colour, -1)
            left += spine + (int(rng.integers(4, 16)) if rng.random() < 0.12 else 0)


def face_texture(
    rng: np.random.Generator, quad: Quad, colour: NDArray[np.float32], books: bool, drawers: int
) -> Texture:
    """One side of a box, with the light that falls on it."""
    height, width = (_texels(float(np.linalg.norm(edge))) for edge in (quad.down, quad.across))
    face = noise_texture(rng, height, width, colour, rng.uniform(5, 16))
    if books:
        _draw_books(rng, face)
    for line in np.linspace(0, height, drawers + 1)[1:-1]:
        cv2.line(face, (0, int(line)), (width, int(line)), _rgb(colour * 0.5), 2)
    cv2.rectangle(face, (0, 0), (width - 1, height - 1), _rgb(colour * 0.65), 2)
    front = quad.front
    light = 0.7 + 0.42 * float(front @ _LIGHT / np.linalg.norm(front))
    return np.clip(face * light, 0, 255).astype(np.uint8)
