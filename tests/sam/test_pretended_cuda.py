"""The networks on a device that is only pretended (`scripts/pretended_cuda.py`)."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from scripts.pretended_cuda import PretendedCuda
from t3dgs_masks import bits
from t3dgs_masks.config import ProposalConfig
from t3dgs_masks.sam.checkpoints import load_sam2
from t3dgs_masks.sam.devices import PrecisionName
from t3dgs_masks.sam.memory import FrameFeatureCache
from t3dgs_masks.sam.official import OfficialTracker
from t3dgs_masks.sam.proposer import Sam2Proposer
from t3dgs_masks.sam.tracker import Sam2Tracker
from t3dgs_masks.types import Tracker
from tests.sam.scenes import BlobSequence, blob_sequence
from tests.sam.test_proposer import grid

pytestmark = pytest.mark.pretended_gpu


def tracker_on(
    device: str, sequence: BlobSequence, precision: PrecisionName = "auto"
) -> Sam2Tracker:
    loaded = load_sam2("tiny-synthetic", device=device, precision=precision)
    features = FrameFeatureCache(loaded.model, sequence, loaded.precision, device_frames=4)
    return Sam2Tracker(loaded.model, features, loaded.precision)


def condition(tracker: Tracker, sequence: BlobSequence) -> None:
    for frame_idx in (0, 1):
        for slot in range(sequence.object_masks.shape[1]):
            tracker.condition(frame_idx, slot, sequence.rle(frame_idx, slot))


def areas(tracker: Tracker, sequence: BlobSequence) -> list[list[int]]:
    """Pixels of every object on every frame from the third on."""
    condition(tracker, sequence)
    return [
        [bits.count(found.mask) for found in tracked.objects] for tracked in tracker.propagate(2)
    ]


def test_the_tracker_in_float32_is_that_of_the_cpu(pretended: PretendedCuda) -> None:
    sequence = blob_sequence(6, 2)
    on_device = areas(tracker_on("cuda", sequence, "float32"), sequence)
    on_cpu = areas(tracker_on("cpu", sequence, "float32"), sequence)
    for there, here in zip(on_device, on_cpu, strict=True):
        assert there == pytest.approx(here, abs=2)  # attention sums in another order


@pytest.mark.parametrize(
    ("num_objects", "tolerance"),
    [
        (1, 0.0),  # to the bit
        (2, 0.5),  # a batch sums in another order: two steps of bfloat16 at the largest logits
    ],
)
def test_the_tracker_in_bfloat16_is_the_official_one(
    pretended: PretendedCuda, num_objects: int, tolerance: float
) -> None:
    sequence = blob_sequence(6, num_objects)
    loaded = load_sam2("tiny-synthetic", device="cuda")
    assert loaded.precision.autocast_dtype == torch.bfloat16
    found = []
    for tracker in (
        tracker_on("cuda", sequence),
        OfficialTracker(loaded.model, sequence, loaded.precision),
    ):
        condition(tracker, sequence)
        found.append([logits.mask_logits.cpu() for logits in tracker.propagate_logits(2)])
    ours, official = found
    assert len(official) == 4
    for mine, theirs in zip(ours, official, strict=True):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=0.0)


def test_proposals_in_float32_are_those_of_the_cpu(pretended: PretendedCuda) -> None:
    sequence = blob_sequence(1, 2, height=300, width=400)  # enlarged enough for `upsampled`
    found = []
    for device in ("cuda", "cpu"):
        loaded = load_sam2("tiny-synthetic", device=device, precision="float32")
        features = FrameFeatureCache(loaded.model, sequence, loaded.precision)
        proposer = Sam2Proposer(loaded.model, features, ProposalConfig(0.0, 0.5))
        proposals = proposer.propose(0, grid(sequence.height, sequence.width, 4))
        found.append(sorted(int(proposal.mask.sum()) for proposal in proposals))
    on_device, on_cpu = found
    assert len(on_device) > 2
    assert on_device == pytest.approx(on_cpu, rel=0.005, abs=2)


@pytest.mark.parametrize("num_objects", [1, 3])
def test_a_step_waits_for_its_result_alone(pretended: PretendedCuda, num_objects: int) -> None:
    sequence = blob_sequence(12, num_objects)
    tracker = tracker_on("cuda", sequence)
    condition(tracker, sequence)
    steps = tracker.propagate(2)
    for _ in range(4):
        next(steps)
    pretended.waits.clear()
    for _ in range(4):
        next(steps)
    by_file: dict[tuple[str, str], int] = {}
    for (cause, place), times in pretended.waits.items():
        key = cause, place.split(":")[0]
        by_file[key] = by_file.get(key, 0) + times
    # Masks and scores; and a frame's features, of three sizes, leave the device.
    assert by_file == {
        ("download", "packing.py"): 4,
        ("download", "tracker.py"): 4,
        ("download", "memory.py"): 12,
    }


@dataclass
class Encodings:
    """Which frames were encoded, and how many waits of `memory.py` there had been by then."""

    pretended: PretendedCuda
    waits: list[int] = field(default_factory=list)

    @staticmethod
    def of(pretended: PretendedCuda, model: nn.Module) -> Encodings:
        encodings = Encodings(pretended)
        model.get_submodule("image_encoder").register_forward_pre_hook(encodings._note)
        return encodings

    def __len__(self) -> int:
        return len(self.waits)

    def waits_so_far(self) -> int:
        waits = self.pretended.waits.items()
        return sum(times for (_, place), times in waits if place.startswith("memory.py"))

    def _note(self, *_: object) -> None:
        self.waits.append(self.waits_so_far())


@pytest.mark.parametrize("reverse", [False, True])
def test_the_next_frame_is_begun_before_the_host_has_its_masks(
    pretended: PretendedCuda, reverse: bool
) -> None:
    sequence = blob_sequence(12, 1)
    tracker = tracker_on("cuda", sequence)
    encodings = Encodings.of(pretended, tracker._model)
    given = (10, 11) if reverse else (0, 1)
    for frame_idx in given:
        tracker.condition(frame_idx, 0, sequence.rle(frame_idx, 0))
    expected = [*range(4, 13), 12]
    seen = []
    for _ in tracker.propagate(9 if reverse else 2, reverse=reverse):
        seen.append(len(encodings))
        # What the new frame displaces has left the device before: copies do not wait for it.
        assert encodings.waits_so_far() == encodings.waits[-1]
    assert seen == expected, "each is encoded once, one frame ahead"


def test_what_is_begun_is_kept_until_it_is_asked_for(pretended: PretendedCuda) -> None:
    loaded = load_sam2("tiny-synthetic", device="cuda")
    features = FrameFeatureCache(loaded.model, blob_sequence(6, 1), loaded.precision)
    encodings = Encodings.of(pretended, loaded.model)
    for frame_idx in (-1, 6):
        features.begin(frame_idx)
    assert len(encodings) == 0
    features.begin(3)
    features.begin(3)
    assert 3 in features
    assert 4 not in features
    features[5]
    assert len(encodings) == 2
    features[3]
    features[3]
    features.begin(3)
    assert len(encodings) == 2
    features.begin(4)
    assert features.leave_device()
    features.begin(0)
    features[4]
    assert len(encodings) == 3, "not encoded again, and nothing begun where memory is short"


def test_where_there_is_no_memory_to_begin_a_frame_it_waits(
    pretended: PretendedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_sam2("tiny-synthetic", device="cuda")
    features = FrameFeatureCache(loaded.model, blob_sequence(3, 1), loaded.precision)
    encodings = Encodings.of(pretended, loaded.model)

    def short(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as shortage:
        shortage.setattr(loaded.model, "forward_image", short)
        features.begin(1)
    assert 1 not in features
    features.begin(1)
    assert len(encodings) == 0, "it is not tried again"
    features[1]
    assert len(encodings) == 1

    def broken(_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(loaded.model, "forward_image", broken)
    others = FrameFeatureCache(loaded.model, blob_sequence(3, 1), loaded.precision)
    with pytest.raises(RuntimeError, match="something else"):
        others.begin(0)


@pytest.mark.parametrize("num_objects", [1, 3, 20])
def test_masks_given_on_a_frame_travel_there_together(
    pretended: PretendedCuda, num_objects: int
) -> None:
    sequence = blob_sequence(2, num_objects)
    tracker = tracker_on("cuda", sequence)
    for slot in range(num_objects):
        tracker.condition(0, slot, sequence.rle(0, slot))
    next(tracker.propagate(1))
    uploads = sum(
        times
        for (cause, place), times in pretended.waits.items()
        if cause == "upload" and place.startswith("packing.py")
    )
    assert uploads == -(-num_objects // 16)  # so many at once


def test_a_running_propagation_goes_on_there_from_its_snapshot(pretended: PretendedCuda) -> None:
    sequence = blob_sequence(8, 2)
    tracker = tracker_on("cuda", sequence)
    condition(tracker, sequence)
    steps = tracker.propagate(2)
    next(steps)
    next(steps)
    snapshot = tracker.snapshot()
    assert snapshot is not None
    expected = list(steps)
    again = tracker_on("cuda", sequence)
    condition(again, sequence)
    assert list(again.resume(snapshot)) == expected


def test_no_tensor_is_left_on_the_device(pretended: PretendedCuda) -> None:
    sequence = blob_sequence(4, 1)
    areas(tracker_on("cuda", sequence), sequence)
    gc.collect()
    assert pretended.held_bytes == 0
