"""Runs the real command line in a process of its own, quickly: everything is imported once, in a
server process that has never computed anything, and every call is a fork of that.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from threading import Lock

NOBODY = 65534
_PRELOADED = (
    "tests.bad_input.preloaded",
    "tests.bad_input.command_line",
    "tests.bad_input.faults",
)
_SECONDS_PER_CALL = 120
# Starting a process asks for the exit codes of all others, and only the first to ask is told.
_LOCK = Lock()
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC_PRIVATE = 0x4000 | 0x40000


@dataclass(frozen=True)
class Circumstances:
    """What a call finds beside its arguments."""

    as_nobody: bool = False
    """Run without root's right to read and write everything."""
    full_disk: tuple[Path, int] | None = None
    """This folder (which must exist) is a disk of so many bytes: a file system of its own where
    the machine allows that, else no file may become larger."""
    fault: Callable[[], None] | None = None
    """Called before the command line; may replace functions by faulty ones."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a call did."""

    code: int | None
    """Exit code; negative: the signal that killed it; None: it did not end."""
    out: str
    err: str
    on_full_disk: dict[str, str]
    """What was on the small disk at the end; see `snapshot`."""


def call(
    arguments: Sequence[str], place: Path, circumstances: Circumstances | None = None
) -> Outcome:
    """Run ``t3dgs-masks ARGUMENTS`` in the folder `place / "work"`, with HOME and TMPDIR there.

    What was printed is kept in `place`, beside that folder.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    process = context.Process(
        target=_run, args=(list(arguments), place, circumstances or Circumstances()), daemon=True
    )
    with _LOCK:
        process.start()
    wait([process.sentinel], _SECONDS_PER_CALL)
    with _LOCK:
        process.join(0)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
    files = place / "disk.json"
    return Outcome(
        code,
        (place / "stdout").read_text("utf-8", "backslashreplace"),
        (place / "stderr").read_text("utf-8", "backslashreplace"),
        json.loads(files.read_text()) if files.exists() else {},
    )


def call_installed(
    arguments: Sequence[str], place: Path, circumstances: Circumstances | None = None
) -> Outcome:
    """The same with the program that is installed beside this Python."""
    assert circumstances is None
    program = Path(sys.executable).with_name("t3dgs-masks")
    with (place / "stdout").open("wb") as out, (place / "stderr").open("wb") as err:
        work = place / "work"
        finished = subprocess.run(
            [program, *arguments],
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **_environment(place)},
            timeout=_SECONDS_PER_CALL,
            check=False,
        )
    return Outcome(
        finished.returncode, (place / "stdout").read_text(), (place / "stderr").read_text(), {}
    )


def _environment(place: Path) -> dict[str, str]:
    """Whatever a call leaves anywhere else shows in the folder it runs in, but for the caches of
    two libraries."""
    work = str(place / "work")
    caches = {"MPLCONFIGDIR": str(place), "TORCHINDUCTOR_CACHE_DIR": str(place)}
    return {"HOME": work, "TMPDIR": work, **caches}


def snapshot(root: Path) -> dict[str, str]:
    """Everything below `root`: path -> kind, mode and content (and for files when it was written).

    Times of folders are left out, so that a file that came and went does not show.
    """
    content: dict[str, str] = {}
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(folder, name)
            status = path.lstat()
            text = f"{status.st_mode:o}"
            if path.is_symlink():
                text += f" -> {path.readlink()!r}"
            elif name in files:
                text += f" {status.st_mtime_ns} {status.st_size}"
                if status.st_size < 1 << 20 and not path.is_fifo():
                    text += f" {hash_of(path)}"
            content[os.path.relpath(path, root)] = text
    return content


def hash_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


# --- in the forked process ------------------------------------------------------------------------


def _run(arguments: list[str], place: Path, circumstances: Circumstances) -> None:
    for stream, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    os.chdir(place / "work")
    os.environ.update(_environment(place))
    os.environ.update(circumstances.environment)
    if circumstances.full_disk is not None:
        _mount(*circumstances.full_disk)
    if circumstances.as_nobody and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if circumstances.fault is not None:
        circumstances.fault()
    sys.argv = ["t3dgs-masks", *arguments]
    try:
        from t3dgs_masks.cli import entry_point

        entry_point()
    finally:
        sys.stdout.flush()
        if circumstances.full_disk is not None:
            with contextlib.suppress(OSError):
                (place / "disk.json").write_text(json.dumps(snapshot(circumstances.full_disk[0])))


def _mount(folder: Path, size: int) -> None:
    """Make `folder` a disk of `size` bytes, for this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    flags = _CLONE_NEWNS if user == 0 else _CLONE_NEWNS | _CLONE_NEWUSER
    if libc.unshare(flags) == 0:
        if user != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None)
        options = f"size={size}".encode()
        if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options) == 0:
            return
    # Writing beyond this is EFBIG (Python ignores the signal), where a disk would say ENOSPC.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
