"""`t3dgs-masks refine`, interrupted and started again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from t3dgs_masks import cli, refine_job
from t3dgs_masks.io.journal import Journal, read_journal
from t3dgs_masks.io.outputs import ResultFolder
from t3dgs_masks.io.progress_file import read_document
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.synthetic.capture import CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from tests.test_refine_command import Scene, write_frames, write_prompts

torch.set_num_threads(1)

NUM_FRAMES = 6
NUM_STEPS = NUM_FRAMES + (NUM_FRAMES - 1) + NUM_FRAMES  # of the three passes
ALL_STEPS = NUM_STEPS + NUM_FRAMES  # with those of the filter
# What of a report says how long something took, and how much of the machine.
TIMES_AND_COUNTS = {
    "running_time", "seconds", "counts", "image_encodings_per_frame", "peak_rss_mb", "runs",
    "steps_replayed",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    code: int
    err: str


@dataclass(frozen=True)
class Inputs:
    frames: Path
    prompts: Path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    spec = CaptureSpec(seed=5, num_frames=NUM_FRAMES, height=96, width=128, num_walkers=2)
    capture = make_capture(spec)
    scene = Scene(capture, half_trained_prompts(capture, seed=5))
    root = tmp_path_factory.mktemp("inputs")
    return Inputs(write_frames(root / "frames", scene), write_prompts(root / "prompts", scene))


@pytest.fixture
def refine(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(*args: object, frames: Path | None = None) -> Run:
        capsys.readouterr()
        command = ["refine", "--video-path", frames or inputs.frames]
        command += ["--prompt-dir", inputs.prompts, "--result-dir", tmp_path / "out"]
        command += ["--sam2-checkpoint", "tiny-synthetic", *args]
        code = cli.main([str(part) for part in command])
        return Run(code, capsys.readouterr().err)

    return run


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C as soon as so many frames are done, once."""

    def arm(num_steps: int) -> None:
        done = 0
        genuine = RichProgress.frame_done

        def counted(*args: object) -> None:
            nonlocal done
            done += 1
            if done == num_steps:
                raise KeyboardInterrupt
            genuine(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(RichProgress, "frame_done", counted)

    return arm


def result(out: Path) -> dict[str, bytes]:
    """Every file of a result; of report.json what is not time or count, of report.html what is
    neither that nor the place."""
    found = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and ".state" not in path.parts
    }
    report = json.loads(found["report.json"])
    kept = {key: value for key, value in report.items() if key not in TIMES_AND_COUNTS}
    found["report.json"] = json.dumps(kept).encode()
    del found["report.html"]
    return found


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    args = ["refine", "--video-path", inputs.frames, "--prompt-dir", inputs.prompts]
    args += ["--result-dir", out, "--sam2-checkpoint", "tiny-synthetic"]
    assert cli.main([str(arg) for arg in args]) == 0
    report = json.loads((out / "report.json").read_text())
    assert (report["runs"], report["steps_replayed"]) == (1, 0)
    assert not (out / ".state").exists()
    return result(out)


def frames_done(out: Path) -> int:
    document = read_document(out)
    assert document is not None
    done = sum(each["frames_done"] for each in document["passes"].values())
    assert document["frames_worked"] == done, "no finished frame is done twice"
    return done


@pytest.mark.parametrize("steps", [1, 4, NUM_FRAMES, 9, 12, NUM_STEPS, NUM_STEPS + 2])
def test_goes_on_where_it_was_interrupted(refine, interrupt_after, undisturbed, tmp_path, steps):
    out = tmp_path / "out"
    interrupt_after(steps)
    stopped = refine()
    assert stopped.code == cli.INTERRUPTED_EXIT_CODE
    assert stopped.err.splitlines()[-1] == (
        "interrupted: the same command goes on where this run stopped"
    )
    assert frames_done(out) == min(steps, NUM_STEPS)
    assert [path.name for path in out.iterdir()] == [".state"]
    assert [path.name for path in (out / ".state").iterdir()] == ["progress.journal"]
    resumed = refine()
    assert resumed.code == 0, resumed.err
    assert "continuing a" in resumed.err
    assert result(out) == undisturbed
    assert not (out / ".state").exists()
    report = json.loads((out / "report.json").read_text())
    assert report["runs"] == 2
    assert report["running_time"] >= sum(report["seconds"].values()) > 0


def test_interrupted_again_and_again(refine, interrupt_after, undisturbed, tmp_path):
    for _ in range(5):
        interrupt_after(4)
        refine()
    assert frames_done(tmp_path / "out") == NUM_STEPS
    interrupt_after(10**6)
    assert refine().code == 0
    assert result(tmp_path / "out") == undisturbed
    assert json.loads((tmp_path / "out" / "report.json").read_text())["runs"] == 6


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--seed", 3], r"different: --seed \(was 0, is 3\)$"),
        (["--memory-size", 3, "--guard", "off"], r"--memory-size \(was 10, is 3\); --guard"),
        (["--resolution", 64], r"--resolution \(was not given, is 64\)"),
    ],
)
def test_other_settings_begin_anew_and_say_which(refine, interrupt_after, tmp_path, args, said):
    interrupt_after(4)
    refine()
    interrupt_after(2)
    other = refine(*args)
    (line,) = [line for line in other.err.splitlines() if "beginning at the first frame" in line]
    assert re.search(said, line)
    assert "continuing" not in other.err
    assert frames_done(tmp_path / "out") == 2


def test_other_inputs_begin_anew(refine, interrupt_after, inputs, tmp_path):
    interrupt_after(4)
    refine()
    frames = tmp_path / "frames"
    frames.mkdir()
    for path in sorted(inputs.frames.iterdir()):
        (frames / path.name).write_bytes(path.read_bytes())
    refined = refine(frames=frames)
    assert "continuing" in refined.err, "the same frames elsewhere are the same frames"
    (frames / "003.png").write_bytes((frames / "002.png").read_bytes())
    again = refine(frames=frames)
    assert "holds the result of another run" in again.err
    assert "different: the frames" in again.err


def test_another_version_begins_anew(refine, interrupt_after, monkeypatch):
    interrupt_after(4)
    refine()
    interrupt_after(4)
    monkeypatch.setattr("t3dgs_masks.run_progress.version", lambda name: f"99 {name}")
    run = refine()
    assert re.search(r"different: torch \(was [^)]*, is 99 torch\); sam2", run.err)


def test_no_resume_begins_anew(refine, interrupt_after, undisturbed, tmp_path):
    interrupt_after(4)
    refine()
    interrupt_after(2)
    stopped = refine("--no-resume")
    assert "continuing" not in stopped.err
    assert "--resume" in stopped.err.splitlines()[-1]
    assert frames_done(tmp_path / "out") == 2
    assert "continuing at frame 3 of 6 of the forward pass" in refine().err
    assert result(tmp_path / "out") == undisturbed


def rewrite(path: Path, change: Callable[[int, Any], Any]) -> None:
    """Change the records of a journal (number, JSON value)."""
    records = [json.loads(record) for record in read_journal(path)]
    path.unlink()
    with closing(Journal(path)) as journal:
        for number, record in enumerate(records):
            journal.append(json.dumps(change(number, record)).encode())


def other_format(path: Path) -> None:
    rewrite(path, lambda n, record: {**record, "format": 999} if n == 0 else record)


def no_sense(path: Path) -> None:
    rewrite(path, lambda n, record: [{"passes": 3}, *record[1:]] if n else record)


def broken_mask(path: Path) -> None:
    def broken(n: int, record: Any) -> Any:
        return (
            [*record[:2], [[t, k, "\x7f\x7f"] for t, k, _ in record[2]], record[3]] if n else record
        )

    rewrite(path, broken)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


DAMAGE: list[Callable[[Path], object]] = [
    other_format,
    no_sense,
    broken_mask,
    cut,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"not a journal at all" * 100),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_progress_that_cannot_be_used_is_begun_anew(
    refine, interrupt_after, undisturbed, tmp_path, damage
):
    interrupt_after(8)
    refine()
    damage(tmp_path / "out" / ".state" / "progress.journal")
    run = refine()
    assert run.code == 0, run.err
    assert len(re.findall("first frame", run.err)) == 1
    assert "continuing" not in run.err
    assert result(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("after", [b"", bytes(99), bytes(range(256)) * 40])
def test_progress_that_is_damaged_at_its_end_is_of_use_up_to_there(
    refine, interrupt_after, undisturbed, tmp_path, after
):
    interrupt_after(8)
    refine()
    path = tmp_path / "out" / ".state" / "progress.journal"
    path.write_bytes(path.read_bytes()[:-10] + after)
    assert frames_done(tmp_path / "out") == 7
    run = refine()
    assert run.code == 0, run.err
    assert "continuing at frame 2 of 5 of the backward pass" in run.err
    assert result(tmp_path / "out") == undisturbed


def test_an_earlier_result_stays_until_the_new_one_is_whole(
    refine, interrupt_after, undisturbed, tmp_path
):
    assert refine().code == 0
    interrupt_after(4)
    refine("--seed", 4)
    assert result(tmp_path / "out") == undisturbed
    kept = refine()
    assert "already holds" in kept.err
    assert "continuing at frame 5" in refine("--seed", 4).err


@pytest.mark.parametrize("left", [("progress.journal", "lock"), ("lock",), ()])
def test_killed_as_it_cleaned_up_behind_a_finished_result(refine, tmp_path, monkeypatch, left):
    """First the progress is removed, then the lock, then the folder of both."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(refine_job, "drop_progress", lambda _: None)
        assert refine().code == 0
    (out / ".state" / "lock").touch()
    for path in (out / ".state").iterdir():
        if path.name not in left:
            path.unlink()
    assert sorted(path.name for path in (out / ".state").iterdir()) == sorted(left)
    done = result(out)
    assert "already holds the result" in refine().err
    assert not (out / ".state").exists()
    assert result(out) == done


def test_a_second_run_on_the_same_folder_is_refused(refine, undisturbed, tmp_path):
    with ResultFolder.open(tmp_path / "out").held():
        refused = refine()
        assert refused.code == 2
        assert "another run is writing to" in refused.err
        assert "Traceback" not in refused.err
    assert not (tmp_path / "out").exists()
    assert refine().code == 0


# --- signals, in a process of its own -------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_stops_it_and_says_how_to_go_on(
    inputs, undisturbed, refine, tmp_path, number, code
):
    out = tmp_path / "out"
    start = "import sys; from t3dgs_masks.cli import entry_point; entry_point()"
    command = [sys.executable, "-c", start, "refine", "--video-path", inputs.frames]
    command += ["--prompt-dir", inputs.prompts, "--result-dir", out]
    with subprocess.Popen(
        [*map(str, command), "--sam2-checkpoint", "tiny-synthetic"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Programs that a script starts in the background ignore Ctrl-C, and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        said = ""
        while "forward pass" not in said:
            said = process.stderr.readline()
        while not (out / ".state" / "progress.journal").exists():
            time.sleep(0.005)
        time.sleep(0.3)  # for a frame to be saved
        process.send_signal(number)
        said += process.stderr.read()
    assert process.returncode == code
    assert said.splitlines()[-1] == "interrupted: the same command goes on where this run stopped"
    assert "Traceback" not in said
    assert sorted(path.name for path in (out / ".state").iterdir()) == ["progress.journal"]
    assert "continuing a" in refine().err
    assert result(out) == undisturbed
