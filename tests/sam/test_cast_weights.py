"""The same bits as autocast gives from float32 weights, with less work and in less memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scripts.pretended_cuda import PretendedCuda, pretended_cuda
from t3dgs_masks.config import ProposalConfig
from t3dgs_masks.sam import checkpoints
from t3dgs_masks.sam.checkpoints import load_sam1, load_sam2
from t3dgs_masks.sam.memory import FrameFeatureCache
from t3dgs_masks.sam.proposer import Sam1Proposer, Sam2Proposer
from t3dgs_masks.sam.tracker import Sam2Tracker
from tests.sam.scenes import blob_sequence
from tests.sam.test_proposer import grid, of_proposals
from tests.sam.tiny_sam1 import write_tiny_sam1

pytestmark = pytest.mark.pretended_gpu
SEQUENCE = blob_sequence(6, 2)
POINTS = grid(SEQUENCE.height, SEQUENCE.width, 3)
LENIENT = ProposalConfig(0.0, 0.0, box_nms_thresh=1.0)


def tracked() -> list[Tensor]:
    loaded = load_sam2("tiny-synthetic", device="cuda")
    features = FrameFeatureCache(loaded.model, SEQUENCE, loaded.precision)
    tracker = Sam2Tracker(loaded.model, features, loaded.precision)
    for frame_idx in (0, 1):
        for slot in (0, 1):
            tracker.condition(frame_idx, slot, SEQUENCE.rle(frame_idx, slot))
    return [logits.mask_logits.cpu() for logits in tracker.propagate_logits(2)]


def sam2_proposals(_: Path) -> object:
    loaded = load_sam2("tiny-synthetic", device="cuda")
    features = FrameFeatureCache(loaded.model, SEQUENCE, loaded.precision)
    return of_proposals(Sam2Proposer(loaded.model, features, LENIENT).propose(0, POINTS))


def sam1_proposals(folder: Path) -> object:
    loaded = load_sam1(write_tiny_sam1(folder / "sam1.pth"), device="cuda")
    proposer = Sam1Proposer(loaded.model, SEQUENCE, LENIENT, loaded.precision)
    return of_proposals(proposer.propose(0, POINTS))


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(checkpoints, "cast_weights", lambda *_: None)
    return monkeypatch


def figures(device: PretendedCuda) -> tuple[int, int]:
    """Operations so far, and the most memory that was held."""
    return device.operations, device.peak_bytes


def test_tracking_gives_the_same_bits_with_fewer_operations(stock: pytest.MonkeyPatch) -> None:
    with pretended_cuda() as device:
        expected, before = tracked(), figures(device)
    stock.undo()
    with pretended_cuda() as device:
        found, after = tracked(), figures(device)
    assert len(found) == 4
    assert all(map(torch.equal, found, expected))
    assert after[0] < 0.8 * before[0]
    assert after[1] < before[1]


@pytest.mark.parametrize("propose", [sam1_proposals, sam2_proposals])
def test_proposals_are_the_same(stock: pytest.MonkeyPatch, propose, tmp_path: Path) -> None:
    with pretended_cuda() as device:
        expected, before = propose(tmp_path), figures(device)
    stock.undo()
    with pretended_cuda() as device:
        found, after = propose(tmp_path), figures(device)
    assert expected
    assert found == expected
    assert after[0] < before[0]


def test_sam1_in_bfloat16_proposes_about_the_same(tmp_path: Path) -> None:
    path = write_tiny_sam1(tmp_path / "sam1.pth")
    areas = []
    for precision in ("auto", "float32"):
        with pretended_cuda():
            loaded = load_sam1(path, device="cuda", precision=precision)
            proposer = Sam1Proposer(loaded.model, SEQUENCE, LENIENT, loaded.precision)
            areas.append([p.mask.mean() for p in proposer.propose(0, POINTS)])
    bfloat16, float32 = areas
    assert len(float32) == 27  # three for a point
    # Noise, as the masks of random weights are, has many pixels near the threshold.
    assert np.abs(np.subtract(bfloat16, float32)).mean() < 0.01


def test_layers_alone_are_cast() -> None:
    with pretended_cuda():
        model = load_sam2("tiny-synthetic", device="cuda").model
        kinds = {
            (type(module), parameter.dtype)
            for module in model.modules()
            for parameter in module.parameters(recurse=False)
        }
        assert (nn.LayerNorm, torch.float32) in kinds
        assert (nn.Embedding, torch.float32) in kinds
        assert (nn.Linear, torch.bfloat16) in kinds
        assert not kinds & {(kind, torch.float32) for kind in (nn.Linear, nn.Conv2d)}


def test_without_autocast_weights_stay_as_they_are() -> None:
    on_cpu = load_sam2("tiny-synthetic", device="cpu").model
    assert {parameter.dtype for parameter in on_cpu.parameters()} == {torch.float32}
    with pretended_cuda():
        exact = load_sam2("tiny-synthetic", device="cuda", precision="float32").model
        assert {parameter.dtype for parameter in exact.parameters()} == {torch.float32}
