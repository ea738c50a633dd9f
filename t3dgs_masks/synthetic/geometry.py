"""The room's measures and the shapes it is made of: parallelograms, and boxes built of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HALF_ROOM = 3.2
"""Metres from the middle of the square floor to a wall."""
ROOM_HEIGHT = 2.7
"""Metres."""


@dataclass(frozen=True)
class Quad:
    """A textured parallelogram; visible from the side where its texture reads the right way."""

    corner: Floats  # [3] where the texture's top left lies
    across: Floats  # [3] along the texture's columns
    down: Floats  # [3] along the texture's rows

    @cached_property
    def front(self) -> Floats:
        """[3] vector that points to those who can see it."""
        return np.cross(self.down, self.across)


@dataclass(frozen=True)
class Box:
    """A piece of furniture on the floor."""

    centre: Floats  # [2]
    half_width: float
    half_depth: float
    height: float
    yaw: float
    is_shelf: bool = False

    def axes(self) -> tuple[Floats, Floats]:
        """Unit vectors along width and depth, [2] each."""
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([cosine, sine]), np.array([-sine, cosine])

    def radius(self) -> float:
        return float(np.hypot(self.half_width, self.half_depth))

    def distance(self, spot: Floats) -> float:
        """From a spot on the floor ([2]) to the nearest side; 0 inside."""
        along = [abs((spot - self.centre) @ axis) for axis in self.axes()]
        gaps = np.maximum(np.subtract(along, [self.half_width, self.half_depth]), 0)
        return float(np.hypot(*gaps))

    def faces(self) -> list[Quad]:
        """Four sides and the top; sides first, front first."""
        width, depth = (np.append(axis, 0.0) for axis in self.axes())
        up = np.array([0.0, 0.0, self.height])
        middle = np.append(self.centre, 0.0)
        quads = []
        for right, outward, half_right, half_out in (
            (width, -depth, self.half_width, self.half_depth),
            (depth, width, self.half_depth, self.half_width),
            (-width, depth, self.half_width, self.half_depth),
            (-depth, -width, self.half_depth, self.half_width),
        ):
            corner = middle + outward * half_out - right * half_right + up
            quads.append(Quad(corner, 2 * half_right * right, -up))
        top_corner = middle + up - width * self.half_width + depth * self.half_depth
        quads.append(Quad(top_corner, 2 * self.half_width * width, -2 * self.half_depth * depth))
        return quads
