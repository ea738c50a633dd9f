"""Masks between an image file and its undistorted, cropped, rescaled view.

Trainers undistort: nerfstudio trains on ``file -> scaled -> undistorted -> cropped``, and takes
mask files through the same chain. Masks that were made of what it trains on therefore have to go
back to the geometry of the file, or they would be undistorted twice.

Positions are continuous: pixel (column, row) covers ``column..column + 1`` x ``row..row + 1`` and
has its centre at + 0.5, for images of every scale. Everything is nearest neighbour, and all masks
are `TransientMask`: True = transient.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.datasets.dataset import Camera
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.types import BoolMask

Points = NDArray[np.float64]  # [P, 2] of (x, y)

_SAME_SCALE = 1.05
_MAP_STEP = 1 / 32  # what OpenCV rounds the positions to that it samples at, pixels
_ITERATIONS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-6)
_TOLERANCE_PX = 0.25  # of a point that is undistorted and distorted again
_ROWS_AT_ONCE = 256  # of the file: what is held in memory does not grow with its height


def to_file_geometry(
    mask: TransientMask,
    undistorted: Camera,
    source: Camera,
    *,
    size: tuple[int, int] | None = None,
) -> TransientMask:
    """A mask of the undistorted view, as nerfstudio has to find it on disk.

    nerfstudio undistorts mask files bilinearly and keeps every pixel that is not quite black, so
    that the border of a transient region would lose up to one pixel. Every file pixel that a
    transient pixel of the view is mixed from is therefore transient: the region grows by at most
    one pixel, of the view or of the file, whichever is coarser. Pixels that the view does not
    show (cropped away) are static.

    Args:
        mask: [h, w] in the geometry of `undistorted`; of another size it is first scaled to it.
        undistorted: the pinhole camera that the view has.
        source: the camera of the image file.
        size: (height, width) of the file to make; default that of `source`. Give it for the
            downscaled copies of a file (``images_2``).

    Returns:
        [H, W] at `size`.
    """
    height, width = size or (source.height, source.width)
    view = scaled(mask, (undistorted.height, undistorted.width))
    if not source.is_distorted and _differ_in_scale_only(undistorted, source):
        return scaled(view, (height, width))
    target = at_size(source, height, width)
    # What the view does not show is number -1: the one appended last.
    result = np.append(view.pixels, False)[_shown_by(undistorted, target)]
    if source.is_distorted:
        _add_samples(result, view.pixels, undistorted, target)
    return TransientMask(result)


@lru_cache(maxsize=4)  # the frames of a capture mostly share one camera
def _shown_by(undistorted: Camera, file: Camera) -> NDArray[np.int32]:
    """[H, W] for each pixel of the file the number of the pixel of the view (in raster order)
    that its centre lies in; -1: not in the view."""
    numbers = np.full((file.height, file.width), -1, np.int32)
    for begin in range(0, file.height, _ROWS_AT_ONCE):
        rows = numbers[begin : begin + _ROWS_AT_ONCE]
        points = _centres(begin, begin + len(rows), file.width)
        seen, valid = _undistort(points, file, undistorted)
        # Compared as floats: points far outside do not fit an integer.
        valid &= (seen >= 0).all(axis=1)
        valid &= (seen < (undistorted.width, undistorted.height)).all(axis=1)
        column, row = seen[valid].astype(np.int32).T
        rows.reshape(-1)[valid] = row * undistorted.width + column
    return numbers


def _add_samples(file: BoolMask, view: BoolMask, undistorted: Camera, target: Camera) -> None:
    """Set the pixels of `file` that the True pixels of `view` are sampled from."""
    reach = 1.0  # bilinear sampling: pixels whose centre is nearer than this, in x and in y
    coarser_by = min(target.width / undistorted.width, target.height / undistorted.height)
    if coarser_by > _SAME_SCALE:
        # The file is first scaled down, by nearest neighbour, which is off by half a pixel.
        reach = coarser_by + 0.5
    offsets = range(1 - math.ceil(reach), math.ceil(reach) + 1)
    bounds = (target.width, target.height)
    for begin in range(0, undistorted.height, _ROWS_AT_ONCE):
        rows, columns = np.nonzero(view[begin : begin + _ROWS_AT_ONCE])
        if not len(rows):
            continue  # OpenCV takes no empty lists
        points = np.stack([columns, rows + begin], axis=-1) + 0.5
        hits = _distort(points, undistorted, target) - 0.5
        hits = hits[(hits > -reach - 1).all(axis=1) & (hits < np.add(bounds, reach)).all(axis=1)]
        for right in offsets:
            for down in offsets:
                pixels = np.add(np.floor(hits), (right, down))
                sampled = (np.abs(pixels - hits) < reach + _MAP_STEP).all(axis=1)
                sampled &= (pixels >= 0).all(axis=1) & (pixels < bounds).all(axis=1)
                sampled_columns, sampled_rows = pixels[sampled].astype(np.intp).T
                file[sampled_rows, sampled_columns] = True


def to_training_geometry(mask: TransientMask, source: Camera, undistorted: Camera) -> TransientMask:
    """A mask of the image file, as the undistorted view shows it.

    With a lens, transient wins where a pixel of the view falls on both: it is transient if one of
    the (four) file pixels that it is mixed from is, at the scale of the view. What the file does
    not show is transient as well, as in nerfstudio: it is black, and not to be trained on.

    Args:
        mask: [H, W] in the geometry of `source`, at any scale.
        source: the camera of the image file.
        undistorted: the pinhole camera of the view.

    Returns:
        [h, w] at the size of `undistorted`.
    """
    # As many file pixels as the view has per angle, so that none falls through between two.
    shrink = min(1.0, undistorted.fl_x / source.fl_x)
    size = (max(1, round(source.height * shrink)), max(1, round(source.width * shrink)))
    shrunk = shrunk_any(mask, size)
    if not source.is_distorted and _differ_in_scale_only(undistorted, source):
        return scaled(shrunk, (undistorted.height, undistorted.width))
    camera = at_size(source, *size)
    result = np.zeros((undistorted.height, undistorted.width), np.bool_)
    for begin in range(0, undistorted.height, _ROWS_AT_ONCE):
        end = min(begin + _ROWS_AT_ONCE, undistorted.height)
        # What bilinear sampling mixes: the pixels whose centres are less than one pixel away.
        hits = _distort(_centres(begin, end, undistorted.width), undistorted, camera) - 0.5
        outside = (hits < -1).any(axis=1) | (hits > (camera.width, camera.height)).any(axis=1)
        found = outside | ~np.isfinite(hits).all(axis=1)
        pixels = np.floor(hits + 0.5)
        if source.is_distorted:
            pixels = np.floor(hits)
        for right in (0, 1) if source.is_distorted else (0,):
            for down in (0, 1) if source.is_distorted else (0,):
                found |= _look_up(shrunk.pixels, np.add(pixels, (right + 0.5, down + 0.5)))
        result[begin:end] = found.reshape(end - begin, undistorted.width)
    return TransientMask(result)


def scaled(mask: TransientMask, size: tuple[int, int]) -> TransientMask:
    """`mask` at another (height, width), nearest neighbour by pixel centres."""
    if mask.pixels.shape == size:
        return mask
    height, width = size
    resized = cv2.resize(
        mask.pixels.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return TransientMask(resized.astype(bool))


def shrunk_any(mask: TransientMask, size: tuple[int, int]) -> TransientMask:
    """`mask` at a smaller (height, width): transient where any part of the pixel was."""
    height, width = size
    if height > mask.pixels.shape[0] or width > mask.pixels.shape[1]:
        return scaled(mask, size)
    shares = cv2.resize(
        mask.pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
    )
    return TransientMask(shares > 1e-4)


def fits(mask: TransientMask, size: tuple[int, int]) -> bool:
    """Whether a mask differs from an image of (height, width) by scale alone, up to rounding."""
    (height, width), (mask_height, mask_width) = size, mask.pixels.shape
    return abs(mask_height * width - mask_width * height) <= max(height, width)


def at_size(camera: Camera, height: int, width: int) -> Camera:
    """The camera of the same picture in `height` x `width` pixels."""
    if (camera.height, camera.width) == (height, width):
        return camera
    across, down = width / camera.width, height / camera.height
    return replace(
        camera,
        fl_x=camera.fl_x * across,
        fl_y=camera.fl_y * down,
        cx=camera.cx * across,
        cy=camera.cy * down,
        width=width,
        height=height,
    )


def _differ_in_scale_only(undistorted: Camera, source: Camera) -> bool:
    """Whether two pinhole cameras show the same picture, up to what rounding a size does."""
    same = at_size(source, undistorted.height, undistorted.width)
    return (
        abs(same.cx - undistorted.cx) <= 1
        and abs(same.cy - undistorted.cy) <= 1
        and abs(same.fl_x - undistorted.fl_x) * undistorted.width <= 2 * undistorted.fl_x
        and abs(same.fl_y - undistorted.fl_y) * undistorted.height <= 2 * undistorted.fl_y
    )


# --- Points -----------------------------------------------------------------------------------


def _centres(begin: int, end: int, width: int) -> Points:
    """[(end - begin) * width, 2] centres of the pixels of some rows, row by row."""
    rows, columns = np.mgrid[begin:end, 0:width]
    return np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5


def _look_up(mask: BoolMask, points: Points) -> NDArray[np.bool_]:
    """[P] value of the pixel that each point lies in; False outside."""
    height, width = mask.shape
    # Compared as floats: points far outside do not fit an integer.
    inside = (points >= 0).all(axis=1) & (points < (width, height)).all(axis=1)
    found = np.zeros(len(points), np.bool_)
    columns, rows = points[inside].astype(np.intp).T
    found[inside] = mask[rows, columns]
    return found


def _undistort(
    points: Points, source: Camera, undistorted: Camera
) -> tuple[Points, NDArray[np.bool_]]:
    """Where points of the file lie in the view, and whether that could be found out.

    A lens model does not reach everywhere: far outside it may fold back, and points there would
    seem to lie in the view.
    """
    matrix, coefficients = _opencv(source)
    column = points.reshape(-1, 1, 2)
    if not source.is_distorted and not source.fisheye:
        rays = (points - (source.cx, source.cy)) / (source.fl_x, source.fl_y)
    elif source.fisheye:
        rays = cv2.fisheye.undistortPoints(column, matrix, coefficients).reshape(-1, 2)
    else:
        rays = cv2.undistortPointsIter(
            column, matrix, coefficients, np.eye(3), np.eye(3), _ITERATIONS
        ).reshape(-1, 2)
    rays = np.where(np.isfinite(rays), rays, 1e9)
    again = _project(rays, source)
    valid = (np.abs(again - points) < _TOLERANCE_PX).all(axis=1)
    seen = rays * (undistorted.fl_x, undistorted.fl_y) + (undistorted.cx, undistorted.cy)
    return seen, valid


def _distort(points: Points, undistorted: Camera, source: Camera) -> Points:
    """Where points of the view lie in the file."""
    rays = (points - (undistorted.cx, undistorted.cy)) / (undistorted.fl_x, undistorted.fl_y)
    return _project(rays, source)


def _project(rays: Points, camera: Camera) -> Points:
    """[P, 2] pixel positions of [P, 2] rays (x/z, y/z)."""
    matrix, coefficients = _opencv(camera)
    if not camera.is_distorted and not camera.fisheye:
        return rays * (camera.fl_x, camera.fl_y) + (camera.cx, camera.cy)
    if camera.fisheye:
        points = cv2.fisheye.distortPoints(rays.reshape(-1, 1, 2), matrix, coefficients)
        return np.asarray(points, np.float64).reshape(-1, 2)
    ahead = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    nowhere = np.zeros(3)
    with np.errstate(over="ignore", invalid="ignore"):
        points, _ = cv2.projectPoints(ahead, nowhere, nowhere, matrix, coefficients)
    return np.asarray(points, np.float64).reshape(-1, 2)


def _opencv(camera: Camera) -> tuple[Points, NDArray[np.float64]]:
    """OpenCV's [3, 3] matrix (positions as everywhere here) and its distortion coefficients."""
    matrix = np.array([[camera.fl_x, 0, camera.cx], [0, camera.fl_y, camera.cy], [0, 0, 1.0]])
    if camera.fisheye:
        return matrix, np.array([camera.k1, camera.k2, camera.k3, camera.k4])
    return matrix, np.array([camera.k1, camera.k2, camera.p1, camera.p2, camera.k3])
