"""Ways in which the machine itself fails, installed in the process that runs the command line."""

from __future__ import annotations
