"""Linear layers through oneDNN, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.modeling.sam2_utils import MLP

from t3dgs_masks.sam import fast_linear
from t3dgs_masks.sam.checkpoints import load_sam2
from t3dgs_masks.sam.devices import choose_precision
from t3dgs_masks.sam.fast_linear import (
    FastLinears,
    PackedLinear,
    is_available,
    merged,
    row_products,
)
from t3dgs_masks.sam.memory import FrameFeatureCache
from t3dgs_masks.sam.official import OfficialTracker
from t3dgs_masks.sam.tracker import Sam2Tracker
from tests.sam.scenes import blob_sequence


def test_the_pytorch_of_the_tests_has_it():
    assert is_available()


@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    has_bias=st.booleans(),
    layout=st.sampled_from(["dense", "transposed", "expanded", "every second", "sliced"]),
)
@settings(deadline=None)
@torch.inference_mode()
def test_any_layout_of_features(shape, channels, outputs, has_bias, layout):
    generator = torch.Generator().manual_seed(channels * 41 + outputs)
    if layout == "expanded":
        features = torch.randn(1, channels, generator=generator).expand(*shape, channels)
    elif layout == "transposed":
        features = torch.randn(channels, *shape, generator=generator).movedim(0, -1)
    elif layout == "every second":
        features = torch.randn(*shape, 2 * channels, generator=generator)[..., ::2]
    elif layout == "sliced":
        features = torch.randn(*shape, channels + 3, generator=generator)[..., 3:]
    else:
        features = torch.randn(*shape, channels, generator=generator)
    layer = torch.nn.Linear(channels, outputs, bias=has_bias)
    expected = layer(features)
    with FastLinears(layer).in_place():
        found = layer(features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        row_products(features, layer.weight),
        F.linear(features, layer.weight),
        atol=1e-5,
        rtol=1e-5,
    )


def test_only_inside_the_block_nested_or_not_and_with_hooks():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
    fast = FastLinears(network, left_alone=network[2])
    calls = []
    network[0].register_forward_hook(lambda *_: calls.append("hook"))
    with torch.inference_mode(), fast.in_place():
        with fast.in_place():
            network(torch.zeros(1, 3))
        assert "forward" in vars(network[0])
        assert "forward" not in vars(network[2])
    assert calls == ["hook"]
    assert "forward" not in vars(network[0])


def test_other_numbers_are_left_alone():
    half = torch.nn.Linear(2, 2).to(torch.bfloat16)
    with FastLinears(half).in_place():
        assert "forward" not in vars(half)


def test_precision_decides():
    cpu = torch.device("cpu")
    assert choose_precision(cpu, "auto").reordered_sums
    assert not choose_precision(cpu, "float32").reordered_sums
    assert not choose_precision(torch.device("meta"), "auto").reordered_sums


@pytest.mark.parametrize("num_objects", [1, 3])
def test_tracked_logits_are_those_of_the_official_predictor(num_objects):
    """Up to a memory that rounds to the next bfloat16 number, as in any batch."""
    loaded = load_sam2("tiny-synthetic", device="cpu")
    assert loaded.precision.reordered_sums
    sequence = blob_sequence(10, num_objects)
    ours = Sam2Tracker(
        loaded.model,
        FrameFeatureCache(loaded.model, sequence, loaded.precision),
        loaded.precision,
    )
    official = OfficialTracker(loaded.model, sequence, loaded.precision)
    for tracker in (ours, official):
        for slot in range(num_objects):
            tracker.condition(0, slot, sequence.rle(0, slot))
            tracker.condition(9, slot, sequence.rle(9, slot))
    pairs = zip(ours.propagate_logits(1), official.propagate_logits(1), strict=True)
    differences = [(a.mask_logits - b.mask_logits).abs().max().item() for a, b in pairs]
    assert len(differences) >= 8
    assert max(differences) <= 0.02


@pytest.mark.parametrize("has_avx512", [False, True])
@torch.inference_mode()
def test_an_activation_or_a_sum_goes_along(has_avx512, monkeypatch):
    monkeypatch.setattr(fast_linear, "_fuses_gelu", lambda: has_avx512)
    features, others = torch.randn(2, 5, 7), torch.randn(2, 3, 5).transpose(1, 2)
    layer = torch.nn.Linear(7, 3)
    packed, expected = PackedLinear(layer.weight, layer.bias), layer(features)
    for activation, function in {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}.items():
        torch.testing.assert_close(packed(features, activation), function(expected))
    torch.testing.assert_close(packed.added_to(others, features), others + expected)


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.GELU, torch.nn.SiLU])
@torch.inference_mode()
def test_networks_of_linear_layers(activation, sigmoid):
    network = MLP(5, 9, 3, num_layers=3, activation=activation, sigmoid_output=sigmoid)
    features = torch.randn(4, 5)
    expected = network(features)
    with FastLinears(network).in_place():
        assert ("forward" in vars(network)) == (activation is not torch.nn.SiLU)
        torch.testing.assert_close(network(features), expected)


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
@torch.inference_mode()
def test_two_maps_with_nothing_between_them_are_one(biases):
    first, second = torch.nn.Linear(5, 9, bias=biases[0]), torch.nn.Linear(9, 3, bias=biases[1])
    features = torch.randn(2, 4, 5)
    one = merged((first.weight, first.bias), (second.weight, second.bias))
    torch.testing.assert_close(one(features), second(first(features)))


def test_a_weight_is_packed_once_and_anew_when_it_has_changed():
    layer, features = torch.nn.Linear(4, 3), torch.randn(2, 4)
    first = PackedLinear.of(layer)
    with torch.inference_mode():
        first(features)
    assert PackedLinear.of(layer) is first
    with torch.no_grad():
        layer.weight.mul_(2)
    assert PackedLinear.of(layer) is not first
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear.of(layer)(features), layer(features))
    layer.weight = torch.nn.Parameter(torch.randn(3, 4))
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear.of(layer)(features), layer(features))


@pytest.mark.parametrize("missing", ["all of it", "its order of weights"])
@torch.inference_mode()
def test_without_onednn_linear_maps_are_pytorchs_own(missing, monkeypatch):
    def refuse(*_):
        raise RuntimeError("not for this processor")

    name = "_linear_pointwise" if missing == "all of it" else "_reorder_linear_weight"
    monkeypatch.setattr(torch.ops.mkldnn, name, refuse)
    is_available.cache_clear()
    try:
        weight, bias, features = torch.randn(5, 4), torch.randn(5), torch.randn(2, 3, 4)
        expected = F.linear(features, weight, bias)
        packed = PackedLinear(weight, bias)
        torch.testing.assert_close(packed(features), expected)
        torch.testing.assert_close(packed(features, "gelu"), F.gelu(expected))
        torch.testing.assert_close(packed.added_to(expected, features), 2 * expected)
    finally:
        monkeypatch.undo()
        is_available.cache_clear()
