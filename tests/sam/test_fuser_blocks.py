"""ConvNeXt blocks in fewer operations, against SAM2's own."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.memory_encoder import CXBlock

from t3dgs_masks.sam.fuser_blocks import fast_fusers


@pytest.mark.parametrize("scale", [0.5, 0.0], ids=["scaled", "not scaled"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.inference_mode()
def test_same_features(scale, layout):
    torch.manual_seed(0)
    block = CXBlock(24, layer_scale_init_value=scale).eval()
    features = torch.randn(3, 24, 9, 7).contiguous(memory_format=layout)
    expected = block(features)
    with fast_fusers(block).in_place():
        found = block(features)
    assert (expected - features).abs().mean() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(block(features), expected)  # nothing stays behind
