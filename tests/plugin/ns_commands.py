"""Runs nerfstudio's commands as a user does: in processes of their own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from t3dgs_masks.plugin.stages import StageFolder, stage_folder

METHOD = "t3dgs-splatfacto"
TIMEOUT_SECONDS = 900.0

# What lets a scene of a few thousand pixels be learnt in a few dozen steps, and keeps the console
# and the disk free of what no test looks at.
TINY_SCENE = shlex.split("""
    --machine.device-type cpu --vis tensorboard --viewer.quit-on-train-completion True
    --steps-per-eval-image 0 --steps-per-eval-all-images 0 --steps-per-save 100000
    --pipeline.model.num-downscales 0 --pipeline.model.stop-split-at 0
    --pipeline.model.robust.warmup-steps 20
    --optimizers.means.optimizer.lr 1e-3 --optimizers.features-dc.optimizer.lr 0.02
    --optimizers.scales.optimizer.lr 0.02 --optimizers.quats.optimizer.lr 0.01
    --pipeline.datamanager.refiner.sam2-checkpoint tiny-synthetic
""")


def offline_variables(folder: Path) -> dict[str, str]:
    """Environment in which nothing is fetched, and nothing that was fetched before is found."""
    nowhere = "http://127.0.0.1:9"  # refuses at once
    return {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere),
        "TORCH_HOME": str(folder),
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
    }


def program(name: str) -> str:
    """A command of the environment that the tests run in."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found is not None, f"{name} is not installed"
    return found


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    output: str
    """stdout and stderr, in order."""

    @property
    def said(self) -> str:
        """`output` without colours and line breaks, which depend on the width of the terminal."""
        return " ".join(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.output).split())

    def ok(self) -> Finished:
        assert self.code == 0, self.output[-6000:]
        return self

    def refused(self) -> str:
        """The one line that a command ends with that does not go on, without 'error: '."""
        assert self.code in (1, 2), self.output[-6000:]
        assert "Traceback" not in self.output, self.output[-6000:]
        errors = [line for line in self.output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.output[-6000:]
        return errors[0].removeprefix("error: ")


def run(name: str, *arguments: object, until: Callable[[], bool] = lambda: False) -> Finished:
    """Run a command to its end, or kill it as soon as `until` holds."""
    variables = {key: value for key, value in os.environ.items() if "DYNAMO" not in key}
    variables |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [program(name), *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=variables,
        text=True,
    ) as process:
        assert process.stdout is not None
        with ThreadPoolExecutor(1) as reader:
            output = reader.submit(process.stdout.read)
            end = time.monotonic() + TIMEOUT_SECONDS
            while process.poll() is None:
                if until() or time.monotonic() > end:
                    process.kill()
                    break
                time.sleep(0.01)
            return Finished(process.wait(), output.result())


def at_once(*jobs: Callable[[], object]) -> list:
    """Results of jobs, two of which run at the same time."""
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


@dataclass(frozen=True)
class Training:
    """A run of `ns-train` and what it left."""

    run_dir: Path
    finished: Finished

    @property
    def config(self) -> Path:
        return self.run_dir / "config.yml"

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "nerfstudio_models"

    def stage(self, number: int = 1) -> StageFolder:
        return stage_folder(self.run_dir, number)

    def load(self, step: int) -> dict:
        """A checkpoint, as nerfstudio reads it: with the defaults of `torch.load`."""
        return torch.load(self.checkpoints / f"step-{step:09d}.ckpt", map_location="cpu")

    def stage_state(self, step: int) -> Mapping:
        return self.load(step)["pipeline"]["datamanager._extra_state"]


def train(
    data: Path,
    output: Path,
    name: str,
    steps: int,
    *options: object,
    method: str = METHOD,
    until: Callable[[Path], bool] = lambda run_dir: False,
) -> Training:
    """`ns-train` on a tiny scene; killed as soon as `until` holds of the folder of the run."""
    run_dir = output / name / method / "run"
    finished = run(
        "ns-train",
        method,
        *("--data", data, "--output-dir", output),
        *("--experiment-name", name, "--timestamp", "run", "--max-num-iterations", steps),
        *TINY_SCENE,
        *options,
        until=lambda: until(run_dir),
    )
    return Training(run_dir, finished)
