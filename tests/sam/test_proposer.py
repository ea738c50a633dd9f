"""Proposals from cached features against the packages' own mask generators."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from segment_anything import SamAutomaticMaskGenerator

from t3dgs_masks.config import ProposalConfig
from t3dgs_masks.sam.checkpoints import load_sam1
from t3dgs_masks.sam.counters import NetworkCounter
from t3dgs_masks.sam.devices import Precision
from t3dgs_masks.sam.memory import FrameFeatureCache
from t3dgs_masks.sam.proposer import Sam1Proposer, Sam2Proposer
from t3dgs_masks.types import NetworkCalls
from tests.sam.scenes import blob_sequence
from tests.sam.tiny_sam1 import write_tiny_sam1

LENIENT = ProposalConfig(pred_iou_thresh=0.0, stability_score_thresh=0.0, points_per_batch=7)
STRICT = ProposalConfig(pred_iou_thresh=0.3, stability_score_thresh=0.5)
NO_POINTS = np.zeros((0, 2), np.float32)


def grid(height: int, width: int, per_side: int) -> np.ndarray:
    x, y = np.meshgrid(
        (np.arange(per_side) + 0.5) / per_side * width,
        (np.arange(per_side) + 0.5) / per_side * height,
    )
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def described(masks, ious, stabilities, points) -> list[tuple]:
    return [
        (mask.tobytes(), round(iou, 5), round(stability, 5), tuple(np.round(point, 3)))
        for mask, iou, stability, point in zip(masks, ious, stabilities, points, strict=True)
    ]


def of_records(records: list[dict]) -> list[tuple]:
    return described(
        [r["segmentation"].astype(bool) for r in records],
        [r["predicted_iou"] for r in records],
        [r["stability_score"] for r in records],
        [r["point_coords"][0] for r in records],
    )


def of_proposals(proposals) -> list[tuple]:
    return described(
        [p.mask for p in proposals],
        [p.predicted_iou for p in proposals],
        [p.stability_score for p in proposals],
        [p.point_xy for p in proposals],
    )


@pytest.mark.parametrize("config", [LENIENT, STRICT], ids=["lenient", "strict"])
def test_sam2_proposals_are_the_stock_generators(trained_sam2, cpu: Precision, config):
    # At the network's own input size neither side resizes, so that both see the same pixels.
    size = trained_sam2.image_size
    sequence = blob_sequence(2, 2, size, size)
    points = grid(size, size, 5)
    stock = SAM2AutomaticMaskGenerator(
        trained_sam2,
        points_per_side=None,
        point_grids=[points / size],
        points_per_batch=config.points_per_batch,
        pred_iou_thresh=config.pred_iou_thresh,
        stability_score_thresh=config.stability_score_thresh,
    )
    # The stock predictor has the feature sizes of 1024 px written into it.
    stock.predictor._bb_feat_sizes = [(size // s, size // s) for s in (4, 8, 16)]
    expected = of_records(stock.generate(sequence[1]))
    features = FrameFeatureCache(trained_sam2, sequence, cpu)
    found = of_proposals(Sam2Proposer(trained_sam2, features, config).propose(1, points))
    assert expected
    assert found == expected


MIDDLING = ProposalConfig(pred_iou_thresh=0.0, stability_score_thresh=0.48)


@pytest.mark.parametrize("size", [(96, 136), (270, 480), (531, 300)])
@pytest.mark.parametrize(
    "config", [LENIENT, STRICT, MIDDLING], ids=["lenient", "strict", "middling"]
)
def test_masks_that_are_enlarged_last_are_the_same(trained_sam2, cpu: Precision, config, size):
    """At another frame size than the network's: the stock generator's own steps on our features."""
    sequence = blob_sequence(2, 2, *size)
    points = grid(*size, 6)
    proposer = Sam2Proposer(trained_sam2, FrameFeatureCache(trained_sam2, sequence, cpu), config)
    found = of_proposals(proposer.propose(1, points))
    generator = proposer._generator
    generator._process_batch = partial(SAM2AutomaticMaskGenerator._process_batch, generator)
    expected = of_proposals(proposer.propose(1, points))
    assert expected
    assert found == expected


def test_of_many_masks_few_are_enlarged(trained_sam2, cpu: Precision, monkeypatch):
    sequence = blob_sequence(2, 2, 270, 480)
    proposer = Sam2Proposer(trained_sam2, FrameFeatureCache(trained_sam2, sequence, cpu), STRICT)
    enlarged = 0
    at_frame_size = proposer._generator._at_frame_size

    def counted(logits, size):
        nonlocal enlarged
        enlarged += len(logits)
        return at_frame_size(logits, size)

    monkeypatch.setattr(proposer._generator, "_at_frame_size", counted)
    proposals = proposer.propose(1, grid(270, 480, 12))
    assert proposals
    assert len(proposals) <= enlarged < 60, "of 432 masks"


def test_sam2_proposals_reuse_the_trackers_features(trained_sam2, cpu: Precision):
    sequence = blob_sequence(2, 1)
    features = FrameFeatureCache(trained_sam2, sequence, cpu)
    features[0]
    counter = NetworkCounter()
    counter.watch_sam2(trained_sam2)
    points = grid(sequence.height, sequence.width, 3)
    proposals = Sam2Proposer(trained_sam2, features, LENIENT).propose(0, points)
    counter.close()
    assert counter.calls == NetworkCalls(mask_decoder=2)  # 9 points, 7 a batch
    assert all(p.mask.shape == (sequence.height, sequence.width) for p in proposals)
    assert all(p.mask.dtype == np.bool_ for p in proposals)


def test_sam2_finds_the_object_under_a_point(trained_sam2, cpu: Precision):
    sequence = blob_sequence(2, 1)
    truth = sequence.mask(1, 0)
    rows, columns = np.nonzero(truth)
    centre = np.array([[columns.mean(), rows.mean()]], np.float32)
    features = FrameFeatureCache(trained_sam2, sequence, cpu)
    proposals = Sam2Proposer(trained_sam2, features, LENIENT).propose(1, centre)
    overlaps = [(p.mask & truth).sum() / (p.mask | truth).sum() for p in proposals]
    assert max(overlaps) > 0.7


def test_small_regions_are_removed(trained_sam2, cpu: Precision):
    sequence = blob_sequence(2, 2)
    points = grid(sequence.height, sequence.width, 5)
    features = FrameFeatureCache(trained_sam2, sequence, cpu)
    config = ProposalConfig(0.0, 0.0, min_mask_region_area=60)
    for proposal in Sam2Proposer(trained_sam2, features, config).propose(0, points):
        assert smallest_region(proposal.mask) >= 60 or smallest_region(proposal.mask) == 0


def smallest_region(mask: np.ndarray) -> int:
    """Pixels of the smallest island, unless it is the only one."""
    import cv2

    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return int(stats[1:, cv2.CC_STAT_AREA].min()) if count > 2 else 0


def test_no_points_cost_nothing(trained_sam2, cpu: Precision):
    sequence = blob_sequence(2, 1)
    counter = NetworkCounter()
    counter.watch_sam2(trained_sam2)
    features = FrameFeatureCache(trained_sam2, sequence, cpu)
    assert Sam2Proposer(trained_sam2, features, LENIENT).propose(0, NO_POINTS) == []
    counter.close()
    assert counter.calls == NetworkCalls()


def test_sam1_proposals_are_the_stock_generators(tmp_path: Path):
    path = tmp_path / "sam1.pth"
    write_tiny_sam1(path)
    sam1 = load_sam1(path, torch.device("cpu"))
    model = sam1.model
    sequence = blob_sequence(2, 2, 48, 64)
    points = grid(48, 64, 4)
    config = ProposalConfig(-1e9, 0.0, points_per_batch=5)
    stock = SamAutomaticMaskGenerator(
        model,
        points_per_side=None,
        point_grids=[points / (64, 48)],
        points_per_batch=5,
        pred_iou_thresh=-1e9,
        stability_score_thresh=0.0,
    )
    expected = of_records(stock.generate(sequence[1]))
    counter = NetworkCounter()
    counter.watch_sam1(model)
    proposer = Sam1Proposer(model, sequence, config, sam1.precision)
    assert proposer.propose(1, NO_POINTS) == []
    found = of_proposals(proposer.propose(1, points))
    counter.close()
    assert expected
    assert found == expected
    assert counter.calls == NetworkCalls(proposer_image_encoder=1, mask_decoder=4)
