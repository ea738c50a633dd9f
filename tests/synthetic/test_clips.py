import numpy as np
import pytest

from t3dgs_masks.synthetic.clips import draw_background, make_clip


@pytest.mark.parametrize(("num_frames", "size"), [(1, 64), (5, 96)])
def test_shapes_and_types(num_frames, size) -> None:
    clip = make_clip(np.random.default_rng(0), num_frames, size, max_objects=3)
    count = clip.object_masks.shape[1]
    assert clip.frames.shape == (num_frames, size, size, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.object_masks.shape == (num_frames, count, size, size)
    assert clip.object_masks.dtype == np.bool_
    assert 1 <= count <= 3


def test_a_seed_always_gives_the_same_clip() -> None:
    first, again, other = (make_clip(np.random.default_rng(seed), 3, 64) for seed in (7, 7, 8))
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.object_masks, again.object_masks)
    assert not np.array_equal(first.frames, other.frames)


def test_objects_never_share_a_pixel() -> None:
    for seed in range(20):
        clip = make_clip(np.random.default_rng(seed), 3, 96)
        assert clip.object_masks.sum(axis=1).max() <= 1


def test_objects_leave_enter_and_hide_in_some_clips() -> None:
    appear = vanish = return_again = 0
    for seed in range(80):
        clip = make_clip(np.random.default_rng(seed), 6, 64)
        for track in clip.object_masks.any(axis=(2, 3)).T:
            appear += bool(not track[0] and track.any())
            vanish += bool(track[0] and not track[-1])
            gaps = np.flatnonzero(~track)
            return_again += bool(track[0] and track[-1] and len(gaps))
    assert appear > 0
    assert vanish > 0
    assert return_again > 0


def test_a_still_scene_does_not_move() -> None:
    for seed in range(5):
        clip = make_clip(np.random.default_rng(seed), 2, 64, motion=0.0)
        assert np.array_equal(clip.object_masks[0], clip.object_masks[1])


def test_masks_lie_where_the_picture_changes_most() -> None:
    """Objects differ in colour from what is behind them, so masks can be learned at all."""
    contrasts = []
    for seed in range(20):
        clip = make_clip(np.random.default_rng(seed), 1, 96, max_objects=1, clutter=False)
        object_mask = clip.object_masks[0, 0]
        if object_mask.sum() > 50:
            frame = clip.frames[0].astype(float)
            contrast = frame[object_mask].mean(axis=0) - frame[~object_mask].mean(axis=0)
            contrasts.append(np.abs(contrast).sum())
    assert len(contrasts) > 10
    assert np.median(contrasts) > 40


def test_clutter_adds_edges_to_the_background() -> None:
    edges = {}
    for clutter in (False, True):
        steps = []
        for seed in range(20):
            canvas, colours = draw_background(np.random.default_rng(seed), 96, clutter)
            assert canvas.shape == (96, 96, 3)
            assert 1 <= len(colours) <= 2
            steps.append((np.abs(np.diff(canvas.astype(int), axis=1)).sum(axis=-1) > 60).mean())
        edges[clutter] = np.mean(steps)
    assert edges[True] > edges[False]
