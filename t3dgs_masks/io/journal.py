"""A file that grows by records, each of which is whole or not there.

A record is the length and the CRC-32 of what follows, then that: its content, deflated with the
content of the record before as a dictionary, since one record is much like the next. The first
record that is not whole ends the journal; a kill, or a power cut, leaves no other kind of damage,
as nothing is ever changed in place.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_HEAD = struct.Struct("<II")  # length in bytes, CRC-32


class Journal:
    """A journal that is written to."""

    def __init__(self, path: Path) -> None:
        """Open the file `path`, or make it. What is there is kept, up to the first record that is
        not whole.

        Raises:
            OSError: from the file system.
        """
        self._previous, self._end = b"", 0
        if path.exists():
            for content, end in _records(path):
                self._previous, self._end = content, end
        # Without a buffer: closing would try once more to write what could not be written.
        self._file = path.open("ab", buffering=0)
        try:
            self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise

    def append(self, content: bytes) -> None:
        """Add a record. It is handed to the system, but not waited for on the disk.

        Raises:
            OSError: from the file system; the journal is as it was.
        """
        deflater = zlib.compressobj(zdict=self._previous)
        deflated = deflater.compress(content) + deflater.flush()
        record = _HEAD.pack(len(deflated), zlib.crc32(deflated)) + deflated
        try:
            _write_all(self._file.fileno(), record)
        except BaseException:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._previous, self._end = content, self._end + len(record)

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> Iterator[bytes]:
    """The contents of the records of a file, which is left as it is; nothing if it is no journal.

    Raises:
        OSError: from the file system; also if there is no file.
    """
    for content, _ in _records(path):
        yield content


def _records(path: Path) -> Iterator[tuple[bytes, int]]:
    """The content of every record, and where it ends."""
    previous, end = b"", 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            end += _HEAD.size + length
            if end > size:
                return
            deflated = file.read(length)
            if zlib.crc32(deflated) != checksum:
                return
            inflater = zlib.decompressobj(zdict=previous)
            try:
                content = inflater.decompress(deflated)
            except zlib.error:  # another program's
                return
            if not inflater.eof:  # zeros, which a power cut may leave, are the right sum of nothing
                return
            previous = content
            yield content, end


def _write_all(descriptor: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]
