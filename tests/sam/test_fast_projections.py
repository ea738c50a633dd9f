"""Convolutions of single pixels as linear maps, against SAM2's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t3dgs_masks.sam.fast_projections import fast_projections


@pytest.fixture(params=["random", "trained"])
def model(request: pytest.FixtureRequest):
    return request.getfixturevalue(f"{request.param}_sam2")


@torch.inference_mode()
def test_same_features_with_fewer_maps(model):
    pixels = torch.randn(1, 3, model.image_size, model.image_size)
    expected = model.forward_image(pixels)
    calls = []
    decoder = model.sam_mask_decoder
    handles = [
        convolution.register_forward_hook(lambda _, given, made: calls.append((given[0], made)))
        for convolution in (decoder.conv_s0, decoder.conv_s1)
    ]
    with fast_projections(model).in_place():
        found = model.forward_image(pixels)
    for handle in handles:
        handle.remove()
    for level, stock in zip(found["backbone_fpn"], expected["backbone_fpn"], strict=True):
        torch.testing.assert_close(level, stock, atol=2e-5, rtol=1e-5)
    assert len(calls) == 2
    assert all(given is made for given, made in calls)  # was done before
    again = model.forward_image(pixels)
    for level, stock in zip(again["backbone_fpn"], expected["backbone_fpn"], strict=True):
        assert torch.equal(level, stock)  # nothing stays behind


@given(batch=st.integers(1, 3), is_shared=st.booleans(), side=st.integers(1, 6))
@settings(deadline=None)
@torch.inference_mode()
def test_features_that_objects_share_are_mapped_once(trained_sam2, batch, is_shared, side):
    convolution = trained_sam2.memory_encoder.pix_feat_proj
    features = torch.randn(1 if is_shared else batch, convolution.in_channels, side, side)
    features = features.expand(batch, -1, -1, -1)
    expected = convolution(features)
    with fast_projections(trained_sam2).in_place():
        found = convolution(features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert batch == 1 or (found.stride(0) == 0) == is_shared


def test_what_is_left_alone(trained_sam2):
    neck = trained_sam2.image_encoder.neck
    spared = fast_projections(trained_sam2, left_alone=trained_sam2.image_encoder)
    assert 0 < len(spared) < len(fast_projections(trained_sam2))
    with spared.in_place():
        assert not any("forward" in vars(module) for module in neck.modules())
        assert "forward" not in vars(trained_sam2.sam_mask_decoder.conv_s0)
