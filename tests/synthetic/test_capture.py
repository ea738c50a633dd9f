from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from t3dgs_masks.masks import dilate
from t3dgs_masks.synthetic.capture import Capture, CaptureMode, CaptureSpec, make_capture

SPEC = CaptureSpec(seed=3, num_frames=10, height=96, width=128, num_walkers=2, num_eval_views=3)


@pytest.fixture(scope="module")
def capture() -> Capture:
    return make_capture(SPEC)


@pytest.fixture(scope="module")
def whole_story() -> list[Capture]:
    small = CaptureSpec(height=48, width=64, num_eval_views=0, num_seed_points=0)
    return [make_capture(replace(small, seed=seed)) for seed in range(6)]


def project(
    capture: Capture, pose: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Column, row and depth of the seed points, written out apart from the renderer."""
    local = (capture.seed_points_xyz - pose[:3, 3]) @ pose[:3, :3]
    depth = -local[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        x = capture.intrinsics.fl_x * local[:, 0] / depth + capture.intrinsics.cx
        y = capture.intrinsics.fl_y * -local[:, 1] / depth + capture.intrinsics.cy
    return np.floor(x).astype(np.int64), np.floor(y).astype(np.int64), depth


def seen_colours(
    capture: Capture, pose: NDArray[np.float64], image: NDArray[np.uint8]
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Indices of the seed points in front of the camera and in view, and the image there."""
    column, row, depth = project(capture, pose)
    height, width = image.shape[:2]
    inside = (depth > 0.2) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return np.flatnonzero(inside), image[row[inside], column[inside]]


def test_shapes_types_and_polarity(capture: Capture) -> None:
    assert capture.frames.shape == capture.static_frames.shape == (10, 96, 128, 3)
    assert capture.frames.dtype == capture.static_frames.dtype == np.uint8
    assert capture.object_masks.shape == (10, 2, 96, 128)
    assert capture.object_masks.dtype == capture.transient_masks.dtype == bool
    assert capture.static_depths.shape == capture.transient_masks.shape == (10, 96, 128)
    assert capture.camera_to_worlds.shape == (10, 4, 4)
    assert capture.eval_frames.shape == (3, 96, 128, 3)
    assert capture.eval_camera_to_worlds.shape == (3, 4, 4)
    assert capture.seed_points_xyz.shape == capture.seed_points_rgb.shape == (2000, 3)


def test_same_spec_gives_the_same_bytes(capture: Capture) -> None:
    again = make_capture(SPEC)
    for name in ("frames", "static_frames", "object_masks", "eval_frames", "seed_points_xyz"):
        assert np.array_equal(getattr(capture, name), getattr(again, name)), name
    other = make_capture(replace(SPEC, seed=4))
    assert not np.array_equal(capture.frames, other.frames)


def test_poses_are_rotations_and_look_at_the_room(capture: Capture) -> None:
    poses = np.concatenate([capture.camera_to_worlds, capture.eval_camera_to_worlds])
    rotations = poses[:, :3, :3]
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(rotations), 1)
    to_centre = np.array([0, 0, 0.9]) - poses[:, :3, 3]
    to_centre /= np.linalg.norm(to_centre, axis=1, keepdims=True)
    assert (np.einsum("ni,ni->n", -poses[:, :3, 2], to_centre) > 0.95).all()


def test_views_agree_with_poses_and_with_each_other(capture: Capture) -> None:
    poses = [*capture.camera_to_worlds[[0, 4, 9]], *capture.eval_camera_to_worlds]
    images = [*capture.static_frames[[0, 4, 9]], *capture.eval_frames]
    for pose, image in zip(poses, images, strict=True):
        index, colours = seen_colours(capture, pose, image)
        assert len(index) > 1000
        error = np.abs(colours.astype(int) - capture.seed_points_rgb[index]).mean(axis=1)
        # Points that are hidden in this view show another colour; most are not hidden.
        assert np.median(error) < 6
        assert (error < 25).mean() > 0.75
        # The same colours a few pixels off do not fit: it is the poses that make them fit.
        shifted = np.roll(image, 5, axis=1)
        _, wrong = seen_colours(capture, pose, shifted)
        wrong_error = np.abs(wrong.astype(int) - capture.seed_points_rgb[index]).mean(axis=1)
        assert wrong_error.mean() > 1.4 * error.mean()


def test_depth_agrees_with_points_and_tells_which_are_hidden(capture: Capture) -> None:
    for frame in (0, 9):
        column, row, depth = project(capture, capture.camera_to_worlds[frame])
        inside = (depth > 0.2) & (column >= 0) & (column < 128) & (row >= 0) & (row < 96)
        rendered = capture.static_depths[frame][row[inside], column[inside]]
        ratio = depth[inside] / rendered
        visible = np.abs(ratio - 1) < 0.03
        assert visible.mean() > 0.75
        # Nothing that was seen elsewhere floats in front of the nearest surface.
        assert (ratio < 0.9).mean() < 0.02
        pixels = capture.static_frames[frame][row[inside], column[inside]].astype(int)
        error = np.abs(pixels - capture.seed_points_rgb[inside]).mean(axis=1)
        assert (error[visible] < 25).mean() > 0.9


def test_the_camera_moves_enough_for_parallax() -> None:
    capture = make_capture(CaptureSpec(seed=1, height=48, width=64, num_seed_points=0))
    eyes = capture.camera_to_worlds[:, :3, 3]
    assert np.linalg.norm(eyes[0] - eyes[-1]) > 2.0
    assert np.linalg.norm(np.diff(eyes, axis=0), axis=1).max() < 0.2
    off_path = [
        np.linalg.norm(eyes - pose[:3, 3], axis=1).min() for pose in capture.eval_camera_to_worlds
    ]
    assert min(off_path) > 0.01


def test_object_masks_cover_exactly_where_people_change_the_view(capture: Capture) -> None:
    assert np.array_equal(capture.object_masks.any(axis=1), capture.transient_masks)
    assert (capture.object_masks.sum(axis=1) <= 1).all()
    assert 0.02 < capture.transient_masks.mean() < 0.3
    for frame in range(capture.num_frames):
        difference = np.abs(capture.frames[frame].astype(int) - capture.static_frames[frame]).max(
            axis=2
        )
        mask = capture.transient_masks[frame]
        # A pixel of the outline is partly covered on either side of the one-half rule.
        assert not difference[~dilate(mask, 1)].any()
        assert (difference[mask] > 12).mean() > 0.9


def pixel_of(
    capture: Capture, frame: int, walker: int, height: float
) -> tuple[tuple[int, int] | None, float]:
    """(row, column) of a point of a walker's middle line, None out of view; and its depth."""
    pose = capture.camera_to_worlds[frame]
    spot = np.append(capture.walker_positions[frame, walker], height)
    x, y, z = (spot - pose[:3, 3]) @ pose[:3, :3]
    column = int(np.floor(capture.intrinsics.fl_x * x / -z + capture.intrinsics.cx))
    row = int(np.floor(capture.intrinsics.fl_y * y / z + capture.intrinsics.cy))
    inside = z < 0 and 0 <= row < capture.intrinsics.height
    inside &= 0 <= column < capture.intrinsics.width
    return ((row, column) if inside else None), -z


def test_what_is_nearer_hides_what_is_behind() -> None:
    behind_furniture = behind_people = in_front = 0
    for seed in (0, 2, 10):
        capture = make_capture(
            CaptureSpec(seed=seed, height=96, width=128, num_walkers=3, num_eval_views=0)
        )
        for frame, walker in np.ndindex(40, 3):
            pixel, depth = pixel_of(capture, frame, walker, 1.05)
            masks, static_depth = capture.object_masks[frame], capture.static_depths[frame]
            # Heads and arms are a little nearer than the middle; outlines may mix two depths.
            if masks[walker].sum() > 50:
                assert (static_depth[masks[walker]] > 0.85 * depth).mean() > 0.95
            shin, shin_depth = pixel_of(capture, frame, walker, 0.25)
            if shin is not None and static_depth[shin] < 0.9 * shin_depth:
                assert not masks[walker][shin]
                behind_furniture += 1
            if pixel is None or abs(static_depth[pixel] / depth - 1) < 0.1:
                continue
            if static_depth[pixel] < depth:
                assert not masks[walker][pixel]
            elif masks[walker][pixel]:
                in_front += 1
            else:  # then it is somebody nearer who stands there
                owner = int(np.flatnonzero(masks[:, pixel[0], pixel[1]])[0])
                assert pixel_of(capture, frame, owner, 1.05)[1] < depth
                behind_people += 1
    assert in_front > 150
    assert behind_people > 10
    assert behind_furniture > 20


def test_people_walk_in_and_out_and_are_seen_for_long(whole_story: list[Capture]) -> None:
    for capture in whole_story:
        assert capture.object_masks.shape[1] in (2, 3)
        area = capture.object_masks.mean(axis=(2, 3))
        assert ((area > 0.005).mean(axis=0) > 0.3).all()
        assert (area == 0).any(), "somebody enters or leaves"
        assert 0.04 < capture.transient_masks.mean() < 0.25
        assert capture.transient_masks.mean(axis=(1, 2)).max() < 0.4


def test_a_short_video_shows_a_part_of_the_story_at_the_same_pace() -> None:
    small = CaptureSpec(seed=2, height=48, width=64, num_eval_views=0, num_seed_points=0)
    paces = []
    for num_frames in (8, 40):
        eyes = make_capture(replace(small, num_frames=num_frames)).camera_to_worlds[:, :3, 3]
        paces.append(np.linalg.norm(np.diff(eyes, axis=0), axis=1).mean())
    assert 0.6 < paces[0] / paces[1] < 1.6


def test_photos_are_unrelated_but_agree_with_their_poses() -> None:
    photos = make_capture(replace(SPEC, mode="photos", num_frames=12))
    eyes = photos.camera_to_worlds[:, :3, 3]
    assert np.linalg.norm(np.diff(eyes, axis=0), axis=1).mean() > 1.0
    first, second = photos.transient_masks[:-1], photos.transient_masks[1:]
    assert (first & second).sum() / (first | second).sum() < 0.4
    index, colours = seen_colours(photos, photos.camera_to_worlds[5], photos.static_frames[5])
    error = np.abs(colours.astype(int) - photos.seed_points_rgb[index]).mean(axis=1)
    assert np.median(error) < 10


@pytest.mark.parametrize("mode", ["video", "photos"])
def test_nobody_there(mode: CaptureMode) -> None:
    empty = make_capture(
        CaptureSpec(mode=mode, num_frames=2, height=48, width=64, num_walkers=0, num_eval_views=0)
    )
    assert empty.object_masks.shape == (2, 0, 48, 64)
    assert not empty.transient_masks.any()
    assert np.array_equal(empty.frames, empty.static_frames)
    assert empty.eval_frames.shape == (0, 48, 64, 3)


def test_one_frame_and_nonsense() -> None:
    assert make_capture(CaptureSpec(num_frames=1, height=48, width=64)).num_frames == 1
    with pytest.raises(ValueError, match="nothing to film"):
        make_capture(CaptureSpec(num_frames=0))
