"""Files that are whole or not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import get_ident


def write_whole(path: Path, content: bytes) -> None:
    """Let the file `path` have this content, or stay as it is; nothing else remains beside it.

    A link stays one, and what it leads to is written. What is no file, such as a pipe or
    ``/dev/stdout``, is written to rather than replaced.

    Raises:
        OSError: from the file system.
    """
    if _is_stdout(path):
        sys.stdout.write(content.decode())
        sys.stdout.flush()
        return
    path = Path(os.path.realpath(path))
    if os.path.lexists(path) and not path.is_file():
        path.write_bytes(content)
        return
    # A name of its own: adding to a long name could make it too long for the file system.
    temporary = path.with_name(f".{os.getpid()}-{get_ident()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_stdout(path: Path) -> bool:
    """Whether this leads to where the program prints, which may be a file itself."""
    try:
        return path.is_symlink() and os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False
