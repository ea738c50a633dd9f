"""The lean memory attention against the stock one, on the stock one's weights."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch

from t3dgs_masks.sam.attention import LeanMemoryAttention
from t3dgs_masks.sam.fast_linear import FastLinears


def inputs(model, batch: int, num_memories: int, num_pointers: int, *, shared: bool) -> dict:
    """What `SAM2Base` calls memory attention with."""
    generator = torch.Generator().manual_seed(batch)
    tokens = (model.image_size // 16) ** 2
    channels, memory_channels = model.hidden_dim, model.mem_dim
    length = num_memories * tokens + num_pointers
    frame = torch.randn(tokens, 1 if shared else batch, channels, generator=generator)
    place = torch.randn(tokens, 1, channels, generator=generator)
    return {
        "curr": [frame.expand(-1, batch, -1)],
        "curr_pos": [place.expand(-1, batch, -1)],
        "memory": 0.3 * torch.randn(length, batch, memory_channels, generator=generator),
        "memory_pos": torch.randn(length, batch, memory_channels, generator=generator),
        "num_obj_ptr_tokens": num_pointers,
    }


@pytest.fixture(params=["random", "trained"])
def model(request: pytest.FixtureRequest):
    return request.getfixturevalue(f"{request.param}_sam2")


@pytest.mark.parametrize("reordered_sums", [False, True], ids=["BLAS", "oneDNN"])
@pytest.mark.parametrize("shared", [True, False], ids=["one frame", "many frames"])
@pytest.mark.parametrize(("num_memories", "num_pointers"), [(1, 0), (3, 8), (10, 12)])
@torch.inference_mode()
def test_same_result_as_the_stock_network(
    model, num_memories, num_pointers, shared, reordered_sums
):
    stock = model.memory_attention
    assert LeanMemoryAttention.fits(stock)
    given = inputs(model, 3, num_memories, num_pointers, shared=shared)
    expected = stock(**given)
    lean = LeanMemoryAttention(stock, reordered_sums)
    with FastLinears(stock).in_place() if reordered_sums else nullcontext():
        found = lean(**given)
    assert found.shape == expected.shape
    assert expected.abs().mean() > 0.5
    # The random network's softmax is so sharp that rounding alone takes single values of the stock
    # network 4e-4 from what exact arithmetic gives: that is the measure, and not each other.
    exact = exactly(stock, given)
    assert (found - exact).abs().mean() < 3 * (expected - exact).abs().mean()
    assert (found - expected).abs().mean() < 5e-6
    assert (found - expected).abs().max() < 10 * (expected - exact).abs().max()
    if not reordered_sums:
        assert (found - expected).abs().max() < 5e-4


def exactly(stock: torch.nn.Module, given: dict) -> torch.Tensor:
    """What the network gives in double precision."""
    wide = {
        name: value.double()
        if isinstance(value, torch.Tensor)
        else [each.double() for each in value]
        if isinstance(value, list)
        else value
        for name, value in given.items()
    }
    return deepcopy(stock).double()(**wide)


@pytest.mark.parametrize("rows", [1, 3, 64, 300])
@pytest.mark.parametrize("columns", [1, 7, 16, 257, 2600, 20001])
def test_softmax_may_write_where_it_reads(rows, columns):
    """PyTorch does not say so."""
    scores = 10 * torch.randn(rows, columns)
    expected = torch.softmax(scores, dim=-1)
    torch.softmax(scores, dim=-1, out=scores)
    assert torch.equal(scores, expected)


@torch.inference_mode()
def test_in_blocks_as_at_once(model, monkeypatch):
    lean = LeanMemoryAttention(model.memory_attention)
    given = inputs(model, 2, 3, 4, shared=True)
    at_once = lean(**given)
    monkeypatch.setattr("t3dgs_masks.sam.attention._SCORES_AT_ONCE", 1000)
    assert (lean(**given) - at_once).abs().mean() < 5e-6


@pytest.mark.parametrize("reordered_sums", [False, True], ids=["BLAS", "oneDNN"])
@torch.inference_mode()
def test_objects_beside_each_other_as_one_after_the_other(model, reordered_sums):
    given = inputs(model, 5, 3, 4, shared=True)
    threads = torch.get_num_threads()
    lean = LeanMemoryAttention(model.memory_attention, reordered_sums)
    try:
        torch.set_num_threads(1)
        alone = lean(**given)
        torch.set_num_threads(2)
        beside = lean(**given)
        assert torch.equal(lean(**given), beside), "again the same to the bit"
    finally:
        torch.set_num_threads(threads)
    assert (beside - alone).abs().mean() < 5e-6


@torch.inference_mode()
def test_a_lone_object_has_the_stock_result_to_the_bit(model):
    given = inputs(model, 1, 4, 8, shared=True)
    stock = model.memory_attention
    assert torch.equal(LeanMemoryAttention(stock)(**given), stock(**given))


def test_only_inside_the_block_and_with_hooks(trained_sam2):
    stock = trained_sam2.memory_attention
    lean = LeanMemoryAttention(stock)
    calls = []
    handle = stock.register_forward_hook(lambda *_: calls.append("hook"))
    with torch.inference_mode(), lean.in_place_in(trained_sam2):
        assert stock.forward is lean
        stock(**inputs(trained_sam2, 2, 2, 4, shared=True))
    handle.remove()
    assert calls == ["hook"]
    assert "forward" not in vars(stock)


def test_other_networks_are_left_alone(trained_sam2):
    assert not LeanMemoryAttention.fits(torch.nn.Linear(2, 2))
    layer = trained_sam2.memory_attention.layers[0]
    layer.pos_enc_at_attn = True
    try:
        assert not LeanMemoryAttention.fits(trained_sam2.memory_attention)
    finally:
        layer.pos_enc_at_attn = False
