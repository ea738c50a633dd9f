"""What a refine shows while it runs: bars on a terminal, a few plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from t3dgs_masks.refine.observer import Stage
from t3dgs_masks.report.text import duration, is_terminal, one_line, printable

Clock = Callable[[], float]
Advance = Callable[[], None]

_MIN_SHARE = 0.1  # of the frames between two lines in a log ...
_MIN_PAUSE_S = 2.0  # ... unless they pass faster than anyone would want to read
_MAX_PAUSE_S = 30.0


class RichProgress:
    """Shows a refine's passes and the work around them; a `RefineObserver`.

    Use it as a context manager: however the block ends, Ctrl-C included, the terminal is left as
    it was found.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        interactive: bool | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Prepare the display.

        Args:
            stream: where to; stderr by default.
            interactive: bars (True) or plain lines (False); by default, as `stream` is a terminal.
            clock: seconds, for tests.
        """
        output = stream or sys.stderr or StringIO()  # a program may have none
        with_bars = is_terminal(output) if interactive is None else interactive
        self._display = _Bars(output) if with_bars else _Lines(output, clock)

    def __enter__(self) -> RichProgress:
        self._display.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._display.close()

    def stage_started(self, stage: Stage, num_frames: int) -> None:
        """A pass over `num_frames` frames begins."""
        self._display.start(_title(stage), num_frames)

    def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None:
        """One frame of the pass is done; `num_objects` objects are known so far."""
        self._display.advance(_title(stage), num_objects)

    def stage_finished(self, stage: Stage) -> None:
        """The pass is over."""
        self._display.finish(_title(stage))

    def notice(self, text: str) -> None:
        """A line that the user should read; it stays on the screen."""
        self._display.notice(one_line(text))

    @contextmanager
    def stage(self, title: str, num_frames: int | None = None) -> Iterator[Advance]:
        """Show other work while the block runs.

        Args:
            title: such as ``loading model``.
            num_frames: how often the function that the block is given will be called, if known.
        """
        self._display.start(title, num_frames)
        yield lambda: self._display.advance(title, None)
        # Not in a finally: work that failed is not shown as done.
        self._display.finish(title)


def _title(stage: Stage) -> str:
    return "filter" if stage is Stage.FILTER else f"{stage.value} pass"


class _Bars:
    """One line per stage, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        console = Console(file=stream, force_terminal=True)
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            _Frames(markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            speed_estimate_period=300.0,  # a frame may take many seconds
        )

    def open(self) -> None:
        self._progress.start()

    def close(self) -> None:
        self._progress.stop()

    def start(self, title: str, num_frames: int | None) -> None:
        self._tasks[title] = self._progress.add_task(title, total=num_frames, found=None)

    def advance(self, title: str, num_objects: int | None) -> None:
        if num_objects is None:
            self._progress.advance(self._tasks[title])
        else:
            self._progress.update(self._tasks[title], advance=1, found=num_objects)

    def finish(self, title: str) -> None:
        task_id = self._tasks[title]
        done = self._progress.tasks[self._progress.task_ids.index(task_id)].completed
        # Full even if it had fewer frames than announced, or none to announce.
        self._progress.update(task_id, total=done or 1, completed=done or 1)
        self._progress.stop_task(task_id)

    def notice(self, text: str) -> None:
        self._progress.console.print(Text.assemble(("note: ", "yellow"), text), soft_wrap=True)


class _Frames(TextColumn):
    """Frames done and objects found, of the stages that have them."""

    def __init__(self, *, markup: bool) -> None:
        super().__init__("", markup=markup)

    def render(self, task: Task) -> Text:
        parts = []
        if task.total is not None and not (task.finished and task.total <= 1):
            parts.append(f"frame {int(task.completed)}/{int(task.total)}")
        if task.fields["found"] is not None:
            parts.append(_objects(task.fields["found"]))
        return Text(", ".join(parts))


@dataclass
class _Running:
    """A stage that is shown as lines."""

    num_frames: int | None
    started: float
    last_line: float
    done: int = 0
    done_at_last_line: int = 0
    num_objects: int | None = None


class _Lines:
    """Plain lines without control codes: start and end of a stage, and a few in between."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._running: dict[str, _Running] = {}

    def open(self) -> None:
        return

    def close(self) -> None:
        for title, stage in self._running.items():
            self._print(f"{title}: stopped after {duration(self._clock() - stage.started)}")
        self._running.clear()

    def start(self, title: str, num_frames: int | None) -> None:
        now = self._clock()
        self._running[title] = _Running(num_frames, started=now, last_line=now)
        self._print(f"{title}: {_frames(num_frames)}" if num_frames else f"{title} ...")

    def advance(self, title: str, num_objects: int | None) -> None:
        stage = self._running[title]
        stage.done += 1
        stage.num_objects = num_objects
        pause = self._clock() - stage.last_line
        share = (stage.done - stage.done_at_last_line) / (stage.num_frames or stage.done)
        is_last = stage.done == stage.num_frames  # `finish` says it
        worth_a_line = share >= _MIN_SHARE and pause >= _MIN_PAUSE_S
        if not is_last and (worth_a_line or pause >= _MAX_PAUSE_S):
            self._print_state(title, stage)

    def finish(self, title: str) -> None:
        stage = self._running.pop(title)
        parts = [f"done in {duration(self._clock() - stage.started)}"]
        if stage.num_objects is not None:
            parts.append(_objects(stage.num_objects))
        self._print(f"{title}: {', '.join(parts)}")

    def notice(self, text: str) -> None:
        self._print(f"note: {text}")

    def _print_state(self, title: str, stage: _Running) -> None:
        now = self._clock()
        elapsed = now - stage.started
        parts = [f"frame {stage.done}" + (f"/{stage.num_frames}" if stage.num_frames else "")]
        if stage.num_objects is not None:
            parts.append(_objects(stage.num_objects))
        parts.append(f"{duration(elapsed)} elapsed")
        if stage.num_frames:
            left = elapsed / stage.done * max(0, stage.num_frames - stage.done)
            parts.append(f"about {duration(left)} left")
        self._print(f"{title}: {', '.join(parts)}")
        stage.last_line, stage.done_at_last_line = now, stage.done

    def _print(self, text: str) -> None:
        self._stream.write(printable(text, self._stream) + "\n")
        self._stream.flush()


def _objects(count: int) -> str:
    return f"{count} object" if count == 1 else f"{count} objects"


def _frames(count: int) -> str:
    return f"{count} frame" if count == 1 else f"{count} frames"
