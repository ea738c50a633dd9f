"""Position encodings that are looked up, against those that are worked out."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.position_encoding import PositionEmbeddingRandom, PositionEmbeddingSine
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from t3dgs_masks.sam.known_places import KnownPlaces


def of_all(model: SAM2Base, *, objects: int, size: tuple[int, int]) -> list[Tensor]:
    """Every position encoding of the model that depends on a size alone."""
    height, width = size
    features = torch.ones(objects, 8, height, width)
    with torch.inference_mode():
        return [
            *(m(features) for m in model.modules() if isinstance(m, PositionEmbeddingSine)),
            *(m(size) for m in model.modules() if isinstance(m, PositionEmbeddingRandom)),
            model.image_encoder.trunk._get_pos_embed(size),
        ]


def attributes(model: SAM2Base) -> list[list[str]]:
    return [sorted(vars(module)) for module in model.modules()]


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("size", [(8, 16), (16, 16)])
def test_they_are_those_of_the_plain_model(random_sam2, objects, size):
    plain = of_all(random_sam2, objects=objects, size=size)
    places = KnownPlaces(random_sam2)
    assert len(plain) >= 4  # image encoder (two), memory encoder, prompt encoder
    for _ in range(2):  # worked out, and looked up
        with places.in_place():
            known = of_all(random_sam2, objects=objects, size=size)
        assert [e.shape for e in known] == [e.shape for e in plain]
        assert all(map(torch.equal, known, plain))


def test_each_size_is_worked_out_once(random_sam2, monkeypatch):
    worked_out = []
    stock = PositionEmbeddingRandom._pe_encoding

    def counted(self: PositionEmbeddingRandom, coords: Tensor) -> Tensor:
        worked_out.append(tuple(coords.shape[:2]))
        return stock(self, coords)

    monkeypatch.setattr(PositionEmbeddingRandom, "_pe_encoding", counted)
    places = KnownPlaces(random_sam2)
    for size in [(8, 16), (16, 8), (8, 16), (16, 8)]:
        with places.in_place():
            of_all(random_sam2, objects=2, size=size)
    assert worked_out == [(8, 16), (16, 8)]


def heads(model: SAM2Base, objects: int, points: dict[str, Tensor] | None = None) -> list[Tensor]:
    """What the mask decoder says of noise."""
    channels, size = model.hidden_dim, model.sam_image_embedding_size
    generator = torch.Generator().manual_seed(objects)
    noise = [
        torch.randn(objects, channels // c, size * s, size * s, generator=generator)
        for c, s in ((8, 4), (4, 2), (1, 1))
    ]
    with torch.inference_mode():
        outputs = model._forward_sam_heads(
            backbone_features=noise[2], point_inputs=points, high_res_features=noise[:2]
        )
    return [output for output in outputs if output is not None]


def test_no_points_are_embedded_once_for_each_number_of_objects(random_sam2, monkeypatch):
    embedded = []
    stock = PromptEncoder._embed_points

    def counted(self: PromptEncoder, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        embedded.append(labels.tolist())
        return stock(self, points, labels, pad)

    clicks = {
        "point_coords": torch.tensor([[[40.0, 50.0]], [[3.0, 100.0]]]),
        "point_labels": torch.ones(2, 1, dtype=torch.int32),
    }
    cases = [(1, None), (2, None), (2, clicks), (2, None), (1, None)]
    plain = [heads(random_sam2, *case) for case in cases]
    assert not torch.equal(plain[1][0], plain[2][0])  # clicks matter
    monkeypatch.setattr(PromptEncoder, "_embed_points", counted)
    places = KnownPlaces(random_sam2)
    for case, expected in zip(cases, plain, strict=True):
        with places.in_place():
            found = heads(random_sam2, *case)
        assert all(map(torch.equal, found, expected))
    assert embedded == [[[-1]], [[-1], [-1]], [[1], [1]]]


def test_objects_share_one_encoding(random_sam2):
    with KnownPlaces(random_sam2).in_place():
        encoding = of_all(random_sam2, objects=3, size=(8, 8))[0]
    assert encoding.stride(0) == 0


def test_the_model_is_as_before(random_sam2):
    """Where blocks are nested, the inner one leaves the outer one's look-up in place."""
    before = attributes(random_sam2)
    places = KnownPlaces(random_sam2)
    with places.in_place():
        within = attributes(random_sam2)
        assert within != before
        with pytest.raises(ZeroDivisionError), places.in_place():
            _ = 1 / 0
        assert attributes(random_sam2) == within
    assert attributes(random_sam2) == before


def test_a_compiled_model_is_left_alone(random_sam2, monkeypatch):
    encoder = random_sam2.image_encoder
    monkeypatch.setitem(vars(encoder), "forward", encoder.forward)
    compiled = attributes(random_sam2)
    with KnownPlaces(random_sam2).in_place():
        assert attributes(random_sam2) == compiled
