"""The closing table of a refine."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t3dgs_masks.report.text import duration, is_terminal, one_line, printable

MAX_REJECTED_SHOWN = 20


@dataclass(frozen=True)
class ObjectSummary:
    """What became of one object."""

    object_id: int
    kept: bool
    reason: str
    transience_score: float | None


@dataclass(frozen=True)
class RunSummary:
    """What there is to say at the end of a run."""

    frames: int
    objects: Sequence[ObjectSummary]
    transient_share: float  # mean over the frames of the share of transient pixels, 0 to 1
    seconds: Mapping[str, float]  # stage -> seconds, in order
    running_time: float  # seconds
    image_encodings_per_frame: float  # by the tracker's network
    result_dir: Path
    page: Path | None = None
    """The report to look at."""
    proposer_encodings_per_frame: float = 0.0  # by a network of the proposer's own
    peak_rss_mb: float | None = None
    peak_vram_mb: float | None = None


def print_summary(summary: RunSummary, stream: TextIO | None = None) -> None:
    """Print the closing table to `stream` (stdout by default), as plain lines if that is a file."""
    output = stream or sys.stdout or StringIO()  # a program may have none
    rows = [(name, printable(text, output)) for name, text in summary_rows(summary)]
    if not is_terminal(output):
        # Not wrapped: a path in a log is there to be copied.
        width = max(len(name) for name, _ in rows)
        output.writelines(f"{name:<{width}}  {text}\n" for name, text in rows)
        output.flush()
        return
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    Console(file=output).print(table)


def summary_rows(summary: RunSummary) -> list[tuple[str, str]]:
    """The table as (name, text) rows; a name is empty where a row goes on from the one above."""
    rejected = [item for item in summary.objects if not item.kept]
    num_kept = len(summary.objects) - len(rejected)
    rows = [
        ("frames", str(summary.frames)),
        ("objects", f"{num_kept} kept, {len(rejected)} rejected"),
        *_rejected_rows(rejected),
        ("transient area", f"{summary.transient_share:.1%} of the pixels, on average"),
        ("time", _times(summary)),
        ("image encodings", _encodings(summary)),
    ]
    memory = _memory(summary)
    if memory:
        rows.append(("peak memory", memory))
    rows.append(("results", one_line(str(summary.result_dir))))
    if summary.page is not None:
        rows.append(("report", one_line(str(summary.page))))
    return rows


def _rejected_rows(rejected: Sequence[ObjectSummary]) -> list[tuple[str, str]]:
    rows = []
    for item in rejected[:MAX_REJECTED_SHOWN]:
        name = "" if rows else "rejected"
        rows.append((name, f"object {item.object_id}: {one_line(item.reason)}"))
    if len(rejected) > MAX_REJECTED_SHOWN:
        more = len(rejected) - MAX_REJECTED_SHOWN
        rows.append(("", f"and {more} more, see masklets.json"))
    return rows


def _times(summary: RunSummary) -> str:
    stages = ", ".join(
        f"{stage.value if isinstance(stage, Enum) else stage} {duration(seconds)}"
        for stage, seconds in summary.seconds.items()
    )
    return (
        f"{duration(summary.running_time)} ({stages})" if stages else duration(summary.running_time)
    )


def _encodings(summary: RunSummary) -> str:
    text = f"{summary.image_encodings_per_frame:.2f} per frame"
    if summary.proposer_encodings_per_frame:
        text += f", and {summary.proposer_encodings_per_frame:.2f} by the proposer"
    return text


def _memory(summary: RunSummary) -> str:
    parts = []
    if summary.peak_rss_mb is not None:
        parts.append(f"{summary.peak_rss_mb:,.0f} MB")
    if summary.peak_vram_mb is not None:
        parts.append(f"{summary.peak_vram_mb:,.0f} MB on the GPU")
    return ", ".join(parts)
