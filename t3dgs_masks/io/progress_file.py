"""Progress of an unfinished refine: ``progress.journal`` and ``propagation.snapshot`` in
``OUT/.state/``.

A store for the passes (`refine.resume.ProgressStore`), which knows nothing of what it keeps, and
what the progress belongs to: identity of the run, and its figures. Everything that is saved
together is one record of a journal, so that a kill at any moment leaves the last one or the one
before. Records are not waited for on the disk; a power cut may cost the last few frames, but not
the file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from t3dgs_masks.errors import UserError, why_not_written
from t3dgs_masks.io import publish
from t3dgs_masks.io.checked_rle import checked_rle
from t3dgs_masks.io.journal import Journal, read_journal
from t3dgs_masks.io.whole_file import write_whole
from t3dgs_masks.types import Rle

PROGRESS = "progress.journal"
SNAPSHOT = "propagation.snapshot"

_FORMAT = 4

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
    path.unlink(missing_ok=True)


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
    for name in (SNAPSHOT, PROGRESS):  # without the second, the first is nothing
        if found.with_name(name).is_file():
            shutil.copyfile(found.with_name(name), progress_path(target).with_name(name))


def read_identity(out: Path) -> Mapping[str, Any] | None:
    """What the progress in a result folder belongs to, as it was given to `open_progress`;
    None if there is none, and empty if it cannot be read or is of another format."""
    path = progress_path(out)
    if not path.is_file():
        return None
    about = _about(path)
    return {} if about is None else about.identity


def read_document(out: Path) -> Mapping[str, Any] | None:
    """The document that was saved last in a result folder; None if there is none of this format.

    Raises:
        ValueError: it cannot be read.
    """
    path = progress_path(out)
    if not path.is_file() or _about(path) is None:
        return None
    return _read(path).document


class ProgressFile:
    """Progress that is being kept; a `refine.resume.ProgressStore`.

    Use it as a context manager: it closes the file, which stays where it is.
    """

    def __init__(self, journal: Journal | None, out: Path, about: _About) -> None:
        """Use `open_progress`. Without a `journal` one is begun, in place of what is there, when
        something is saved."""
        self._journal = journal
        self._out = out
        self._about = about
        self.figures_now: Callable[[], Figures] = dict
        """Asked for figures of the run (JSON values) whenever something is saved."""

    def __enter__(self) -> ProgressFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    @property
    def earlier_figures(self) -> Figures:
        """Figures of earlier runs as they were saved last; empty if nothing was.

        Raises:
            ValueError: they cannot be read.
        """
        return self._saved().figures

    def document(self) -> Mapping[str, Any] | None:
        """What was saved last; None if nothing was.

        Raises:
            ValueError: it cannot be read.
        """
        return self._saved().document

    def masks(self) -> Iterator[tuple[int, int, Rle]]:
        """(frame_idx, object_id, mask) of all masks, by frame and object.

        Raises:
            ValueError, TypeError: they cannot be read, or one is no mask of this sequence.
        """
        for (frame_idx, object_id), counts in sorted(self._saved().masks.items()):
            mask = checked_rle(self._about.height, self._about.width, counts.encode("ascii"))
            yield frame_idx, object_id, mask

    def entries(self) -> Sequence[Any]:
        """All entries, in the order in which they were saved.

        Raises:
            ValueError: they cannot be read.
        """
        return self._saved().entries

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
        changes = [
            [*where, None if mask is None else mask.counts.decode("ascii")]
            for where, mask in masks.items()
        ]
        with _as_user_error(self._out):
            if self._journal is None:
                self._journal = _begin(self._out, self._about)
            self._journal.append(_json([document, self.figures_now(), changes, entries]))

    def snapshot(self) -> tuple[Mapping[str, Any], bytes] | None:
        """The snapshot and what it is of; None if there is none that is whole, or nothing else."""
        if self._journal is None:
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
        data = _json(about) + b"\n" + content
        with _as_user_error(self._out):
            path = progress_path(self._out).with_name(SNAPSHOT)
            write_whole(path, _digest(data) + b"\n" + data)

    def clear(self) -> None:
        """Begin anew."""
        self.close()
        self._journal = None

    def _saved(self) -> _Saved:
        return _Saved() if self._journal is None else _read(progress_path(self._out))


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

    Raises:
        UserError: what is there is of this run, but cannot be opened for writing.
    """
    about = _About(json.loads(_json(identity)), height, width)
    path = progress_path(out)
    if resume and path.is_file() and _about(path) == about:
        with _as_user_error(out):
            return ProgressFile(Journal(path), out, about)
    return ProgressFile(None, out, about)


@dataclass(frozen=True)
class _About:
    """What progress belongs to."""

    identity: Mapping[str, Any]
    height: int
    width: int


@dataclass
class _Saved:
    """All that was saved, put together."""

    document: Mapping[str, Any] | None = None
    figures: Figures = field(default_factory=dict)
    masks: dict[tuple[int, int], str] = field(default_factory=dict)
    """(frame_idx, object_id) -> COCO's compressed string."""
    entries: list[Any] = field(default_factory=list)


def _begin(out: Path, about: _About) -> Journal:
    """A new journal in place of what is there."""
    remove_progress(out)
    journal = Journal(progress_path(out))
    try:
        journal.append(_json({"format": _FORMAT, **asdict(about)}))
    except BaseException:
        journal.close()
        remove_progress(out)
        raise
    return journal


def _about(path: Path) -> _About | None:
    """What a journal of ours belongs to; None if it is not ours, or cannot be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        for first in read_journal(path):
            found = json.loads(first)
            if found.pop("format") == _FORMAT:
                return _About(**found)
            break
    return None


def _read(path: Path) -> _Saved:
    """What was saved in a journal of ours.

    Raises:
        ValueError: it cannot be read.
    """
    saved = _Saved()
    try:
        records = read_journal(path)
        next(records, None)  # what it belongs to
        for record in records:
            saved.document, saved.figures, changes, entries = json.loads(record)
            for frame_idx, object_id, counts in changes:
                if counts is None:
                    saved.masks.pop((frame_idx, object_id), None)
                else:
                    saved.masks[frame_idx, object_id] = counts
            saved.entries += entries
    except OSError as error:
        raise ValueError(f"the progress cannot be read: {error}") from error
    return saved


@contextmanager
def _as_user_error(out: Path) -> Iterator[None]:
    failed = f"cannot save progress in {out / publish.STATE}"
    try:
        yield
    except OSError as error:
        raise UserError(f"{failed}: {why_not_written(error)}.") from error


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
