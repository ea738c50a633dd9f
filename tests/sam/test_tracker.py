"""Our tracker against the official predictor, logit by logit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import NO_OBJ_SCORE

from t3dgs_masks import bits
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.masks import encode
from t3dgs_masks.refine import refine
from t3dgs_masks.sam.counters import NetworkCounter
from t3dgs_masks.sam.devices import Precision
from t3dgs_masks.sam.memory import FrameFeatureCache, MemoryBank
from t3dgs_masks.sam.official import OfficialTracker
from t3dgs_masks.sam.tracker import Sam2Tracker, TrackedLogits
from t3dgs_masks.synthetic.capture import CaptureSpec, make_capture
from t3dgs_masks.types import NetworkCalls, Proposal
from tests.sam.scenes import BlobSequence, blob_sequence

# One object runs through the very same tensors as in the official predictor, but for where
# features are stored: only the order of float32 sums may differ.
ONE_OBJECT_TOLERANCE = 1e-4
# In a batch, float32 sums are ordered differently (1e-6), and now and then that moves a memory
# to the next bfloat16 number, 2^-8 away, which later frames see. Logits span several units.
BATCH_TOLERANCE = 0.02


@dataclass(frozen=True)
class Case:
    conditioning: tuple[tuple[int, int], ...]  # (frame_idx, object slot)
    start: int
    reverse: bool = False


ONE_OBJECT = {
    "forward": Case(((0, 0),), 1),
    "reverse": Case(((7, 0),), 6, reverse=True),
    "from a conditioning frame": Case(((0, 0), (2, 0)), 0),
    "conditioned from the future only": Case(((5, 0), (6, 0)), 2),
    "reverse to the first frame": Case(((1, 0), (2, 0)), 0, reverse=True),
    "both sides": Case(((0, 0), (1, 0), (2, 0), (5, 0), (6, 0), (7, 0)), 3),
    "both sides, reverse": Case(((0, 0), (1, 0), (5, 0), (6, 0)), 4, reverse=True),
}
SEVERAL_OBJECTS = {
    "forward": Case(((0, 0), (0, 1), (0, 2)), 1),
    "reverse": Case(((5, 0), (5, 1), (4, 0), (4, 1)), 3, reverse=True),
    "both sides": Case(tuple((t, k) for t in (0, 1, 2, 5, 6) for k in (0, 1)), 3),
    "different layouts": Case(((0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (6, 0)), 2),
    "an object that leaves": Case(((0, 2), (1, 2), (0, 0), (1, 0)), 2),
}


@pytest.fixture(scope="module")
def sequence() -> BlobSequence:
    return blob_sequence(num_frames=8, num_objects=3)


@pytest.fixture(params=["random", "trained"])
def model(request: pytest.FixtureRequest):
    return request.getfixturevalue(f"{request.param}_sam2")


def condition(tracker, sequence: BlobSequence, case: Case) -> None:
    tracker.forget()
    for frame_idx, slot in case.conditioning:
        tracker.condition(frame_idx, slot, sequence.rle(frame_idx, slot))


def logits(tracker, sequence: BlobSequence, case: Case) -> list[TrackedLogits]:
    condition(tracker, sequence, case)
    return list(tracker.propagate_logits(case.start, reverse=case.reverse))


def assert_same(ours: list[TrackedLogits], official: list[TrackedLogits], tolerance: float) -> None:
    assert [frame.frame_idx for frame in ours] == [frame.frame_idx for frame in official]
    for a, b in zip(ours, official, strict=True):
        assert a.object_ids == b.object_ids
        # An absent object's logits are -1024 by convention; both say so or neither.
        assert (a.mask_logits - b.mask_logits).abs().max() <= tolerance
        assert (a.object_score_logits - b.object_score_logits).abs().max() <= tolerance


def our_tracker(model, sequence: BlobSequence, cpu: Precision, **cache) -> Sam2Tracker:
    return Sam2Tracker(model, FrameFeatureCache(model, sequence, cpu, **cache), cpu)


@pytest.mark.parametrize("name", ONE_OBJECT)
def test_one_object(name, model, sequence, cpu):
    case = ONE_OBJECT[name]
    ours = logits(our_tracker(model, sequence, cpu), sequence, case)
    official = logits(OfficialTracker(model, sequence, cpu), sequence, case)
    assert ours
    assert_same(ours, official, ONE_OBJECT_TOLERANCE)


@pytest.mark.parametrize("name", SEVERAL_OBJECTS)
def test_several_objects(name, model, sequence, cpu):
    case = SEVERAL_OBJECTS[name]
    ours = logits(our_tracker(model, sequence, cpu), sequence, case)
    official = logits(OfficialTracker(model, sequence, cpu), sequence, case)
    assert_same(ours, official, BATCH_TOLERANCE)
    # The comparison means something: objects differ by far more than the tolerance.
    apart = max((f.mask_logits[0] - f.mask_logits[-1]).abs().max().item() for f in ours)
    assert apart > 4 * BATCH_TOLERANCE


def test_an_object_that_walks_out_of_the_picture(trained_sam2, cpu):
    """The small model sees it go; both trackers then say "absent", memories included."""
    capture = make_capture(
        CaptureSpec(seed=0, num_walkers=2, num_eval_views=0, height=96, width=128)
    )
    walk = BlobSequence(capture.frames[28:37], capture.object_masks[28:37])
    assert walk.mask(3, 0).any()
    assert not walk.mask(4, 0).any()
    case = Case(((0, 0),), 1)
    ours = logits(our_tracker(trained_sam2, walk, cpu), walk, case)
    official = logits(OfficialTracker(trained_sam2, walk, cpu), walk, case)
    assert_same(ours, official, ONE_OBJECT_TOLERANCE)
    is_there = [frame.object_score_logits.item() > 0 for frame in ours]
    assert is_there == [True, True, True, False, False, False, False, False]
    assert all((frame.mask_logits == NO_OBJ_SCORE).all() for frame in ours[3:])


def test_absent_objects(random_sam2, sequence, cpu):
    """What a network that sees no object remembers is the same too."""
    bias = random_sam2.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    with torch.no_grad():
        before = bias.clone()
        bias.fill_(-5.0)
    try:
        case = SEVERAL_OBJECTS["both sides"]
        ours = logits(our_tracker(random_sam2, sequence, cpu), sequence, case)
        official = logits(OfficialTracker(random_sam2, sequence, cpu), sequence, case)
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert_same(ours, official, BATCH_TOLERANCE)
    assert (ours[0].mask_logits == NO_OBJ_SCORE).all()


def test_restart_with_cached_memories(model, sequence, cpu):
    """A second start from known masks gives the same logits and encodes nothing again."""
    case = SEVERAL_OBJECTS["both sides"]
    other = SEVERAL_OBJECTS["forward"]
    tracker = our_tracker(model, sequence, cpu)
    first = logits(tracker, sequence, case)
    logits(tracker, sequence, other)
    counter = NetworkCounter()
    counter.watch_sam2(model)
    again = logits(tracker, sequence, case)
    counter.close()
    assert_same(again, first, 0.0)
    assert_same(
        again, logits(OfficialTracker(model, sequence, cpu), sequence, case), BATCH_TOLERANCE
    )
    assert counter.calls.image_encoder == 0
    # Frames 3 and 4 are propagated (5 and 6 are given, 7 is the last): one batch each, no more.
    assert counter.calls.memory_encoder == 2
    assert counter.calls.memory_attention == 3
    assert counter.calls.mask_decoder == 3


def test_single_step_encodes_no_memory_of_its_own(random_sam2, sequence, cpu):
    tracker = our_tracker(random_sam2, sequence, cpu)
    case = SEVERAL_OBJECTS["both sides"]
    logits(tracker, sequence, case)
    condition(tracker, sequence, case)
    counter = NetworkCounter()
    counter.watch_sam2(random_sam2)
    next(tracker.propagate_logits(case.start))
    counter.close()
    assert counter.calls == NetworkCalls(memory_attention=1, mask_decoder=1)


def test_frames_ahead_cost_no_object_pointer(random_sam2, sequence, cpu):
    """SAM2 reads object pointers of the past alone, so only those are computed, in a batch each."""
    tracker = our_tracker(random_sam2, sequence, cpu)
    condition(tracker, sequence, SEVERAL_OBJECTS["both sides"])  # frames 0, 1, 2 and 5, 6
    counter = NetworkCounter()
    counter.watch_sam2(random_sam2)
    next(tracker.propagate_logits(3))
    forward = counter.calls.mask_decoder
    next(tracker.propagate_logits(3, reverse=True))
    counter.close()
    assert forward == 3 + 1
    assert counter.calls.mask_decoder - forward == 2 + 1
    assert counter.calls.memory_encoder == 5


def test_every_frame_is_encoded_once_over_all_directions(random_sam2, sequence, cpu):
    tracker = our_tracker(random_sam2, sequence, cpu)
    counter = NetworkCounter()
    counter.watch_sam2(random_sam2)
    for case in (*ONE_OBJECT.values(), *SEVERAL_OBJECTS.values()):
        logits(tracker, sequence, case)
    counter.close()
    assert counter.calls.image_encoder == len(sequence)


def test_same_mask_on_same_frame_is_one_memory(random_sam2, sequence, cpu):
    bank = MemoryBank()
    features = FrameFeatureCache(random_sam2, sequence, cpu)
    tracker = Sam2Tracker(random_sam2, features, cpu, bank)
    tracker.condition(0, 3, sequence.rle(0, 0))
    tracker.condition(0, 9, sequence.rle(0, 0))
    step = next(tracker.propagate_logits(1))
    assert step.object_ids == (3, 9)
    assert len(bank) == 1
    assert torch.allclose(step.mask_logits[0], step.mask_logits[1], atol=1e-4)


def test_small_cache_changes_counts_and_nothing_else(random_sam2, sequence, cpu):
    case = SEVERAL_OBJECTS["both sides"]
    roomy = our_tracker(random_sam2, sequence, cpu)
    tight = our_tracker(random_sam2, sequence, cpu, budget_bytes=1)
    expected = logits(roomy, sequence, case)
    counter = NetworkCounter()
    counter.watch_sam2(random_sam2)
    assert_same(logits(tight, sequence, case), expected, 0.0)
    counter.close()
    assert counter.calls.image_encoder > len(sequence) - 1


@pytest.mark.parametrize("room", [None, 2 * 2 + 1], ids=["all fit", "2M+1 fit"])
@pytest.mark.parametrize("num_objects", [1, 3])
def test_image_encodings_of_a_whole_refine(trained_sam2, cpu, num_objects, room):
    """One a frame with room for all; at most three (one a pass) with room for the neighbours."""
    num_frames = 12
    sequence = blob_sequence(num_frames, num_objects)
    frame_bytes = FrameFeatureCache(trained_sam2, sequence, cpu)[0].num_bytes
    budget = None if room is None else room * frame_bytes
    features = FrameFeatureCache(trained_sam2, sequence, cpu, budget)
    counter = NetworkCounter()
    counter.watch_sam2(trained_sam2)

    class Given:
        def propose(self, frame_idx: int, points_xy: np.ndarray) -> list[Proposal]:
            if frame_idx > 0:
                return []
            masks = (sequence.mask(0, slot) for slot in range(num_objects))
            return [Proposal(mask, 1.0, 1.0, (0.0, 0.0)) for mask in masks]

    result = refine(
        num_frames=num_frames,
        height=sequence.height,
        width=sequence.width,
        prompts=None,
        proposer=Given(),
        tracker=Sam2Tracker(trained_sam2, features, cpu),
        config=RefineConfig(max_conditioning_frames=2),
    )
    counter.close()
    assert len(result.masklets) >= 1
    if room is None:
        assert counter.calls.image_encoder == num_frames
    else:
        assert num_frames < counter.calls.image_encoder <= 3 * num_frames


def test_nothing_conditioned_yields_nothing(random_sam2, sequence, cpu):
    tracker = our_tracker(random_sam2, sequence, cpu)
    assert list(tracker.propagate(0)) == []
    tracker.condition(0, 0, sequence.rle(0, 0))
    tracker.forget()
    assert list(tracker.propagate(0)) == []


def test_masks_are_at_frame_size_and_on_the_object(trained_sam2, sequence, cpu):
    tracker = our_tracker(trained_sam2, sequence, cpu)
    condition(tracker, sequence, SEVERAL_OBJECTS["forward"])
    frame = next(tracker.propagate(1))
    assert [tracked.object_id for tracked in frame.objects] == [0, 1, 2]
    for slot, tracked in enumerate(frame.objects):
        found, truth = bits.unpack(tracked.mask), sequence.mask(1, slot)
        assert found.shape == (sequence.height, sequence.width)
        overlap = (found & truth).sum() / (found | truth).sum()
        assert overlap > 0.5


# --- carried over into another process ------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_propagation_goes_on_from_its_snapshot_to_the_bit(random_sam2, cpu, reverse, after):
    """Two layouts of conditioning frames; more frames than SAM2 keeps memories of."""
    sequence = blob_sequence(14, 3)
    start = 11 if reverse else 2
    given = [(start, 1), (start, 2), (start + 1 if reverse else start - 1, 1), (6, 3)]

    def conditioned() -> Sam2Tracker:
        tracker = Sam2Tracker(
            random_sam2, FrameFeatureCache(random_sam2, sequence, cpu), cpu, MemoryBank()
        )
        for frame_idx, object_id in given:
            mask = np.zeros((sequence.height, sequence.width), bool)
            mask[4 : 9 + object_id, 3 * object_id : 12 + frame_idx] = True
            tracker.condition(frame_idx, object_id, encode(mask))
        return tracker

    whole = conditioned()
    running = whole.propagate(start, reverse=reverse)
    for _ in range(after):
        next(running)
    snapshot = whole.snapshot()
    assert snapshot is not None
    expected = list(running)
    resumed = list(conditioned().resume(snapshot, reverse=reverse))
    assert [one.frame_idx for one in resumed] == [one.frame_idx for one in expected]
    assert expected
    for ours, theirs in zip(resumed, expected, strict=True):
        for a, b in zip(ours.objects, theirs.objects, strict=True):
            assert (a.object_id, a.object_score) == (b.object_id, b.object_score)
            assert a.mask == b.mask


def test_a_snapshot_that_does_not_fit_is_refused(random_sam2, cpu):
    sequence = blob_sequence(4, 1)
    tracker = Sam2Tracker(random_sam2, FrameFeatureCache(random_sam2, sequence, cpu), cpu)
    assert tracker.snapshot() is None
    mask = np.zeros((sequence.height, sequence.width), bool)
    mask[3:9, 3:9] = True
    with pytest.raises(ValueError, match="nothing to track"):
        tracker.resume(b"")
    tracker.condition(0, 1, encode(mask))
    running = tracker.propagate(1)
    next(running)
    snapshot = tracker.snapshot()
    assert snapshot is not None
    for broken in (b"", b"no archive", snapshot[:-200]):
        with pytest.raises(ValueError, match="no snapshot"):
            tracker.resume(broken)
    tracker.forget()
    assert tracker.snapshot() is None
    tracker.condition(0, 2, encode(mask))
    with pytest.raises(ValueError, match="other objects"):
        tracker.resume(snapshot)
