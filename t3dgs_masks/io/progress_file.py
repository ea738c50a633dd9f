"""Progress of an unfinished refine, in ``OUT/.state/progress.sqlite`` and ``propagation.snapshot``.

A store for the passes (`refine.resume.ProgressStore`), which knows nothing of what it keeps, and
what the progress belongs to: identity of the run, and its figures. Everything that is saved
together is one transaction of SQLite, so that a kill at any moment leaves the last one or the one
before. Commits are not waited for on the disk; a power cut may cost the last few frames, but not
the file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3dgs_masks.errors import UserError
from t3dgs_masks.io import publish
from t3dgs_masks.io.checked_rle import checked_rle
from t3dgs_masks.io.whole_file import write_whole
from t3dgs_masks.types import Rle

PROGRESS = "progress.sqlite"
SNAPSHOT = "propagation.snapshot"

_FORMAT = 3
# A mask's id: frame_idx * _MOST_OBJECTS + object_id. One number rather than two, because SQLite
# then keeps a mask in its table's own tree; in that of an index, rows above a fifth of a page go to
# pages of their own.
_MOST_OBJECTS = 1 << 32
# SQLite's own: an ahead-written log, and what else lies beside a database that was not closed.
_SUFFIXES = ("", "-wal", "-shm", "-journal")
_LOG_PAGES = 1000  # of the log, before it is worked into the database
_SCHEMA = """
    CREATE TABLE about (format INTEGER, identity TEXT, height INTEGER, width INTEGER);
    CREATE TABLE document (id INTEGER PRIMARY KEY, content BLOB, figures BLOB);
    CREATE TABLE mask (id INTEGER PRIMARY KEY, counts BLOB);
    CREATE TABLE entry (id INTEGER PRIMARY KEY, content TEXT);
"""

Figures = Mapping[str, Any]


def progress_path(out: Path) -> Path:
    """Where the progress of a result folder is kept."""
    return out / publish.STATE / PROGRESS


def remove_progress(out: Path) -> None:
    """Delete the progress in a result folder, if there is any.

    Raises:
        OSError: from the file system.
    """
    path = progress_path(out)
    for unfinished in path.parent.glob(".*.part"):  # of a snapshot
        unfinished.unlink()
    path.with_name(SNAPSHOT).unlink(missing_ok=True)
    # The log first: without its database it is nothing, but a new database would take it up.
    for suffix in reversed(_SUFFIXES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def copy_progress(source: Path, target: Path) -> None:
    """Let the result folder `target` have the progress of `source`, if there is any: a run there
    goes on with it if it is of the same identity.

    Raises:
        OSError: from the file system.
    """
    found = progress_path(source)
    if not found.is_file():
        return
    progress_path(target).parent.mkdir(parents=True, exist_ok=True)
    remove_progress(target)
    # Memory that is shared between processes is made anew. The database comes last.
    for name in (SNAPSHOT, *(PROGRESS + suffix for suffix in ("-journal", "-wal", ""))):
        if found.with_name(name).is_file():
            shutil.copyfile(found.with_name(name), progress_path(target).with_name(name))


def read_identity(out: Path) -> Mapping[str, Any] | None:
    """What the progress in a result folder belongs to, as it was given to `open_progress`;
    None if there is none, and empty if it cannot be read or is of another format."""
    path = progress_path(out)
    if not path.is_file():
        return None
    try:
        with closing(_connect(path)) as database:
            return _about(database).identity
    except (sqlite3.Error, ValueError, TypeError):
        return {}


class ProgressFile:
    """Progress that is being kept; a `refine.resume.ProgressStore`.

    Use it as a context manager: it closes the file, which stays where it is.
    """

    def __init__(self, database: sqlite3.Connection | None, out: Path, about: _About) -> None:
        """Use `open_progress`. Without a `database` one is made, in place of what is there, when
        something is saved."""
        self._database = database
        self._out = out
        self._about = about
        self.figures_now: Callable[[], Figures] = dict
        """Asked for figures of the run (JSON values) whenever something is saved."""

    def __enter__(self) -> ProgressFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()

    @property
    def earlier_figures(self) -> Figures:
        """Figures of earlier runs as they were saved last; empty if nothing was."""
        rows = self._read("SELECT figures FROM document")
        return _unpacked(rows[0][0]) if rows else {}

    def document(self) -> Mapping[str, Any] | None:
        """What was saved last; None if nothing was.

        Raises:
            ValueError: it cannot be read.
        """
        rows = self._read("SELECT content FROM document")
        return _unpacked(rows[0][0]) if rows else None

    def masks(self) -> Iterator[tuple[int, int, Rle]]:
        """(frame_idx, object_id, mask) of all masks.

        Raises:
            ValueError, TypeError: they cannot be read, or one is no mask of this sequence.
        """
        for mask_id, counts in self._read("SELECT id, counts FROM mask ORDER BY id"):
            frame_idx, object_id = divmod(mask_id, _MOST_OBJECTS)
            mask = checked_rle(self._about.height, self._about.width, _inflated(counts))
            yield frame_idx, object_id, mask

    def entries(self) -> Sequence[Any]:
        """All entries, in the order in which they were saved.

        Raises:
            ValueError: they cannot be read.
        """
        return [json.loads(row[0]) for row in self._read("SELECT content FROM entry ORDER BY id")]

    def save(
        self,
        document: Mapping[str, Any],
        masks: Mapping[tuple[int, int], Rle | None],
        entries: Sequence[Any],
    ) -> None:
        """Keep a document, changed masks and further entries, all of them or nothing.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        if self._database is None:
            self._database = _create(self._out, self._about)
        gone, there = list[tuple[int]](), list[tuple[int, bytes]]()
        for (frame_idx, object_id), mask in masks.items():
            mask_id = frame_idx * _MOST_OBJECTS + object_id
            if mask is None:
                gone.append((mask_id,))
            else:
                there.append((mask_id, zlib.compress(mask.counts)))
        with _as_user_error(self._out), self._database as transaction:
            transaction.executemany("DELETE FROM mask WHERE id=?", gone)
            transaction.executemany("INSERT OR REPLACE INTO mask VALUES (?, ?)", there)
            transaction.executemany(
                "INSERT INTO entry (content) VALUES (?)", [(_json(entry),) for entry in entries]
            )
            transaction.execute(
                "INSERT OR REPLACE INTO document VALUES (1, ?, ?)",
                (_packed(document), _packed(self.figures_now())),
            )

    def snapshot(self) -> tuple[Mapping[str, Any], bytes] | None:
        """The snapshot and what it is of; None if there is none that is whole, or nothing else."""
        if self._database is None:
            return None
        try:
            data = progress_path(self._out).with_name(SNAPSHOT).read_bytes()
            digest, about, content = data.split(b"\n", 2)
        except (OSError, ValueError):
            return None
        if _digest(about + b"\n" + content) != digest:
            return None
        return json.loads(about), content

    def save_snapshot(self, about: Mapping[str, Any], content: bytes) -> None:
        """Replace the snapshot, in a file of its own: it is large and of one piece.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        data = _json(about).encode() + b"\n" + content
        with _as_user_error(self._out):
            path = progress_path(self._out).with_name(SNAPSHOT)
            write_whole(path, _digest(data) + b"\n" + data)

    def clear(self) -> None:
        """Begin anew."""
        self.close()
        self._database = None

    def _read(self, query: str) -> list[Any]:
        if self._database is None:
            return []
        try:
            return self._database.execute(query).fetchall()
        except sqlite3.Error as error:
            raise ValueError(f"the progress cannot be read: {error}") from error


def open_progress(
    out: Path, identity: Mapping[str, Any], height: int, width: int, *, resume: bool
) -> ProgressFile:
    """The progress of the run with this `identity` (JSON values): what is there, or, if that is
    of another run, cannot be read, or is not wanted (`resume`), a new one, which takes its place
    when something is saved.

    Args:
        out: the result folder; its ``.state/`` has to exist.
        identity: all that the run depends on.
        height: of the masks that will be kept, pixels.
        width: likewise.
        resume: whether to go on with what is there.

    """
    about = _About(json.loads(_json(identity)), height, width)
    path = progress_path(out)
    if resume and path.is_file():
        with suppress(sqlite3.Error, ValueError, TypeError):
            database = _connect(path)
            if _about(database) == about:
                return ProgressFile(database, out, about)
            database.close()
    return ProgressFile(None, out, about)


@dataclass(frozen=True)
class _About:
    """What progress belongs to."""

    identity: Mapping[str, Any]
    height: int
    width: int


def _create(out: Path, about: _About) -> sqlite3.Connection:
    """A new database in place of what is there."""
    with _as_user_error(out):
        remove_progress(out)
        database = _connect(progress_path(out))
        with database:
            database.executescript(f"BEGIN; {_SCHEMA}")
            database.execute(
                "INSERT INTO about VALUES (?, ?, ?, ?)",
                (_FORMAT, _json(about.identity), about.height, about.width),
            )
    return database


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=0)
    try:
        # Held exclusively, SQLite needs no memory shared between processes: network folders do.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA page_size = 512")  # little is written per frame
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    except BaseException:
        database.close()
        raise
    return database


def _about(database: sqlite3.Connection) -> _About:
    """What a database of ours belongs to.

    Raises:
        sqlite3.Error, ValueError, TypeError: it is not ours.
    """
    rows = database.execute("SELECT format, identity, height, width FROM about").fetchall()
    ((found_format, identity, height, width),) = rows
    if found_format != _FORMAT:
        raise ValueError(f"format {found_format}")
    return _About(json.loads(identity), height, width)


@contextmanager
def _as_user_error(out: Path) -> Iterator[None]:
    failed = f"cannot save progress in {out / publish.STATE}"
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or "full" in str(error):
            raise UserError(f"{failed}: the disk is full; free some space and retry.") from error
        raise UserError(f"{failed}: {error}.") from error
    except OSError as error:
        raise UserError(f"{failed}: {error.strerror or error}.") from error


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _packed(value: Any) -> bytes:
    # What is written with every frame should fit into one page of the database: a longer row takes
    # four of them each time.
    return zlib.compress(_json(value).encode())


def _unpacked(packed: bytes) -> Any:
    return json.loads(_inflated(packed))


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error as error:
        raise ValueError(f"the progress cannot be read: {error}") from error
