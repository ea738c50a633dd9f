"""The one exception type that is meant for the person at the keyboard."""

import errno

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Of an `OSError`: there is no room for what was to be written."""


class UserError(Exception):
    """Something about the input, the settings or the machine that the user can put right.

    The message is one line: what was wrong, where, and what to do. The command line prints it
    without a traceback (``--debug`` shows it) and exits with code 2.
    """
