"""The closing table."""

from __future__ import annotations

import os
import pty
import re
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

from t3dgs_masks.refine.observer import Stage
from t3dgs_masks.report.summary import ObjectSummary, RunSummary, print_summary

SUMMARY = RunSummary(
    frames=40,
    objects=[
        ObjectSummary(0, True, "transience score 0.31", 0.31),
        ObjectSummary(2, False, "transience score 0.03 is not above 0.08", 0.03),
        ObjectSummary(5, False, "never inside [the] coarse mask", None),
    ],
    transient_share=0.0734,
    seconds={Stage.FORWARD: 61.0, Stage.FILTER: 0.2},
    running_time=75.4,
    image_encodings_per_frame=1.0,
    result_dir=Path("out/" + "long" * 40),
    page=Path("out/" + "long" * 40 + "/report.html"),
    peak_rss_mb=1234.4,
)


def text_of(summary: RunSummary) -> str:
    stream = StringIO()
    print_summary(summary, stream)
    return stream.getvalue()


def test_a_log_gets_plain_lines_with_everything_in_them() -> None:
    assert text_of(SUMMARY).splitlines() == [
        "frames           40",
        "objects          1 kept, 2 rejected",
        "rejected         object 2: transience score 0.03 is not above 0.08",
        "                 object 5: never inside [the] coarse mask",
        "transient area   7.3% of the pixels, on average",
        "time             1:15 (forward 1:01, filter 0.2 s)",
        "image encodings  1.00 per frame",
        "peak memory      1,234 MB",
        "results          out/" + "long" * 40,
        "report           out/" + "long" * 40 + "/report.html",
    ]


def test_a_gpu_and_a_proposer_of_its_own_are_told() -> None:
    with_gpu = RunSummary(
        frames=1,
        objects=[],
        transient_share=0.0,
        seconds={},
        running_time=0.5,
        image_encodings_per_frame=1.0,
        proposer_encodings_per_frame=0.95,
        result_dir=Path("out"),
        peak_rss_mb=900.0,
        peak_vram_mb=2048.0,
    )
    text = text_of(with_gpu)
    assert "1.00 per frame, and 0.95 by the proposer" in text
    assert "900 MB, 2,048 MB on the GPU" in text
    assert "objects          0 kept, 0 rejected\n" in text
    assert "time             0.5 s\n" in text
    assert "rejected  " not in text
    assert "report.html" not in text  # none was written


def test_many_rejected_objects_are_cut_short() -> None:
    rejected = [ObjectSummary(i, False, "static", 0.0) for i in range(50)]
    text = text_of(RunSummary(1, rejected, 0.0, {}, 1.0, 1.0, Path("out")))
    assert "object 19: static" in text
    assert "object 20: static" not in text
    assert "and 30 more, see masklets.json" in text


def test_a_path_that_is_not_utf_8_can_be_printed() -> None:
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding="utf-8", errors="strict")
    print_summary(RunSummary(1, [], 0.0, {}, 1.0, 1.0, Path(os.fsdecode(b"caf\xe9\n"))), stream)
    assert raw.getvalue().endswith(b"results          caf\\udce9\\n\n")


def test_a_terminal_gets_a_table(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        print_summary(SUMMARY, stream)
        stream.flush()
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\x1b[1mframes" in shown
    assert "object 5: never inside [the] coarse mask" in shown
    assert re.sub(r"\x1b\[\d+m|\s", "", shown).count("long") == 80  # folded, not cut
