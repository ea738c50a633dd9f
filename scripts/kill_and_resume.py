"""Kills refines, applies and trainings that refine at random moments, runs the same command again,
and compares what comes out in the end, byte by byte, with what comes out undisturbed.

    python scripts/kill_and_resume.py
    python scripts/kill_and_resume.py --refine 6 --apply 10 --training 0

A killed process gets SIGKILL. `refine` and `apply` run the real command line in forks of this
process, which has imported everything already, so that kills strike the work and not the start-up;
some refines are processes of their own. Every other refine starts over a result of other settings:
at no moment may the folder hold a mix of both. Trainings are `ns-train` on the CPU, killed while
they refine, and resumed with --load-dir.

What differs between any two runs is left out of the comparison: from report.json seconds,
running_time, counts (of network calls), image_encodings_per_frame, peak_rss_mb, runs and
steps_replayed; from report.html the same figures. Everything else is compared: masks,
masklets.json, overlay.mp4, config.json, and what is left of both reports.

Exits with 1 if anything differs.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from t3dgs_masks import (
    apply_job,  # noqa: F401 (imported for the forks)
    cli,
    refine_job,  # noqa: F401
)
from t3dgs_masks.io.progress_file import read_document
from t3dgs_masks.report.html import read_page
from t3dgs_masks.synthetic.capture import make_capture
from t3dgs_masks.synthetic.capture_spec import CaptureSpec
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from t3dgs_masks.synthetic.dataset import write_nerfstudio

VARYING = frozenset(
    {"seconds", "running_time", "counts", "image_encodings_per_frame", "peak_rss_mb", "runs"}
    | {"steps_replayed"}
)
PATIENCE_S = 900.0

_TRAINING = shlex.split("""
    --machine.device-type cpu --vis tensorboard --viewer.quit-on-train-completion True
    --steps-per-eval-image 0 --steps-per-eval-all-images 0 --steps-per-save 100000
    --pipeline.model.num-downscales 0 --pipeline.model.stop-split-at 0
    --pipeline.model.robust.warmup-steps 10 --pipeline.datamanager.refine-steps 30
    --pipeline.datamanager.refiner.sam2-checkpoint tiny-synthetic
""")
_REFINE_AT, _STEPS = 30, 34


@dataclass(frozen=True)
class Kills:
    """How often to kill what."""

    refine: int = 50
    """Refines."""
    apply: int = 50
    """Applies."""
    training: int = 5
    """Trainings, while they refine."""
    processes: int = 5
    """How many of the killed refines are processes of their own, which first have to import."""
    frames: int = 14
    """Of the capture."""
    seed: int = 0
    """Of the moments."""


@dataclass
class Row:
    """A line of the table."""

    what: str
    kills: int = 0
    completed: int = 0
    """Runs that came to their end, whose results were compared."""
    cut_short: int = 0
    """Frames that were being worked on when the process died, and begun again."""
    redone: int = 0
    """Finished frames of a pass that were worked on again."""
    replayed: int = 0
    """Propagation steps that were repeated to bring the tracker to where it was."""
    resumed: int = 0
    """Runs that went on from saved progress."""
    mixed: int = 0
    """Moments at which a folder held parts of two results under the name of one."""
    differences: int = 0
    """Files that were not as they are undisturbed."""


# --- running and killing --------------------------------------------------------------------------


class Forked:
    """The command line in a fork of this process."""

    def __init__(self, arguments: Sequence[object], log: Path) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                with log.open("wb") as stream:
                    os.dup2(stream.fileno(), 1)
                    os.dup2(stream.fileno(), 2)
                torch.set_num_threads(1)
                code = cli.main([str(argument) for argument in arguments])
            finally:
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return None if pid == 0 else os.waitstatus_to_exitcode(status)

    def kill(self) -> int:
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Spawned:
    """A command in a process of its own."""

    def __init__(self, command: Sequence[object], log: Path) -> None:
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
            )

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> int:
        self._process.kill()
        return self._process.wait()


def ended(process: Forked | Spawned, kill_now: Callable[[], bool], log: Path) -> bool:
    """Wait for a process to end by itself (True), or kill it as soon as `kill_now` (False)."""
    end = time.monotonic() + PATIENCE_S
    while True:
        code = process.poll()
        if code is not None:
            break
        if kill_now():
            code = process.kill()
            break
        if time.monotonic() > end:
            process.kill()
            raise SystemExit(f"it did not end:\n{log.read_text()[-2000:]}")
        time.sleep(0.0005)
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"it failed with {code}:\n{log.read_text()[-2000:]}")
    return code == 0


def never() -> bool:
    return False


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def after_there_is(path: Path, seconds: float) -> Callable[[], bool]:
    """So long after there is something at `path`."""
    end: list[float] = []

    def due() -> bool:
        if not end and path.exists():
            end.append(time.monotonic() + seconds)
        return bool(end) and time.monotonic() >= end[0]

    return due


# --- comparing ------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its path, but for `.state/`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".state" not in path.relative_to(folder).parts
    }


def comparable(found: dict[str, bytes]) -> dict[str, object]:
    """Files of a result without what says how long something took."""
    kept: dict[str, object] = dict(found)
    if "report.json" in found:
        report = json.loads(found["report.json"])
        kept["report.json"] = {key: value for key, value in report.items() if key not in VARYING}
    if "report.html" in found:
        page = read_page(found["report.html"].decode("ascii"))
        assert page is not None
        facts = [
            (title, [row for row in rows if row[0] != "peak memory"])
            for title, rows in page.facts
            if title != "Network calls"
        ]
        shown = [row for row in page.highlights if row[0] != "Time"]
        kept["report.html"] = replace(page, seconds={}, facts=facts, highlights=shown)
    return kept


def differing(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    """Names of files that are not alike, or there in one of them alone."""
    names = sorted(found.keys() | expected.keys())
    return [name for name in names if found.get(name) != expected.get(name)]


# --- refine ---------------------------------------------------------------------------------------


class Refines:
    """Kills refines."""

    def __init__(self, root: Path, capture: Path, seed: int) -> None:
        self.row = Row("refine")
        self._out, self._log = root / "refined", root / "refine.log"
        self._random = random.Random(seed)
        self._command = ["refine", "--video-path", capture / "images"]
        self._command += ["--prompt-dir", capture / "prompts", "--result-dir", self._out]
        self._command += ["--sam2-checkpoint", "tiny-synthetic"]
        self.undisturbed = root / "undisturbed"
        self._earlier = root / "earlier"
        self._run_whole(self._earlier, "--seed", 1)
        begin = time.monotonic()
        self._run_whole(self.undisturbed)
        self._seconds = time.monotonic() - begin
        self._expected = comparable(files(self.undisturbed))
        self._old = files(self._earlier)

    def _run_whole(self, target: Path, *more: object) -> None:
        assert ended(Forked([*self._command, *more], self._log), never, self._log)
        self._out.rename(target)

    def kill(self, times: int, processes: int) -> Row:
        """Kill so many; then let the last one come to its end."""
        self._begin()
        while self.row.kills < times:
            own = self.row.kills < processes
            if ended(self._start(own), self._moment(own), self._log):
                self._compare()
                self._begin()
            else:
                self.row.kills += 1
                self._look()
                print(f"refine: {self.row}", file=sys.stderr, flush=True)
        assert ended(self._start(False), never, self._log)
        self._compare()
        return self.row

    def _begin(self) -> None:
        """Every other time over an earlier result."""
        if self._out.exists():
            shutil.rmtree(self._out)
        if self.row.completed % 2:
            shutil.copytree(self._earlier, self._out)

    def _start(self, own: bool) -> Forked | Spawned:
        if not own:
            return Forked(self._command, self._log)
        start = "import sys; from t3dgs_masks.cli import entry_point; entry_point()"
        return Spawned([sys.executable, "-c", start, *self._command], self._log)

    def _moment(self, own: bool) -> Callable[[], bool]:
        if own:  # once it is at work
            state = self._out / ".state"
            return after_there_is(state, self._random.uniform(0, self._seconds))
        state = self._out / ".state"
        kind = self._random.random()
        if kind < 0.7:
            return after(self._random.uniform(0, self._seconds))
        if kind < 0.85:  # while the result is being written
            writing = state / "next" / "binary_masks"
            return after_there_is(writing, self._random.uniform(0, 0.2 * self._seconds))
        # and put in place
        publishing = state / self._random.choice(["clearing", "placing", "old"])
        return after_there_is(publishing, self._random.uniform(0, 0.003))

    def _look(self) -> None:
        """What a kill has left."""
        said = self._log.read_text()
        if " pass: " in said and "writing results" not in said:
            self.row.cut_short += 1
        self.row.resumed += "continuing a" in said
        self.row.redone += redone_frames(self._out)
        if (self._out / "config.json").is_file():
            found = files(self._out)
            if found != self._old and differing(comparable(found), self._expected):
                self.row.mixed += 1

    def _compare(self) -> None:
        self.row.completed += 1
        said = self._log.read_text()
        self.row.resumed += "continuing a" in said
        names = differing(comparable(files(self._out)), self._expected)
        if (self._out / ".state").exists():
            names.append(".state")
        for name in names:
            print(f"refine: {name} differs", file=sys.stderr)
        self.row.differences += len(names)
        report = json.loads((self._out / "report.json").read_text())
        self.row.replayed += report["steps_replayed"]


def redone_frames(out: Path) -> int:
    """Finished frames that were worked on again, by the progress of a killed refine."""
    document = read_document(out)
    if document is None:
        return 0
    done = sum(state["frames_done"] for state in document["passes"].values())
    return document["frames_worked"] - done


# --- apply ----------------------------------------------------------------------------------------


def kill_applies(root: Path, capture: Path, masks: Path, kills: Kills) -> Row:
    """Kill applies, let each come to its end, and take it back."""
    row, log, moments = Row("apply"), root / "apply.log", random.Random(kills.seed)
    data = root / "dataset"
    shutil.copytree(capture, data)
    before = files(data)
    apply, revert = ["apply", "--data", data, "--masks", masks], ["revert", "--data", data]
    begin = time.monotonic()
    assert ended(Forked(apply, log), never, log)
    seconds = time.monotonic() - begin
    applied = files(data)
    assert ended(Forked(revert, log), never, log)
    assert files(data) == before
    while row.kills < kills.apply:
        journal = data / ".t3dgs_masks" / "journal.json"
        moment = (
            after_there_is(journal, moments.uniform(0, 0.01))
            if row.kills % 2
            else after(moments.uniform(0, seconds))
        )
        if not ended(Forked(apply, log), moment, log):
            row.kills += 1
            assert ended(Forked(apply, log), never, log)
            row.resumed += "cut short" in log.read_text()
            print(f"apply: {row}", file=sys.stderr, flush=True)
        row.completed += 1
        for found, expected in ((applied, None), (before, revert)):
            if expected is not None:
                assert ended(Forked(revert, log), never, log)
            names = differing(dict(files(data)), dict(found))
            for name in names:
                print(f"apply: {name} differs", file=sys.stderr)
            row.differences += len(names)
    return row


# --- training -------------------------------------------------------------------------------------


class Trainings:
    """Kills trainings while they refine."""

    def __init__(self, root: Path, capture: Path, num_frames: int, seed: int) -> None:
        self.row = Row("training")
        self._root, self._capture, self._num_frames = root, capture, num_frames
        self._random = random.Random(seed)
        self._log = root / "training.log"
        begun: list[float] = []
        prompts = after_there_is(self._last_prompt(self._stage("whole")), 0)

        def watch() -> bool:
            if not begun and prompts():
                begun.append(time.monotonic())
            if begun and len(begun) < 2 and (self._stage("whole") / "refined/report.json").exists():
                begun.append(time.monotonic())
            return False

        assert ended(self._start("whole", None), watch, self._log)
        self._seconds = begun[1] - begun[0]
        self._expected = self._result("whole")

    def kill(self, times: int) -> Row:
        """Kill so many, at most three in a row of runs that go on from each other."""
        while self.row.kills < times:
            loaded, name = None, ""
            in_a_row = min(3, times - self.row.kills)
            for attempt in range(in_a_row + 1):
                name = f"{self.row.completed}_{attempt}"
                moment = never
                if attempt < in_a_row:
                    moment = self._while_refining(self._stage(name))
                finished = ended(self._start(name, loaded), moment, self._log)
                self.row.resumed += "continuing a" in self._log.read_text()
                if finished:
                    break
                self.row.kills += 1
                self.row.cut_short += 1
                print(f"training: {self.row}", file=sys.stderr, flush=True)
                self.row.redone += redone_frames(self._stage(name) / "refined")
                loaded = self._run(name) / "nerfstudio_models"
            self.row.completed += 1
            names = differing(self._result(name), self._expected)
            for one in names:
                print(f"training: {one} differs", file=sys.stderr)
            self.row.differences += len(names)
            report = json.loads((self._stage(name) / "refined" / "report.json").read_text())
            self.row.replayed += report["steps_replayed"]
        return self.row

    def _while_refining(self, stage: Path) -> Callable[[], bool]:
        due = after_there_is(self._last_prompt(stage), self._random.uniform(0, 0.9 * self._seconds))
        return lambda: due() and not (stage / "refined" / "report.json").exists()

    def _result(self, name: str) -> dict[str, object]:
        """Prompts and masks of a run, and the masks in the dataset."""
        stage = self._stage(name)
        refined = comparable(files(stage / "refined"))
        for varying in ("report.html", "report.json", "manifest.json"):  # paths of the run
            refined.pop(varying, None)
        prompts = {f"prompts/{path}": data for path, data in files(stage / "prompts").items()}
        written = files(self._data(name) / "masks")
        return {**refined, **prompts, **{f"data/{path}": data for path, data in written.items()}}

    def _data(self, name: str) -> Path:
        """Runs that go on from each other train on the same dataset."""
        return self._root / "data" / name.split("_")[0]

    def _run(self, name: str) -> Path:
        return self._root / "runs" / name / "t3dgs-splatfacto" / "run"

    def _stage(self, name: str) -> Path:
        return self._run(name) / "t3dgs_masks" / "stage_01"

    def _last_prompt(self, stage: Path) -> Path:
        return stage / "prompts" / "masks" / f"frame_{self._num_frames:05d}.png"

    def _start(self, name: str, loaded: Path | None) -> Spawned:
        data = self._data(name)
        if not data.exists():
            shutil.copytree(self._capture, data)
        command = [Path(sys.executable).with_name("ns-train"), "t3dgs-splatfacto", "--data", data]
        command += ["--output-dir", self._root / "runs", "--experiment-name", name]
        command += ["--timestamp", "run", *_TRAINING]
        steps = _STEPS if loaded is None else _STEPS - _REFINE_AT
        command += ["--max-num-iterations", str(steps)]
        if loaded is not None:
            command += ["--load-dir", loaded]
        return Spawned(command, self._log)


# --- all of it ------------------------------------------------------------------------------------


def _make_capture(folder: Path, size: tuple[int, int], num_frames: int) -> None:
    """In a fork: this process must not have threads of its own when it forks."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            spec = CaptureSpec(
                seed=3, height=size[0], width=size[1], num_frames=num_frames, num_walkers=2,
                num_eval_views=2,
            )  # fmt: skip
            capture = make_capture(spec)
            write_nerfstudio(capture, half_trained_prompts(capture, seed=3), folder)
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise SystemExit("the capture could not be made")


def measure(kills: Kills, root: Path) -> Iterator[Row]:
    """Kill, resume and compare; a row for each kind that was asked for."""
    capture = root / "capture"
    _make_capture(capture, (96, 128), kills.frames)
    if kills.refine or kills.apply:
        refines = Refines(root, capture, kills.seed)
        if kills.refine:
            yield refines.kill(kills.refine, kills.processes)
        if kills.apply:
            yield kill_applies(root, capture, refines.undisturbed, kills)
    if kills.training:
        small = root / "small_capture"
        _make_capture(small, (48, 64), kills.frames)
        yield Trainings(root / "training", small, kills.frames, kills.seed).kill(kills.training)


def table(rows: Sequence[Row]) -> str:
    columns = {
        "": lambda row: row.what,
        "kills": lambda row: row.kills,
        "runs to the end": lambda row: row.completed,
        "went on": lambda row: row.resumed,
        "frames cut short": lambda row: row.cut_short,
        "finished frames redone": lambda row: row.redone,
        "steps replayed": lambda row: row.replayed,
        "mixed folders": lambda row: row.mixed,
        "differences": lambda row: row.differences,
    }
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(str(cell(row)) for cell in columns.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    kills = tyro.cli(Kills, description=__doc__)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(kills, Path(folder)):
            rows.append(row)
            print(table([row]), file=sys.stderr, flush=True)
    print(table(rows))
    sys.exit(int(any(row.differences or row.mixed or row.redone for row in rows)))


if __name__ == "__main__":
    main()
