"""Runs `gpu` tests where there is a GPU and `pretended_gpu` tests elsewhere, says why not
otherwise, and trains the demo once.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch

from scripts.pretended_cuda import PretendedCuda, pretended_cuda
from t3dgs_masks import cli

# How long an example takes depends on what else runs on the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        marker, reason = "pretended_gpu", "there is a real CUDA device"
    else:
        marker, reason = "gpu", "needs a CUDA device"
    for item in items:
        if item.get_closest_marker(marker) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def pretended() -> Iterator[PretendedCuda]:
    """A CUDA device, played by the CPU, for as long as the test runs."""
    with pretended_cuda() as device:
        yield device


@dataclass(frozen=True)
class SplatDemo:
    """What `t3dgs-masks demo --train` has left behind."""

    root: Path
    """Holds `capture/`, `masks/` and `splat/`."""
    json: Path
    printed: str

    def config(self, name: str) -> Path:
        """config.yml of one of its trainings."""
        return self.root / "splat" / "runs" / name / "t3dgs-splatfacto" / "demo" / "config.yml"


@pytest.fixture(scope="session")
def splat_demo(tmp_path_factory: pytest.TempPathFactory) -> SplatDemo:
    """The demo with its five trainings, at 64x48 and 250 steps: a minute or two."""
    folder = tmp_path_factory.mktemp("splat_demo")
    scores = folder / "scores.json"
    args = ["demo", "--train", "--seed", "1", "--output-dir", str(folder), "--json", str(scores)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = cli.main([*args, "--train-scale", "0.25", "--train-steps", "250"])
    assert code == 0
    return SplatDemo(folder / "seed_1", scores, printed.getvalue())
