from __future__ import annotations

import numpy as np
import pytest

from t3dgs_masks.masks import coverage, dilate, iou
from t3dgs_masks.synthetic.capture import Capture, CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import CoarsePrompts, Faults, half_trained_prompts


@pytest.fixture(scope="module")
def captures() -> list[Capture]:
    return [make_capture(CaptureSpec(seed=seed, num_eval_views=0)) for seed in range(3)]


@pytest.fixture(scope="module")
def prompts(captures: list[Capture]) -> list[CoarsePrompts]:
    return [half_trained_prompts(capture, seed) for seed, capture in enumerate(captures)]


def test_shapes_range_and_determinism(captures, prompts) -> None:
    capture, first = captures[0], prompts[0]
    assert first.coarse.shape == first.residual.shape == capture.transient_masks.shape
    assert first.coarse.dtype == bool
    assert first.residual.dtype == np.float32
    assert first.residual.min() >= 0
    assert first.residual.max() <= 1
    again = half_trained_prompts(capture, 0)
    assert np.array_equal(first.coarse, again.coarse)
    assert np.array_equal(first.residual, again.residual)
    assert not np.array_equal(first.coarse, half_trained_prompts(capture, 1).coarse)


def test_the_coarse_masks_are_about_as_good_as_a_half_trained_splat_makes_them(
    captures, prompts
) -> None:
    means = []
    for capture, prompt in zip(captures, prompts, strict=True):
        pairs = zip(prompt.coarse, capture.transient_masks, strict=True)
        means.append(np.mean([iou(coarse, truth) for coarse, truth in pairs]))
    assert min(means) > 0.5
    assert max(means) < 0.7
    assert 0.55 < np.mean(means) < 0.65


def test_people_are_missed_on_some_frames_and_well_covered_on_most(captures, prompts) -> None:
    missed = covered = visible = 0
    for capture, prompt in zip(captures, prompts, strict=True):
        for frame, walker in np.ndindex(*capture.object_masks.shape[:2]):
            person = capture.object_masks[frame, walker]
            if person.sum() < 50:
                continue
            share = coverage(person, prompt.coarse[frame])
            visible += 1
            missed += share < 0.25
            covered += share > 0.7
    assert 0.1 < missed / visible < 0.3
    assert covered / visible > 0.65


def test_masks_spill_over_have_holes_and_mark_static_structure(captures, prompts) -> None:
    for capture, prompt in zip(captures, prompts, strict=True):
        truth, coarse = capture.transient_masks, prompt.coarse
        near = np.array([dilate(mask, 5) for mask in truth])
        assert (coarse & near & ~truth).sum() > 0.08 * truth.sum()
        assert (coarse & ~near).any(axis=(1, 2)).mean() > 0.5
        assert (truth & ~coarse).sum() > 0.1 * truth.sum()


def test_residuals_are_high_on_people_and_low_on_the_static_scene(captures, prompts) -> None:
    for capture, prompt in zip(captures, prompts, strict=True):
        detected = prompt.coarse & capture.transient_masks
        mistaken = prompt.coarse & ~np.array([dilate(m, 4) for m in capture.transient_masks])
        assert 0.15 < prompt.residual[detected].mean() < 0.45
        assert prompt.residual[mistaken].mean() < 0.12
        assert prompt.residual[~capture.transient_masks].mean() < 0.05


def test_without_gain_the_residual_is_the_mean_difference_to_the_render(captures) -> None:
    capture = captures[0]
    prompt = half_trained_prompts(capture, 0, Faults(residual_gain=1.0))
    difference = np.abs(capture.frames.astype(int) - prompt.renders.astype(int)).mean(axis=3) / 255
    assert np.allclose(prompt.residual, difference, atol=1e-6)


def test_without_faults_the_coarse_mask_is_the_truth(captures) -> None:
    flawless = Faults(
        missed_share=0,
        spill_px=0,
        hole_share=0,
        cut_probability=0,
        false_positives=0,
        lasting_false_positives=0,
    )
    prompt = half_trained_prompts(captures[0], 0, flawless)
    assert np.array_equal(prompt.coarse, captures[0].transient_masks)


def test_a_scene_with_nobody_in_it_has_only_false_positives() -> None:
    empty = make_capture(CaptureSpec(num_frames=3, height=48, width=64, num_walkers=0))
    prompt = half_trained_prompts(empty, 0)
    assert prompt.coarse.mean() < 0.2
    assert prompt.residual.mean() < 0.1


def test_photos_get_prompts_too() -> None:
    photos = make_capture(CaptureSpec(mode="photos", num_frames=6, height=96, width=128))
    prompt = half_trained_prompts(photos, 0)
    pairs = zip(prompt.coarse, photos.transient_masks, strict=True)
    assert 0.3 < np.mean([iou(coarse, truth) for coarse, truth in pairs]) < 0.85
