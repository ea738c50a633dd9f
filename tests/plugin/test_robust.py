"""Which residuals the loss ignores before there are refined masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from t3dgs_masks.plugin.robust import (
    RobustLossConfig,
    RobustMask,
    median_and_deviation,
    quantile,
    smoothed,
)

HEIGHT, WIDTH = 48, 64

residuals = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=24),
    elements=st.floats(0, 1, width=32),
)


def noise(seed: int, level: float = 0.02) -> Tensor:
    """What a trained splat leaves of a static view."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(HEIGHT, WIDTH, generator=generator).abs() * level).clamp(0, 1)


def with_person(residual: Tensor, left: int = 20, width: int = 12) -> Tensor:
    return residual.index_fill(1, torch.arange(left, left + width), 0.5)


@given(residuals, st.floats(0.05, 0.9))
def test_at_most_the_bounded_share_is_ignored(values: np.ndarray, share: float) -> None:
    mask = RobustMask(RobustLossConfig(max_masked_share=share)).transient(torch.from_numpy(values))
    assert mask.dtype == torch.bool
    assert mask.shape == values.shape
    assert mask.sum() <= share * values.size + 1e-6


@given(residuals)
def test_residuals_up_to_the_floor_are_never_ignored(values: np.ndarray) -> None:
    robust = RobustMask(RobustLossConfig(residual_floor=0.3))
    assert not robust.transient(torch.from_numpy(values * np.float32(0.3))).any()


def test_a_person_is_ignored_and_the_rest_is_not() -> None:
    robust = RobustMask(RobustLossConfig())
    for seed in range(5):
        robust.transient(noise(seed))
    mask = robust.transient(with_person(noise(9)))
    assert mask[:, 21:31].all()
    assert mask[:, 34:].sum() == mask[:, :18].sum() == 0


def test_the_worst_are_ignored_where_too_much_is_outlying() -> None:
    residual = noise(0)
    residual[:, :32] = 0.3
    residual[:, 40:50] = 0.6
    robust = RobustMask(RobustLossConfig(max_masked_share=0.2))
    for seed in range(5):
        robust.transient(noise(seed))
    mask = robust.transient(residual)
    assert mask[:, 42:48].all()
    assert mask[:, :31].float().mean() < 0.1  # what the bound leaves room for


def test_an_image_without_anybody_loses_little_after_images_with_people() -> None:
    robust = RobustMask(RobustLossConfig())
    for seed in range(30):
        robust.transient(with_person(noise(seed), left=seed % 40))
    assert robust.transient(noise(100)).float().mean() < 0.01


def test_an_image_that_is_bad_everywhere_is_judged_by_the_others() -> None:
    robust = RobustMask(RobustLossConfig(max_masked_share=0.25))
    for seed in range(30):
        robust.transient(noise(seed))
    assert robust.transient(noise(100) + 0.3).float().mean() == pytest.approx(0.25, abs=0.01)


def test_history_has_the_weight_it_is_given() -> None:
    forgetful = RobustMask(RobustLossConfig(memory=0.0))
    for seed in range(5):
        forgetful.transient(noise(seed, level=0.0))
    high = noise(7) + 0.5  # nothing stands out of it
    assert not forgetful.transient(high).any()
    lasting = RobustMask(RobustLossConfig(memory=1.0))
    lasting.transient(noise(0))
    assert lasting.transient(high).any()


def test_no_gradient_is_recorded() -> None:
    residual = with_person(noise(0)).requires_grad_()
    assert not RobustMask(RobustLossConfig()).transient(residual).requires_grad


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1, 1, width=32)),
    st.floats(0, 1),
)
def test_quantile_lies_where_torch_has_it(values: np.ndarray, share: float) -> None:
    given_values = torch.from_numpy(values)
    found = quantile(given_values, share)
    low, high = (
        torch.quantile(given_values, share, interpolation=side) for side in ("lower", "higher")
    )
    assert low <= found <= high
    assert (given_values > found).sum() <= (1 - share) * len(values) + 1e-6


def test_quantile_works_beyond_the_size_that_that_of_torch_allows() -> None:
    values = torch.arange(2**24 + 1, dtype=torch.float32)
    assert quantile(values, 0.5) == 2**23


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1)))
def test_median_and_deviation_are_those_of_numpy(values: np.ndarray) -> None:
    odd = values[: len(values) - 1 + len(values) % 2]  # torch takes the lower of two middle values
    median, deviation = median_and_deviation(torch.from_numpy(odd))
    assert float(median) == np.median(odd)
    spread = np.median(np.abs(odd - np.median(odd)))
    assert float(deviation) == pytest.approx(1.4826 * spread)


@given(residuals, st.floats(0, 0.5))
@settings(max_examples=50)
def test_smoothing_keeps_size_and_range(values: np.ndarray, share: float) -> None:
    smooth = smoothed(torch.from_numpy(values), share)
    assert smooth.shape == values.shape
    assert smooth.min() >= values.min() - 1e-5
    assert smooth.max() <= values.max() + 1e-5


def test_smoothing_averages_what_is_there_at_the_edges() -> None:
    residual = torch.zeros(20, 20)
    residual[0, 0] = 1
    smooth = smoothed(residual, 0.02)
    assert smooth[0, 0] == pytest.approx(1 / 4)
    assert smooth[1, 1] == pytest.approx(1 / 9)
    assert smooth[2:].sum() == 0
