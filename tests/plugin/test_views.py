"""Training views as the frames of a refine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from t3dgs_masks.errors import UserError
from t3dgs_masks.plugin.views import TrainingViews, View, common_size, ordered_views


def views_of(*files: str) -> list[View]:
    return ordered_views([Path(file) for file in files])


def test_views_are_in_natural_order_and_keep_their_camera() -> None:
    views = views_of("/d/images/f_10.png", "/d/images/f_9.png", "/d/images/f_2.png")
    assert [(view.name, view.camera_idx) for view in views] == [("f_2", 2), ("f_9", 1), ("f_10", 0)]
    assert views[0].file == Path("/d/images/f_2.png")


def test_subfolders_stay_in_the_name() -> None:
    views = views_of("/d/images/cam0/a.png", "/d/images/cam1/a.png")
    assert [view.name for view in views] == ["cam0/a", "cam1/a"]


def test_names_start_below_the_folder_that_all_share() -> None:
    assert [view.name for view in views_of("/d/x/cam0/a.png", "/d/x/cam0/b.png")] == ["a", "b"]
    assert [view.name for view in views_of("/d/images/a.png", "/e/b.png")] == ["d/images/a", "e/b"]
    assert [view.name for view in views_of("/d/only.one.png")] == ["only.one"]


def test_two_images_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="two training images are called a"):
        views_of("/d/images/a.png", "/d/images/a.jpg")


def test_sizes_may_differ_by_what_undistortion_crops() -> None:
    views = views_of("/d/a.png", "/d/b.png", "/d/c.png")
    assert common_size([(119, 159), (120, 160), (119, 159)], views) == (119, 159)


def test_two_sizes_are_refused_by_name() -> None:
    views = views_of("/d/a.png", "/d/b.png", "/d/c.png")
    with pytest.raises(UserError, match=r"b has 120x160, most have 160x120"):
        common_size([(120, 160), (160, 120), (120, 160)], views)


def frames_of(images: list[torch.Tensor]) -> TrainingViews:
    return TrainingViews(views_of(*(f"/d/f_{i}.png" for i in range(len(images)))), images)


def test_images_come_as_rgb_bytes_whatever_training_caches() -> None:
    bytes_ = torch.randint(0, 256, (12, 16, 4), dtype=torch.uint8)
    frames = frames_of([bytes_, bytes_.float() / 255])
    assert (frames.height, frames.width) == (frames.source_height, frames.source_width) == (12, 16)
    for frame_idx in range(len(frames)):
        frame = frames[frame_idx]
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        np.testing.assert_array_equal(frame, bytes_[..., :3].numpy())


def test_a_view_of_another_size_is_brought_to_that_of_the_others() -> None:
    images = [torch.full((40, 60, 3), value, dtype=torch.uint8) for value in (10, 20, 30)]
    images[1] = torch.full((39, 59, 3), 20, dtype=torch.uint8)
    frames = frames_of(images)
    assert frames[1].shape == (40, 60, 3)
    assert (frames[1] == 20).all()


def test_digests_tell_pixels_and_names_apart() -> None:
    one, other = (torch.full((4, 4, 3), value, dtype=torch.uint8) for value in (1, 2))
    frames, same, changed = frames_of([one, one]), frames_of([one, one]), frames_of([one, other])
    assert frames.content_digest() == same.content_digest() != changed.content_digest()
    assert frames.frame_digest(0) != frames.frame_digest(1)  # equal pixels
    assert frames.frame_digest(0) == changed.frame_digest(0)


def test_there_is_no_frame_rate() -> None:
    assert frames_of([torch.zeros(4, 4, 3)]).fps is None
