"""A journal: what was appended, up to the first record that is not whole."""

from __future__ import annotations

import os
import resource
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3dgs_masks.io.journal import Journal, read_journal

RECORDS = st.lists(st.binary(max_size=60), max_size=6)


def written(path: Path, records: list[bytes]) -> list[int]:
    """Append them; where each of them ends."""
    ends = []
    with closing(Journal(path)) as journal:
        for record in records:
            journal.append(record)
            ends.append(path.stat().st_size)
    return ends


@given(RECORDS, RECORDS)
def test_appended_in_two_goes(first: list[bytes], then: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        written(path, first)
        assert list(read_journal(path)) == first
        written(path, then)
        assert list(read_journal(path)) == first + then


@given(RECORDS, st.integers(0, 400), st.binary(max_size=30))
def test_cut_anywhere_and_followed_by_anything(
    records: list[bytes], kept_bytes: int, rubbish: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        ends = written(path, records)
        path.write_bytes(path.read_bytes()[:kept_bytes])
        whole = [record for record, end in zip(records, ends, strict=True) if end <= kept_bytes]
        assert list(read_journal(path)) == whole
        with path.open("ab") as file:
            file.write(bytes(20) + rubbish)  # zeros are what a power cut leaves
        damaged = path.read_bytes()
        assert list(read_journal(path)) == whole
        assert path.read_bytes() == damaged, "to look is not to touch"
        written(path, [b"after"])
        assert list(read_journal(path)) == [*whole, b"after"]


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), st.data())
def test_one_wrong_bit(records: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        ends = written(path, records)
        content = bytearray(path.read_bytes())
        where = data.draw(st.integers(0, 8 * len(content) - 1))
        content[where // 8] ^= 1 << where % 8
        path.write_bytes(content)
        before = [record for record, end in zip(records, ends, strict=True) if end <= where // 8]
        assert list(read_journal(path)) == before


@pytest.mark.parametrize("content", [b"", b"foreign", bytes(5000), b"SQLite format 3\0" * 9])
def test_no_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    assert list(read_journal(path)) == []


def test_what_is_like_the_record_before_takes_little(tmp_path: Path) -> None:
    record = os.urandom(2000)
    first, second = written(tmp_path / "journal", [record, record[:1000] + b"!" + record[1000:]])
    assert first > 2000
    assert second - first < 60


def test_a_record_for_which_there_is_no_room_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(Journal(path)) as journal:
        journal.append(b"one")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                journal.append(os.urandom(2000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(read_journal(path)) == [b"one"]
        journal.append(b"two")
    assert list(read_journal(path)) == [b"one", b"two"]
