"""Small in-memory sequences of moving blobs, for tests that run the networks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from t3dgs_masks.masks import encode
from t3dgs_masks.types import BoolMask, Image, Rle


@dataclass(frozen=True)
class BlobSequence:
    """`FrameSequence` of coloured discs over noise; True object masks come with it."""

    images: np.ndarray  # [N, H, W, 3] uint8
    object_masks: np.ndarray  # [N, K, H, W] bool, True = object

    @property
    def names(self) -> list[str]:
        return [f"frame_{index:03d}" for index in range(len(self.images))]

    @property
    def height(self) -> int:
        return self.images.shape[1]

    @property
    def width(self) -> int:
        return self.images.shape[2]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, frame_idx: int) -> Image:
        return self.images[frame_idx]

    def mask(self, frame_idx: int, slot: int) -> BoolMask:
        return self.object_masks[frame_idx, slot]

    def rle(self, frame_idx: int, slot: int) -> Rle:
        return encode(self.mask(frame_idx, slot))


def blob_sequence(
    num_frames: int = 8, num_objects: int = 2, height: int = 96, width: int = 128, seed: int = 0
) -> BlobSequence:
    """Discs that cross the picture; the last one walks out of it half-way."""
    rng = np.random.default_rng(seed)
    background = cv2.resize(rng.integers(40, 200, (12, 16, 3), dtype=np.uint8), (width, height))
    images = np.repeat(background[None], num_frames, axis=0)
    masks = np.zeros((num_frames, num_objects, height, width), bool)
    for slot in range(num_objects):
        colour = rng.integers(0, 255, 3).tolist()
        radius = int(rng.integers(12, 20))
        y = (slot + 1) * height // (num_objects + 1)
        leaves = slot == num_objects - 1 and num_objects > 1
        end = 2 * width + 4 * radius if leaves else width - radius
        for t in range(num_frames):
            x = radius + round((end - radius) * t / max(1, num_frames - 1))
            disc = np.zeros((height, width), np.uint8)
            cv2.circle(disc, (x, y), radius, 1, -1)
            images[t][disc > 0] = colour
            masks[t, :slot] &= ~(disc > 0)
            masks[t, slot] = disc > 0
    return BlobSequence(images, masks)
