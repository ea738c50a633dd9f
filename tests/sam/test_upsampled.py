"""Bounds on enlarged masks against masks that are enlarged."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.utils.amg import batched_mask_to_box
from torch import Tensor

from t3dgs_masks.sam.upsampled import Bounds, Enlarger

CPU = torch.device("cpu")
THRESHOLDS = (1.0, -1.0)
sides = st.integers(1, 24)


def smooth(num_masks: int, height: int, width: int, seed: int, noise: float = 0.0) -> Tensor:
    """[P, h, w] logits of blobs of all sizes, steep and flat."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    maps = []
    for _ in range(num_masks):
        cy, cx, radius, slope = torch.rand(4, generator=generator).tolist()
        distance = torch.hypot(y - cy * height, x - cx * width)
        maps.append((radius * max(height, width) / 2 - distance) * (0.2 + 3 * slope))
    return torch.stack(maps) + noise * torch.randn(num_masks, height, width, generator=generator)


def enlarged(logits: Tensor, large: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[:, None], large, mode="bilinear", align_corners=False)[:, 0]


def check(bounds: Bounds, full: Tensor) -> None:
    for slot, level in enumerate(THRESHOLDS):
        areas = (full > level).flatten(1).sum(1)
        assert (bounds.areas[0, slot] <= areas).all()
        assert (areas <= bounds.areas[1, slot]).all()
    boxes = batched_mask_to_box(full > 0)
    for inner, outer, box in zip(*bounds.boxes.tolist(), boxes.tolist(), strict=True):
        if inner == outer:
            assert box == inner
        elif inner != [0, 0, 0, 0]:  # which stands for nothing
            left, top, right, bottom = box
            assert inner[0] >= left >= outer[0]
            assert inner[1] >= top >= outer[1]
            assert inner[2] <= right <= outer[2]
            assert inner[3] <= bottom <= outer[3]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(sides, sides),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.3]),
)
def test_bounds_hold(small, large, seed: int, noise: float) -> None:
    logits = smooth(5, *small, seed, noise)
    bounds = Enlarger(small, large, THRESHOLDS, CPU).bounds(logits)
    if bounds is not None:
        check(bounds, enlarged(logits, large))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1.0, -1.0, 0.0, 1.0001, -0.0001]))
def test_bounds_hold_at_the_thresholds(seed: int, level: float) -> None:
    """Flat maps at a threshold, where rounding decides."""
    logits = smooth(4, 20, 20, seed).clamp(-2, level)
    logits[1] = level
    bounds = Enlarger((20, 20), (97, 133), THRESHOLDS, CPU).bounds(logits)
    if bounds is not None:
        check(bounds, enlarged(logits, (97, 133)))


def test_bounds_mostly_coincide() -> None:
    logits = smooth(200, 64, 64, 0)
    bounds = Enlarger((64, 64), (480, 640), THRESHOLDS, CPU).bounds(logits)
    assert bounds is not None
    check(bounds, enlarged(logits, (480, 640)))
    assert (bounds.boxes[0] == bounds.boxes[1]).all(dim=1).float().mean() > 0.95
    gaps = (bounds.areas[1] - bounds.areas[0]).float()
    assert (gaps <= 0.001 * bounds.areas[1] + 8).float().mean() > 0.95


def test_nothing_and_everything() -> None:
    logits = torch.stack([torch.full((8, 8), -9.0), torch.full((8, 8), 9.0)])
    bounds = Enlarger((8, 8), (30, 50), THRESHOLDS, CPU).bounds(logits)
    assert bounds is not None
    assert bounds.areas.tolist() == [[[0, 1500], [0, 1500]]] * 2
    assert bounds.boxes.tolist() == [[[0, 0, 0, 0], [0, 0, 49, 29]]] * 2


def test_no_masks() -> None:
    bounds = Enlarger((8, 8), (30, 50), THRESHOLDS, CPU).bounds(torch.zeros(0, 8, 8))
    assert bounds is not None
    assert bounds.areas.shape == (2, 2, 0)
    assert bounds.boxes.shape == (2, 0, 4)


def test_maps_that_are_nothing_but_outline_are_left_to_others() -> None:
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert Enlarger((16, 16), (100, 100), THRESHOLDS, CPU).bounds(noise) is None


@pytest.mark.parametrize("large", [(1080, 1920), (4320, 7680)])
def test_large_frames(large: tuple[int, int]) -> None:
    logits = smooth(2, 64, 64, 3)
    bounds = Enlarger((64, 64), large, THRESHOLDS, CPU).bounds(logits)
    assert bounds is not None
    check(bounds, enlarged(logits, large))
