"""The same code path on CUDA, in bfloat16."""

from __future__ import annotations

import pytest
import torch

from t3dgs_masks import bits
from t3dgs_masks.config import ProposalConfig
from t3dgs_masks.sam.checkpoints import load_sam2
from t3dgs_masks.sam.memory import FrameFeatureCache
from t3dgs_masks.sam.official import OfficialTracker
from t3dgs_masks.sam.proposer import Sam2Proposer
from t3dgs_masks.sam.tracker import Sam2Tracker
from tests.sam.scenes import blob_sequence
from tests.sam.test_proposer import grid

pytestmark = pytest.mark.gpu


def test_trackers_agree_and_features_wait_on_the_host():
    loaded = load_sam2("tiny-synthetic", device="cuda")
    assert loaded.precision.autocast_dtype == torch.bfloat16
    sequence = blob_sequence(8, 2)
    features = FrameFeatureCache(loaded.model, sequence, loaded.precision)
    frames = {}
    for name, tracker in {
        "ours": Sam2Tracker(loaded.model, features, loaded.precision),
        "official": OfficialTracker(loaded.model, sequence, loaded.precision),
    }.items():
        for frame_idx in (0, 1):
            for slot in (0, 1):
                tracker.condition(frame_idx, slot, sequence.rle(frame_idx, slot))
        frames[name] = list(tracker.propagate(2))
    for ours, official in zip(frames["ours"], frames["official"], strict=True):
        for a, b in zip(ours.objects, official.objects, strict=True):
            # bfloat16 carries 8 bits: masks differ by pixels on their edge and no more.
            differing = bits.count((a.mask | b.mask) - (a.mask & b.mask))
            assert differing <= max(8, 0.02 * bits.count(b.mask))
    assert all(level.device.type == "cuda" for level in features[0].levels)


def test_proposals_on_the_device():
    loaded = load_sam2("tiny-synthetic", device="cuda")
    sequence = blob_sequence(1, 2)
    features = FrameFeatureCache(loaded.model, sequence, loaded.precision)
    proposer = Sam2Proposer(loaded.model, features, ProposalConfig(0.0, 0.0))
    proposals = proposer.propose(0, grid(sequence.height, sequence.width, 4))
    assert proposals
