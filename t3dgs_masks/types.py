"""The data that flows through a refine, and the two networks it needs, as Protocols.

Only numpy is imported here. Every mask says what its True pixels mean: *coarse* and *transient*
masks are True where something moves through the scene; *object* masks and proposals are True on
the object. Only files on disk hold *static* masks (white = keep), and only `masks.TransientMask`
turns one into the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]  # [H, W]
Image = NDArray[np.uint8]  # [H, W, 3], RGB
FloatMap = NDArray[np.float32]  # [H, W]


@dataclass(frozen=True)
class Rle:
    """A binary mask in COCO's compressed run-length encoding.

    Hashable: equal pixels give equal `counts`, so an `Rle` is also the identity of a mask's
    content (memories are cached by it).
    """

    height: int
    width: int
    counts: bytes


@dataclass(frozen=True, eq=False)
class BitMask:
    """A binary mask while it is worked on, one bit a pixel (`t3dgs_masks.bits`)."""

    height: int
    width: int
    words: NDArray[np.uint64]
    """[ceil(height * width / 64)], pixels column after column, the first in the lowest bit; bits
    beyond the last pixel are 0."""

    def __and__(self, other: BitMask) -> BitMask:
        """Pixels of both."""
        return BitMask(self.height, self.width, self.words & other.words)

    def __or__(self, other: BitMask) -> BitMask:
        """Pixels of either."""
        return BitMask(self.height, self.width, self.words | other.words)

    def __sub__(self, other: BitMask) -> BitMask:
        """Pixels of this one that are not of the other."""
        return BitMask(self.height, self.width, self.words & ~other.words)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BitMask):
            return NotImplemented
        same_size = (self.height, self.width) == (other.height, other.width)
        return same_size and np.array_equal(self.words, other.words)

    __hash__ = None  # type: ignore[assignment]  # `Rle` is what masks are looked up by

    def any(self) -> bool:
        """Whether any pixel is True."""
        return bool(self.words.any())


@dataclass(frozen=True)
class FramePrompt:
    """What a splat training run says about one frame."""

    coarse: BoolMask  # [H, W] bool, True = transient
    residual: FloatMap | None = None  # [H, W] float32 in [0, 1], mean |render - ground truth|


@dataclass(frozen=True)
class Proposal:
    """One mask of the automatic mask generator on one frame; it has no identity yet."""

    mask: BoolMask  # [H, W] bool, True = object
    predicted_iou: float  # the network's own estimate of its IoU, SAM's meaning
    stability_score: float  # IoU of the mask at logit +1 and at logit -1, SAM's meaning
    point_xy: tuple[float, float]  # the point prompt it came from, pixels


@dataclass(frozen=True)
class TrackedObject:
    """One object on the frame the tracker has just reached."""

    object_id: int
    mask: BitMask  # True = object, logit > 0; may be empty
    object_score: float  # logit; below 0 the network believes the object is not in the frame


@dataclass(frozen=True)
class TrackedFrame:
    """All tracked objects on one frame, in ascending order of object id."""

    frame_idx: int
    objects: tuple[TrackedObject, ...]


@dataclass
class NetworkCalls:
    """Counted uses of the networks. Image encoders count images; the other modules count calls,
    whatever the batch."""

    image_encoder: int = 0
    memory_encoder: int = 0
    memory_attention: int = 0
    mask_decoder: int = 0
    proposer_image_encoder: int = 0


class FrameSequence(Protocol):
    """An ordered, lazily read sequence of RGB frames of one size."""

    @property
    def names(self) -> Sequence[str]:
        """Source name of every frame, in order, unique: a relative path with '/' and without
        its image suffix (``cam0/frame_0001``). Outputs are named after it."""
        ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, frame_idx: int) -> Image:
        """[H, W, 3] uint8 RGB of one frame."""
        ...


class PromptSource(Protocol):
    """The coarse masks and residuals of a sequence, read one frame at a time."""

    @property
    def has_residuals(self) -> bool:
        """False if no frame carries a residual."""
        ...

    def __getitem__(self, frame_idx: int) -> FramePrompt:
        """The prompt of one frame at frame size; a frame without a coarse mask gives an empty
        one (nothing known to be transient)."""
        ...


class Proposer(Protocol):
    """Point prompts in, object masks of one frame out (SAM's automatic mask generation)."""

    def propose(self, frame_idx: int, points_xy: NDArray[np.float32]) -> list[Proposal]:
        """Proposals of one frame.

        Args:
            frame_idx: which frame (the proposer holds the sequence, so that it can share cached
                image features with the tracker).
            points_xy: [P, 2] float32 pixel coordinates (x, y); P may be 0.
        """
        ...


class Tracker(Protocol):
    """Masks on some frames in, the same objects on other frames out (SAM2's memory)."""

    def forget(self) -> None:
        """Drop every conditioning mask and everything propagated from them."""
        ...

    def condition(self, frame_idx: int, object_id: int, mask: Rle) -> None:
        """State that `object_id` covers `mask` on `frame_idx`."""
        ...

    def propagate(self, start_frame_idx: int, *, reverse: bool = False) -> Iterator[TrackedFrame]:
        """Track all conditioned objects from `start_frame_idx` (included) to the last frame, or,
        in reverse, to the first. Lazy: a frame is computed when it is asked for."""
        ...


@runtime_checkable
class ResumableTracker(Tracker, Protocol):
    """A tracker whose running propagation can be carried over into another process."""

    def snapshot(self) -> bytes | None:
        """What the running propagation goes by after the frame that it yielded last, apart from
        what it was conditioned on; None if there is nothing to be had."""
        ...

    def resume(self, snapshot: bytes, *, reverse: bool = False) -> Iterator[TrackedFrame]:
        """Instead of `propagate`, and conditioned as then: go on after the frame of the snapshot.

        Raises:
            ValueError: it cannot be used.
        """
        ...
