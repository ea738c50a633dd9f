"""Packing on a device against packing on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t3dgs_masks import bits
from t3dgs_masks.sam.packing import packed, packed_octets, unpacked, unpacked_octets


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (48, 64), (13, 77)])
def test_octets_are_those_of_the_host(size: tuple[int, int]) -> None:
    masks = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) > 0.5
    octets = packed_octets(masks)
    assert octets.shape == (3, -(-size[0] * size[1] // 8))
    for mask, row, host in zip(masks.numpy(), octets.numpy(), packed(masks), strict=True):
        assert bits.from_bytes(*size, row) == host
        assert np.array_equal(bits.unpack(host), mask)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (48, 64), (13, 77)])
def test_the_way_to_a_device(size: tuple[int, int]) -> None:
    masks = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) > 0.5
    host = [bits.pack(mask) for mask in masks.numpy()]
    octets = torch.from_numpy(np.stack([mask.words.view(np.uint8) for mask in host]))
    assert torch.equal(unpacked_octets(octets, *size), masks)
    assert torch.equal(unpacked(host, torch.device("cpu")), masks)


def test_no_masks() -> None:
    assert packed(torch.zeros(0, 4, 4, dtype=torch.bool)) == []


@pytest.mark.gpu
def test_masks_are_packed_on_the_device() -> None:
    masks = torch.rand(5, 37, 53) > 0.5
    assert packed(masks.cuda()) == packed(masks)
    assert torch.equal(unpacked(packed(masks), torch.device("cuda")).cpu(), masks)
