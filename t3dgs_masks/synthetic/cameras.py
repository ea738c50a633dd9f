"""Where the camera stands, where it looks and how it sees, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t3dgs_masks.synthetic.capture_spec import CaptureMode, CaptureSpec
from t3dgs_masks.synthetic.geometry import Floats

ORBIT_RADIUS = 2.75
"""Metres from the middle of the room to the camera's path, before it wobbles."""
TIMELINE = 40
"""Frames in which the whole story of the walkers is told. A shorter capture shows a part of it at
the same pace, a longer one tells it more slowly."""


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion; lengths in pixels."""

    fl_x: float
    fl_y: float
    cx: float
    cy: float
    width: int
    height: int

    def matrix(self) -> Floats:
        """[3, 3] float64, from camera rays (x right, y down, z forward) to pixels."""
        return np.array([[self.fl_x, 0, self.cx], [0, self.fl_y, self.cy], [0, 0, 1.0]])


def intrinsics_of(spec: CaptureSpec) -> Intrinsics:
    focal = spec.focal * spec.width
    return Intrinsics(focal, focal, spec.width / 2, spec.height / 2, spec.width, spec.height)


def frame_times(spec: CaptureSpec, rng: np.random.Generator) -> Floats:
    """Story time of every frame: float64 [N] in 0..1."""
    length = max(spec.num_frames, TIMELINE)
    spare = length - spec.num_frames
    # The story begins and ends with people still outside the view: not the best part of it.
    margin = min(6, spare // 4)
    first = int(rng.integers(margin, spare - margin + 1))
    return (first + np.arange(spec.num_frames)) / max(length - 1, 1)


@dataclass(frozen=True)
class _Wobble:
    """A smooth random function of story time, about -1..1: what a hand does to a camera."""

    cycles: Floats  # [3]
    phases: Floats  # [3]

    @staticmethod
    def sample(rng: np.random.Generator) -> _Wobble:
        return _Wobble(rng.uniform([0.4, 1.5, 4.0], [1.2, 3.0, 7.0]), rng.uniform(0, 2 * np.pi, 3))

    def __call__(self, times: Floats) -> Floats:
        waves = np.sin(2 * np.pi * times[:, None] * self.cycles + self.phases)
        return np.asarray(waves @ np.array([0.7, 0.25, 0.05]), np.float64)


@dataclass(frozen=True)
class Rig:
    """Where the camera stands and looks at a story time."""

    mode: CaptureMode
    middle: float
    """Direction from the room's centre to the middle of the path, radians."""
    span: float
    """Angle of the whole path, radians, signed."""
    wobbles: tuple[_Wobble, ...]
    photo_seed: int

    @staticmethod
    def sample(rng: np.random.Generator, spec: CaptureSpec, middle: float) -> Rig:
        span = np.deg2rad(spec.orbit_degrees) * rng.choice([-1.0, 1.0])
        wobbles = tuple(_Wobble.sample(rng) for _ in range(6))
        return Rig(spec.mode, middle, span, wobbles, int(rng.integers(2**31)))

    def poses(self, times: Floats) -> Floats:
        """Camera-to-world matrices, float64 [N, 4, 4]."""
        if self.mode == "photos":
            return self._photo_poses(np.random.default_rng(self.photo_seed), len(times))
        return self._path_poses(times, 0.0, 0.0)

    def eval_poses(self, rng: np.random.Generator, times: Floats, count: int) -> Floats:
        """Camera-to-world matrices near the path but not on it, float64 [V, 4, 4]."""
        if self.mode == "photos":
            return self._photo_poses(rng, count)
        share = (np.arange(count) + 0.5) / max(count, 1)
        between = times[0] + share * (times[-1] - times[0])
        closer, higher = rng.uniform(-0.3, 0.1, count), rng.uniform(-0.2, 0.2, count)
        return self._path_poses(between, closer, higher)

    def _path_poses(self, times: Floats, closer: Floats | float, higher: Floats | float) -> Floats:
        turn, radius, height, *aim = (wobble(times) for wobble in self.wobbles)
        angle = self.middle + self.span * (times - 0.5) + 0.05 * turn
        distance = ORBIT_RADIUS + 0.15 * radius + closer
        eye = np.stack(
            [distance * np.cos(angle), distance * np.sin(angle), 1.5 + 0.1 * height + higher], 1
        )
        target = np.array([0.0, 0.0, 0.92]) + 0.12 * np.stack(aim, 1)
        return _look_at(eye, target)

    def _photo_poses(self, rng: np.random.Generator, count: int) -> Floats:
        angle = self.middle + np.deg2rad(rng.uniform(-95, 95, count))
        distance = rng.uniform(2.2, 2.9, count)
        height = rng.uniform(1.15, 1.8, count)
        eye = np.stack([distance * np.cos(angle), distance * np.sin(angle), height], 1)
        target = np.array([0.0, 0.0, 0.95]) + rng.uniform(-0.3, 0.3, (count, 3))
        return _look_at(eye, target)


def _look_at(eye: Floats, target: Floats) -> Floats:
    """Upright cameras at ``eye`` looking at ``target`` (both [N, 3]): [N, 4, 4], OpenGL axes."""
    back = eye - target
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    poses = np.tile(np.eye(4), (len(eye), 1, 1))
    poses[:, :3] = np.stack([right, np.cross(back, right), back, eye], axis=2)
    return poses
