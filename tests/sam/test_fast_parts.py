"""All of the fast parts together, and what they leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from t3dgs_masks.sam.checkpoints import load_sam2
from t3dgs_masks.sam.compilation import compile_image_encoder
from t3dgs_masks.sam.fast_parts import FastParts
from t3dgs_masks.sam.memory import FrameFeatureCache
from tests.sam.scenes import blob_sequence


def replaced(module: nn.Module) -> list[nn.Module]:
    names = ("forward", "predict_masks")
    return [part for part in module.modules() if any(name in vars(part) for name in names)]


@pytest.mark.parametrize(("precision", "is_fast"), [("auto", True), ("float32", False)])
def test_precision_decides(precision, is_fast):
    loaded = load_sam2("tiny-synthetic", device="cpu", precision=precision)
    model = loaded.model
    features = FrameFeatureCache(model, blob_sequence(1, 1), loaded.precision)
    before = replaced(model)
    with features.computing():
        with features.computing():
            pass
        for part in (
            model.image_encoder.trunk,
            model.image_encoder.neck,
            model.memory_encoder.fuser,
            model.memory_encoder.mask_downsampler,
            model.sam_mask_decoder.transformer,
        ):
            fast = [
                module for module in replaced(part) if "PositionEmb" not in type(module).__name__
            ]
            assert bool(fast) == is_fast, part
        assert ("predict_masks" in vars(model.sam_mask_decoder)) == is_fast
    assert replaced(model) == before


def test_a_compiled_image_encoder_is_left_alone():
    loaded = load_sam2("tiny-synthetic", device="cpu")
    compile_image_encoder(loaded.model, loaded.precision, backend=lambda graph, _: graph.forward)
    before = replaced(loaded.model.image_encoder)
    with FastParts(loaded.model).in_place():
        assert replaced(loaded.model.image_encoder) == before
        assert replaced(loaded.model.memory_encoder)


def test_a_model_in_other_numbers_is_left_alone():
    model = load_sam2("tiny-synthetic", device="cpu").model
    model.to(torch.bfloat16)
    before = replaced(model)
    with FastParts(model).in_place():
        assert replaced(model) == before


@torch.inference_mode()
def test_numbers_too_small_count_as_zero_inside_only():
    model = load_sam2("tiny-synthetic", device="cpu").model
    tiny = torch.tensor([1e-39])
    with FastParts(model).in_place():
        assert (tiny * 1).item() == 0.0
    assert (tiny * 1).item() > 0.0
