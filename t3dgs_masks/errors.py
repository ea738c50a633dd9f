"""The exception that is meant for the person at the keyboard, and what a full disk is."""

import errno

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Of an `OSError`: there is no room for what was to be written."""


def why_not_written(error: OSError) -> str:
    """What kept something from being written, and what to do about a full disk."""
    if error.errno in DISK_FULL:
        return "the disk is full; free some space and retry"
    return error.strerror or str(error)


class UserError(Exception):
    """Something about the input, the settings or the machine that the user can put right.

    The message is one line: what was wrong, where, and what to do. The command line prints it
    without a traceback (``--debug`` shows it) and exits with code 2.
    """
