"""Errors as the person at the keyboard sees them: one line on stderr, and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

from t3dgs_masks.errors import DISK_FULL, UserError
from t3dgs_masks.report.text import one_line, printable

USER_ERROR_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130
TERMINATED_EXIT_CODE = 143  # as of a program that SIGTERM ends
BROKEN_PIPE_EXIT_CODE = 141  # as of a program that SIGPIPE ends

_LONGEST_LINE = 1000  # characters; a path may be longer, and says no more then


def exit_code_of(run: Callable[[], object], *, debug: bool) -> int:
    """Call `run`, and tell what goes wrong in one line; returns the process's exit code.

    Args:
        run: the command.
        debug: show tracebacks, and the warnings of libraries too.
    """
    try:
        with warnings.catch_warnings():
            if not (debug or sys.warnoptions):
                warnings.simplefilter("ignore")  # of libraries, for those who program with them
            with _orderly_termination():
                run()
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        _say(f"interrupted: {str(stop) or 'no result was written'}")
        return TERMINATED_EXIT_CODE if isinstance(stop, _Terminated) else INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        # Whoever read our output has gone, and Python would complain again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_EXIT_CODE
    except Exception as error:
        if debug:
            traceback.print_exc()
        text, code = _told(error)
        _say(f"error: {text}")
        return code
    return 0


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is to end a command as Ctrl-C does."""


@contextlib.contextmanager
def _orderly_termination() -> Iterator[None]:
    """While the block runs, SIGTERM is an exception, so that the block can clean up."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(*_: object) -> NoReturn:
        raise _Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _told(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, UserError):
        return str(error), USER_ERROR_EXIT_CODE
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "there is not enough memory for this: give less at a time", USER_ERROR_EXIT_CODE
    if isinstance(error, OSError) and error.strerror:
        # The machine's state rather than a fault of the program, whoever met it.
        at = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        space = "; free some space and retry" if error.errno in DISK_FULL else ""
        return f"{at}{error.strerror}{space}", USER_ERROR_EXIT_CODE
    reason = " ".join(str(error).split()) or "no further word"
    return f"unexpected {type(error).__name__}: {reason} (--debug shows where)", 1


def _say(text: str) -> None:
    line = one_line(text)
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
    if sys.stderr is not None:
        print(printable(line, sys.stderr), file=sys.stderr)


# --- Arguments that make no sense -----------------------------------------------------------------


@contextlib.contextmanager
def usage_in_one_line(help_command: str) -> Iterator[None]:
    """Make the framed text in which tyro tells of wrong arguments a `UserError`.

    Args:
        help_command: what shows the flags, such as ``t3dgs-masks refine --help``.

    Raises:
        UserError: the arguments are wrong.
        SystemExit: help was asked for, and printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as end:
        if end.code in (0, None):
            sys.stderr.write(said.getvalue())
            raise
        problem = _without_frame(said.getvalue()) or "the arguments make no sense"
        raise UserError(f"{problem}; {help_command} explains them") from end


def _without_frame(text: str) -> str:
    """The messages of a framed text in one line, without help texts and advertisements."""
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        if not line.startswith("│"):
            continue
        inner = line.strip().strip("│")[1:].rstrip()
        if set(inner.strip()) == {"─"}:
            sections.append([])
        elif not inner.startswith(" " * 5):  # that far in are explanations of flags
            sections[-1].append(inner.strip())
    told = [" ".join(section).rstrip(".") for section in sections]
    return "; ".join(
        part for part in told if part and not part.startswith(("For full", "Argument helptext"))
    )
