"""Changing files of a dataset so that a kill at any moment can be made good.

Everything new is first collected in ``ROOT/.t3dgs_masks/next``. Then ``journal.json`` says what is
going to change; from there on files are set aside in ``old`` and the new ones renamed into place,
one after the other. Deleting the journal ends it. Where a journal is found, a run was killed in
between: `recover` takes everything back to what it was. An error takes it back at once.

Files that are replaced keep their identity (they are set aside as hard links): brought back, they
have their old times and permissions too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from t3dgs_masks.errors import DISK_FULL, UserError
from t3dgs_masks.io.images import shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

STATE = ".t3dgs_masks"
"""Folder in the root of a dataset that holds what `apply` has to remember."""

_JOURNAL = "journal.json"
_NEXT = "next"
_OLD = "old"


@dataclass(frozen=True)
class Change:
    """What happens to one file."""

    path: str
    """Relative to the root, with '/'."""
    before: str | None
    """sha256 of what is there; None: nothing."""
    after: str | None
    """sha256 of what will be there; None: nothing."""


class Transaction:
    """Changes to files below `root` that take effect together, in the order they were added.

    As a context manager it drops what was not committed. `recover` has to be called before.
    """

    def __init__(self, root: Path) -> None:
        """Start one; makes the staging folder.

        Raises:
            UserError: the dataset cannot be written to.
        """
        self.root = root
        self._state = state_folder(root)
        self._changes: list[Change] = []
        self._paths: set[str] = set()
        self._unused_folders: list[str] = []
        self._committed = False
        with writing(root):
            try:
                for folder in (self._state, self._state / _NEXT, self._state / _OLD):
                    if not folder.is_dir():
                        _mkdir(folder)
            except BaseException:
                self._sweep_quietly()
                raise

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._committed and not (self._state / _JOURNAL).exists():
            self._sweep_quietly()

    def write(self, path: str, content: bytes, *, like: Path | None = None) -> None:
        """Let the file `path` have this content; no change if it has it already.

        Args:
            path: relative to the root, with '/'. Folders are made as needed.
            content: all of it.
            like: a file whose permissions it takes over.

        Raises:
            UserError: the path leaves the dataset, or the disk is full.
        """
        before, after = self._digest(path), hashlib.sha256(content).hexdigest()
        if before == after:
            return
        with writing(self.root):
            staged = self._staged(len(self._changes))
            _write(staged, content)
            if like is not None:
                shutil.copymode(like, staged)
        self._changes.append(Change(path, before, after))

    def put(self, path: str, source: Path) -> None:
        """Let the file `path` be the one at `source`, with its times and permissions.

        Raises:
            UserError: the path leaves the dataset, or the disk is full.
        """
        before = self._digest(path)
        with writing(self.root):
            staged = self._staged(len(self._changes))
            _duplicate(source, staged)
            after = digest(source)
        if before != after:
            self._changes.append(Change(path, before, after))
        else:
            with writing(self.root):
                _unlink(staged)

    def remove(self, path: str) -> None:
        """Let there be no file `path`; no change if there is none."""
        before = self._digest(path)
        if before is not None:
            self._changes.append(Change(path, before, None))

    def remove_folders(self, paths: list[str]) -> None:
        """Let these folders be gone, unless something is in them at the end."""
        for path in paths:
            inside(self.root, path)
        self._unused_folders += sorted(paths, key=lambda path: path.count("/"), reverse=True)

    @property
    def new_folders(self) -> list[str]:
        """Folders that do not exist yet and will be made, outer ones first."""
        folders: dict[str, None] = {}
        for change in self._changes:
            if change.after is None:
                continue
            parents = PurePosixPath(change.path).parents
            for parent in reversed(list(parents)[:-1]):
                if (self.root / parent).is_dir():
                    continue
                if os.path.lexists(self.root / parent):
                    raise UserError(
                        f"{shown(self.root / parent)} is a file, but a folder has to be there:"
                        " rename it"
                    )
                folders[parent.as_posix()] = None
        return list(folders)

    def commit(self) -> None:
        """Make the changes.

        Raises:
            UserError: from the file system; the dataset is as it was.
        """
        if not self._changes and not self._unused_folders:
            self._sweep_quietly()
            return
        made = self.new_folders
        gone = [path for path in self._unused_folders if (self.root / path).is_dir()]
        journal = {
            "version": 1,
            "changes": [asdict(change) for change in self._changes],
            "made_folders": made,
            "removed_folders": gone,
        }
        with writing(self.root):
            try:
                _write_journal(self._state, json.dumps(journal, indent=1).encode())
                self._perform(made, gone)
                _unlink(self._state / _JOURNAL)
            except BaseException:
                # If this fails too, `recover` will do it.
                with suppress(OSError, UserError):
                    _take_back(self.root)
                raise
        self._committed = True
        self._sweep_quietly()

    def _perform(self, made: list[str], gone: list[str]) -> None:
        for folder in made:
            _mkdir(self.root / folder)
        for index, change in enumerate(self._changes):
            target, aside = self.root / change.path, self._state / _OLD / str(index)
            if change.after is None:
                _replace(target, aside)
                continue
            if change.before is not None:
                _duplicate(target, aside)
            _replace(self._staged(index), target)
        for folder in gone:
            if not any((self.root / folder).iterdir()):
                _rmdir(self.root / folder)

    def _staged(self, index: int) -> Path:
        return self._state / _NEXT / str(index)

    def _digest(self, path: str) -> str | None:
        if path in self._paths:
            raise ValueError(f"two changes of {path}")
        self._paths.add(path)
        with writing(self.root):
            return digest(inside(self.root, path))

    def _sweep_quietly(self) -> None:
        with suppress(OSError):
            _sweep(self._state)


def recover(root: Path) -> bool:
    """Take back what a killed run left half done, and drop what it had collected.

    Returns:
        Whether there was something to take back.

    Raises:
        UserError: the file system does not allow it, or a file was changed since.
    """
    state = state_folder(root)
    if not state.is_dir():
        return False
    with writing(root):
        was_pending = is_pending(root)
        if was_pending:
            _take_back(root)
        _sweep(state)
        return was_pending


def is_pending(root: Path) -> bool:
    """Whether a run was killed half way, so that `recover` has to be called."""
    return (root / STATE / _JOURNAL).is_file()


def state_folder(root: Path) -> Path:
    """Where `apply` keeps its memory; it need not exist.

    Raises:
        UserError: it leads out of the dataset.
    """
    return inside(root, f"{STATE}/{_JOURNAL}").parent


def inside(root: Path, path: str) -> Path:
    """`root / path`, checked to lie below `root` whatever links there are on the way.

    Raises:
        UserError: it does not.
    """
    parts = PurePosixPath(path).parts
    plain = parts and not PurePosixPath(path).is_absolute() and ".." not in parts
    # realpath, as Path.resolve raises on loops of links.
    real_root = Path(os.path.realpath(root))
    if not plain or not Path(os.path.realpath((root / path).parent)).is_relative_to(real_root):
        raise UserError(
            f"{shown(root / path)} leads out of the dataset, where nothing will be changed:"
            " replace the link on its way by a real folder"
        )
    return root / path


def digest(path: Path) -> str | None:
    """sha256 of a file, hexadecimal; None if there is none.

    Raises:
        OSError: it cannot be read.
    """
    if not os.path.lexists(path):
        return None
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the dataset for oneself, as far as the file system knows locks.

    Raises:
        UserError: another run holds it.
    """
    if fcntl is None:
        yield
        return
    with writing(root):
        descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another run is changing {shown(root)} right now; wait until it has finished"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn what the file system says into one line."""
    try:
        yield
    except OSError as error:
        where = shown(Path(error.filename)) if isinstance(error.filename, (str, Path)) else ""
        at = f" ({where})" if where else ""
        failed = f"cannot change the dataset {shown(root)}{at}"
        kept = "" if is_pending_quietly(root) is False else "; the next apply or revert undoes it"
        if error.errno in DISK_FULL:
            raise UserError(
                f"{failed}: the disk is full; free some space and retry{kept}"
            ) from error
        reason = error.strerror or str(error)
        raise UserError(f"{failed}: {reason}; check its permissions{kept}") from error


def is_pending_quietly(root: Path) -> bool | None:
    """`is_pending`; None if that cannot be found out."""
    try:
        return is_pending(root)
    except OSError:
        return None


# --- Taking back ------------------------------------------------------------------------------


def _take_back(root: Path) -> None:
    """Undo the journal's changes. Each step may be repeated."""
    state = state_folder(root)
    if not (state / _JOURNAL).exists():
        return
    changes, made, removed = _read_journal(state / _JOURNAL)
    for folder in reversed(removed):
        if not inside(root, folder).is_dir():
            _mkdir(root / folder)
    for index, change in reversed(list(enumerate(changes))):
        _take_back_change(root, change, state / _OLD / str(index))
    for folder in reversed(made):
        path = inside(root, folder)
        if path.is_dir() and not any(path.iterdir()):
            _rmdir(path)
    _unlink(state / _JOURNAL)


def _take_back_change(root: Path, change: Change, aside: Path) -> None:
    target = inside(root, change.path)
    present = digest(target)
    if present == change.before:
        return
    if present not in (change.after, None):
        raise UserError(
            f"{shown(target)} was changed while an apply or revert was unfinished: move it"
            " elsewhere and run this again"
        )
    if change.before is None:
        _unlink(target)
    elif os.path.lexists(aside):
        _replace(aside, target)


def _read_journal(path: Path) -> tuple[list[Change], list[str], list[str]]:
    try:
        content: Any = json.loads(path.read_bytes())
        changes = [
            Change(_text(item["path"]), item["before"], item["after"])
            for item in content["changes"]
        ]
        made, removed = (
            [_text(path) for path in _list(content[key])]
            for key in ("made_folders", "removed_folders")
        )
        return changes, made, removed
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{shown(path)} was damaged, so that an unfinished apply cannot be undone: look into"
            f" {shown(path.parent)} for the files of before"
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError("a path is not a usable text")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("no list of paths")
    return value


def _sweep(state: Path) -> None:
    """Drop what was collected and set aside, and the folder if nothing else is in it."""
    for name in (_NEXT, _OLD):
        folder = state / name
        if folder.is_dir():
            for entry in folder.iterdir():
                _unlink(entry)
            _rmdir(folder)
    for temporary in state.glob("*.part"):
        _unlink(temporary)
    for folder in (*(entry for entry in state.iterdir() if entry.is_dir()), state):
        if not any(folder.iterdir()):
            _rmdir(folder)


# --- The only calls that change the disk, by themselves so that tests can stop at each of them ----


def _mkdir(path: Path) -> None:
    path.mkdir()


def _rmdir(path: Path) -> None:
    path.rmdir()


def _replace(source: Path, target: Path) -> None:
    source.replace(target)


def _unlink(path: Path) -> None:
    path.unlink()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _duplicate(source: Path, target: Path) -> None:
    """Another name for a file, or a copy of it where the file system has no such thing."""
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    try:
        os.link(source, target)
    except OSError:
        target.unlink(missing_ok=True)
        shutil.copy2(source, target)


def _write_journal(state: Path, content: bytes) -> None:
    """Whole or not at all, also if the power fails."""
    temporary = state / f"{_JOURNAL}.part"
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    _replace(temporary, state / _JOURNAL)
