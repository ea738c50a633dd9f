from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from t3dgs_masks import bits, masks
from t3dgs_masks.refine.merge import duplicate_groups
from t3dgs_masks.types import BitMask


def row(first: int, last: int) -> BitMask:
    """A line of pixels first..last-1."""
    mask = np.zeros((2, 200), dtype=bool)
    mask[0, first:last] = True
    return bits.pack(mask)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, []),
        ({1: row(0, 10)}, []),
        ({1: row(0, 10), 2: row(20, 30)}, []),
        ({1: row(0, 10), 2: row(0, 10)}, [[1, 2]]),
        ({1: row(0, 10), 2: row(0, 9)}, []),  # IoU 0.9 is not above 0.9
        ({1: row(0, 100), 2: row(0, 91)}, [[1, 2]]),  # 0.91 is
        ({7: row(0, 10), 3: row(0, 10)}, [[3, 7]]),
        # A chain: 5-9 and 9-2 overlap enough (95/105), 5-2 do not (90/110).
        ({5: row(0, 100), 9: row(5, 105), 2: row(10, 110)}, [[2, 5, 9]]),
        # Two groups, in the order of their lowest ids; 4 is alone.
        (
            {9: row(0, 10), 8: row(50, 60), 1: row(50, 60), 2: row(0, 10), 4: row(90, 99)},
            [[1, 8], [2, 9]],
        ),
    ],
)
def test_groups(found: dict[int, BitMask], expected: list[list[int]]) -> None:
    assert duplicate_groups(found, 0.9) == expected


def test_empty_masks_are_nobodys_duplicates() -> None:
    assert duplicate_groups({1: row(0, 0), 2: row(0, 0)}, 0.0) == []


@given(
    arrays(bool, st.tuples(st.integers(1, 7), st.just(3), st.just(4))),
    st.floats(0, 1),
    st.randoms(),
)
def test_groups_are_connected_components(drawn, merge_iou, random) -> None:
    ids = random.sample(range(1, 50), len(drawn))
    groups = duplicate_groups(
        {k: bits.pack(mask) for k, mask in zip(ids, drawn, strict=True)}, merge_iou
    )

    label = {k: k for k in ids}
    for _ in ids:
        for a, mask_a in zip(ids, drawn, strict=True):
            for b, mask_b in zip(ids, drawn, strict=True):
                if a != b and masks.iou(mask_a, mask_b) > merge_iou:
                    label[a] = label[b] = min(label[a], label[b])
    members = {low: sorted(k for k in ids if label[k] == low) for low in set(label.values())}
    assert groups == [members[low] for low in sorted(members) if len(members[low]) > 1]
