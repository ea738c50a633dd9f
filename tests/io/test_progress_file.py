"""Progress on disk: whole, small, and of no other run."""

from __future__ import annotations

import os
import resource
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.journal import Journal
from t3dgs_masks.io.progress_file import (
    ProgressFile,
    copy_progress,
    open_progress,
    progress_path,
    read_document,
    read_identity,
    remove_progress,
)
from t3dgs_masks.masks import encode
from t3dgs_masks.types import Rle

HEIGHT, WIDTH = 40, 60
IDENTITY = {"settings": {"seed": 0}, "inputs": {"frames": "ab"}}


def opened(
    out: Path, identity: dict = IDENTITY, *, resume: bool = True, height: int = HEIGHT
) -> ProgressFile:
    (out / ".state").mkdir(parents=True, exist_ok=True)
    return open_progress(out, identity, height, WIDTH, resume=resume)


def disc(x: float, height: int = HEIGHT, width: int = WIDTH) -> Rle:
    rows, columns = np.mgrid[:height, :width]
    return encode(np.hypot(rows - height / 2, columns - x) < height / 4)


def test_what_is_saved_is_there_again(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        assert (file.document(), list(file.masks()), file.entries()) == (None, [], [])
        assert file.earlier_figures == {}
        file.figures_now = lambda: {"runs": 1}
        file.save({"n": 1}, {(0, 1): disc(10), (0, 2): disc(20)}, ["a"])
        file.save({"n": 2}, {(0, 2): None, (3, 1): disc(30)}, ["b", {"c": None}])
    with opened(tmp_path) as file:
        assert file.document() == {"n": 2}
        assert list(file.masks()) == [(0, 1, disc(10)), (3, 1, disc(30))]
        assert file.entries() == ["a", "b", {"c": None}]
        assert file.earlier_figures == {"runs": 1}
    assert [path.name for path in (tmp_path / ".state").iterdir()] == ["progress.journal"]


def test_nothing_is_written_before_there_is_something_to_save(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.save({}, {}, [])
    with opened(tmp_path, {"settings": {"seed": 1}}) as file:
        assert file.document() is None
    assert read_identity(tmp_path) == IDENTITY, "what another run has reached is still there"
    with opened(tmp_path, {"settings": {"seed": 1}}) as file:
        file.save({"n": 1}, {}, [])
    assert read_identity(tmp_path) == {"settings": {"seed": 1}}


@pytest.mark.parametrize("change", [{"resume": False}, {"height": 41}, {"identity": {"a": 1}}])
def test_progress_of_another_run_is_not_taken_up(tmp_path: Path, change: dict) -> None:
    with opened(tmp_path) as file:
        file.save({"n": 1}, {}, [])
        file.save_snapshot({"frame": 3}, b"of the other run")
    with opened(tmp_path, **change) as file:
        assert file.document() is None
        assert file.snapshot() is None
        file.save({"n": 5}, {}, [])
        assert file.snapshot() is None


def test_a_snapshot_is_whole_or_not_there(tmp_path: Path) -> None:
    content = bytes(range(256)) * 3
    with opened(tmp_path) as file:
        file.save({}, {}, [])
        file.save_snapshot({"frame": 3}, b"the first one")
        file.save_snapshot({"frame": 5}, content)
        assert file.snapshot() == ({"frame": 5}, content)
        path = tmp_path / ".state" / "propagation.snapshot"
        data = path.read_bytes()
        for broken in (b"", data[:-1], data + b"x", data[1:], b"x\ny\nz"):
            path.write_bytes(broken)
            assert file.snapshot() is None


def test_removed_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.save({}, {}, [])
        file.save_snapshot({}, b"")
        (tmp_path / ".state" / ".12-34.part").write_bytes(b"of a snapshot that was cut short")
        remove_progress(tmp_path)
    assert list((tmp_path / ".state").iterdir()) == []
    assert read_identity(tmp_path) is None


def test_copied_while_its_writer_is_dead(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        file = opened(tmp_path / "a")
        for n in range(5):
            file.save({"n": n}, {(n, 1): disc(n)}, [])
        file.save_snapshot({"n": 4}, b"snap")
        os._exit(0)  # nothing is closed
    os.waitpid(child, 0)
    copy_progress(tmp_path / "a", tmp_path / "b")
    for out in (tmp_path / "a", tmp_path / "b"):
        with opened(out) as file:
            assert file.document() == {"n": 4}
            assert len(list(file.masks())) == 5
            assert file.snapshot() == ({"n": 4}, b"snap")
    copy_progress(tmp_path / "nowhere", tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("content", [b"", b"foreign", bytes(2000)])
def test_a_file_that_is_not_ours(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".state").mkdir()
    progress_path(tmp_path).write_bytes(content)
    assert read_identity(tmp_path) == {}
    assert read_document(tmp_path) is None
    with opened(tmp_path) as file:
        assert file.document() is None
        file.save({"n": 1}, {}, [])
    assert read_identity(tmp_path) == IDENTITY


@pytest.mark.parametrize("first", [b"[]", b"{}", b'{"format": 99}', b'{"format": 4}', b"\xff"])
def test_a_journal_that_is_not_ours(tmp_path: Path, first: bytes) -> None:
    (tmp_path / ".state").mkdir()
    with closing(Journal(progress_path(tmp_path))) as journal:
        journal.append(first)
        journal.append(b"{}")
    assert read_identity(tmp_path) == {}
    assert read_document(tmp_path) is None
    with opened(tmp_path) as file:
        assert (file.document(), file.earlier_figures) == (None, {})


def test_killed_before_the_first_frame_was_saved(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.save({"n": 1}, {}, [])
    content = progress_path(tmp_path).read_bytes()
    progress_path(tmp_path).write_bytes(content[:-1])
    assert read_identity(tmp_path) == IDENTITY
    assert read_document(tmp_path) is None
    with opened(tmp_path) as file:
        assert (file.document(), file.earlier_figures) == (None, {})
        file.save({"n": 1}, {}, [])
    assert read_document(tmp_path) == {"n": 1}


def test_killed_while_saving(tmp_path: Path) -> None:
    """Whatever was written of the last record, what was saved before it is there."""
    with opened(tmp_path) as file:
        file.save({"n": 1}, {(0, 1): disc(10)}, ["a"])
        before = progress_path(tmp_path).stat().st_size
        file.save({"n": 2}, {(0, 1): None, (1, 1): disc(20)}, ["b"])
    content = progress_path(tmp_path).read_bytes()
    for length in range(before, len(content)):
        progress_path(tmp_path).write_bytes(content[:length])
        with opened(tmp_path) as file:
            assert (file.document(), file.entries()) == ({"n": 1}, ["a"])
            assert list(file.masks()) == [(0, 1, disc(10))]


def test_a_mask_that_could_not_be_decoded_is_refused(tmp_path: Path) -> None:
    for broken in (b"\x7f", b"PPPPPPPPPPPP0", disc(10, HEIGHT + 1).counts):
        with opened(tmp_path) as file:
            file.save({}, {(0, 1): Rle(HEIGHT, WIDTH, broken)}, [])
        with opened(tmp_path) as file, pytest.raises(ValueError, match="run-length"):
            list(file.masks())


def test_a_full_disk_is_a_user_error_and_loses_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.save({"n": 1}, {}, [])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with pytest.raises(
                UserError,
                match=r"cannot save progress in .*: the disk is full; free some space and retry",
            ):
                file.save({"n": 2}, {}, [os.urandom(40_000).hex()])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with opened(tmp_path) as file:
        assert file.document() == {"n": 1}


def written_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux tells")
def test_little_more_is_written_than_the_masks_however_long_the_sequence(tmp_path: Path) -> None:
    """Eight objects, on every frame others: nothing is gained from their likeness."""
    for num_frames in (40, 400):
        before = written_bytes()
        with opened(tmp_path / str(num_frames)) as file:
            for t in range(num_frames):
                found = {
                    (t, k): Rle(HEIGHT, WIDTH, os.urandom(50).hex().encode()) for k in range(8)
                }
                file.save({"frames_done": t, "text": "x" * 400}, found, [])
        assert (written_bytes() - before) / num_frames - 8 * 50 < 200
