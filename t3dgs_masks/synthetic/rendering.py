"""What a camera sees of the room and of the people in it.

Every quad is intersected exactly with the ray of every image sample; a pixel is the mean of its
samples. People are upright cut-outs; furniture and other people hide them through depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.synthetic.appearance import walker_silhouette
from t3dgs_masks.synthetic.cameras import Intrinsics
from t3dgs_masks.synthetic.geometry import Floats, Quad
from t3dgs_masks.synthetic.people import WALKER_SPRITE, Walker
from t3dgs_masks.synthetic.room import Scene

_NEAR = 0.1
_SAMPLES = 2
"""Samples per pixel along each axis."""


@dataclass(frozen=True)
class Camera:
    """One view at sample resolution."""

    position: Floats  # [3]
    samples_from_world: Floats  # [3, 3] K R: directions in the world to homogeneous samples
    height: int
    width: int

    @staticmethod
    def of(camera_to_world: Floats, intrinsics: Intrinsics) -> Camera:
        scale = np.diag([_SAMPLES, _SAMPLES, 1.0])
        rotation = np.diag([1.0, -1.0, -1.0]) @ camera_to_world[:3, :3].T
        return Camera(
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


def _intersect(quad: Quad, camera: Camera) -> _Hit | None:
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


def _window(samples_from_quad: Floats, camera: Camera) -> tuple[slice, slice] | None:
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
class View:
    """A rendering at sample resolution."""

    colour: NDArray[np.uint8]  # [h, w, 3]
    inverse_depth: NDArray[np.float32]  # [h, w]


def render_static(scene: Scene, camera: Camera) -> View:
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
    return View(np.asarray(colour, np.uint8), nearest)


def _stand(walker: Walker, spot: Floats, camera: Camera) -> Quad:
    """The walker's cut-out at a spot on the floor ([2]), turned towards the camera."""
    to_camera = camera.position[:2] - spot
    to_camera /= np.linalg.norm(to_camera)
    right = np.array([-to_camera[1], to_camera[0], 0.0])
    side = walker.height / 0.91  # the figure fills 91 % of its sprite
    corner = np.append(spot, 0.98 * side) - right * side / 2
    return Quad(corner, right * side, np.array([0.0, 0.0, -side]))


def paint_walkers(
    view: View, camera: Camera, walkers: list[Walker], spots: Floats, phases: Floats
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
        np.divide(np.float32(WALKER_SPRITE), hit.inverse_depth, where=reached, out=scale)
        sprite_x = hit.across * scale - np.float32(0.5)
        sprite_y = hit.down * scale - np.float32(0.5)
        figure = walker_silhouette(WALKER_SPRITE, walker.build, phases[index])
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


def shrink(samples: NDArray, intrinsics: Intrinsics) -> NDArray:
    """Mean over the samples of each pixel."""
    size = (intrinsics.width, intrinsics.height)
    return cv2.resize(samples, size, interpolation=cv2.INTER_AREA)


def walker_masks(owner: NDArray[np.int8], count: int, intrinsics: Intrinsics) -> NDArray[np.bool_]:
    """[K, H, W]: a pixel is transient if half of it is covered, and goes to who covers most."""
    masks = np.zeros((count, intrinsics.height, intrinsics.width), np.bool_)
    if not count:
        return masks
    shares = np.stack([shrink((owner == k).astype(np.float32), intrinsics) for k in range(count)])
    transient = shares.sum(axis=0) >= 0.5
    winner = shares.argmax(axis=0)
    for index in range(count):
        masks[index] = transient & (winner == index)
    return masks


def pick_points(
    rng: np.random.Generator, view: View, camera: Camera, count: int
) -> tuple[Floats, NDArray[np.uint8]]:
    """World position [P, 3] and colour [P, 3] of random samples of a view."""
    rows = rng.integers(camera.height, size=count)
    columns = rng.integers(camera.width, size=count)
    samples = np.stack([columns + 0.5, rows + 0.5, np.ones(count)])
    rays = np.linalg.solve(camera.samples_from_world, samples)
    points = camera.position + (rays / view.inverse_depth[rows, columns]).T
    return points, view.colour[rows, columns]
