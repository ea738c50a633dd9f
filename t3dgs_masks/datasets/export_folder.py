"""A folder that an export goes to: all of it arrives, or what was there stays.

DEST/.t3dgs_masks_export    what was exported, and from where (JSON; not called .json, because
                            some tools take any JSON file for a dataset)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown
from t3dgs_masks.io.publish import remove_tree

MARKER = ".t3dgs_masks_export"

_PROGRAM = "t3dgs_masks"
_VERSION = 1


class ExportFolder:
    """An export in progress, collected in a folder beside DEST.

    A context manager: what was not published when it ends is gone.
    """

    def __init__(self, dest: Path, inputs: Sequence[Path]) -> None:
        """Check the place and start. An earlier export there is replaced when this one is whole.

        Args:
            dest: the folder; it need not exist.
            inputs: folders that are read: the result, and those of the images.

        Raises:
            UserError: it is a file, lies among the inputs, holds what `export` did not write, or
                cannot be written to.
        """
        self.dest = Path(os.path.realpath(dest))
        self._next = self.dest.with_name(f".{self.dest.name}.export-next")
        self._old = self.dest.with_name(f".{self.dest.name}.export-old")
        self._files: list[str] = []
        self._made: list[Path] = []
        with self._errors():
            self._refuse_inputs(inputs)
            self._recover()
            if os.path.lexists(self.dest) and not self.dest.is_dir():
                raise UserError(f"{shown(dest)} is a file: give --dest a folder")
            self._refuse_foreign_files()
            folder = self._next.parent
            while not folder.exists():
                self._made.append(folder)
                folder = folder.parent
            self._next.mkdir(parents=True)

    def __enter__(self) -> ExportFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            if self._next.is_dir():
                remove_tree(self._next)
                for folder in self._made:  # that were made for it; they are empty again
                    folder.rmdir()

    def write(self, path: str, content: bytes) -> None:
        """Write a file of the export.

        Args:
            path: relative to DEST, with '/'.
            content: all of it.

        Raises:
            UserError: two files of one name, a path that leads out of DEST, or a full disk.
        """
        with self._errors():
            self._new_file(path).write_bytes(content)

    def link(self, path: str, target: Path) -> None:
        """Make a symbolic link to a folder; silently none where the file system has no links."""
        place = self._new_file(path)
        try:
            place.symlink_to(target, target_is_directory=True)
        except OSError:
            self._files.remove(path)

    def publish(self, description: Mapping[str, Any]) -> None:
        """Put the export in place.

        Args:
            description: what it was made from; `read_marker` gives it back.

        Raises:
            UserError: from the file system; what was there before is there again.
        """
        marker = {"program": _PROGRAM, "version": _VERSION, **description, "files": self._files}
        with self._errors():
            text = json.dumps(marker, indent=1) + "\n"
            (self._next / MARKER).write_text(text, encoding="utf-8")
            if not self.dest.is_dir():
                _rename(self._next, self.dest)
                return
            _rename(self.dest, self._old)
            try:
                _rename(self._next, self.dest)
            except BaseException:
                _rename(self._old, self.dest)
                raise
        with suppress(OSError):  # the export is in place; the next one sweeps up
            remove_tree(self._old)

    def _new_file(self, path: str) -> Path:
        parts = PurePosixPath(path).parts
        if not parts or PurePosixPath(path).is_absolute() or ".." in parts:
            raise UserError(f"{shown(path)} leads out of {shown(self.dest)}: rename the image")
        if path in self._files:
            raise UserError(
                f"two images would have the mask {shown(path)}: give them different names"
            )
        self._files.append(path)
        place = self._next / path
        with self._errors():
            place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _recover(self) -> None:
        """Make good what a killed export left."""
        if self._next.is_dir():
            remove_tree(self._next)
        if self._old.is_dir() and not os.path.lexists(self.dest):
            _rename(self._old, self.dest)
        elif self._old.is_dir():
            remove_tree(self._old)

    def _refuse_inputs(self, inputs: Sequence[Path]) -> None:
        for source in inputs:
            given = Path(os.path.realpath(source))
            if self.dest.is_relative_to(given):
                raise UserError(
                    f"--dest {shown(self.dest)} lies in {shown(source)}, which is read: choose one"
                    " outside of it"
                )

    def _refuse_foreign_files(self) -> None:
        if not self.dest.is_dir():
            return
        marker = read_marker(self.dest)
        ours = {MARKER, *marker.get("files", ())} if marker else set()
        for path in _files(self.dest):
            if path.relative_to(self.dest).as_posix() not in ours:
                raise UserError(
                    f"{shown(self.dest)} holds {shown(path.relative_to(self.dest))}, which `export`"
                    " did not write: choose a new or an empty --dest"
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write to {shown(self.dest)}: {error.strerror or error}; choose another"
                " --dest, or put that right"
            ) from error


def read_marker(dest: Path) -> dict[str, Any] | None:
    """What the export in `dest` was made from; None if there is none."""
    try:
        marker = json.loads((dest / MARKER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(marker, dict) or marker.get("program") != _PROGRAM:
        return None
    files = marker.get("files")
    usable = isinstance(files, list) and all(isinstance(name, str) for name in files)
    return marker if usable and marker.get("version") == _VERSION else None


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not a folder; links are not followed."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            yield from _files(entry)
        else:
            yield entry


# By itself, so that tests can stop at it.
def _rename(source: Path, target: Path) -> None:
    source.rename(target)
