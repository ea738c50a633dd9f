"""A lock that is gone when its process is, however that ended."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that goes by the file at `path`, which is made for it and deleted after it.

    On a file system that knows no locks nothing is locked.

    Raises:
        BlockingIOError: another process holds it, or this one does already.
        OSError: the file cannot be made.
    """
    descriptor = _acquire(path)
    try:
        yield
    finally:
        if fcntl is None:
            os.close(descriptor)
        with suppress(OSError):
            path.unlink()  # still held, so that nobody else's file is deleted
        if fcntl is not None:
            os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            # Whoever held it may have deleted the file in between: then it locks nothing.
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(error.errno, "another process holds the lock") from error


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)
