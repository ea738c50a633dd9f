"""Jobs that are done beside something, or in its pauses: all of them, and few held at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from t3dgs_masks.io.side_work import Beside, InPauses, SideWork


def failing() -> None:
    raise ValueError("no picture")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_beside_does_everything_and_lets_little_wait(workers: int) -> None:
    beside = Beside(workers, ahead=3)
    done: list[int] = []
    most_waiting = 0
    for item in range(20):

        def work(item: int = item) -> None:
            time.sleep(0.002)
            done.append(item)

        beside.do(work)
        most_waiting = max(most_waiting, item + 1 - len(done))
    beside.finish()
    assert sorted(done) == list(range(20))
    assert most_waiting <= 3


def test_beside_raises_at_the_next_occasion():
    beside = Beside(1, ahead=4)
    beside.do(failing)
    with pytest.raises(ValueError, match="no picture"):
        beside.finish()
    beside.finish()


def test_beside_may_let_everything_wait() -> None:
    go_on = threading.Event()
    done: list[int] = []

    def first() -> None:
        go_on.wait(10)
        done.append(0)

    beside = Beside(workers=1, ahead=None)
    beside.do(first)
    for item in range(1, 30):
        beside.do(lambda item=item: done.append(item))
    assert done == []
    go_on.set()
    beside.finish()
    assert done == list(range(30))


def test_beside_raises_early_what_is_known_early() -> None:
    beside = Beside(workers=1, ahead=None)
    beside.do(failing)

    def ask_on() -> None:
        for _ in range(1000):
            beside.do(lambda: time.sleep(0.001))

    with pytest.raises(ValueError, match="no picture"):
        ask_on()


def test_jobs_wait_for_a_pause_that_is_used() -> None:
    pauses, done = InPauses(2, every=3), list[int]()
    for item in range(5):
        pauses.do(lambda item=item: done.append(item))
    pauses.pause()
    pauses.pause()
    assert done == []
    pauses.pause()
    assert sorted(done) == list(range(5))
    pauses.do(lambda: done.append(5))
    pauses.finish()
    assert len(done) == 6
    pauses.finish()


def test_a_pause_has_several_threads() -> None:
    both = threading.Barrier(2, timeout=10)
    pauses = InPauses(2, every=1)
    pauses.do(lambda: both.wait() and None)
    pauses.do(lambda: both.wait() and None)
    pauses.pause()
    assert not both.broken


def test_without_a_pause_no_more_than_a_few_are_held() -> None:
    pauses, done = InPauses(2, every=2), list[int]()
    for item in range(40):
        pauses.do(lambda item=item: done.append(item))
        assert item + 1 - len(done) <= 8
    pauses.finish()
    assert sorted(done) == list(range(40))


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_may_ask_for_jobs(workers: int) -> None:
    """However many are held, and however few there are to do them."""
    pauses, done = InPauses(workers, every=1), list[int]()

    def job(item: int) -> None:
        pauses.do(lambda: done.append(100 + item))
        done.append(item)

    def ask() -> None:
        for item in range(50):
            pauses.do(lambda item=item: job(item))
        pauses.finish()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(20)
    assert not asking.is_alive()
    assert sorted(done) == [*range(50), *range(100, 150)]


def test_a_pause_raises_what_a_job_did_when_all_are_done() -> None:
    pauses, done = InPauses(1, every=1), list[int]()
    pauses.do(failing)
    pauses.do(lambda: done.append(1))
    with pytest.raises(ValueError, match="no picture"):
        pauses.pause()
    assert done == [1]
    pauses.pause()


def test_threads_that_ask_at_once_lose_nothing() -> None:
    pauses, done = InPauses(2, every=1), list[int]()

    def ask(first: int) -> None:
        for item in range(first, first + 200):
            pauses.do(lambda item=item: done.append(item))

    threads = [threading.Thread(target=ask, args=(200 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        pauses.pause()
    pauses.finish()
    assert sorted(done) == list(range(800))


@pytest.mark.parametrize(
    "make", [lambda: Beside(1, ahead=4), lambda: InPauses(2, every=1)], ids=["beside", "pauses"]
)
def test_what_is_dropped_is_not_begun_later(make: Callable[[], SideWork]) -> None:
    work, done = make(), list[int]()
    work.do(lambda: time.sleep(0.01))
    for item in range(3):
        work.do(lambda item=item: (time.sleep(0.01), done.append(item))[1])
    work.drop()
    left = list(done)
    time.sleep(0.05)
    assert done == left
