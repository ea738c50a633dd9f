"""Work on many items beside each other, or beside something else."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WORKERS = 4  # decoding and encoding of pictures hardly gains from more
_AHEAD = 2 * _WORKERS
_CORES_A_BESIDE = 4  # where there are few cores, more threads only get into each other's way


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


class Beside:
    """Does things in a few threads of its own, beside those who ask for them.

    Anyone may ask, from any thread. Who asks while a few things are waiting already waits too, so
    that what they hold in memory does not pile up.
    """

    def __init__(self, ahead: int = _WORKERS) -> None:
        workers = min(_WORKERS, max(1, (os.cpu_count() or 1) // _CORES_A_BESIDE))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="beside")
        self._ahead = ahead
        self._begun: deque[Future[None]] = deque()
        self._lock = Lock()

    def do(self, work: Callable[[], None]) -> None:
        """Begin to wait for `work` to be done; raises what earlier work raised."""
        with self._lock:
            while len(self._begun) >= self._ahead:
                self._begun.popleft().result()
            self._begun.append(self._pool.submit(work))

    def finish(self) -> None:
        """Return when everything is done; raises what it raised."""
        with self._lock:
            while self._begun:
                self._begun.popleft().result()
