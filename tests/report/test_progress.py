"""Progress: bars on a terminal, few and plain lines in a log."""

from __future__ import annotations

import errno
import os
import pty
import select
import signal
import subprocess
import sys
import time
from io import BytesIO, StringIO, TextIOWrapper

import pytest

from t3dgs_masks.refine.observer import RefineObserver, Stage
from t3dgs_masks.report.memory import peak_rss_mb
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.report.text import duration, one_line, printable


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_pass(progress: RichProgress, clock: Clock, num_frames: int, seconds: float) -> None:
    observer: RefineObserver = progress
    observer.stage_started(Stage.FORWARD, num_frames)
    for frame_idx in range(num_frames):
        clock.now += seconds
        observer.frame_done(Stage.FORWARD, frame_idx, 1 + frame_idx // 10)
    observer.stage_finished(Stage.FORWARD)


def lines_of_pass(num_frames: int, seconds: float) -> list[str]:
    stream, clock = StringIO(), Clock()
    with RichProgress(stream, clock=clock) as progress:
        run_pass(progress, clock, num_frames, seconds)
    return stream.getvalue().splitlines()


# --- in a log -------------------------------------------------------------------------------------


def test_a_log_gets_a_line_about_every_tenth_of_the_frames() -> None:
    lines = lines_of_pass(40, seconds=1.0)
    assert lines[0] == "forward pass: 40 frames"
    assert lines[1] == "forward pass: frame 4/40, 1 object, 4.0 s elapsed, about 0:36 left"
    assert lines[-1] == "forward pass: done in 0:40, 4 objects"
    assert len(lines) == 11


def test_a_fast_pass_is_two_lines() -> None:
    assert len(lines_of_pass(40, seconds=0.01)) == 2


def test_a_slow_pass_is_heard_of_every_half_minute() -> None:
    lines = lines_of_pass(1000, seconds=6.0)
    assert len(lines) == 2 + 199
    assert lines[1] == "forward pass: frame 5/1000, 1 object, 0:30 elapsed, about 1:39:30 left"


def test_notices_and_other_stages_are_lines() -> None:
    stream, clock = StringIO(), Clock()
    with RichProgress(stream, clock=clock) as progress:
        with progress.stage("loading model"):
            clock.now += 3.25
        progress.notice("frame [bold]a\n\x1b[31m has no mask")
        with progress.stage("writing masks", 2) as advance:
            advance()
            advance()
    assert stream.getvalue().splitlines() == [
        "loading model ...",
        "loading model: done in 3.2 s",
        r"note: frame [bold]a\n\x1b[31m has no mask",
        "writing masks: 2 frames",
        "writing masks: done in 0.0 s",
    ]


def test_a_failed_stage_is_not_said_to_be_done() -> None:
    def fail(progress: RichProgress) -> None:
        with progress, progress.stage("loading model"):
            raise KeyboardInterrupt

    stream = StringIO()
    with pytest.raises(KeyboardInterrupt):
        fail(RichProgress(stream, clock=Clock()))
    assert stream.getvalue().splitlines() == [
        "loading model ...",
        "loading model: stopped after 0.0 s",
    ]


def test_a_log_has_no_control_codes_even_if_colour_is_forced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in "".join(lines_of_pass(40, seconds=1.0))


def test_a_narrow_encoding_gets_escapes() -> None:
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding="ascii")
    with RichProgress(stream) as progress:
        progress.notice("花 and " + os.fsdecode(b"caf\xe9"))
    assert raw.getvalue() == b"note: \\u82b1 and caf\\udce9\n"


# --- on a terminal --------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar_for_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream, clock = StringIO(), Clock()
    with RichProgress(stream, interactive=True) as progress:
        with progress.stage("loading model"):
            pass
        run_pass(progress, clock, 12, seconds=0)
        progress.notice("one [frame] has no mask")
    shown = stream.getvalue()
    last_redraw = shown[shown.rindex("loading model") :]
    assert "forward pass" in last_redraw
    assert "frame 12/12, 2 objects" in last_redraw
    assert "frame" not in last_redraw.split("\n")[0]  # loading a model has no frames
    assert "one [frame] has no mask" in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is back


SCRIPT = """
import sys, time
from t3dgs_masks.refine.observer import Stage
from t3dgs_masks.report.progress import RichProgress
try:
    with RichProgress() as progress:
        progress.stage_started(Stage.FORWARD, 5)
        progress.frame_done(Stage.FORWARD, 0, 1)
        time.sleep(0.3)
        print("WAITING")
        time.sleep(30)
except KeyboardInterrupt:
    print("INTERRUPTED")
"""


def read_until(terminal: int, text: bytes | None, timeout_s: float = 15.0) -> bytes:
    """What a program wrote to its terminal until `text` appears, or until it has ended."""
    got, end = b"", time.monotonic() + timeout_s
    while time.monotonic() < end and (text is None or text not in got):
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            read = os.read(terminal, 4096)
        except OSError as error:
            if error.errno == errno.EIO:  # the other end was closed
                return got
            raise
        if not read:
            return got
        got += read
    return got


def test_ctrl_c_leaves_the_terminal_sane() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=theirs,
        stderr=theirs,
        env=environment,
        # Programs that a script starts in the background ignore Ctrl-C, and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    try:
        before = read_until(ours, b"WAITING")
        assert b"\x1b[?25l" in before  # the cursor is hidden under the bars
        assert b"frame 1/5, 1 object" in before
        program.send_signal(signal.SIGINT)
        after = read_until(ours, None)
        assert program.wait(10) == 0
    finally:
        program.kill()
        os.close(ours)
    assert b"\x1b[?25h" in after
    assert after.index(b"\x1b[?25h") < after.index(b"INTERRUPTED")
    assert b"Traceback" not in after


# --- small things ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (10, "0:10"), (59.6, "1:00"), (3599.9, "1:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_text_is_made_printable() -> None:
    assert one_line("a\tb\r\n花") == r"a\tb\r\n花"
    assert printable("花", StringIO()) == "花"


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_rss_mb()
    assert before is not None
    held = bytearray(os.urandom(1)) * 2**26
    after = peak_rss_mb()
    assert after is not None
    assert after >= max(before, 64)
    assert after < before + 2**12
    assert len(held) == 2**26
