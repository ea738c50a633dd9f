"""The mask decoder in fewer operations, against SAM2's own."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base

from t3dgs_masks.sam.fast_decoder import fast_decoder
from t3dgs_masks.sam.fast_linear import FastLinears

_DRAWS = 12


@pytest.fixture(params=["random", "trained"])
def model(request: pytest.FixtureRequest) -> SAM2Base:
    return request.getfixturevalue(f"{request.param}_sam2")


def prompts(
    model: SAM2Base, batch: int, num_points: int, *, shared: bool, masked: bool, seed: int = 0
) -> dict:
    """What SAM2 calls its mask decoder with: for the objects of a frame, or for the points of an
    image."""
    generator = torch.Generator().manual_seed(1000 * seed + batch)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    channels, side = model.hidden_dim, model.image_size // 16
    images = 1 if shared else batch
    dense = random(batch, channels, side, side) if masked else random(1, channels, 1, 1)
    return {
        "image_embeddings": random(images, side, side, channels).permute(0, 3, 1, 2),
        "image_pe": model.sam_prompt_encoder.get_dense_pe(),
        "sparse_prompt_embeddings": random(batch, num_points, channels),
        "dense_prompt_embeddings": dense.expand(batch, -1, side, side),
        "multimask_output": False,
        "repeat_image": shared,
        "high_res_features": [
            random(1, channels // 8, 4 * side, 4 * side).expand(images, -1, -1, -1),
            random(1, channels // 4, 2 * side, 2 * side).expand(images, -1, -1, -1),
        ],
    }


@pytest.mark.parametrize("shared", [False, True], ids=["tracking", "points of one image"])
@pytest.mark.parametrize("masked", [False, True], ids=["no mask given", "masks given"])
@pytest.mark.parametrize(("batch", "num_points"), [(1, 2), (3, 2), (5, 3)])
@torch.inference_mode()
def test_same_masks_scores_and_tokens(model, batch, num_points, shared, masked):
    """With errors as of the stock decoder, on average: a single score is a matter of luck."""
    decoder = model.sam_mask_decoder
    in_double = deepcopy(decoder).double()
    errors: dict[str, list[list[torch.Tensor]]] = {"ours": [], "stock": []}
    for seed in range(_DRAWS):
        given = prompts(model, batch, num_points, shared=shared, masked=masked, seed=seed)
        expected = decoder(**given)
        with FastLinears(decoder).in_place(), fast_decoder(decoder).in_place():
            found = decoder(**given)
        exact = in_double(**_in_double(given))
        for ours, stock, precise in zip(found, expected, exact, strict=True):
            assert ours.shape == stock.shape
            assert (ours - precise).abs().max() < 1e-4 * precise.abs().max()
        for name, output in (("ours", found), ("stock", expected)):
            pairs = zip(output, exact, strict=True)
            errors[name].append([(one - precise).abs().mean() for one, precise in pairs])
    means = {name: torch.tensor(of_draws).mean(dim=0) for name, of_draws in errors.items()}
    assert (means["ours"] < 2 * means["stock"] + 1e-7).all()


@pytest.mark.parametrize("shared", [False, True], ids=["tracking", "points of one image"])
@torch.inference_mode()
def test_several_masks_and_nothing_that_stays_behind(model, shared):
    decoder = model.sam_mask_decoder
    given = prompts(model, 3, 2, shared=shared, masked=False)
    expected = decoder(**given)
    with FastLinears(decoder).in_place(), fast_decoder(decoder).in_place():
        several = decoder(**{**given, "multimask_output": True})
    assert several[0].shape[1] == 3
    for ours, stock in zip(decoder(**given), expected, strict=True):
        assert torch.equal(ours, stock)


def _in_double(given: dict) -> dict:
    def wide(value):
        if isinstance(value, list):
            return [each.double() for each in value]
        return value.double() if isinstance(value, torch.Tensor) else value

    return {name: wide(value) for name, value in given.items()}


def test_others_are_left_alone(trained_sam2):
    assert len(fast_decoder(torch.nn.Linear(2, 2))) == 0
    other = deepcopy(trained_sam2.sam_mask_decoder)
    other.transformer = torch.nn.Identity()
    assert len(fast_decoder(other)) == 0
