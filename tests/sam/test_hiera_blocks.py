"""Blocks of the image encoder in fewer operations, against SAM2's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.utils import window_partition
from torch import nn

from t3dgs_masks.sam import hiera_blocks
from t3dgs_masks.sam.fast_linear import PackedLinear
from t3dgs_masks.sam.hiera_blocks import fast_blocks


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
    with fast_blocks(trunk).in_place():
        found = trunk(pixels)
        again = trunk(pixels)
    for level, level_again, stock in zip(found, again, expected, strict=True):
        torch.testing.assert_close(level, stock, atol=2e-5, rtol=1e-5)
        assert torch.equal(level, level_again)
    for level, stock in zip(trunk(pixels), expected, strict=True):
        assert torch.equal(level, stock)  # nothing stays behind


@torch.inference_mode()
def test_windows_of_an_odd_length_are_pooled_with_their_padding():
    trunk = encoder(window_spec=(8, 4, 7, 7))  # the last stage begins with windows of 7 tokens
    block = trunk.blocks[6]
    assert (block.window_size, block.q_stride) == (7, (2, 2))
    tokens = torch.randn(2, 16, 16, block.dim)
    expected = block(tokens)
    with fast_blocks(trunk).in_place():
        torch.testing.assert_close(block(tokens), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "mapped", "attended"),
    [
        ((16, 16), 256, {(1, 196, 196), (1, 28, 29), (1, 4, 5)}),  # of 784 tokens, padded
        ((28, 14), 392, {(2, 196, 196)}),  # nothing is padded
    ],
)
@torch.inference_mode()
def test_padding_costs_nothing_but_a_key(size, mapped, attended, monkeypatch):
    block = encoder().blocks[5]
    assert block.window_size == 14
    rows, shapes = [], set()
    linear, attention = PackedLinear.__call__, torch.nn.functional.scaled_dot_product_attention

    def counted_linear(self, features, *rest):
        rows.append(features.numel() // features.shape[-1])
        return linear(self, features, *rest)

    def counted_attention(queries, keys, *rest):
        shapes.add((queries.shape[0], queries.shape[2], keys.shape[2]))
        return attention(queries, keys, *rest)

    monkeypatch.setattr(PackedLinear, "__call__", counted_linear)
    monkeypatch.setattr(hiera_blocks.F, "scaled_dot_product_attention", counted_attention)
    with fast_blocks(block).in_place():
        block(torch.randn(1, *size, 64))
    assert set(rows) == {mapped}
    assert shapes == attended


@given(
    images=st.integers(1, 3),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    window=st.integers(1, 5),
)
@settings(deadline=None)
def test_tokens_are_cut_into_the_windows_of_sam2(images, rows, columns, window):
    order, groups = hiera_blocks._in_windows(images, rows, columns, window)
    found = {}
    for group in groups:
        for tokens in order[group.tokens].view(group.count, group.rows * group.columns).tolist():
            found[tokens[0]] = tokens
    numbered = torch.arange(1, images * rows * columns + 1).view(images, rows, columns, 1)
    windows, _ = window_partition(numbered, window)  # padded by zeros
    expected = [[token - 1 for token in one.flatten().tolist() if token > 0] for one in windows]
    assert found == {tokens[0]: tokens for tokens in expected}
    back = hiera_blocks._back(images, rows, columns, window)
    assert torch.equal(order[back], torch.arange(len(order)))


def test_other_blocks_are_left_alone():
    trunk = encoder()

    class Other(type(trunk.blocks[0])):  # nothing is known about it
        pass

    trunk.blocks[0].__class__ = Other
    assert len(fast_blocks(trunk)) == len(trunk.blocks) - 1
