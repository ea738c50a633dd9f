"""The pixels that the network sees, and what is read ahead."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from sam2.utils.misc import load_video_frames

from t3dgs_masks.errors import UserError
from t3dgs_masks.sam.frame_reader import FrameReader, image_to_tensor
from tests.sam.scenes import BlobSequence, blob_sequence

CPU, GPU = torch.device("cpu"), torch.device("mps")


def test_pixels_are_those_of_the_official_loader(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8)
    # Lossless bytes under the one suffix that the official loader takes.
    PilImage.fromarray(image).save(tmp_path / "0.jpg", format="PNG")
    expected, height, width = load_video_frames(
        str(tmp_path), 64, offload_video_to_cpu=True, compute_device=torch.device("cpu")
    )
    assert (height, width) == image.shape[:2]
    assert torch.equal(image_to_tensor(image, 64), expected)


def test_every_level_of_every_colour_is_normalised_as_officially() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = np.stack([levels, levels[::-1], levels.T], axis=2)
    expected = torch.from_numpy(image / 255.0).permute(2, 0, 1).float()
    expected -= torch.tensor((0.485, 0.456, 0.406))[:, None, None]
    expected /= torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    assert torch.equal(image_to_tensor(image, 16)[0], expected)


class Sequence:
    """Frames that take down when they are read; one may be broken."""

    def __init__(self, num_frames: int, broken: int | None = None) -> None:
        self._blobs: BlobSequence = blob_sequence(num_frames, 1)
        self.height, self.width = self._blobs.height, self._blobs.width
        self.names = self._blobs.names
        self.reads: list[int] = []
        self._broken = broken
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._blobs)

    def __getitem__(self, frame_idx: int) -> np.ndarray:
        with self._lock:
            self.reads.append(frame_idx)
        if frame_idx == self._broken:
            raise UserError(f"frame {frame_idx} is broken")
        return self._blobs[frame_idx]


def finished(reader: FrameReader) -> None:
    for ahead in reader._ahead.values():
        ahead.exception()


@pytest.mark.parametrize(
    ("device", "cores", "num_ahead"),
    [(CPU, 16, 1), (GPU, 1, 1), (GPU, 2, 1), (GPU, 6, 3), (GPU, 64, 4)],
)
def test_so_many_frames_are_read_ahead(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, cores: int, num_ahead: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    sequence = Sequence(12)
    reader = FrameReader(sequence, 16, device)
    for frame_idx, step in ((3, 1), (4, 1), (9, 1), (6, -1), (5, -1), (0, -1), (11, 1)):
        expected = image_to_tensor(sequence._blobs[frame_idx], 16)
        assert torch.equal(reader.pixels(frame_idx, lambda _: True), expected)
        finished(reader)
        coming = range(frame_idx + step, frame_idx + step * (num_ahead + 1), step)
        assert sorted(reader._ahead) == sorted(t for t in coming if 0 <= t < 12)


def test_each_frame_is_read_once_and_only_if_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    sequence = Sequence(10)
    reader = FrameReader(sequence, 16, GPU)
    for frame_idx in (0, 1, 3, 4, 5, 8, 9):
        reader.pixels(frame_idx, lambda t: t not in (2, 6, 7))
        finished(reader)
    assert sorted(sequence.reads) == [0, 1, 3, 4, 5, 8, 9]


def test_a_frame_that_cannot_be_read_ahead_fails_when_it_is_due() -> None:
    reader = FrameReader(Sequence(3, broken=1), 16, CPU)
    reader.pixels(0, lambda _: True)
    with pytest.raises(UserError, match="frame 1"):
        reader.pixels(1, lambda _: True)
    assert reader.pixels(2, lambda _: True).shape == (1, 3, 16, 16)
