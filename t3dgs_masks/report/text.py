"""Text that is safe to print anywhere, whatever file names are in it."""

from __future__ import annotations

import os
from typing import TextIO


def is_terminal(stream: TextIO) -> bool:
    """Whether someone is looking: a terminal that can move its cursor.

    Asks the stream itself; variables such as FORCE_COLOR would put control codes into logs.
    """
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and os.environ.get("TERM", "") not in ("dumb", "unknown")


def one_line(text: str) -> str:
    """`text` with line breaks and control characters made visible."""
    return "".join(c if c.isprintable() or _is_surrogate(c) else repr(c)[1:-1] for c in text)


def printable(text: str, stream: TextIO) -> str:
    """`text` with what the stream's encoding cannot hold written as escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def duration(seconds: float) -> str:
    """Such as ``0.8 s``, ``1:05`` or ``2:03:09``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _is_surrogate(character: str) -> bool:
    # How Python holds the bytes of a file name that is not UTF-8; `printable` deals with them.
    return "\ud800" <= character <= "\udfff"
