"""One holder at a time, and none that is dead."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t3dgs_masks.io.file_lock import locked


def in_child(work: Callable[[], object]) -> int:
    """Do something in another process, which then exits with 3 if the lock was held."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BlockingIOError:
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_held_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    def take() -> None:
        with locked(path):
            pass

    with locked(path):
        assert in_child(take) == 3
        with pytest.raises(BlockingIOError):
            take()
        assert path.exists()
    assert not path.exists()
    assert in_child(take) == 0
    with pytest.raises(RuntimeError), locked(path):
        raise RuntimeError
    assert in_child(take) == 0


def test_gone_with_a_killed_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    child = os.fork()
    if child == 0:
        with locked(path):
            (tmp_path / "holds").touch()
            time.sleep(60)
        os._exit(0)
    while not (tmp_path / "holds").exists():
        time.sleep(0.01)
    with pytest.raises(BlockingIOError), locked(path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(path):
        assert path.exists()


def test_many_at_once_count_correctly(tmp_path: Path) -> None:
    """Each deletes the file as it lets go; nobody must hold one that is no longer there."""
    path, counter = tmp_path / "lock", tmp_path / "counter"
    counter.write_text("0")
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            done = 0
            while done < 30:
                try:
                    with locked(path):
                        counter.write_text(str(int(counter.read_text()) + 1))
                    done += 1
                except BlockingIOError:
                    time.sleep(0.0005)
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert counter.read_text() == "180"
