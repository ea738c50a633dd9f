"""Too little memory on the device: smaller batches give the same, and at last an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sam2.sam2_video_predictor import SAM2VideoPredictor

from t3dgs_masks.config import ProposalConfig
from t3dgs_masks.sam.checkpoints import load_sam1
from t3dgs_masks.sam.devices import Precision
from t3dgs_masks.sam.memory import FrameFeatureCache
from t3dgs_masks.sam.out_of_memory import is_out_of_memory, with_relief
from t3dgs_masks.sam.proposer import Sam1Proposer, Sam2Proposer
from t3dgs_masks.sam.tracker import Sam2Tracker, TrackedLogits
from tests.sam.scenes import BlobSequence, blob_sequence
from tests.sam.test_proposer import grid, of_proposals
from tests.sam.test_tracker import BATCH_TOLERANCE
from tests.sam.tiny_sam1 import write_tiny_sam1

LENIENT = ProposalConfig(pred_iou_thresh=0.0, stability_score_thresh=0.0, points_per_batch=7)


@contextmanager
def room_for(most: int, decoder: torch.nn.Module) -> Iterator[list[int]]:
    """The mask decoder runs out of memory above so many prompts at once; gives the batches that
    it was called with."""
    batches: list[int] = []

    def weigh(_: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        batches.append(len(kwargs["sparse_prompt_embeddings"]))
        if batches[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = decoder.register_forward_pre_hook(weigh, with_kwargs=True)
    try:
        yield batches
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def sequence() -> BlobSequence:
    return blob_sequence(num_frames=6, num_objects=3)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_sam2_proposes_the_same_in_smaller_batches(
    random_sam2: SAM2VideoPredictor, sequence: BlobSequence, cpu: Precision, most: int
) -> None:
    def proposer() -> Sam2Proposer:
        return Sam2Proposer(random_sam2, FrameFeatureCache(random_sam2, sequence, cpu), LENIENT)

    points = grid(sequence.height, sequence.width, 4)
    expected = proposer().propose(0, points)
    short = proposer()
    with room_for(most, random_sam2.sam_mask_decoder) as batches:
        found = short.propose(0, points)
        again = short.propose(1, points)
    assert of_proposals(found) == of_proposals(expected)
    assert again
    assert max(batches) == 7
    # What once was too much is not tried again.
    assert all(
        size <= most for size in batches[batches.index(max(b for b in batches if b <= most)) :]
    )


def test_sam1_proposes_the_same_in_smaller_batches(tmp_path, sequence: BlobSequence) -> None:
    sam1 = load_sam1(write_tiny_sam1(tmp_path / "sam1.pth"), "cpu")
    points = grid(sequence.height, sequence.width, 3)
    expected = Sam1Proposer(sam1.model, sequence, LENIENT, sam1.precision).propose(0, points)
    with room_for(2, sam1.model.mask_decoder):
        found = Sam1Proposer(sam1.model, sequence, LENIENT, sam1.precision).propose(0, points)
    assert of_proposals(found) == of_proposals(expected)


def test_no_room_for_a_single_point(
    random_sam2: SAM2VideoPredictor, sequence: BlobSequence, cpu: Precision
) -> None:
    features = FrameFeatureCache(random_sam2, sequence, cpu)
    proposer = Sam2Proposer(random_sam2, features, LENIENT)
    with room_for(0, random_sam2.sam_mask_decoder) as batches:  # noqa: SIM117
        with pytest.raises(torch.OutOfMemoryError):
            proposer.propose(0, grid(sequence.height, sequence.width, 4))
    assert batches == [7, 3, 1]


def tracked(
    model: SAM2VideoPredictor, sequence: BlobSequence, cpu: Precision, *, reverse: bool
) -> list[TrackedLogits]:
    # With room on the device, so that giving it up is one of the measures.
    features = FrameFeatureCache(model, sequence, cpu, device_budget_bytes=1 << 30)
    tracker = Sam2Tracker(model, features, cpu)
    for slot in range(3):
        for frame_idx in (4, 5) if reverse else (0, 1):
            tracker.condition(frame_idx, slot, sequence.rle(frame_idx, slot))
    return list(tracker.propagate_logits(3 if reverse else 1, reverse=reverse))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("most", [1, 2])
def test_the_tracker_follows_the_same_in_smaller_batches(
    random_sam2: SAM2VideoPredictor,
    sequence: BlobSequence,
    cpu: Precision,
    most: int,
    reverse: bool,
) -> None:
    expected = tracked(random_sam2, sequence, cpu, reverse=reverse)
    with room_for(most, random_sam2.sam_mask_decoder) as batches:
        found = tracked(random_sam2, sequence, cpu, reverse=reverse)
    assert max(batches) == 3
    assert [frame.object_ids for frame in found] == [frame.object_ids for frame in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.mask_logits, theirs.mask_logits, atol=BATCH_TOLERANCE)


def test_no_room_for_a_single_object(
    random_sam2: SAM2VideoPredictor, sequence: BlobSequence, cpu: Precision
) -> None:
    with room_for(0, random_sam2.sam_mask_decoder), pytest.raises(torch.OutOfMemoryError):
        tracked(random_sam2, sequence, cpu, reverse=False)


def test_other_errors_are_not_taken_for_it() -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        with_relief(fail, lambda: pytest.fail("nothing to relieve"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(ValueError("out of memory"))
