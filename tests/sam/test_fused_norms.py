"""Normalisation over channels in one operation, against SAM2's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.modeling.sam2_utils import LayerNorm2d

from t3dgs_masks.sam.checkpoints import load_sam2
from t3dgs_masks.sam.fused_norms import fused_norms
from t3dgs_masks.sam.memory import FrameFeatureCache
from tests.sam.scenes import blob_sequence


@given(
    batch=st.integers(1, 3),
    channels=st.integers(16, 70),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    offset=st.floats(-20, 20),
    layout=st.sampled_from(["dense", "channels last", "every second"]),
)
@settings(deadline=None)
@torch.inference_mode()
def test_the_numbers_are_those_of_the_stock_one(batch, channels, size, offset, layout):
    generator = torch.Generator().manual_seed(channels)
    norm = LayerNorm2d(channels)
    norm.weight.copy_(torch.randn(channels, generator=generator))
    norm.bias.copy_(torch.randn(channels, generator=generator))
    step = 2 if layout == "every second" else 1
    features = torch.randn(batch, channels, size[0], step * size[1], generator=generator) + offset
    features = features[..., ::step]
    if layout == "channels last":
        features = features.contiguous(memory_format=torch.channels_last)
    expected = norm(features)
    with fused_norms(norm).in_place():
        found = norm(features)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_only_inside_the_block_with_hooks_and_where_it_gains():
    network = torch.nn.Sequential(LayerNorm2d(16), LayerNorm2d(4), torch.nn.LayerNorm(4))
    calls = []
    network[0].register_forward_hook(lambda *_: calls.append("hook"))
    with fused_norms(network).in_place():
        network[0](torch.zeros(1, 16, 2, 2))
        assert [("forward" in vars(module)) for module in network] == [True, False, False]
    assert calls == ["hook"]
    assert "forward" not in vars(network[0])


@pytest.mark.parametrize(("precision", "is_fused"), [("auto", True), ("float32", False)])
def test_precision_decides(precision, is_fused):
    loaded = load_sam2("tiny-synthetic", device="cpu", precision=precision)
    features = FrameFeatureCache(loaded.model, blob_sequence(1, 1), loaded.precision)
    norms = [m for m in loaded.model.modules() if isinstance(m, LayerNorm2d) and len(m.weight) > 15]
    assert norms
    with features.computing():
        assert all(("forward" in vars(norm)) == is_fused for norm in norms)
    assert not any("forward" in vars(norm) for norm in norms)
