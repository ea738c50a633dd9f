"""Work on many items beside each other, and who else may have threads for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import cv2

Item = TypeVar("Item")
Result = TypeVar("Result")

_WORKERS = 4  # decoding and encoding of pictures hardly gains from more
_AHEAD = 2 * _WORKERS


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = _AHEAD
) -> Iterator[Result]:
    """`map` by a few threads: results in order, at most `ahead` items begun and not yet taken.

    An exception of `work` is raised where its result would have been taken; nothing is begun
    after that, nor when the iteration is abandoned.
    """
    remaining = iter(items)
    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(min(_WORKERS, ahead), thread_name_prefix="outputs") as pool:
        try:
            while True:
                fresh = islice(remaining, ahead - len(begun))
                begun.extend(pool.submit(work, item) for item in fresh)
                if not begun:
                    return
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


@contextmanager
def one_thread_for_opencv() -> Iterator[None]:
    """OpenCV would take all cores for each single operation, which many threads of ours call, and
    those it does not need spin for a while."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
