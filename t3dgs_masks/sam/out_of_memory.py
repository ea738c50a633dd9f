"""When a device runs out of memory: what to try before giving up."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
"""In the plain RuntimeErrors with which PyTorch tells it of the CPU and of Apple's devices."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch could not get the memory that it needed, on any device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def with_relief(work: Callable[[], Result], relieve: Callable[[], bool]) -> Result:
    """The result of `work`, called again each time that memory was short and something was done.

    Args:
        work: may be called several times.
        relieve: makes the next call need less, or more memory free; False: there is nothing left
            that could be done, and the error goes on.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:  # also what torch.OutOfMemoryError is
            if not is_out_of_memory(error):
                raise
            shortage = error.with_traceback(None)  # the traceback holds on to what was computed
        if not relieve():
            raise shortage
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
