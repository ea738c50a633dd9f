"""Calls beside each other: the same results, whatever the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from t3dgs_masks.sam.side_by_side import SideBySide


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "count", "expected"),
    [
        (1, 3, [1, 1, 1]),
        (2, 1, [2]),
        (2, 3, [1, 1, 2]),
        (2, 4, [1, 1, 1, 1]),
        (4, 3, [1, 1, 1]),
        (4, 6, [1, 1, 1, 1, 4, 4]),
        (8, 3, [8, 8, 8]),
        (8, 5, [1, 1, 1, 1, 1]),
        (3, 5, [1, 1, 1, 1, 1]),
        (4, 0, []),
    ],
)
def test_threads_are_shared_out(threads: int, count: int, expected: list[int]) -> None:
    torch.set_num_threads(threads)
    objects = SideBySide(flush_denormals=False)
    for _ in range(2):
        assert objects.map(lambda _: torch.get_num_threads(), count) == expected
        assert torch.get_num_threads() == threads


def test_results_are_in_order() -> None:
    torch.set_num_threads(2)
    first_may_end = threading.Event()

    def call(index: int) -> int:
        if index == 0:
            assert first_may_end.wait(60)
        if index == 1:
            first_may_end.set()
        return index * index

    assert SideBySide(flush_denormals=False).map(call, 7) == [0, 1, 4, 9, 16, 25, 36]


def test_calls_are_in_inference_mode_and_flush_denormals_if_asked_to() -> None:
    torch.set_num_threads(2)
    tiny = torch.tensor([1e-30])

    def call(_: int) -> tuple[bool, bool]:
        return torch.is_inference_mode_enabled(), bool(tiny * 1e-10 == 0)

    assert SideBySide(flush_denormals=True).map(call, 2) == [(True, True)] * 2
    assert SideBySide(flush_denormals=False).map(call, 2) == [(True, False)] * 2
    assert not bool(tiny * 1e-10 == 0), "whoever asked is left alone"


def test_what_a_call_raises_is_raised_when_all_have_ended() -> None:
    torch.set_num_threads(2)
    ended: list[int] = []

    def call(index: int) -> None:
        if index == 0:
            raise RuntimeError("out of memory")
        ended.append(index)

    objects = SideBySide(flush_denormals=False)
    with pytest.raises(RuntimeError, match="out of memory"):
        objects.map(call, 4)
    assert ended == [1]
    assert torch.get_num_threads() == 2
    assert objects.map(lambda index: index, 3) == [0, 1, 2]


def test_another_number_of_threads_from_now_on() -> None:
    objects = SideBySide(flush_denormals=False)
    for threads, expected in ((2, [1, 1, 2]), (4, [1, 1, 1]), (6, [6, 6, 6])):
        torch.set_num_threads(threads)
        assert objects.map(lambda _: torch.get_num_threads(), 3) == expected
