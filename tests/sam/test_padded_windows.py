"""The image encoder without its windows' padding, against the whole of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from sam2.modeling.backbones.hieradet import Hiera
from torch import Tensor, nn

from t3dgs_masks.sam.fast_linear import FastLinears
from t3dgs_masks.sam.padded_windows import WindowsWithoutPadding, image_places


def encoder(**differences) -> Hiera:
    """Windows of 14 and 7 tokens as in the official networks, random biases and all."""
    torch.manual_seed(0)
    dimensions = {
        "embed_dim": 16,
        "stages": (1, 2, 3, 2),
        "global_att_blocks": (4,),
        "window_pos_embed_bkg_spatial_size": (4, 4),
    }
    trunk = Hiera(**{**dimensions, **differences}).eval()
    for name, parameter in trunk.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return trunk


@pytest.mark.parametrize("size", [(256, 256), (128, 256), (448, 224), (192, 320)])
@pytest.mark.parametrize("images", [1, 2])
@torch.inference_mode()
def test_same_features_of_any_size(size, images):
    trunk = encoder()
    pixels = torch.randn(images, 3, *size)
    expected = trunk(pixels)
    with FastLinears(trunk).in_place():
        found = trunk(pixels)
        again = trunk(pixels)
    for level, level_again, stock in zip(found, again, expected, strict=True):
        torch.testing.assert_close(level, stock, atol=2e-5, rtol=1e-5)
        assert torch.equal(level, level_again)
    for level, stock in zip(trunk(pixels), expected, strict=True):
        assert torch.equal(level, stock)  # nothing stays behind


@torch.inference_mode()
def test_padding_is_not_mapped():
    block = encoder().blocks[5]
    assert block.window_size == 14
    rows = []

    def counted(layer: nn.Linear):
        weight, bias = layer.weight, layer.bias

        def mapped(tokens: Tensor) -> Tensor:
            rows.append(tokens.numel() // tokens.shape[-1])
            return F.linear(tokens, weight, bias)

        return mapped

    sparing = WindowsWithoutPadding(block, counted(block.attn.qkv), counted(block.attn.proj))
    for module, forward in sparing.forwards():
        vars(module)["forward"] = forward
    block(torch.randn(1, 16, 16, 64))
    assert rows == [256, 256]  # of 784
    rows.clear()
    block(torch.randn(1, 28, 14, 64))
    assert rows == [392, 392]  # nothing is padded


def test_places_in_windows():
    assert image_places(1, 28, 14, 14) is None
    places = image_places(2, 3, 5, 4)  # of each image, windows of 4x4 tokens: one row of two
    assert places is not None
    assert len(places) == 2 * 3 * 5
    columns_left, columns_right = range(4), range(1)
    expected = [
        64 * (window // 2) // 2 + 16 * (window % 2) + 4 * row + column
        for window in range(4)
        for row in range(3)
        for column in (columns_right if window % 2 else columns_left)
    ]
    assert places.tolist() == expected
