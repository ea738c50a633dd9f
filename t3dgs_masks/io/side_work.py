"""Small jobs that come up along the way of something larger: beside it, or in its pauses.

Where the larger thing keeps a device of its own busy, jobs are done beside it. Where it computes
with all cores, each of which takes an equal part of every operation, a job that has one of them for
a while makes all others wait as long. Then jobs wait for a pause, and have all cores to themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock, local
from typing import Protocol

Job = Callable[[], None]

_HELD_A_PAUSE = 4  # jobs; a frame brings three


class SideWork(Protocol):
    """Does jobs. Anyone may ask, from any thread; one thread finishes."""

    def do(self, job: Job) -> None:
        """Have a job done, some time before `finish` returns; raises what earlier ones raised."""
        ...

    def finish(self) -> None:
        """Return when all jobs are done; raises what one of them raised."""
        ...

    def drop(self) -> None:
        """Forget what is not begun, and return when nothing is being done any more. Nothing may be
        asked for after that."""
        ...


class Beside:
    """A `SideWork` with a few threads of its own.

    Args:
        workers: how many threads.
        ahead: who asks while so many jobs are begun or waiting already waits too, so that what
            they hold in memory does not pile up. None: as many as there are.
    """

    def __init__(self, workers: int, ahead: int | None) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="beside")
        self._ahead = ahead
        self._begun: deque[Future[None]] = deque()
        self._lock = Lock()

    def do(self, job: Job) -> None:
        with self._lock:
            while self._begun and (self._is_full() or self._begun[0].done()):
                self._begun.popleft().result()
            self._begun.append(self._pool.submit(job))

    def finish(self) -> None:
        with self._lock:
            while self._begun:
                self._begun.popleft().result()

    def drop(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._begun.clear()

    def _is_full(self) -> bool:
        return self._ahead is not None and len(self._begun) >= self._ahead


class InPauses:
    """A `SideWork` for pauses of who needs all cores.

    Args:
        workers: how many threads do the jobs of a pause.
        every: only each so many-th pause is used, so that there is enough to share out; what comes
            up in between is held in memory.
    """

    def __init__(self, workers: int, every: int) -> None:
        self._is_worker = local()
        self._pool = ThreadPoolExecutor(workers, "pauses", initializer=self._begin_worker)
        self._every = every
        self._num_pauses = 0
        self._held: deque[Job] = deque()
        self._begun: deque[Future[None]] = deque()

    def do(self, job: Job) -> None:
        self._held.append(job)
        # Where pauses are far between, memory is worth more than time. But what a job asks for
        # waits: if all workers waited for others, nobody would go on.
        is_job = getattr(self._is_worker, "value", False)
        if len(self._held) > _HELD_A_PAUSE * self._every and not is_job:
            begun = self._begin_next()
            if begun is not None:
                wait([begun])

    def pause(self) -> None:
        """To be called again and again by who needs all cores, at moments without need of them;
        raises what jobs raised."""
        self._num_pauses += 1
        if self._num_pauses % self._every == 0:
            self.finish()

    def finish(self) -> None:
        while self._held or self._begun:  # jobs may ask for others
            while self._begin_next() is not None:
                pass
            begun = [self._begun.popleft() for _ in range(len(self._begun))]
            wait(begun)
            for future in begun:
                future.result()

    def drop(self) -> None:
        self._held.clear()
        self._pool.shutdown(cancel_futures=True)

    def _begin_next(self) -> Future[None] | None:
        """None: nothing is held."""
        try:
            job = self._held.popleft()
        except IndexError:
            return None
        begun = self._pool.submit(job)
        self._begun.append(begun)
        return begun

    def _begin_worker(self) -> None:
        self._is_worker.value = True
