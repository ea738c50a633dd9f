"""The people in the room: what they look like, and where they are on every frame."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.synthetic.appearance import (
    WALKER_CHIN,
    WALKER_WAIST,
    WalkerBuild,
    noise_texture,
    random_colour,
)
from t3dgs_masks.synthetic.cameras import ORBIT_RADIUS, Rig
from t3dgs_masks.synthetic.geometry import HALF_ROOM, Box, Floats

WALKER_SPRITE = 192
"""Side of a walker's texture and silhouette."""
_SKIN = np.array(
    [[244, 208, 180], [226, 172, 136], [198, 134, 94], [150, 96, 64], [98, 62, 44]], np.float32
)
_HAIR = np.array([[30, 24, 22], [74, 48, 32], [122, 78, 44], [196, 158, 96], [150, 146, 142]])


@dataclass(frozen=True)
class Walker:
    """One person's look."""

    texture: NDArray[np.uint8]  # [S, S, 3] RGB, S = WALKER_SPRITE
    torso_rgb: NDArray[np.float32]  # [3]
    build: WalkerBuild
    height: float


@dataclass(frozen=True)
class WalkPath:
    """Straight walks between waypoints; equal neighbours are a rest."""

    times: Floats  # [P] story time
    points: Floats  # [P, 2] metres on the floor


@dataclass(frozen=True)
class Tracks:
    """Where everybody is on every frame."""

    positions: Floats  # [N, K, 2] metres on the floor; NaN = not there
    phases: Floats  # [N, K] gait, radians


def _clothes_colour(
    rng: np.random.Generator,
    behind: NDArray[np.float32],
    worn: list[NDArray[np.float32]],
    contrast: float,
) -> NDArray[np.float32]:
    """A colour [3] that stands out from what is mostly ``behind`` it and is not ``worn`` yet.

    The first of 40 draws that differs by ``contrast`` (sum over the channels), else the one that
    differs most.
    """
    draws = [random_colour(rng, avoid=worn) for _ in range(40)]
    differences = [float(np.abs(draw - behind).sum()) for draw in draws]
    enough = [draw for draw, far in zip(draws, differences, strict=True) if far > contrast]
    return enough[0] if enough else draws[int(np.argmax(differences))]


def sample_walker(
    rng: np.random.Generator,
    wall: NDArray[np.float32],
    floor: NDArray[np.float32],
    others: list[Walker],
) -> Walker:
    """A person who can be told from the room and from the ``others``."""
    side = WALKER_SPRITE
    chin, waist, hairline = (int(share * side) for share in (WALKER_CHIN, WALKER_WAIST, 0.13))
    torso = _clothes_colour(rng, wall, [walker.torso_rgb for walker in others], 340.0)
    texture = noise_texture(rng, side, side, torso, rng.uniform(4, 14))
    legs = _clothes_colour(rng, floor, [], 290.0)
    texture[waist:] = noise_texture(rng, side - waist, side, legs, rng.uniform(4, 14))
    texture[:chin] = noise_texture(rng, chin, side, _SKIN[rng.integers(len(_SKIN))], 3.0)
    texture[:hairline] = _HAIR[rng.integers(len(_HAIR))]
    return Walker(texture, torso, WalkerBuild.sample(rng), rng.uniform(1.6, 1.9))


def sample_calm_walker(rng: np.random.Generator, others: list[Walker]) -> Walker:
    """A person in one strong colour, trousers a shade darker, unlike what the ``others`` wear."""
    side = WALKER_SPRITE
    chin, waist, hairline = (int(share * side) for share in (WALKER_CHIN, WALKER_WAIST, 0.13))
    draws = [_strong_colour(rng) for _ in range(12)]
    worn = [walker.torso_rgb for walker in others]
    apart = [min((float(np.abs(c - w).sum()) for w in worn), default=0.0) for c in draws]
    clothes = draws[int(np.argmax(apart))]
    texture = noise_texture(rng, side, side, clothes, rng.uniform(3, 9))
    texture[waist:] = noise_texture(
        rng, side - waist, side, clothes * np.float32(rng.uniform(0.65, 0.85)), rng.uniform(3, 9)
    )
    texture[:chin] = noise_texture(rng, chin, side, _SKIN[rng.integers(1, len(_SKIN))], 3.0)
    texture[:hairline] = _HAIR[rng.integers(len(_HAIR) - 2)]
    return Walker(texture, clothes, WalkerBuild.sample(rng), rng.uniform(1.6, 1.9))


def _strong_colour(rng: np.random.Generator) -> NDArray[np.float32]:
    """A saturated, not too light RGB colour [3]."""
    hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.75, 1.0), rng.uniform(0.4, 0.8)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32) * 255


def sample_paths(rng: np.random.Generator, count: int, rig: Rig) -> list[WalkPath]:
    """Ways through the room as the camera sees it.

    The first person crosses the view from side to side, the second comes in, stands for a while
    and goes, the third wanders about; then again.
    """
    # Lanes at different depths, so that people pass before and behind each other.
    lanes = rng.permutation(np.linspace(-0.45, 1.0, count)) + rng.uniform(-0.15, 0.15, count)
    side = rng.choice([-1.0, 1.0])
    paths = []
    for index, lane in enumerate(lanes):
        side = -side
        if index % 3 == 0:
            start = rng.uniform(0.0, 0.15)
            times = np.array([start, rng.uniform(0.82, 0.93)])
            # Not too far off: the view there is wider than the room.
            depth = min(lane, 0.6) + rng.uniform(-0.25, 0.25, 2)
            across = np.minimum(0.7 * (ORBIT_RADIUS + depth) + 0.45, 2.8) * [-side, side]
        elif index % 3 == 1:
            arrives = rng.uniform(0.15, 0.35)
            leaves = arrives + rng.uniform(0.3, 0.45)
            times = np.array([0.0, arrives, leaves, leaves + rng.uniform(0.35, 0.45)])
            stands = rng.uniform(-0.7, 0.7)
            across = np.array([-1.7 * side, stands, stands, rng.choice([-2.3, 2.3])])
            depth = np.array([rng.uniform(-0.2, 0.2), 0, 0, rng.uniform(-0.2, 0.2)]) + lane
        else:
            times = np.array([0.0, 0.3, 0.45, 0.75, 1.0]) + rng.uniform(-0.05, 0.05, 5)
            across = np.array([-1.3, 0.2, 0.2, 1.0, 0.0]) * side + rng.uniform(-0.25, 0.25, 5)
            across[2] = across[1]
            depth = lane + np.array([0.0, 0.1, 0.1, 0.3, 0.1]) * rng.choice([-1.0, 1.0])
        # Only who crosses follows the camera's turn: both ends lie outside the view of their time.
        turn = rig.span * (times - 0.5) if index % 3 == 0 else np.zeros(len(times))
        angle = rig.middle + turn
        forward = -np.stack([np.cos(angle), np.sin(angle)], axis=1)
        right = np.stack([forward[:, 1], -forward[:, 0]], axis=1)
        paths.append(WalkPath(times, across[:, None] * right + depth[:, None] * forward))
    return paths


def follow_paths(rng: np.random.Generator, paths: list[WalkPath], times: Floats) -> Tracks:
    """Positions and gait at story ``times`` [N]; legs swing with the distance walked."""
    positions = np.zeros((len(times), len(paths), 2))
    phases = np.zeros((len(times), len(paths)))
    for index, path in enumerate(paths):
        walked = np.concatenate(
            [[0.0], np.cumsum(np.linalg.norm(np.diff(path.points, axis=0), axis=1))]
        )
        for axis in range(2):
            positions[:, index, axis] = np.interp(times, path.times, path.points[:, axis])
        phases[:, index] = 4.5 * np.interp(times, path.times, walked) + 1.7 * index
    return Tracks(positions, phases)


def scatter(rng: np.random.Generator, cameras: Floats, count: int, furniture: list[Box]) -> Tracks:
    """People somewhere else on every photo, each on about four photos in five."""
    positions = np.full((len(cameras), count, 2), np.nan)
    for frame, camera in enumerate(cameras):
        forward = -camera[:2, 2] / np.linalg.norm(camera[:2, 2])
        for index in range(count):
            if rng.random() > 0.8:
                continue
            for _ in range(30):
                distance = rng.uniform(1.8, 3.8)
                spot = camera[:2, 3] + distance * (forward + rng.uniform(-0.5, 0.5) * camera[:2, 0])
                inside = np.abs(spot).max() < HALF_ROOM - 0.3
                others = positions[frame, :index]
                crowded = np.any(np.linalg.norm(others - spot, axis=1) < 0.5)
                if inside and not crowded and all(b.distance(spot) > 0.25 for b in furniture):
                    positions[frame, index] = spot
                    break
    return Tracks(positions, rng.uniform(0, 2 * np.pi, positions.shape[:2]))
