"""nerfstudio's own commands with the method t3dgs-splatfacto, from start to end."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t3dgs_masks.datasets.apply_masks import revert_masks
from t3dgs_masks.synthetic.capture import CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from t3dgs_masks.synthetic.dataset import DatasetPaths, write_nerfstudio
from tests.plugin.ns_commands import Training, at_once, train

FRAMES, STEPS, REFINE_AT = 14, 90, 70
REFINE = ("--pipeline.datamanager.refine-steps", REFINE_AT)


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Workshop:
    """A capture, and room for runs."""

    root: Path
    capture: DatasetPaths

    def copy(self, name: str) -> Path:
        """The capture, untouched by any other run."""
        return Path(shutil.copytree(self.capture.root, self.root / name))

    def train(self, name: str, steps: int, *options: object, **more: Callable) -> Training:
        return train(self.copy(f"{name}_data"), self.root / "runs", name, steps, *options, **more)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    root = tmp_path_factory.mktemp("workshop")
    capture = make_capture(
        CaptureSpec(seed=3, height=48, width=64, num_frames=FRAMES, num_walkers=2, num_eval_views=3)
    )
    paths = write_nerfstudio(capture, half_trained_prompts(capture, seed=3), root / "capture")
    return Workshop(root, paths)


@dataclass(frozen=True)
class Runs:
    """Trainings of one capture."""

    whole: Training
    """From start to end."""
    killed: Training
    """Killed during the refine."""
    files_when_killed: dict[str, bytes]
    resumed: Training
    """From what the killed one left."""


@pytest.fixture(scope="module")
def runs(workshop: Workshop) -> Runs:
    def kill_and_resume() -> tuple[Training, dict[str, bytes], Training]:
        killed = workshop.train("killed", STEPS, *REFINE, until=_is_refining)
        left = files_below(killed.run_dir)
        resumed = train(
            workshop.root / "killed_data",
            workshop.root / "runs",
            "resumed",
            STEPS - REFINE_AT,
            *REFINE,
            *("--load-dir", killed.checkpoints),
        )
        return killed, left, resumed

    whole, others = at_once(partial(workshop.train, "whole", STEPS, *REFINE), kill_and_resume)
    return Runs(whole, *others)


def _is_refining(run_dir: Path) -> bool:
    """All prompts are written, and SAM2 is being loaded or at work."""
    prompts = run_dir / "t3dgs_masks" / "stage_01" / "prompts"
    return len(list(prompts.glob("masks/*.png"))) == FRAMES


# --- Training ---------------------------------------------------------------------------------


def test_training_with_a_refine_says_what_it_does(runs: Runs) -> None:
    said = runs.whole.finished.ok().said
    told = [
        f"t3dgs-masks: refining masks (stage 1) before step {REFINE_AT}",
        "t3dgs-masks: stage 1 done in",
        "of the training pixels are masked now",
        "t3dgs-masks: masks written to",
        "Training Finished",
    ]
    positions = [said.index(text) for text in told]
    assert positions == sorted(positions)
    assert "LPIPS will be nan" in said
    assert "Traceback" not in said


def test_the_run_folder_has_prompts_and_masks(runs: Runs) -> None:
    names = [f"frame_{number + 1:05d}.png" for number in range(FRAMES)]
    stage = runs.whole.stage()
    for folder in (stage.prompts / "masks", stage.prompts / "diffs", stage.binary_masks):
        assert sorted(path.name for path in folder.iterdir()) == names
    manifest = json.loads((stage.refined / "manifest.json").read_text())
    assert {frame["source"] for frame in manifest["frames"]} == {f"images/{name}" for name in names}


def test_walkers_are_masked(runs: Runs, workshop: Workshop) -> None:
    intersection = union = 0
    for path in sorted(workshop.capture.ground_truth.glob("*.png")):
        truth = np.asarray(Image.open(path)) > 0
        found = np.asarray(Image.open(runs.whole.stage().binary_masks / path.name)) == 0
        intersection += (truth & found).sum()
        union += (truth | found).sum()
    assert intersection / union > 0.5


def test_the_checkpoint_knows_the_stage(runs: Runs) -> None:
    assert runs.whole.stage_state(STEPS - 1) == {
        "version": 1,
        "stages_done": 1,
        "run_dir": str(runs.whole.run_dir),
        "first_step": 0,
    }


def test_the_dataset_names_the_masks_and_gets_rid_of_them(runs: Runs, workshop: Workshop) -> None:
    data = workshop.root / "whole_data"
    frames = json.loads((data / "transforms.json").read_text())["frames"]
    assert len(frames) == FRAMES + 3
    for frame in frames:
        mask = np.asarray(Image.open(data / frame["mask_path"]))
        assert mask.shape == (48, 64)
        assert set(np.unique(mask)) <= {0, 255}
        if "eval" in frame["file_path"]:
            assert (mask == 255).all()
        else:
            refined = Image.open(runs.whole.stage().binary_masks / Path(frame["file_path"]).name)
            assert not mask[np.asarray(refined) == 0].any()
    assert revert_masks(data).was_applied
    assert files_below(data) == files_below(workshop.capture.root)


# --- Killed and resumed -----------------------------------------------------------------------


def test_a_kill_during_the_refine_leaves_a_checkpoint_and_the_dataset(
    runs: Runs, workshop: Workshop
) -> None:
    assert runs.killed.finished.code == -signal.SIGKILL
    names = [name for name in runs.files_when_killed if "binary_masks" in name]
    assert not [name for name in names if ".state" not in name]
    checkpoints = [name for name in runs.files_when_killed if name.endswith(".ckpt")]
    assert checkpoints == [f"nerfstudio_models/step-{REFINE_AT - 1:09d}.ckpt"]
    assert runs.killed.stage_state(REFINE_AT - 1)["stages_done"] == 0
    state = runs.killed.run_dir / "t3dgs_masks"
    assert files_below(state) == {
        name.removeprefix("t3dgs_masks/"): content
        for name, content in runs.files_when_killed.items()
        if name.startswith("t3dgs_masks/")
    }


def test_a_killed_refine_is_redone_with_the_same_result(runs: Runs) -> None:
    said = runs.resumed.finished.ok().said
    assert f"refining masks (stage 1) before step {REFINE_AT}" in said
    whole, resumed = runs.whole.stage(), runs.resumed.stage()
    assert files_below(resumed.prompts) == files_below(whole.prompts)
    assert files_below(resumed.binary_masks) == files_below(whole.binary_masks)
    assert runs.resumed.stage_state(STEPS - 1)["run_dir"] == str(runs.resumed.run_dir)
    assert runs.resumed.load(STEPS - 1)["step"] == STEPS - 1
