"""Calls of a network beside each other, for CPUs.

PyTorch splits every single operation among its threads, which then wait for each other; where an
operation takes a millisecond, much of what a second core could do is lost so. Calls that have
nothing to do with each other can have a core each instead.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Result = TypeVar("Result")


class SideBySide:
    """Makes calls that do not depend on each other, on as many threads as PyTorch has.

    Each has one thread, as long as there are calls for more than half of them; the last few are
    made one after the other, by all threads. (Not by a share of them each: with more OpenMP threads
    about than there are cores, OpenMP puts them to sleep wherever they wait.) Which it is follows
    from the numbers alone, so that the same calls give the same bits again.

    Args:
        flush_denormals: whether numbers below 1e-38 count as 0 in the calls (PyTorch's setting is
            one of each thread).
    """

    def __init__(self, flush_denormals: bool) -> None:
        self._flush_denormals = flush_denormals
        self._pool: ThreadPoolExecutor | None = None
        self._pool_size = 0

    def map(self, call: Callable[[int], Result], count: int) -> list[Result]:
        """`call(0)` to `call(count - 1)`, in inference mode; raises what one of them raises."""
        threads = torch.get_num_threads()
        results: list[Result] = []
        while len(results) < count:
            beside = min(threads, count - len(results))
            if 2 * beside <= threads or beside == 1:
                results.append(self._run(call, len(results)))
                continue
            pool = self._pool_of(threads)
            begun: list[Future[Result]] = [
                pool.submit(self._run, call, index)
                for index in range(len(results), len(results) + beside)
            ]
            try:
                wait(begun)
            finally:  # what a thread sets is also what others begin with
                torch.set_num_threads(threads)
            results += [future.result() for future in begun]
        return results

    def _run(self, call: Callable[[int], Result], index: int) -> Result:
        with torch.inference_mode():
            return call(index)

    def _pool_of(self, size: int) -> ThreadPoolExecutor:
        if self._pool is None or self._pool_size != size:
            self._pool = ThreadPoolExecutor(size, "objects", initializer=self._begin_thread)
            self._pool_size = size
        return self._pool

    def _begin_thread(self) -> None:
        torch.get_num_threads()  # or it is set from elsewhere when first needed
        torch.set_num_threads(1)
        torch.set_flush_denormal(self._flush_denormals)
