"""Swapping a finished result into its folder, so that a kill at any moment can be made good.

A run collects its files in ``OUT/.state/next``. Publishing them is a chain of renames; the name
of the staging folder says how far the chain has come:

``next``      the run is not finished; a later run throws it away
``clearing``  the result is complete (the point of no return); the old one moves to ``old``
``placing``   the old one is gone from OUT; the new one moves in
``old``       what remains of the earlier result, to be swept up

``config.json`` is the marker of a whole result: it leaves OUT first and comes back last. Every
step may be repeated, so `recover` simply goes on where a killed run stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

MASK_FOLDER = "binary_masks"
MASKLETS = "masklets.json"
MARKER = "config.json"
MANIFEST = "manifest.json"
ENTRIES = (MASK_FOLDER, MASKLETS, "report.json", "overlay.mp4", "report.html", MANIFEST, MARKER)
"""Everything in OUT that a run writes; whatever else lies there is the user's."""

STATE = ".state"


def staging_folder(out: Path) -> Path:
    """Where a run collects its files until they are published."""
    return out / STATE / "next"


def publish(out: Path) -> None:
    """Replace the result in `out` by the complete one in its staging folder.

    Raises:
        OSError: from the file system; `recover` goes on from there.
    """
    recover(out)
    _rename(staging_folder(out), _clearing(out))
    recover(out)


def recover(out: Path) -> None:
    """Finish a publish that was killed. Does nothing where none was under way.

    Raises:
        OSError: from the file system; calling it again goes on from there.
    """
    if _clearing(out).is_dir():
        _clear(out)
        _rename(_clearing(out), _placing(out))
    if _placing(out).is_dir():
        _place(out)
    if _old(out).is_dir():
        _sweep(out)


def is_pending(out: Path) -> bool:
    """Whether a publish was killed in `out`, so that its files are of two runs."""
    return _clearing(out).is_dir() or _placing(out).is_dir()


def is_unfinished(out: Path) -> bool:
    """Whether `recover` has something to do in `out`."""
    return is_pending(out) or _old(out).is_dir()


def remove_tree(path: Path) -> None:
    """Delete a folder and all in it, links themselves rather than what they point to."""
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            _unlink(entry)
    _rmdir(path)


def _clearing(out: Path) -> Path:
    return out / STATE / "clearing"


def _placing(out: Path) -> Path:
    return out / STATE / "placing"


def _old(out: Path) -> Path:
    return out / STATE / "old"


def _clear(out: Path) -> None:
    """Move the earlier result out of the way, its marker first."""
    if not _old(out).is_dir():
        _old(out).mkdir()
    for name in reversed(ENTRIES):
        if os.path.lexists(out / name):
            _rename(out / name, _old(out) / name)


def _place(out: Path) -> None:
    """Move the new result in, its marker last."""
    for name in ENTRIES:
        if (_placing(out) / name).exists():
            _rename(_placing(out) / name, out / name)
    remove_tree(_placing(out))


def _sweep(out: Path) -> None:
    """Delete what the earlier run wrote; what a user put among its masks stays in OUT."""
    masks = _old(out) / MASK_FOLDER
    if masks.is_dir() and not masks.is_symlink():
        written = _mask_files(_old(out) / MASKLETS)
        for path in list(_files(masks)):
            relative = path.relative_to(masks)
            # Without a list of what we wrote, a PNG in our folder is taken for ours.
            ours = relative.suffix == ".png" if written is None else relative.as_posix() in written
            if ours:
                _unlink(path)
            else:
                _keep(path, out / MASK_FOLDER, relative)
        remove_tree(masks)
    # Last: the list of what was ours is needed until every mask is dealt with.
    remove_tree(_old(out))


def _keep(path: Path, masks: Path, relative: Path) -> None:
    target = masks / relative
    if any(parent.is_file() for parent in target.parents):
        # The user's folder was called like one of the new masks.
        target = masks / relative.as_posix().replace("/", "_")
    while os.path.lexists(target):
        target = target.with_name(target.name + "~")
    target.parent.mkdir(parents=True, exist_ok=True)
    _rename(path, target)


def _mask_files(masklets_json: Path) -> frozenset[str] | None:
    """The mask files that the run behind `masklets_json` wrote; None if it cannot be read."""
    try:
        frames = json.loads(masklets_json.read_bytes())["frames"]
        return frozenset(f"{name}.png" for name in frames)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            yield from _files(entry)
        else:
            yield entry


# The only calls that change the disk, by themselves so that tests can stop at each of them.
def _rename(source: Path, target: Path) -> None:
    source.replace(target)


def _unlink(path: Path) -> None:
    path.unlink()


def _rmdir(path: Path) -> None:
    path.rmdir()
