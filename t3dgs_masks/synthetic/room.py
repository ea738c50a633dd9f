"""The room without its people: where the furniture stands, and all surfaces as one scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.synthetic.appearance import random_colour
from t3dgs_masks.synthetic.capture_spec import CaptureLook
from t3dgs_masks.synthetic.geometry import HALF_ROOM, ROOM_HEIGHT, Box, Floats, Quad
from t3dgs_masks.synthetic.room_textures import (
    Texture,
    calmed,
    ceiling_texture,
    face_texture,
    floor_texture,
    wall_texture,
)


@dataclass(frozen=True)
class Scene:
    """All static surfaces; their textures lie below each other in one atlas."""

    quads: list[Quad]
    atlas: Texture  # [A, B, 3]
    regions: list[tuple[int, int, int]]
    """Top row, height and width of every quad's texture within the atlas."""


def sample_furniture(
    rng: np.random.Generator, middle: float, lanes: Floats, camera_spots: Floats
) -> list[Box]:
    """Place boxes and shelves clear of ``lanes`` and ``camera_spots`` (both [P, 2])."""
    placed: list[Box] = []

    def place(box: Box) -> bool:
        clear_of_people = all(box.distance(spot) > 0.24 for spot in lanes[::2])
        clear_of_cameras = all(box.distance(spot) > 0.75 for spot in camera_spots[::2])
        apart = all(
            np.linalg.norm(box.centre - other.centre) > 0.8 * (box.radius() + other.radius())
            for other in placed
        )
        if clear_of_people and clear_of_cameras and apart:
            placed.append(box)
            return True
        return False

    towards_camera = np.array([np.cos(middle), np.sin(middle)])
    sideways = np.array([-towards_camera[1], towards_camera[0]])
    # Something low between camera and people, so that it hides their legs now and then.
    for _ in range(40):
        spot = towards_camera * rng.uniform(0.6, 1.5) + sideways * rng.uniform(-1.0, 1.0)
        half = rng.uniform(0.18, 0.38, 2)
        if place(Box(spot, half[0], half[1], rng.uniform(0.4, 0.75), rng.uniform(0, np.pi))):
            break
    for wall in range(4):
        for _ in range(5):
            half_width, half_depth = rng.uniform(0.35, 0.75), rng.uniform(0.15, 0.28)
            normal = np.array([np.cos(wall * np.pi / 2), np.sin(wall * np.pi / 2)])
            along = rng.uniform(-2.4, 2.4) * np.array([-normal[1], normal[0]])
            spot = normal * (HALF_ROOM - half_depth - 0.01) + along
            yaw = wall * np.pi / 2 - np.pi / 2  # the front looks into the room
            place(Box(spot, half_width, half_depth, rng.uniform(0.7, 2.1), yaw, True))
            if len(placed) > 2 * wall + 2:
                break
    target = len(placed) + int(rng.integers(4, 7))
    for _ in range(60):
        spot = rng.uniform(-2.4, 2.4, 2)
        half = rng.uniform(0.15, 0.42, 2)
        place(Box(spot, half[0], half[1], rng.uniform(0.3, 1.2), rng.uniform(0, np.pi)))
        if len(placed) >= target:
            break
    return placed


def _muted(colour: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """An RGB colour [3] with this share of its saturation taken away."""
    return colour + (colour.mean() - colour) * np.float32(share)


def build_room(
    rng: np.random.Generator, furniture: list[Box], look: CaptureLook
) -> tuple[Scene, NDArray[np.float32], NDArray[np.float32]]:
    """All surfaces, and the colours of wall and floor."""
    wall = _muted(random_colour(rng, low=150, high=250), 0.55)
    floor = _muted(random_colour(rng, avoid=[wall], min_distance=120, low=35, high=150), 0.5)
    panel = _muted(random_colour(rng, low=110, high=230), 0.4) if rng.random() < 0.4 else None
    half, high = HALF_ROOM, ROOM_HEIGHT
    quads = [
        Quad(np.array([-half, half, 0]), np.array([2 * half, 0, 0]), np.array([0, -2 * half, 0])),
        Quad(
            np.array([-half, -half, high]), np.array([2 * half, 0, 0]), np.array([0, 2 * half, 0])
        ),
    ]
    ceiling = ceiling_texture(rng)  # drawn before the floor: the order fixes what a seed gives
    textures = [floor_texture(rng, floor, furniture), ceiling]
    for turn in range(4):
        angle = turn * np.pi / 2
        outward = np.array([np.cos(angle), np.sin(angle), 0.0])
        right = np.array([outward[1], -outward[0], 0.0])
        corner = outward * half - right * half + np.array([0, 0, high])
        quads.append(Quad(corner, 2 * half * right, np.array([0, 0, -high])))
        textures.append(wall_texture(rng, wall * rng.uniform(0.88, 1.0), panel))
    for box in furniture:
        colour = _muted(random_colour(rng, low=30, high=225), rng.uniform(0.0, 0.7))
        books = box.is_shelf and box.height > 1.1
        drawers = 1 if books else int(rng.integers(1, 4))
        for index, quad in enumerate(box.faces()):
            is_front = index == 0
            textures.append(
                face_texture(rng, quad, colour, books and is_front, drawers if index < 4 else 1)
            )
            quads.append(quad)
    if look == "calm":
        textures = [calmed(texture) for texture in textures]
    return _pack(quads, textures), wall, floor


def _pack(quads: list[Quad], textures: list[Texture]) -> Scene:
    """Stack the textures into one atlas, so that a view needs a single look-up."""
    heights = [len(texture) for texture in textures]
    tops = np.cumsum([0, *heights])
    atlas = np.zeros((tops[-1], max(texture.shape[1] for texture in textures), 3), np.uint8)
    regions = []
    for top, texture in zip(tops, textures, strict=False):
        height, width = texture.shape[:2]
        atlas[top : top + height, :width] = texture
        regions.append((int(top), height, width))
    return Scene(quads, atlas, regions)
