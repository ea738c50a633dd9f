"""What SAM2 remembers, as explicit values: features of frames and memories of objects.

A frame's features depend on the frame alone; conditioning memories depend on the frame and on
the pixels of the masks alone. Both caches use exactly that as their key, so nothing is computed
twice as long as the cache is large enough, and a value that was evicted is simply computed again.

The passes of a refine walk to the end, back, and to the end again, and look at neighbours on the
way. Dropping what was used longest ago is the best that can be done for that: with room for the
neighbours alone a frame is encoded once a pass, and with room for a share of all frames those are
found again after each turn.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from t3dgs_masks.sam.devices import Precision
from t3dgs_masks.sam.fast_parts import FastParts
from t3dgs_masks.sam.frame_reader import FrameReader
from t3dgs_masks.sam.known_places import KnownPlaces
from t3dgs_masks.sam.out_of_memory import is_out_of_memory
from t3dgs_masks.types import FrameSequence, Rle

Key = TypeVar("Key")
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Keeps the most recently used values whose sizes add up to at most `budget_bytes`, and of
    those no more than `most`.

    The value used last always stays, however large it is.
    """

    def __init__(
        self, budget_bytes: int, size_of: Callable[[Value], int], most: int | None = None
    ) -> None:
        self._budget_bytes = budget_bytes
        self._size_of = size_of
        self._most = most
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._used_bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def get(self, key: Key) -> Value | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def demote(self, key: Key) -> None:
        """Let this value, if it is there, be the first to make room."""
        if key in self._values:
            self._values.move_to_end(key, last=False)

    def drop(self, key: Key) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._used_bytes -= self._size_of(value)

    def put(self, key: Key, value: Value) -> list[tuple[Key, Value]]:
        """Returns what had to make room, least recently used first."""
        self.drop(key)
        size = self._size_of(value)
        evicted = self.make_room(size)
        self._values[key] = value
        self._used_bytes += size
        return evicted

    def make_room(self, num_bytes: int) -> list[tuple[Key, Value]]:
        """Let one more value, of this size, fit; returns what had to go, as `put` does."""
        return self._evict(least=0, more=1, more_bytes=num_bytes)

    def limit(self, most: int) -> list[tuple[Key, Value]]:
        """Keep no more than `most` from now on; returns what had to go, as `put` does."""
        self._most = most
        return self._evict(least=1, more=0, more_bytes=0)

    def _evict(self, least: int, more: int, more_bytes: int) -> list[tuple[Key, Value]]:
        """Make room for so many more, but keep at least so many."""
        evicted = []
        while len(self._values) > least and not self._fits(more, more_bytes):
            evicted.append(self._values.popitem(last=False))
            self._used_bytes -= self._size_of(evicted[-1][1])
        return evicted

    def _fits(self, more: int, more_bytes: int) -> bool:
        too_many = self._most is not None and len(self._values) + more > self._most
        return not too_many and self._used_bytes + more_bytes <= self._budget_bytes


@dataclass(frozen=True)
class FrameFeatures:
    """The image encoder's output for one frame, finest level first.

    For a model of input size S these are [1, C/8, S/4, S/4], [1, C/4, S/8, S/8] and
    [1, C, S/16, S/16]; the first two have already been through the mask decoder's own projections
    (sam2_base.py:forward_image).
    """

    levels: tuple[Tensor, ...]

    @property
    def num_bytes(self) -> int:
        return sum(level.nbytes for level in self.levels)

    def to(self, device: torch.device) -> FrameFeatures:
        return FrameFeatures(tuple(level.to(device) for level in self.levels))


@dataclass(frozen=True)
class BatchedFeatures:
    """One frame's features in the layout that SAM2Base's methods take, for `batch` objects."""

    vision_feats: list[Tensor]  # per level [h*w, batch, C]
    vision_pos_embeds: list[Tensor]  # per level [h*w, batch, C]
    sizes: list[tuple[int, int]]  # per level (h, w)


def default_cache_bytes() -> int:
    """A quarter of the memory that this process may use, and never more than half of what is free:
    room for the features of some hundred frames."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # In a container the machine's memory is not ours; version 2 and version 1 of its limits.
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # not there, or "max"
            total = min(total, int((Path("/sys/fs/cgroup") / limit).read_text()))
    available = total
    with suppress(OSError, StopIteration, ValueError):  # only Linux tells
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        available = int(line.split()[1]) * 1024
    return min(total // 4, available // 2)


def default_device_cache_bytes(device: torch.device) -> int:
    """A tenth of a CUDA device's memory; 0 on devices that have none of their own."""
    if device.type != "cuda":
        return 0
    return torch.cuda.get_device_properties(device).total_memory // 10


class FrameFeatureCache:
    """Frame features by frame index, encoded when first asked for.

    On a device with memory of its own the most recent ones stay there and move to the host when
    others need the room, so that a window of frames costs no transfers and any length fits.

    Args:
        model: any SAM2 model, in eval mode.
        frames: the sequence that frame indices refer to.
        precision: autocast and device settings; features are stored as they come, in bfloat16
            under autocast.
        budget_bytes: features are kept on the host up to this many bytes; beyond, the least
            recently used frame is dropped (and encoded again if it is needed again).
        device_budget_bytes: likewise on the device, before they move to the host; default:
            `default_device_cache_bytes`. 0: none stay there.
        device_frames: and no more than so many frames, however much room there is: all frames that
            are needed more than once before the sequence turns. What the device holds then does not
            grow with the sequence; a frame further away costs a copy each time it comes up, which
            takes a small part of what the network does with it. None: no such limit.
    """

    def __init__(
        self,
        model: SAM2Base,
        frames: FrameSequence,
        precision: Precision,
        budget_bytes: int | None = None,
        device_budget_bytes: int | None = None,
        device_frames: int | None = None,
    ) -> None:
        self._model = model
        self._frames = frames
        self._precision = precision
        budget = default_cache_bytes() if budget_bytes is None else budget_bytes
        self._on_host: LruCache[int, FrameFeatures] = LruCache(budget, lambda f: f.num_bytes)
        if device_budget_bytes is None:
            device_budget_bytes = default_device_cache_bytes(model.device)
        self._on_device: LruCache[int, FrameFeatures] | None = None
        if device_budget_bytes > 0:
            self._on_device = LruCache(device_budget_bytes, lambda f: f.num_bytes, device_frames)
        # Position encodings are the same for every frame: kept once, on the device.
        self._positions: list[Tensor] = []
        self._places = KnownPlaces(model)
        self._fast_parts = FastParts(model) if precision.reordered_sums else None
        self._reader = FrameReader(frames, model.image_size, model.device)
        # The CPU would only do at once what it does when asked.
        self._may_begin = model.device.type != "cpu"
        self._frame_bytes = 0  # of a frame's features; 0: not known yet

    @property
    def frames(self) -> FrameSequence:
        return self._frames

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Context in which to run the model, in inference mode: its precision, and the fastest way
        to compute."""
        fast_parts = nullcontext() if self._fast_parts is None else self._fast_parts.in_place()
        with self._precision.autocast(), fast_parts, self._places.in_place():
            yield

    def __getitem__(self, frame_idx: int) -> FrameFeatures:
        """Features of one frame, on the model's device."""
        near = None if self._on_device is None else self._on_device.get(frame_idx)
        if near is not None:
            return near
        far = self._on_host.get(frame_idx)
        features = self._encode(frame_idx) if far is None else far.to(self._model.device)
        moving = [(frame_idx, features)]
        if self._on_device is not None:
            moving = self._on_device.put(frame_idx, features)
            # What is in both places is not missed in one of them.
            self._on_host.demote(frame_idx)
        self._move_to_host(moving)
        return features

    def begin(self, frame_idx: int) -> None:
        """Give a device of its own something to do while the host is busy with what it found: the
        frame that will probably be asked for next, if that would be encoded then."""
        is_one = 0 <= frame_idx < len(self._frames)
        if self._on_device is None or not self._may_begin or not is_one or frame_idx in self:
            return
        # Now: a copy to the host would wait for the encoder.
        self._move_to_host(self._on_device.make_room(self._frame_bytes))
        try:
            self[frame_idx]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._may_begin = False  # it was for speed alone

    def _move_to_host(self, moving: list[tuple[int, FrameFeatures]]) -> None:
        """Frames and their features, which are no longer kept on the device."""
        for frame_idx, features in moving:
            if self._on_host.get(frame_idx) is None:
                self._on_host.put(frame_idx, features.to(torch.device("cpu")))

    def leave_device(self) -> bool:
        """Keep the features of a single frame on the device from now on, and all others on the
        host; False: there were no others."""
        leaving = [] if self._on_device is None else self._on_device.limit(1)
        self._may_begin = False
        self._move_to_host(leaving)
        return len(leaving) > 0

    def __contains__(self, frame_idx: int) -> bool:
        """Whether asking for that frame would cost no encoding."""
        near = self._on_device is not None and frame_idx in self._on_device
        return near or frame_idx in self._on_host

    def batched(self, frame_idx: int, batch: int) -> BatchedFeatures:
        """Features of one frame repeated for `batch` objects (views, no copies), flattened by
        SAM2Base itself."""
        features = self[frame_idx]
        expanded = {
            "backbone_fpn": [level.expand(batch, -1, -1, -1) for level in features.levels],
            "vision_pos_enc": [pos.expand(batch, -1, -1, -1) for pos in self._positions],
        }
        _, feats, pos_embeds, sizes = self._model._prepare_backbone_features(expanded)
        return BatchedFeatures(feats, pos_embeds, sizes)

    @torch.inference_mode()
    def _encode(self, frame_idx: int) -> FrameFeatures:
        pixels = self._reader.pixels(frame_idx, lambda following: following not in self)
        image = pixels.to(self._model.device, non_blocking=True)
        with self.computing():
            output = self._model.forward_image(image)
        num_levels = self._model.num_feature_levels
        if not self._positions:
            self._positions = [pos[:1] for pos in output["vision_pos_enc"][-num_levels:]]
        features = FrameFeatures(tuple(output["backbone_fpn"][-num_levels:]))
        self._frame_bytes = features.num_bytes
        return features


@dataclass(frozen=True)
class FrameMemory:
    """What SAM2 remembers of objects on one frame (sam2_base.py:track_step), a row for each."""

    features: Tensor  # [G, mem_dim, h, w] bfloat16, as the official predictor stores it
    object_pointers: Tensor | None = None  # [G, C]; None as long as nothing has asked for them

    @property
    def num_bytes(self) -> int:
        pointers = 0 if self.object_pointers is None else self.object_pointers.nbytes
        return self.features.nbytes + pointers


class StartCache(Generic[Key, Value]):
    """An `LruCache` that also drops what the last few starts of a tracker did not use.

    Masks that were united with others never come back, and windows of conditioning frames move
    on: what is made of them does not grow with the sequence.

    Args:
        budget_bytes: the most that is kept in any case.
        size_of: bytes of a value.
        kept_starts: after so many starts without it a value is dropped.
    """

    def __init__(
        self, budget_bytes: int, size_of: Callable[[Value], int], kept_starts: int = 4
    ) -> None:
        self._cache: LruCache[Key, Value] = LruCache(budget_bytes, size_of)
        self._kept_starts = kept_starts
        self._start = 0
        self._used_in: dict[Key, int] = {}  # the last start that used it

    def __len__(self) -> int:
        return len(self._cache)

    def begin_start(self) -> None:
        """The tracker is being conditioned anew."""
        self._start += 1
        oldest = self._start - self._kept_starts
        for key in [key for key, start in self._used_in.items() if start < oldest]:
            self._drop(key)

    def clear(self) -> bool:
        """Drop all values; False: there were none."""
        was_used = len(self._cache) > 0
        for key in list(self._used_in):
            self._drop(key)
        return was_used

    def get(self, key: Key) -> Value | None:
        value = self._cache.get(key)
        if value is not None:
            self._used_in[key] = self._start
        return value

    def put(self, key: Key, value: Value) -> None:
        for evicted, _ in self._cache.put(key, value):
            del self._used_in[evicted]
        self._used_in[key] = self._start

    def _drop(self, key: Key) -> None:
        del self._used_in[key]
        self._cache.drop(key)


class MemoryBank:
    """Conditioning memories by (frame, contents of all masks given there), shared by all passes and
    all objects.

    The masks of a frame are encoded together, and only together: then a memory is the same to the
    bit whenever it is encoded anew.

    The caller owns it: the tracker puts memories in and takes them out, and nothing else changes
    them. Two objects with the same pixels on the same frame share one memory. What the last few
    starts did not use is dropped (`StartCache`).

    Memories stay on the device that encoded them.

    Args:
        budget_bytes: the most that is kept in any case; default: `default_cache_bytes`.
        kept_starts: after so many starts without it a memory is dropped.
    """

    def __init__(self, budget_bytes: int | None = None, kept_starts: int = 4) -> None:
        budget = default_cache_bytes() if budget_bytes is None else budget_bytes
        # By frame_idx and all masks given there.
        self._memories: StartCache[tuple[int, tuple[Rle, ...]], FrameMemory] = StartCache(
            budget, lambda memory: memory.num_bytes, kept_starts
        )
        self.positions: Tensor | None = None
        """[1, mem_dim, h, w] position encoding of every memory alike; None before the first."""

    def __len__(self) -> int:
        return len(self._memories)

    def begin_start(self) -> None:
        """The tracker is being conditioned anew."""
        self._memories.begin_start()

    def clear(self) -> bool:
        """Drop all memories, which can be computed again; False: there were none."""
        return self._memories.clear()

    def get(self, frame_idx: int, masks: tuple[Rle, ...]) -> FrameMemory | None:
        return self._memories.get((frame_idx, masks))

    def put(self, frame_idx: int, masks: tuple[Rle, ...], memory: FrameMemory) -> None:
        self._memories.put((frame_idx, masks), memory)


@dataclass(frozen=True)
class BatchedMemory:
    """Memories of several objects on one frame, stacked, as SAM2Base reads them."""

    features: Tensor  # [B, mem_dim, h, w]
    positions: Tensor  # [1, mem_dim, h, w]
    object_pointers: Tensor | None = None  # [B, C]

    def part(self, slots: slice) -> BatchedMemory:
        """The memories of some of the objects."""
        pointers = None if self.object_pointers is None else self.object_pointers[slots]
        return BatchedMemory(self.features[slots], self.positions, pointers)

    def as_output(self) -> dict[str, object]:
        """The entry of SAM2Base's `output_dict` that stands for this memory."""
        batch = self.features.shape[0]
        return {
            "maskmem_features": self.features,
            "maskmem_pos_enc": [self.positions.expand(batch, -1, -1, -1)],
            "obj_ptr": self.object_pointers,
        }
