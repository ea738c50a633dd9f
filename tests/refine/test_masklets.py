from __future__ import annotations

import pytest

from t3dgs_masks import masks
from t3dgs_masks.refine import Masklet, MaskletSet
from tests.refine.fakes import BOTTOM, LEFT, NOTHING, RIGHT

A, B, C = (masks.encode(mask) for mask in (LEFT, RIGHT, BOTTOM))
EMPTY = masks.encode(NOTHING)


def test_ids_count_up_from_one() -> None:
    found = MaskletSet()
    assert [found.add(0, A), found.add(5, B), found.add(0, C)] == [1, 2, 3]
    assert found.at_frame(0) == {1: A, 3: C}
    assert list(found.at_frame(0)) == [1, 3]
    assert found.at_frame(3) == {}
    assert found.frames == [0, 5]
    assert found.holds(5)
    assert not found.holds(4)
    assert len(found) == 3


def test_merging_keeps_the_lowest_id_and_unites_on_all_frames() -> None:
    found = MaskletSet()
    first, second, third = found.add(0, A), found.add(0, B), found.add(1, C)
    found.set(2, second, B)
    found.set(2, first, A)
    found.set(3, third, A)
    found.merge([[third, first, second]])
    assert found.object_ids == [1]
    assert found[1].segmentations == {0: masks.union([A, B]), 1: C, 2: masks.union([A, B]), 3: A}
    assert found.frames == [0, 1, 2, 3]
    assert found.at_frame(1) == {1: C}


def test_retired_ids_are_never_given_again() -> None:
    found = MaskletSet()
    found.merge([[found.add(0, A), found.add(0, A)]])
    assert found.add(1, B) == 3
    with pytest.raises(ValueError, match="object 2 does not exist"):
        found.set(0, 2, A)


def test_a_copy_goes_on_counting() -> None:
    found = MaskletSet()
    found.merge([[found.add(0, A), found.add(1, B)]])
    copied = MaskletSet(found, next_object_id=found.next_object_id)
    assert copied == found
    assert copied.add(2, C) == 3
    assert copied != found
    assert MaskletSet([Masklet(7, {0: A})]).add(0, B) == 8


def test_unite() -> None:
    found = MaskletSet()
    found.add(0, A)
    found.unite(0, {1: B})
    found.unite(1, {1: C})
    assert found[1].segmentations == {0: masks.union([A, B]), 1: C}


def test_empty_masks_are_refused() -> None:
    found = MaskletSet()
    with pytest.raises(ValueError, match="empty"):
        found.add(0, EMPTY)
    assert (len(found), found.next_object_id) == (0, 1)
    found.add(0, A)
    with pytest.raises(ValueError, match="empty"):
        found.set(1, 1, EMPTY)


def test_a_mask_taken_off_a_frame_leaves_the_object_known() -> None:
    found = MaskletSet()
    first, second = found.add(0, A), found.add(0, B)
    found.remove(0, first)
    assert found.at_frame(0) == {second: B}
    assert found.holds(0)
    assert found.object_ids == [first, second]
    found.remove(0, second)
    assert not found.holds(0)
    assert found.frames == []
    found.set(1, first, A)
    assert found.frames == [1]


def test_what_is_handed_out_is_a_copy() -> None:
    found = MaskletSet()
    found.add(0, A)
    found.at_frame(0).clear()
    found[1].segmentations.clear()
    assert found.at_frame(0) == {1: A}
