"""Telling a video from a set of photos by the frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from t3dgs_masks.refine import judge_ordering
from t3dgs_masks.synthetic.capture import CaptureLook, CaptureMode, CaptureSpec, make_capture
from t3dgs_masks.types import Image


class ArrayFrames:
    """A frame sequence of arrays; counts what is read."""

    def __init__(self, images: Sequence[Image] | np.ndarray) -> None:
        self.images = images
        self.names = [f"frame_{t}" for t in range(len(images))]
        self.height, self.width = images[0].shape[:2]
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, frame_idx: int) -> Image:
        self.reads.append(frame_idx)
        return self.images[frame_idx]


def film(mode: CaptureMode, seed: int, look: CaptureLook = "calm", num_frames: int = 16):
    spec = CaptureSpec(
        seed=seed,
        mode=mode,
        look=look,
        num_frames=num_frames,
        height=96,
        width=128,
        num_eval_views=1,
        num_seed_points=20,
    )
    return make_capture(spec).frames


@pytest.mark.parametrize("look", ["calm", "busy"])
@pytest.mark.parametrize("seed", [410, 411])
def test_a_video(seed: int, look: CaptureLook) -> None:
    frames = film("video", seed, look)
    judged = judge_ordering(ArrayFrames(frames))
    assert judged.ordered, judged
    assert judged.nearer_share is not None
    assert judged.nearer_share > 0.9
    assert judge_ordering(ArrayFrames(frames[::-1])).ordered, "backwards"


@pytest.mark.parametrize("look", ["calm", "busy"])
@pytest.mark.parametrize("seed", [410, 411])
def test_photos(seed: int, look: CaptureLook) -> None:
    judged = judge_ordering(ArrayFrames(film("photos", seed, look)))
    assert not judged.ordered, judged
    assert "neighbouring frames correlate by" in judged.reason


def test_a_few_photos() -> None:
    frames = film("photos", 412, num_frames=3)
    assert not judge_ordering(ArrayFrames(frames)).ordered
    assert not judge_ordering(ArrayFrames(frames[:2])).ordered


def test_a_shuffled_video_is_no_video() -> None:
    frames = film("video", 413, num_frames=40)
    assert judge_ordering(ArrayFrames(frames[::2])).ordered, "every second frame"
    shuffled = frames[np.random.default_rng(0).permutation(len(frames))]
    assert not judge_ordering(ArrayFrames(shuffled)).ordered


def test_a_camera_that_stands_still_films_a_video() -> None:
    rng = np.random.default_rng(0)
    still = film("video", 414, num_frames=1)[0].astype(np.int16)
    frames = [(still + rng.integers(-4, 5, still.shape)).clip(0, 255) for _ in range(12)]
    assert judge_ordering(ArrayFrames([f.astype(np.uint8) for f in frames])).ordered


def test_plain_frames_are_alike_if_they_are_equally_bright() -> None:
    dark, light = np.full((48, 64, 3), 40, np.uint8), np.full((48, 64, 3), 200, np.uint8)
    assert judge_ordering(ArrayFrames([dark] * 6)).ordered
    assert not judge_ordering(ArrayFrames([dark, light] * 3)).ordered


@pytest.mark.parametrize(("given", "ordered"), [("yes", True), ("no", False)])
def test_what_is_given_is_not_looked_at(given, ordered: bool) -> None:
    frames = ArrayFrames([np.zeros((48, 64, 3), np.uint8)] * 3)
    judged = judge_ordering(frames, given)
    assert judged.ordered == ordered
    assert judged.reason == f"--ordered {given} was given"
    assert frames.reads == []


def test_one_frame() -> None:
    frames = ArrayFrames([np.zeros((48, 64, 3), np.uint8)])
    assert judge_ordering(frames).ordered
    assert frames.reads == []


def test_of_a_long_sequence_48_frames_are_read() -> None:
    frames = ArrayFrames([np.zeros((48, 64, 3), np.uint8)] * 1000)
    assert judge_ordering(frames).ordered
    assert len(frames.reads) == len(set(frames.reads)) == 48
    short = ArrayFrames([np.zeros((48, 64, 3), np.uint8)] * 10)
    judge_ordering(short)
    assert sorted(short.reads) == list(range(10))
