"""A folder of prepared frames: ``images/`` and the manifest that leads them back.

P/images/<name>.png     the frames
P/manifest.json         written last: where it is, the rest is complete
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from t3dgs_masks.datasets.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown
from t3dgs_masks.io.publish import remove_tree

IMAGES_FOLDER = "images"

_STAGING = ".prepare"
_EARLIER_MANIFEST = "earlier"  # a folder in the staging one, with the manifest that is replaced
_EARLIER_IMAGES = "earlier_images"


def find_prepared(path: Path) -> tuple[Path, Manifest] | None:
    """The prepared folder that `path` is, or is the ``images/`` of, and its manifest.

    Raises:
        UserError: there is one, but its manifest cannot be used.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (so that "." has a name)
    folders = [absolute, absolute.parent] if absolute.name == IMAGES_FOLDER else [absolute]
    for folder in folders:
        if (folder / IMAGES_FOLDER).is_dir():
            manifest = read_manifest(folder)
            if manifest is not None:
                return folder, manifest
    return None


class PreparedFolder:
    """Frames on their way into a prepared folder: all of them arrive, or none.

    A context manager: what was not published when it ends is gone.
    """

    def __init__(self, path: Path, inputs: Sequence[Path]) -> None:
        """Check the place and start in it. An earlier output of `prepare` there is replaced when
        the new one is complete; files of others beside it stay.

        Args:
            path: the folder; it need not exist.
            inputs: the folders and files that are read.

        Raises:
            UserError: it is not a folder, lies among the inputs, holds what `prepare` did not
                write, or cannot be written to.
        """
        self.path = path.absolute()
        self._staging = self.path / _STAGING
        self._made: list[Path] = []
        with self._errors("use"):
            if os.path.lexists(path) and not path.is_dir():
                raise UserError(f"{shown(path)} is a file: give --output-dir a folder")
            self._refuse_inputs(inputs)
            self._refuse_foreign_files()
        with self._errors("write to"):
            self._make_folder()

    def _make_folder(self) -> None:
        folder = self.path
        while not folder.exists():
            self._made.append(folder)
            folder = folder.parent
        try:
            if self._staging.is_dir():
                remove_tree(self._staging)
            (self._staging / IMAGES_FOLDER).mkdir(parents=True)
        except BaseException:
            self._remove_made()
            raise

    def __enter__(self) -> PreparedFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            if self._staging.is_dir() and not (self._staging / _EARLIER_MANIFEST).is_dir():
                remove_tree(self._staging)
            self._remove_made()

    def image_path(self, name: str, suffix: str) -> Path:
        """Where to write the image of a frame; its folder is made."""
        path = self._staging / IMAGES_FOLDER / f"{name}{suffix}"
        with self._errors("write to"):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, manifest: Manifest) -> None:
        """Put the frames and their manifest in place.

        Raises:
            UserError: from the file system. What had been there before is put back.
        """
        earlier = self._staging / _EARLIER_MANIFEST
        moves = [
            (self.path / MANIFEST_NAME, earlier / MANIFEST_NAME),
            (self.path / IMAGES_FOLDER, self._staging / _EARLIER_IMAGES),
            (self._staging / IMAGES_FOLDER, self.path / IMAGES_FOLDER),
            (self._staging / MANIFEST_NAME, self.path / MANIFEST_NAME),
        ]
        done: list[tuple[Path, Path]] = []
        with self._errors("write to"):
            write_manifest(manifest, self._staging)
            earlier.mkdir()
            try:
                for source, target in moves:
                    if source.exists():
                        source.replace(target)
                        done.append((source, target))
            except BaseException:
                for source, target in reversed(done):
                    target.replace(source)
                earlier.rmdir()
                raise
            self._made.clear()
        with suppress(OSError):  # the frames are in place; the next run sweeps up
            remove_tree(self._staging)

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot {verb} {shown(self.path)}: {error.strerror or error}; choose another"
                " --output-dir, or put that right"
            ) from error

    def _remove_made(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                return  # something is in it, or it is gone

    def _refuse_inputs(self, inputs: Sequence[Path]) -> None:
        place = Path(os.path.realpath(self.path))
        for source in inputs:
            given = Path(os.path.realpath(source))
            if given.is_dir() and place.is_relative_to(given):
                raise UserError(
                    f"--output-dir {shown(self.path)} lies among the frames in {shown(source)}:"
                    " choose one outside of it"
                )
            if given.is_relative_to(place / IMAGES_FOLDER):
                raise UserError(
                    f"the frames in {shown(source)} would be replaced: choose another --output-dir"
                )

    def _refuse_foreign_files(self) -> None:
        if not self.path.is_dir():
            return
        earlier = [
            manifest
            for folder in (self.path, self._staging, self._staging / _EARLIER_MANIFEST)
            if (manifest := read_manifest(folder)) is not None
        ]
        present = {entry.name for entry in self.path.iterdir()} - {_STAGING}
        if not present:
            return
        images = self.path / IMAGES_FOLDER
        is_ours = bool(earlier) and (images.is_dir() or MANIFEST_NAME not in present)
        if not is_ours:
            raise UserError(
                f"{shown(self.path)} holds {shown(min(present))}, which `prepare` did not write:"
                " choose a new or an empty --output-dir"
            )
        names = {frame.name for manifest in earlier for frame in manifest.frames}
        for file in _files(images) if images.is_dir() else ():
            if file.relative_to(images).with_suffix("").as_posix() not in names:
                raise UserError(
                    f"{shown(file)} was not written by `prepare` and would be lost: move it, or"
                    " choose another --output-dir"
                )


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            yield from _files(entry)
        else:
            yield entry
