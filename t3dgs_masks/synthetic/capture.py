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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.synthetic.cameras import TIMELINE, Intrinsics, Rig, frame_times, intrinsics_of
from t3dgs_masks.synthetic.capture_spec import CaptureLook, CaptureMode, CaptureSpec
from t3dgs_masks.synthetic.geometry import Floats
from t3dgs_masks.synthetic.people import (
    Tracks,
    Walker,
    follow_paths,
    sample_calm_walker,
    sample_paths,
    sample_walker,
    scatter,
)
from t3dgs_masks.synthetic.rendering import (
    Camera,
    paint_walkers,
    pick_points,
    render_static,
    shrink,
    walker_masks,
)
from t3dgs_masks.synthetic.room import Scene, build_room, sample_furniture

__all__ = ["Capture", "CaptureLook", "CaptureMode", "CaptureSpec", "Intrinsics", "make_capture"]


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

    intrinsics = intrinsics_of(spec)
    middle = room_rng.uniform(0, 2 * np.pi)
    times = frame_times(spec, camera_rng)
    rig = Rig.sample(camera_rng, spec, middle)
    cameras = rig.poses(times)
    eval_cameras = rig.eval_poses(eval_rng, times, spec.num_eval_views)

    num_walkers = int(people_rng.integers(2, 4)) if spec.num_walkers is None else spec.num_walkers
    camera_spots = np.concatenate([cameras, eval_cameras])[:, :2, 3]
    if spec.mode == "video":
        paths = sample_paths(path_rng, num_walkers, rig)
        tracks = follow_paths(path_rng, paths, times)
        whole_story = follow_paths(path_rng, paths, np.linspace(0, 1, 2 * TIMELINE))
        lanes = whole_story.positions.reshape(-1, 2)
        furniture = sample_furniture(room_rng, middle, lanes, camera_spots)
    else:
        furniture = sample_furniture(room_rng, middle, np.zeros((0, 2)), camera_spots)
        tracks = scatter(path_rng, cameras, num_walkers, furniture)
    scene, wall, floor = build_room(room_rng, furniture, spec.look)
    walkers: list[Walker] = []
    for _ in range(num_walkers):
        if spec.look == "calm":
            walkers.append(sample_calm_walker(people_rng, walkers))
        else:
            walkers.append(sample_walker(people_rng, wall, floor, walkers))
    return _film(spec, intrinsics, scene, walkers, tracks, cameras, eval_cameras, point_rng)


def _film(
    spec: CaptureSpec,
    intrinsics: Intrinsics,
    scene: Scene,
    walkers: list[Walker],
    tracks: Tracks,
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
        camera = Camera.of(pose, intrinsics)
        view = render_static(scene, camera)
        painted, owner = paint_walkers(
            view, camera, walkers, tracks.positions[index], tracks.phases[index]
        )
        noise_rng = np.random.default_rng([spec.seed, 100, index])
        noise = noise_rng.standard_normal((height, width, 3), np.float32) * np.float32(spec.grain)
        static_frames[index] = _with_noise(shrink(view.colour, intrinsics), noise)
        frames[index] = _with_noise(shrink(painted, intrinsics), noise)
        object_masks[index] = walker_masks(owner, len(walkers), intrinsics)
        depths[index] = 1 / shrink(view.inverse_depth, intrinsics)
        share = spec.num_seed_points * (index + 1) // count - spec.num_seed_points * index // count
        xyz, rgb = pick_points(point_rng, view, camera, share)
        points.append(xyz)
        colours.append(rgb)
    eval_frames = np.empty((len(eval_camera_to_worlds), height, width, 3), np.uint8)
    for index, pose in enumerate(eval_camera_to_worlds):
        view = render_static(scene, Camera.of(pose, intrinsics))
        eval_frames[index] = shrink(view.colour, intrinsics)
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
