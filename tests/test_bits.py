"""Packed masks against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from t3dgs_masks import bits, masks
from t3dgs_masks.types import BitMask, Rle

# Up to a few words of 64 pixels, whole ones among them.
shapes = st.tuples(st.integers(1, 16), st.integers(1, 16))
any_mask = shapes.flatmap(lambda shape: arrays(bool, shape))
two_masks = shapes.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))


@given(any_mask)
def test_there_and_back(mask) -> None:
    packed = bits.pack(mask)
    assert np.array_equal(bits.unpack(packed), mask)
    assert bits.unpack(packed).dtype == np.bool_
    assert bits.count(packed) == mask.sum()
    assert packed.any() == mask.any()
    assert packed.words.nbytes == -(-mask.size // 64) * 8
    assert bits.pack(np.asfortranarray(mask)) == packed
    assert bits.pack(np.repeat(mask, 2, axis=0)[::2]) == packed


@given(any_mask)
def test_bytes_in_either_order(mask) -> None:
    for given_mask in (mask, np.asfortranarray(mask), np.repeat(mask, 2, axis=1)[:, ::2]):
        by_rows, by_columns = bits.rows_first(given_mask), bits.columns_first(given_mask)
        assert by_rows.dtype == by_columns.dtype == np.uint8
        assert by_rows.flags.c_contiguous
        assert by_columns.flags.c_contiguous
        assert np.array_equal(by_rows, mask)
        assert np.array_equal(by_columns, mask.T)


@given(two_masks)
def test_operators(pair) -> None:
    first, second = pair
    a, b = bits.pack(first), bits.pack(second)
    assert np.array_equal(bits.unpack(a & b), first & second)
    assert np.array_equal(bits.unpack(a | b), first | second)
    assert np.array_equal(bits.unpack(a - b), first & ~second)
    assert (a == b) == np.array_equal(first, second)
    assert bits.share(a, b) == masks.coverage(first, second)


def test_masks_of_other_sizes_are_never_equal() -> None:
    assert bits.pack(np.ones((2, 3), bool)) != bits.pack(np.ones((3, 2), bool))
    assert bits.pack(np.ones((2, 3), bool)) != "a mask"


@given(any_mask)
def test_run_lengths_are_those_of_pycocotools(mask) -> None:
    packed = bits.pack(mask)
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    expected = Rle(*mask.shape, encoded["counts"])
    assert bits.encode(packed) == expected
    assert masks.encode(mask) == expected
    assert bits.decode(expected) == packed
    assert np.array_equal(masks.decode(expected), mask)


@given(arrays(bool, (7, 91)))
def test_run_lengths_of_long_masks(mask) -> None:
    mask = np.repeat(np.repeat(mask, 9, axis=0), 3, axis=1)  # runs that need several characters
    assert bits.encode(bits.pack(mask)) == masks.encode(mask)
    assert bits.decode(masks.encode(mask)) == bits.pack(mask)


@pytest.mark.parametrize("counts", [b"", b"1", b"\x00", b"999", masks.encode(np.eye(9) > 0).counts])
def test_broken_run_lengths_are_refused(counts: bytes) -> None:
    for decode in (bits.decode, masks.decode):
        with pytest.raises(ValueError, match="broken run-length encoding"):
            decode(Rle(3, 5, counts))


def test_packed_masks_are_not_for_looking_up() -> None:
    with pytest.raises(TypeError):
        hash(BitMask(1, 1, np.zeros(1, np.uint64)))
