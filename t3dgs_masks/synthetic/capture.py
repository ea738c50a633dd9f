"""A posed capture of a furnished room with people walking through it, and its ground truth.

The room is made of textured parallelograms that are intersected exactly with the ray of every
image sample, so all views agree with each other and with the returned poses: a splat can be
trained on them. People are upright cut-outs with a position on the floor; furniture and other
people hide them through depth. Everything is numpy and cv2, and one spec always gives the same
bytes.

World: metres, z up, floor at z = 0, origin in the middle of the floor. Cameras: OpenGL axes as
nerfstudio has them (x right, y up, looking along -z). Pixel (column, row) covers
``column..column + 1`` x ``row..row + 1``, so its centre lies at + 0.5.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.synthetic.appearance import (
    WALKER_CHIN,
    WALKER_WAIST,
    WalkerBuild,
    noise_texture,
    random_colour,
    smooth_noise,
    walker_silhouette,
    walker_texture,
)

CaptureMode = Literal["video", "photos"]
CaptureLook = Literal["calm", "busy"]
Floats = NDArray[np.float64]
Texture = NDArray[np.uint8]  # [h, w, 3] RGB

_HALF_ROOM = 3.2
_ROOM_HEIGHT = 2.7
_ORBIT_RADIUS = 2.75
_NEAR = 0.1
_SAMPLES = 2
"""Samples per pixel along each axis."""
_TEXELS_PER_METRE = 90.0
_WALKER_SPRITE = 192
"""Side of a walker's texture and silhouette."""
_TIMELINE = 40
"""Frames in which the whole story of the walkers is told. A shorter capture shows a part of it at
the same pace, a longer one tells it more slowly."""
_LIGHT = np.array([0.42, 0.24, 0.87])
_CALM_SATURATION = np.float32(0.3)  # of the room's colours
_CALM_BLACK = np.float32(95)  # what black becomes in a calm room, 0..255
_SKIN = np.array(
    [[244, 208, 180], [226, 172, 136], [198, 134, 94], [150, 96, 64], [98, 62, 44]], np.float32
)
_HAIR = np.array([[30, 24, 22], [74, 48, 32], [122, 78, 44], [196, 158, 96], [150, 146, 142]])


@dataclass(frozen=True)
class CaptureSpec:
    """What to film; equal specs give identical captures."""

    seed: int = 0
    mode: CaptureMode = "video"
    """``video``: a hand-held camera on a smooth path, people move continuously. ``photos``:
    unrelated viewpoints, people stand somewhere else on every one of them."""
    num_frames: int = 40
    height: int = 192
    width: int = 256
    num_walkers: int | None = None
    """None: two or three, as the seed has it."""
    num_eval_views: int = 6
    """Clean views beside the path, for judging a splat."""
    focal: float = 0.8
    """Focal length in image widths."""
    orbit_degrees: float = 60.0
    """How far around the room the camera goes in ``video`` mode (the full story)."""
    grain: float = 1.5
    """Standard deviation of the sensor noise in 0..255 units; evaluation views have none."""
    num_seed_points: int = 2000
    look: CaptureLook = "calm"
    """``calm``: a pale room, people in clothes of one strong colour each: what a very small
    network can tell apart. ``busy``: room and people in all colours, trousers unlike jackets."""


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


@dataclass(frozen=True)
class Capture:
    """N frames with K walkers, what they hide, and where the camera was."""

    frames: NDArray[np.uint8]  # [N, H, W, 3] RGB, with walkers
    static_frames: NDArray[np.uint8]  # [N, H, W, 3] RGB, the same views (and noise) without them
    object_masks: NDArray[np.bool_]  # [N, K, H, W] True = visible part of this walker; disjoint
    transient_masks: NDArray[np.bool_]  # [N, H, W] True = transient; the union of object_masks
    static_depths: NDArray[np.float32]  # [N, H, W] metres along the optical axis, no walkers
    walker_positions: Floats  # [N, K, 2] metres on the floor; NaN = not in the room
    camera_to_worlds: Floats  # [N, 4, 4] OpenGL axes
    intrinsics: Intrinsics
    eval_frames: NDArray[np.uint8]  # [V, H, W, 3] RGB, no walkers, no noise
    eval_camera_to_worlds: Floats  # [V, 4, 4] OpenGL axes
    seed_points_xyz: NDArray[np.float32]  # [P, 3] metres, on visible static surfaces
    seed_points_rgb: NDArray[np.uint8]  # [P, 3]

    @property
    def num_frames(self) -> int:
        return len(self.frames)


def make_capture(spec: CaptureSpec) -> Capture:
    """Build the room and film it."""
    if spec.num_frames < 1 or spec.height < 8 or spec.width < 8:
        raise ValueError(f"nothing to film: {spec}")
    # One stream per matter: more walkers or more evaluation views leave the rest as it is.
    streams = [np.random.default_rng([spec.seed, stream]) for stream in range(6)]
    room_rng, camera_rng, people_rng, path_rng, point_rng, eval_rng = streams

    intrinsics = _intrinsics(spec)
    middle = room_rng.uniform(0, 2 * np.pi)
    times = _frame_times(spec, camera_rng)
    rig = _Rig.sample(camera_rng, spec, middle)
    cameras = rig.poses(times)
    eval_cameras = rig.eval_poses(eval_rng, times, spec.num_eval_views)

    num_walkers = int(people_rng.integers(2, 4)) if spec.num_walkers is None else spec.num_walkers
    camera_spots = np.concatenate([cameras, eval_cameras])[:, :2, 3]
    if spec.mode == "video":
        paths = _sample_paths(path_rng, num_walkers, rig)
        tracks = _follow_paths(path_rng, paths, times)
        whole_story = _follow_paths(path_rng, paths, np.linspace(0, 1, 2 * _TIMELINE))
        lanes = whole_story.positions.reshape(-1, 2)
        furniture = _sample_furniture(room_rng, middle, lanes, camera_spots)
    else:
        furniture = _sample_furniture(room_rng, middle, np.zeros((0, 2)), camera_spots)
        tracks = _scatter(path_rng, cameras, num_walkers, furniture)
    scene, wall, floor = _build_room(room_rng, furniture, spec.look)
    walkers: list[_Walker] = []
    for _ in range(num_walkers):
        if spec.look == "calm":
            walkers.append(_sample_calm_walker(people_rng, walkers))
        else:
            walkers.append(_sample_walker(people_rng, wall, floor, walkers))
    return _film(spec, intrinsics, scene, walkers, tracks, cameras, eval_cameras, point_rng)


# --- cameras ------------------------------------------------------------------------------------


def _intrinsics(spec: CaptureSpec) -> Intrinsics:
    focal = spec.focal * spec.width
    return Intrinsics(focal, focal, spec.width / 2, spec.height / 2, spec.width, spec.height)


def _frame_times(spec: CaptureSpec, rng: np.random.Generator) -> Floats:
    """Story time of every frame: float64 [N] in 0..1."""
    length = max(spec.num_frames, _TIMELINE)
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
        return waves @ np.array([0.7, 0.25, 0.05])


@dataclass(frozen=True)
class _Rig:
    """Where the camera stands and looks at a story time."""

    mode: CaptureMode
    middle: float
    """Direction from the room's centre to the middle of the path, radians."""
    span: float
    """Angle of the whole path, radians, signed."""
    wobbles: tuple[_Wobble, ...]
    photo_seed: int

    @staticmethod
    def sample(rng: np.random.Generator, spec: CaptureSpec, middle: float) -> _Rig:
        span = np.deg2rad(spec.orbit_degrees) * rng.choice([-1.0, 1.0])
        wobbles = tuple(_Wobble.sample(rng) for _ in range(6))
        return _Rig(spec.mode, middle, span, wobbles, int(rng.integers(2**31)))

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
        distance = _ORBIT_RADIUS + 0.15 * radius + closer
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


# --- people -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Walker:
    """One person's look."""

    texture: Texture
    torso_rgb: NDArray[np.float32]  # [3]
    build: WalkerBuild
    height: float


@dataclass(frozen=True)
class _Path:
    """Straight walks between waypoints; equal neighbours are a rest."""

    times: Floats  # [P] story time
    points: Floats  # [P, 2] metres on the floor


@dataclass(frozen=True)
class _Tracks:
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


def _sample_walker(
    rng: np.random.Generator,
    wall: NDArray[np.float32],
    floor: NDArray[np.float32],
    others: list[_Walker],
) -> _Walker:
    """A person who can be told from the room and from the ``others``."""
    side = _WALKER_SPRITE
    chin, waist, hairline = (int(share * side) for share in (WALKER_CHIN, WALKER_WAIST, 0.13))
    torso = _clothes_colour(rng, wall, [walker.torso_rgb for walker in others], 340.0)
    texture = noise_texture(rng, side, side, torso, rng.uniform(4, 14))
    legs = _clothes_colour(rng, floor, [], 290.0)
    texture[waist:] = noise_texture(rng, side - waist, side, legs, rng.uniform(4, 14))
    texture[:chin] = noise_texture(rng, chin, side, _SKIN[rng.integers(len(_SKIN))], 3.0)
    texture[:hairline] = _HAIR[rng.integers(len(_HAIR))]
    return _Walker(texture, torso, WalkerBuild.sample(rng), rng.uniform(1.6, 1.9))


def _sample_calm_walker(rng: np.random.Generator, others: list[_Walker]) -> _Walker:
    """A person in one strong colour, trousers a shade darker, unlike what the ``others`` wear."""
    side = _WALKER_SPRITE
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
    return _Walker(texture, clothes, WalkerBuild.sample(rng), rng.uniform(1.6, 1.9))


def _strong_colour(rng: np.random.Generator) -> NDArray[np.float32]:
    """A saturated, not too light RGB colour [3]."""
    hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.75, 1.0), rng.uniform(0.4, 0.8)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32) * 255


def _calmed(texture: Texture) -> Texture:
    """A texture of the room with most of its colour taken away and its darks lifted."""
    values = texture.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    muted = grey + (values - grey) * _CALM_SATURATION
    return (_CALM_BLACK + muted * (1 - _CALM_BLACK / 255)).astype(np.uint8)


def _sample_paths(rng: np.random.Generator, count: int, rig: _Rig) -> list[_Path]:
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
            across = np.minimum(0.7 * (_ORBIT_RADIUS + depth) + 0.45, 2.8) * [-side, side]
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
        paths.append(_Path(times, across[:, None] * right + depth[:, None] * forward))
    return paths


def _follow_paths(rng: np.random.Generator, paths: list[_Path], times: Floats) -> _Tracks:
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
    return _Tracks(positions, phases)


def _scatter(
    rng: np.random.Generator, cameras: Floats, count: int, furniture: list[_Box]
) -> _Tracks:
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
                inside = np.abs(spot).max() < _HALF_ROOM - 0.3
                others = positions[frame, :index]
                crowded = np.any(np.linalg.norm(others - spot, axis=1) < 0.5)
                if inside and not crowded and all(b.distance(spot) > 0.25 for b in furniture):
                    positions[frame, index] = spot
                    break
    return _Tracks(positions, rng.uniform(0, 2 * np.pi, positions.shape[:2]))


# --- the room -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Quad:
    """A textured parallelogram; visible from the side where its texture reads the right way."""

    corner: Floats  # [3] where the texture's top left lies
    across: Floats  # [3] along the texture's columns
    down: Floats  # [3] along the texture's rows

    @cached_property
    def front(self) -> Floats:
        """[3] vector that points to those who can see it."""
        return np.cross(self.down, self.across)


@dataclass(frozen=True)
class _Box:
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

    def faces(self) -> list[_Quad]:
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
            quads.append(_Quad(corner, 2 * half_right * right, -up))
        top_corner = middle + up - width * self.half_width + depth * self.half_depth
        quads.append(_Quad(top_corner, 2 * self.half_width * width, -2 * self.half_depth * depth))
        return quads


@dataclass(frozen=True)
class _Scene:
    """All static surfaces; their textures lie below each other in one atlas."""

    quads: list[_Quad]
    atlas: Texture  # [A, B, 3]
    regions: list[tuple[int, int, int]]
    """Top row, height and width of every quad's texture within the atlas."""


def _sample_furniture(
    rng: np.random.Generator, middle: float, lanes: Floats, camera_spots: Floats
) -> list[_Box]:
    """Place boxes and shelves clear of ``lanes`` and ``camera_spots`` (both [P, 2])."""
    placed: list[_Box] = []

    def place(box: _Box) -> bool:
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
        if place(_Box(spot, half[0], half[1], rng.uniform(0.4, 0.75), rng.uniform(0, np.pi))):
            break
    for wall in range(4):
        for _ in range(5):
            half_width, half_depth = rng.uniform(0.35, 0.75), rng.uniform(0.15, 0.28)
            normal = np.array([np.cos(wall * np.pi / 2), np.sin(wall * np.pi / 2)])
            along = rng.uniform(-2.4, 2.4) * np.array([-normal[1], normal[0]])
            spot = normal * (_HALF_ROOM - half_depth - 0.01) + along
            yaw = wall * np.pi / 2 - np.pi / 2  # the front looks into the room
            place(_Box(spot, half_width, half_depth, rng.uniform(0.7, 2.1), yaw, True))
            if len(placed) > 2 * wall + 2:
                break
    target = len(placed) + int(rng.integers(4, 7))
    for _ in range(60):
        spot = rng.uniform(-2.4, 2.4, 2)
        half = rng.uniform(0.15, 0.42, 2)
        place(_Box(spot, half[0], half[1], rng.uniform(0.3, 1.2), rng.uniform(0, np.pi)))
        if len(placed) >= target:
            break
    return placed


def _muted(colour: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """An RGB colour [3] with this share of its saturation taken away."""
    return colour + (colour.mean() - colour) * np.float32(share)


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


def _wall_texture(
    rng: np.random.Generator, colour: NDArray[np.float32], panel: NDArray[np.float32] | None
) -> Texture:
    """A wall with pictures, a skirting board and, where given, a lower panel of colour."""
    height, width = _texels(_ROOM_HEIGHT), _texels(2 * _HALF_ROOM)
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


def _floor_texture(
    rng: np.random.Generator, colour: NDArray[np.float32], furniture: list[_Box]
) -> Texture:
    """Boards or tiles, a rug, and the shadow of every box. Row 0 lies at the largest y."""
    side = _texels(2 * _HALF_ROOM)
    floor = noise_texture(rng, side, side, colour, rng.uniform(5, 12))
    board = rng.uniform(0.2, 0.6)
    grout = _rgb(colour * 0.72)
    tiles = rng.random() < 0.5
    for line in np.arange(0, 2 * _HALF_ROOM, board):
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
        x, y = box.centre * to_texels + _HALF_ROOM * _TEXELS_PER_METRE
        size = (np.array([box.half_width, box.half_depth]) * 2 + 0.12) * _TEXELS_PER_METRE
        outline = cv2.boxPoints(
            ((float(x), float(y)), (float(size[0]), float(size[1])), float(-np.rad2deg(box.yaw)))
        )
        cv2.fillPoly(light, [outline.astype(np.int32)], 0.45)
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


def _face_texture(
    rng: np.random.Generator, quad: _Quad, colour: NDArray[np.float32], books: bool, drawers: int
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


def _build_room(
    rng: np.random.Generator, furniture: list[_Box], look: CaptureLook
) -> tuple[_Scene, NDArray[np.float32], NDArray[np.float32]]:
    """All surfaces, and the colours of wall and floor."""
    wall = _muted(random_colour(rng, low=150, high=250), 0.55)
    floor = _muted(random_colour(rng, avoid=[wall], min_distance=120, low=35, high=150), 0.5)
    panel = _muted(random_colour(rng, low=110, high=230), 0.4) if rng.random() < 0.4 else None
    half, high = _HALF_ROOM, _ROOM_HEIGHT
    quads = [
        _Quad(np.array([-half, half, 0]), np.array([2 * half, 0, 0]), np.array([0, -2 * half, 0])),
        _Quad(
            np.array([-half, -half, high]), np.array([2 * half, 0, 0]), np.array([0, 2 * half, 0])
        ),
    ]
    ceiling = np.full((_texels(2 * half), _texels(2 * half), 3), 205, np.float32)
    ceiling += smooth_noise(rng, *ceiling.shape[:2])[..., None] * 6
    textures = [
        _floor_texture(rng, floor, furniture),
        _darken_borders(np.clip(ceiling, 0, 255).astype(np.uint8), 0.3, 0.3),
    ]
    for turn in range(4):
        angle = turn * np.pi / 2
        outward = np.array([np.cos(angle), np.sin(angle), 0.0])
        right = np.array([outward[1], -outward[0], 0.0])
        corner = outward * half - right * half + np.array([0, 0, high])
        quads.append(_Quad(corner, 2 * half * right, np.array([0, 0, -high])))
        textures.append(_wall_texture(rng, wall * rng.uniform(0.88, 1.0), panel))
    for box in furniture:
        colour = _muted(random_colour(rng, low=30, high=225), rng.uniform(0.0, 0.7))
        books = box.is_shelf and box.height > 1.1
        drawers = 1 if books else int(rng.integers(1, 4))
        for index, quad in enumerate(box.faces()):
            is_front = index == 0
            textures.append(
                _face_texture(rng, quad, colour, books and is_front, drawers if index < 4 else 1)
            )
            quads.append(quad)
    if look == "calm":
        textures = [_calmed(texture) for texture in textures]
    return _pack(quads, textures), wall, floor


def _pack(quads: list[_Quad], textures: list[Texture]) -> _Scene:
    """Stack the textures into one atlas, so that a view needs a single look-up."""
    heights = [len(texture) for texture in textures]
    tops = np.cumsum([0, *heights])
    atlas = np.zeros((tops[-1], max(texture.shape[1] for texture in textures), 3), np.uint8)
    regions = []
    for top, texture in zip(tops, textures, strict=False):
        height, width = texture.shape[:2]
        atlas[top : top + height, :width] = texture
        regions.append((int(top), height, width))
    return _Scene(quads, atlas, regions)


# --- rendering ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Camera:
    """One view at sample resolution."""

    position: Floats  # [3]
    samples_from_world: Floats  # [3, 3] K R: directions in the world to homogeneous samples
    height: int
    width: int

    @staticmethod
    def of(camera_to_world: Floats, intrinsics: Intrinsics) -> _Camera:
        scale = np.diag([_SAMPLES, _SAMPLES, 1.0])
        rotation = np.diag([1.0, -1.0, -1.0]) @ camera_to_world[:3, :3].T
        return _Camera(
            camera_to_world[:3, 3],
            scale @ intrinsics.matrix() @ rotation,
            intrinsics.height * _SAMPLES,
            intrinsics.width * _SAMPLES,
        )


@dataclass(frozen=True)
class _Hit:
    """What the rays of a window of samples meet on one quad."""

    rows: slice
    columns: slice
    across: NDArray[np.float32]  # [h, w] position on the quad times inverse depth
    down: NDArray[np.float32]  # [h, w] position on the quad times inverse depth
    inverse_depth: NDArray[np.float32]  # [h, w] 1 / metres
    inside: NDArray[np.bool_]  # [h, w] True = the ray meets the quad


def _intersect(quad: _Quad, camera: _Camera) -> _Hit | None:
    """Rays against one quad: exact, since (across, down, 1) / depth is linear in the sample."""
    to_camera = camera.position - quad.corner
    if quad.front @ to_camera <= 1e-9:
        return None
    samples_from_quad = camera.samples_from_world @ np.stack(
        [quad.across, quad.down, -to_camera], axis=1
    )
    window = _window(samples_from_quad, camera)
    if window is None:
        return None
    rows, columns = window
    quad_from_samples = np.linalg.inv(samples_from_quad)
    x = np.arange(columns.start, columns.stop) + 0.5
    y = np.arange(rows.start, rows.stop) + 0.5
    across, down, inverse_depth = (
        (line[0] * x + line[2]).astype(np.float32)[None] + (line[1] * y).astype(np.float32)[:, None]
        for line in quad_from_samples
    )
    # A hair's breadth more, so that no gap opens where two quads share an edge.
    limit = inverse_depth * np.float32(1.0005)
    low = inverse_depth * np.float32(-0.0005)
    inside = (across >= low) & (across <= limit) & (down >= low) & (down <= limit)
    inside &= inverse_depth > 0
    return _Hit(rows, columns, across, down, inverse_depth, inside)


def _window(samples_from_quad: Floats, camera: _Camera) -> tuple[slice, slice] | None:
    """Rows and columns of samples that a quad can reach; None if it is out of view."""
    corners = samples_from_quad @ np.array([[0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1.0]])
    polygon = []
    for index in range(4):  # clip at the near plane
        here, there = corners[:, index], corners[:, (index + 1) % 4]
        if here[2] >= _NEAR:
            polygon.append(here)
        if (here[2] >= _NEAR) != (there[2] >= _NEAR):
            share = (_NEAR - here[2]) / (there[2] - here[2])
            polygon.append(here + share * (there - here))
    if not polygon:
        return None
    points = np.array([point[:2] / point[2] for point in polygon])
    x0, y0 = np.clip(np.floor(points.min(axis=0)), 0, (camera.width, camera.height)).astype(int)
    x1, y1 = np.clip(np.ceil(points.max(axis=0)), 0, (camera.width, camera.height)).astype(int)
    return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None


@dataclass(frozen=True)
class _View:
    """A rendering at sample resolution."""

    colour: NDArray[np.uint8]  # [h, w, 3]
    inverse_depth: NDArray[np.float32]  # [h, w]


def _render_static(scene: _Scene, camera: _Camera) -> _View:
    shape = (camera.height, camera.width)
    nearest = np.zeros(shape, np.float32)
    atlas_x = np.zeros(shape, np.float32)
    atlas_y = np.zeros(shape, np.float32)
    for quad, (top, height, width) in zip(scene.quads, scene.regions, strict=True):
        hit = _intersect(quad, camera)
        if hit is None:
            continue
        window = (hit.rows, hit.columns)
        visible = hit.inside & (hit.inverse_depth > nearest[window])
        inverse_depth = hit.inverse_depth[visible]
        nearest[window][visible] = inverse_depth
        # Texel centres at + 0.5; the clip keeps neighbours in the atlas from bleeding in.
        x = hit.across[visible] / inverse_depth * width - 0.5
        y = hit.down[visible] / inverse_depth * height - 0.5
        atlas_x[window][visible] = np.clip(x, 0, width - 1)
        atlas_y[window][visible] = np.clip(y, 0, height - 1) + top
    colour = cv2.remap(scene.atlas, atlas_x, atlas_y, cv2.INTER_LINEAR)
    return _View(np.asarray(colour, np.uint8), nearest)


def _stand(walker: _Walker, spot: Floats, camera: _Camera) -> _Quad:
    """The walker's cut-out at a spot on the floor ([2]), turned towards the camera."""
    to_camera = camera.position[:2] - spot
    to_camera /= np.linalg.norm(to_camera)
    right = np.array([-to_camera[1], to_camera[0], 0.0])
    side = walker.height / 0.91  # the figure fills 91 % of its sprite
    corner = np.append(spot, 0.98 * side) - right * side / 2
    return _Quad(corner, right * side, np.array([0.0, 0.0, -side]))


def _paint_walkers(
    view: _View, camera: _Camera, walkers: list[_Walker], spots: Floats, phases: Floats
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Draw everybody into a copy of the view.

    Args:
        spots: [K, 2] metres, NaN = not there.
        phases: [K] radians.

    Returns:
        Colour [h, w, 3] and, per sample, the walker's index or -1, [h, w].
    """
    colour = view.colour.copy()
    nearest = view.inverse_depth.copy()
    owner = np.full(nearest.shape, -1, np.int8)
    for index, walker in enumerate(walkers):
        if np.isnan(spots[index, 0]):
            continue
        hit = _intersect(_stand(walker, spots[index], camera), camera)
        if hit is None:
            continue
        window = (hit.rows, hit.columns)
        reached = hit.inside & (hit.inverse_depth > nearest[window])
        scale = np.zeros_like(hit.across)  # outside the sprite nothing is drawn
        np.divide(np.float32(_WALKER_SPRITE), hit.inverse_depth, where=reached, out=scale)
        sprite_x = hit.across * scale - np.float32(0.5)
        sprite_y = hit.down * scale - np.float32(0.5)
        figure = walker_silhouette(_WALKER_SPRITE, walker.build, phases[index])
        coverage = cv2.remap(figure, sprite_x, sprite_y, cv2.INTER_LINEAR)
        visible = reached & (coverage > 127)
        # Darker towards the outline, as if the body were round.
        light = 0.45 + 0.55 / 255 * cv2.blur(figure, (21, 21)).astype(np.float32)
        lit = (walker.texture * light[..., None]).astype(np.uint8)
        drawn = cv2.remap(
            lit, sprite_x, sprite_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        colour[window][visible] = drawn[visible]
        nearest[window][visible] = hit.inverse_depth[visible]
        owner[window][visible] = index
    return colour, owner


def _shrink(samples: NDArray, intrinsics: Intrinsics) -> NDArray:
    """Mean over the samples of each pixel."""
    size = (intrinsics.width, intrinsics.height)
    return cv2.resize(samples, size, interpolation=cv2.INTER_AREA)


def _object_masks(owner: NDArray[np.int8], count: int, intrinsics: Intrinsics) -> NDArray[np.bool_]:
    """[K, H, W]: a pixel is transient if half of it is covered, and goes to who covers most."""
    masks = np.zeros((count, intrinsics.height, intrinsics.width), np.bool_)
    if not count:
        return masks
    shares = np.stack([_shrink((owner == k).astype(np.float32), intrinsics) for k in range(count)])
    transient = shares.sum(axis=0) >= 0.5
    winner = shares.argmax(axis=0)
    for index in range(count):
        masks[index] = transient & (winner == index)
    return masks


def _pick_points(
    rng: np.random.Generator, view: _View, camera: _Camera, count: int
) -> tuple[Floats, NDArray[np.uint8]]:
    """World position [P, 3] and colour [P, 3] of random samples of a view."""
    rows = rng.integers(camera.height, size=count)
    columns = rng.integers(camera.width, size=count)
    samples = np.stack([columns + 0.5, rows + 0.5, np.ones(count)])
    rays = np.linalg.solve(camera.samples_from_world, samples)
    points = camera.position + (rays / view.inverse_depth[rows, columns]).T
    return points, view.colour[rows, columns]


def _film(
    spec: CaptureSpec,
    intrinsics: Intrinsics,
    scene: _Scene,
    walkers: list[_Walker],
    tracks: _Tracks,
    camera_to_worlds: Floats,
    eval_camera_to_worlds: Floats,
    point_rng: np.random.Generator,
) -> Capture:
    count, height, width = spec.num_frames, spec.height, spec.width
    frames = np.empty((count, height, width, 3), np.uint8)
    static_frames = np.empty_like(frames)
    object_masks = np.zeros((count, len(walkers), height, width), np.bool_)
    depths = np.empty((count, height, width), np.float32)
    points, colours = [], []
    for index, pose in enumerate(camera_to_worlds):
        camera = _Camera.of(pose, intrinsics)
        view = _render_static(scene, camera)
        painted, owner = _paint_walkers(
            view, camera, walkers, tracks.positions[index], tracks.phases[index]
        )
        noise_rng = np.random.default_rng([spec.seed, 100, index])
        noise = noise_rng.standard_normal((height, width, 3), np.float32) * np.float32(spec.grain)
        static_frames[index] = _with_noise(_shrink(view.colour, intrinsics), noise)
        frames[index] = _with_noise(_shrink(painted, intrinsics), noise)
        object_masks[index] = _object_masks(owner, len(walkers), intrinsics)
        depths[index] = 1 / _shrink(view.inverse_depth, intrinsics)
        share = spec.num_seed_points * (index + 1) // count - spec.num_seed_points * index // count
        xyz, rgb = _pick_points(point_rng, view, camera, share)
        points.append(xyz)
        colours.append(rgb)
    eval_frames = np.empty((len(eval_camera_to_worlds), height, width, 3), np.uint8)
    for index, pose in enumerate(eval_camera_to_worlds):
        view = _render_static(scene, _Camera.of(pose, intrinsics))
        eval_frames[index] = _shrink(view.colour, intrinsics)
    return Capture(
        frames=frames,
        static_frames=static_frames,
        object_masks=object_masks,
        transient_masks=np.logical_or.reduce(object_masks, axis=1),
        static_depths=depths,
        walker_positions=tracks.positions,
        camera_to_worlds=camera_to_worlds,
        intrinsics=intrinsics,
        eval_frames=eval_frames,
        eval_camera_to_worlds=eval_camera_to_worlds,
        seed_points_xyz=np.concatenate(points).astype(np.float32),
        seed_points_rgb=np.concatenate(colours),
    )


def _with_noise(image: NDArray[np.uint8], noise: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)
