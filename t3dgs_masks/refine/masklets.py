"""Objects over time: which pixels each object covers on which frames.

Masks are kept run-length encoded; a dense mask exists only while a frame is being worked on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from t3dgs_masks import masks
from t3dgs_masks.types import Rle


@dataclass(frozen=True)
class Masklet:
    """One object: its permanent id and its mask on every frame where it was found."""

    object_id: int
    segmentations: dict[int, Rle] = field(default_factory=dict)
    """frame_idx -> mask, True = object; never an empty mask."""


class MaskletSet:
    """All objects of a sequence.

    Ids are positive, given in order of discovery, and permanent: merging retires ids, nothing
    renumbers them and no id is ever given twice.
    """

    def __init__(self, masklets: Iterable[Masklet] = (), *, next_object_id: int = 1) -> None:
        """
        Args:
            masklets: objects to begin with (a saved state); none for a new sequence.
            next_object_id: the lowest id that was never given; raised above all of `masklets`.
        """
        self._segmentations: dict[int, dict[int, Rle]] = {}
        self._ids_at: dict[int, set[int]] = {}
        # (frame_idx, object_id) -> what was there before, of all that may have changed
        self._before: dict[tuple[int, int], Rle | None] = {}
        self._next_object_id = next_object_id
        for masklet in masklets:
            self._segmentations[masklet.object_id] = {}
            self._next_object_id = max(self._next_object_id, masklet.object_id + 1)
            for frame_idx, mask in masklet.segmentations.items():
                self.set(frame_idx, masklet.object_id, mask)
        self.take_changes()

    @property
    def next_object_id(self) -> int:
        """The id that the next new object will have."""
        return self._next_object_id

    @property
    def object_ids(self) -> list[int]:
        """Ids of all objects, ascending."""
        return sorted(self._segmentations)

    @property
    def frames(self) -> list[int]:
        """Frames that hold any mask, ascending."""
        return sorted(self._ids_at)

    def __len__(self) -> int:
        return len(self._segmentations)

    def __iter__(self) -> Iterator[Masklet]:
        """All objects in ascending order of their ids."""
        return (self[object_id] for object_id in self.object_ids)

    def __getitem__(self, object_id: int) -> Masklet:
        """One object (a copy: changing it does not change the set), frames ascending."""
        segmentations = self._segmentations[object_id]
        return Masklet(object_id, {t: segmentations[t] for t in sorted(segmentations)})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskletSet):
            return NotImplemented
        return self._segmentations == other._segmentations

    __hash__ = None  # type: ignore[assignment]  # mutable

    def holds(self, frame_idx: int) -> bool:
        """True if any object has a mask on this frame."""
        return frame_idx in self._ids_at

    def at_frame(self, frame_idx: int) -> dict[int, Rle]:
        """object_id -> mask of the objects found on one frame, in ascending order of id."""
        ids = sorted(self._ids_at.get(frame_idx, ()))
        return {object_id: self._segmentations[object_id][frame_idx] for object_id in ids}

    def add(self, frame_idx: int, mask: Rle) -> int:
        """A new object, found on this frame with this non-empty mask; returns its id."""
        _require_pixels(mask)
        object_id = self._next_object_id
        self._next_object_id += 1
        self._segmentations[object_id] = {}
        self.set(frame_idx, object_id, mask)
        return object_id

    def set(self, frame_idx: int, object_id: int, mask: Rle) -> None:
        """Replace the (non-empty) mask of a known object on one frame."""
        _require_pixels(mask)
        if object_id not in self._segmentations:
            raise ValueError(f"object {object_id} does not exist (merged away, or never added)")
        self._note(frame_idx, object_id, self._segmentations[object_id].get(frame_idx))
        self._segmentations[object_id][frame_idx] = mask
        self._ids_at.setdefault(frame_idx, set()).add(object_id)

    def remove(self, frame_idx: int, object_id: int) -> None:
        """Take an object's mask off one frame; the object stays known, without any mask too."""
        self._note(frame_idx, object_id, self._segmentations[object_id].pop(frame_idx))
        self._ids_at[frame_idx].discard(object_id)
        if not self._ids_at[frame_idx]:
            del self._ids_at[frame_idx]

    def unite(self, frame_idx: int, found: Mapping[int, Rle]) -> None:
        """OR masks (object_id -> mask) into what the frame already holds."""
        held = self.at_frame(frame_idx)
        for object_id, mask in found.items():
            before = held.get(object_id)
            self.set(frame_idx, object_id, mask if before is None else masks.union([before, mask]))

    def merge(self, groups: Iterable[Sequence[int]]) -> None:
        """Make one object of each group: masks are OR-ed on all frames, the lowest id stays."""
        for group in groups:
            kept_id, *retired_ids = sorted(group)
            for retired_id in retired_ids:
                self._absorb(kept_id, retired_id)

    def _absorb(self, kept_id: int, retired_id: int) -> None:
        segmentations = self._segmentations.pop(retired_id)
        for frame_idx, mask in segmentations.items():
            self._note(frame_idx, retired_id, mask)
            self._ids_at[frame_idx].discard(retired_id)
            self.unite(frame_idx, {kept_id: mask})

    def take_changes(self) -> dict[tuple[int, int], Rle | None]:
        """(frame_idx, object_id) -> mask as it is now (None: there is none any more), of all that
        differ from what they were at the last call; they are the same from here on."""
        before, self._before = self._before, {}
        now = {key: self._segmentations.get(key[1], {}).get(key[0]) for key in before}
        return {key: mask for key, mask in now.items() if mask != before[key]}

    def _note(self, frame_idx: int, object_id: int, before: Rle | None) -> None:
        self._before.setdefault((frame_idx, object_id), before)


def _require_pixels(mask: Rle) -> None:
    # A frame "holds a mask" exactly if it is listed: conditioning frames are counted by it.
    if masks.area(mask) == 0:
        raise ValueError("an empty mask cannot be stored; leave the object out of the frame")
