"""How much memory the process has needed."""

from __future__ import annotations

import sys

_MIB = 2**20


def peak_rss_mb() -> float | None:
    """The largest resident size of this process so far, in MiB; None where it is not known."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return peak * bytes_per_unit / _MIB
