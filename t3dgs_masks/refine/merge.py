"""Which objects are one and the same, judged by their overlap on one frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from t3dgs_masks import bits
from t3dgs_masks.types import BitMask


class _UnionFind:
    """Disjoint sets of ids; the representative of a set is its lowest id."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def find(self, item: int) -> int:
        parent = self._parent.setdefault(item, item)
        while parent != self._parent[parent]:
            # Halving the path on the way keeps long chains cheap.
            self._parent[item] = self._parent[parent]
            item, parent = parent, self._parent[parent]
        return parent

    def join(self, first: int, second: int) -> None:
        low, high = sorted((self.find(first), self.find(second)))
        self._parent[high] = low


def duplicate_groups(found: Mapping[int, BitMask], merge_iou: float) -> list[list[int]]:
    """Groups of objects that cover the same pixels on one frame (TMR, arXiv 2412.00155).

    Two objects belong together if their IoU is strictly above `merge_iou`; groups are the
    connected components of that relation, so that chains merge too.

    Args:
        found: object_id -> mask on one frame.
        merge_iou: [lambda_merge], 0 to 1.

    Returns:
        Groups of at least two ids, each ascending, in ascending order of their lowest id.
    """
    ids = list(found)
    areas = np.array([bits.count(mask) for mask in found.values()], dtype=np.float64)
    sets = _UnionFind()
    for i, j in _candidates(areas, merge_iou):
        first, second = ids[i], ids[j]
        common = bits.count(found[first] & found[second])
        if common / (areas[i] + areas[j] - common) > merge_iou:
            sets.join(first, second)
    groups: dict[int, list[int]] = {}
    for object_id in sorted(ids):
        groups.setdefault(sets.find(object_id), []).append(object_id)
    return [group for group in groups.values() if len(group) > 1]


def _candidates(areas: NDArray[np.float64], merge_iou: float) -> NDArray[np.intp]:
    """[P, 2] pairs of places in `areas` whose IoU could be above `merge_iou`: it is never above the
    ratio of the two areas. Empty masks have no IoU with anything."""
    larger = np.maximum.outer(areas, areas)
    ratios = np.divide(
        np.minimum.outer(areas, areas), larger, out=np.zeros_like(larger), where=larger > 0
    )
    return np.argwhere(np.triu(ratios > merge_iou, k=1))
