"""Results in order, a bounded number of items ahead, and errors where they belong."""

from __future__ import annotations

import threading
import time

import pytest

from t3dgs_masks.io.threads import in_threads


def test_results_come_in_order_whatever_takes_long():
    def work(item: int) -> int:
        time.sleep(0.01 if item % 3 == 0 else 0)
        return item * item

    assert list(in_threads(work, range(20))) == [item * item for item in range(20)]
    assert list(in_threads(work, [])) == []


def test_never_more_than_a_few_ahead():
    begun: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            begun.append(item)
        return item

    results = in_threads(work, range(50), ahead=3)
    for taken in range(50):
        assert next(results) == taken
        with lock:
            assert len(begun) <= taken + 3


def test_an_error_is_raised_in_its_place_and_ends_the_work():
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("two")
        return item

    results = in_threads(work, range(1000), ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert len(begun) < 10
