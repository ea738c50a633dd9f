"""Frames as the network takes them, read and resized ahead of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import torch
from PIL import Image as PilImage
from torch import Tensor

from t3dgs_masks.cores import usable_cores
from t3dgs_masks.types import FrameSequence, Image

# ImageNet statistics, as sam2/utils/misc.py:load_video_frames applies them.
_MEAN = np.array((0.485, 0.456, 0.406), np.float32)[:, None]
_STD = np.array((0.229, 0.224, 0.225), np.float32)[:, None]
_NORMALISED = ((np.arange(256) / 255.0).astype(np.float32) - _MEAN) / _STD
"""[3, 256] float32: what the network takes for a level of a colour."""

_MOST_READERS = 4
"""A frame of 4K takes 150 ms to read and to resize, which is longer than a fast GPU works on it;
each frame that is read ahead takes 12 MB at 1024 px."""


def image_to_tensor(image: Image, image_size: int) -> Tensor:
    """[H, W, 3] uint8 RGB -> [1, 3, image_size, image_size] float32, normalised, on the host.

    Resized by Pillow exactly as sam2/utils/misc.py:_load_img_as_tensor does it, so that features
    agree with the official video predictor's.
    """
    resized = np.asarray(PilImage.fromarray(image).resize((image_size, image_size)))
    # Without PyTorch's operations: a second thread that uses OpenMP makes it put all threads to
    # sleep wherever they wait, which takes the network up to twice as long.
    pixels = np.empty((1, 3, image_size, image_size), np.float32)
    for channel, (normalised, plane) in enumerate(zip(_NORMALISED, pixels[0], strict=True)):
        cv2.LUT(cv2.extractChannel(resized, channel), normalised, plane)
    return torch.from_numpy(pixels)


class FrameReader:
    """Reads the frames of a sequence, and those that come next in the same direction beside what
    is done with them. For one thread.

    Args:
        frames: the sequence.
        image_size: S, of the network, pixels.
        device: of the network. A GPU takes several frames in the time that one takes to be read;
            the CPU needs its cores for the network.
    """

    def __init__(self, frames: FrameSequence, image_size: int, device: torch.device) -> None:
        self._frames = frames
        self._image_size = image_size
        self._pinned = device.type == "cuda"
        self._num_ahead = 1
        if device.type != "cpu":
            self._num_ahead = max(1, min(_MOST_READERS, usable_cores() // 2))
        self._readers = ThreadPoolExecutor(self._num_ahead, thread_name_prefix="frames")
        self._ahead: dict[int, Future[Tensor]] = {}
        self._last_idx = 0

    def pixels(self, frame_idx: int, is_wanted: Callable[[int], bool]) -> Tensor:
        """[1, 3, S, S] float32 of a frame, on the host (pinned if the device is CUDA's).

        Args:
            frame_idx: which frame.
            is_wanted: whether a frame that comes next will have to be read too.

        Raises:
            UserError: it cannot be read.
        """
        ahead = self._ahead.get(frame_idx)
        pixels = self._read(frame_idx) if ahead is None else ahead.result()
        step = 1 if frame_idx >= self._last_idx else -1
        self._last_idx = frame_idx
        following = [frame_idx + step * distance for distance in range(1, self._num_ahead + 1)]
        self._ahead = {
            t: self._ahead.get(t) or self._readers.submit(self._read, t)
            for t in following
            if 0 <= t < len(self._frames) and is_wanted(t)
        }
        return pixels

    def _read(self, frame_idx: int) -> Tensor:
        pixels = image_to_tensor(self._frames[frame_idx], self._image_size)
        # From pinned memory the upload does not wait for what the device is busy with.
        return pixels.pin_memory() if self._pinned else pixels
