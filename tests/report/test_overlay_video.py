"""The overlay in parts: the same video whatever was drawn early, and however wrongly."""

from __future__ import annotations

import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from t3dgs_masks import UserError, masks
from t3dgs_masks.refine import FrameResult
from t3dgs_masks.report import overlay_video
from t3dgs_masks.report.overlay_video import OverlayVideo
from t3dgs_masks.types import Image

HEIGHT, WIDTH = 48, 64
NUM_FRAMES = 11


class GreyFrames:
    """Frames of different greys; counts how often each is read."""

    def __init__(self) -> None:
        self.names = [str(t) for t in range(NUM_FRAMES)]
        self.height, self.width = HEIGHT, WIDTH
        self.reads: list[int] = []

    def __len__(self) -> int:
        return NUM_FRAMES

    def __getitem__(self, frame_idx: int) -> Image:
        self.reads.append(frame_idx)
        return np.full((HEIGHT, WIDTH, 3), 40 + 15 * frame_idx, dtype=np.uint8)


def result(frame_idx: int, *, shift: int = 0) -> FrameResult:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    left = 3 * frame_idx + shift
    mask[10:30, left : left + 12] = True
    return FrameResult({1: masks.encode(mask)}, {2: masks.encode(~mask)})


RESULTS = [result(t) for t in range(NUM_FRAMES)]


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_video, "PART_FRAMES", 4)


def completed(folder: Path, early: Iterable[tuple[int, FrameResult]] = ()) -> bytes:
    video = OverlayVideo(folder / "parts", GreyFrames(), 10, lambda: True)
    for frame_idx, shown in early:
        video.show(frame_idx, shown)
    for part in video.parts_to_complete(RESULTS):
        video.complete(part, RESULTS)
    assert video.parts_to_complete(RESULTS) == []
    video.join(folder / "overlay.mp4")
    return (folder / "overlay.mp4").read_bytes()


def test_every_frame_is_in_the_video(tmp_path: Path) -> None:
    completed(tmp_path)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == NUM_FRAMES
    for frame_idx, image in enumerate(shown):
        tint = image[20, 3 * frame_idx + 6].astype(int)
        assert np.ptp(tint) > 30, "the object is tinted"
        assert np.ptp(image[:6].astype(int), axis=2).mean() < 8, "the rejected one is grey"
    assert not (tmp_path / "parts").exists(), "there is room for them in memory"


@pytest.mark.parametrize("num_in_memory", [0, 1, 2])
def test_parts_beyond_what_memory_may_hold_wait_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_in_memory: int
) -> None:
    expected = completed(tmp_path)
    room = num_in_memory * len(expected) // 2  # a part has a third of the frames, and a header
    monkeypatch.setattr(overlay_video, "_BYTES_IN_MEMORY", room)
    wrong = [(t, result(t, shift=t % 3)) for t in range(NUM_FRAMES)]
    for early in ((), wrong):
        assert completed(tmp_path, early) == expected
    in_files = [path.name for path in sorted((tmp_path / "parts").iterdir())]
    assert in_files == ["000000.mp4", "000004.mp4", "000008.mp4"][num_in_memory:]


def test_what_is_drawn_early_makes_no_difference(tmp_path: Path) -> None:
    expected = completed(tmp_path)
    in_order = [(t, RESULTS[t]) for t in range(NUM_FRAMES)]
    shuffled = random.Random(1).sample(in_order, NUM_FRAMES)
    wrong = [(t, result(t, shift=t % 3)) for t in range(NUM_FRAMES)]
    half = [(t, RESULTS[t]) for t in range(6)]
    for early in (in_order, in_order[::-1], shuffled, wrong, half, wrong[:6]):
        assert completed(tmp_path, early) == expected


def test_threads_make_no_difference(tmp_path: Path) -> None:
    expected = completed(tmp_path)
    for seed in range(5):
        video = OverlayVideo(tmp_path / "parts", GreyFrames(), 10, lambda: True)
        frames = random.Random(seed).sample(range(NUM_FRAMES), NUM_FRAMES)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda t, video=video: video.show(t, RESULTS[t]), frames))
        assert video.parts_to_complete(RESULTS) == []
        video.join(tmp_path / "overlay.mp4")
        assert (tmp_path / "overlay.mp4").read_bytes() == expected


def test_only_the_parts_that_have_changed_are_drawn_again(tmp_path: Path) -> None:
    frames = GreyFrames()
    video = OverlayVideo(tmp_path, frames, 10, lambda: True)
    for t in range(NUM_FRAMES):
        video.show(t, RESULTS[t])
    assert frames.reads == list(range(NUM_FRAMES))
    changed = [*RESULTS[:5], result(5, shift=1), *RESULTS[6:]]
    assert video.parts_to_complete(changed) == [1]
    video.complete(1, changed)
    assert frames.reads[NUM_FRAMES:] == [4, 5, 6, 7]


def test_a_part_goes_on_where_it_stands(tmp_path: Path) -> None:
    frames = GreyFrames()
    video = OverlayVideo(tmp_path, frames, 10, lambda: True)
    for t in (0, 1, 3):
        video.show(t, RESULTS[t])
    assert video.parts_to_complete(RESULTS) == [0, 1, 2]
    video.complete(0, RESULTS)
    assert frames.reads == [0, 1, 3, 2], "frame 3 was drawn, and waited for frame 2"


def test_what_was_drawn_early_and_has_changed_is_drawn_again(tmp_path: Path) -> None:
    frames = GreyFrames()
    video = OverlayVideo(tmp_path, frames, 10, lambda: True)
    for t in (2, 3):
        video.show(t, result(t, shift=9 if t == 3 else 0))
    assert frames.reads == [2, 3], "both wait for the frames before them"
    video.complete(0, RESULTS)
    assert sorted(frames.reads[2:]) == [0, 1, 3]
    for part in (1, 2):
        video.complete(part, RESULTS)
    video.join(tmp_path / "overlay.mp4")
    (tmp_path / "late").mkdir()
    assert (tmp_path / "overlay.mp4").read_bytes() == completed(tmp_path / "late")


def test_few_pictures_wait_for_earlier_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay_video, "_PREPARED_FRAMES", 2)
    frames = GreyFrames()
    video = OverlayVideo(tmp_path, frames, 10, lambda: True)
    for t in (3, 2, 1):
        video.show(t, RESULTS[t])
    assert frames.reads == [3, 2]
    video.show(0, RESULTS[0])
    assert sorted(frames.reads) == [0, 1, 2, 3]
    assert video.parts_to_complete(RESULTS) == [1, 2]


def test_what_is_not_wanted_any_more_is_left(tmp_path: Path) -> None:
    frames = GreyFrames()
    video = OverlayVideo(tmp_path, frames, 10, lambda: len(frames.reads) < 3)
    for t in range(NUM_FRAMES):
        video.show(t, RESULTS[t])
    assert frames.reads == [0, 1, 2]
    video.drop()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_a_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay_video, "_BYTES_IN_MEMORY", 0)
    (tmp_path / "file").write_text("x")
    video = OverlayVideo(tmp_path / "file", GreyFrames(), 10, lambda: True)
    for t in range(3):
        video.show(t, RESULTS[t])
    with pytest.raises(UserError, match="cannot write the video"):
        video.show(3, RESULTS[3])
    assert video.parts_to_complete(RESULTS) == [0, 1, 2]
    with pytest.raises(UserError, match="cannot write the video"):
        video.complete(0, RESULTS)
