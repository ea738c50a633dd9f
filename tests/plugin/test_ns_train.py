"""nerfstudio's own commands with the method t3dgs-splatfacto, from start to end."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from nerfstudio.pipelines.base_pipeline import Pipeline, VanillaPipelineConfig
from PIL import Image

from t3dgs_masks.datasets.apply_masks import revert_masks
from t3dgs_masks.plugin.cpu import splatfacto_on, without_lpips
from t3dgs_masks.plugin.method import t3dgs_splatfacto
from t3dgs_masks.synthetic.capture import CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from t3dgs_masks.synthetic.dataset import DatasetPaths, write_nerfstudio
from tests.plugin.ns_commands import Finished, Training, at_once, run, train
from tests.plugin.scenes import make_datamanager

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
        "t3dgs-masks: masks written to",
        "t3dgs-masks: stage 1 done in",
        "of the training pixels are masked now",
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


def test_a_resumed_training_learns_on(runs: Runs) -> None:
    before, after = runs.killed.load(REFINE_AT - 1), runs.resumed.load(STEPS - 1)
    assert after["step"] == STEPS - 1
    for name in ("means", "features_dc", "opacities", "scales", "quats"):
        parameter = f"_model.gauss_params.{name}"
        assert not torch.equal(before["pipeline"][parameter], after["pipeline"][parameter]), name
        (adam,) = after["optimizers"][name]["state"].values()
        assert adam["step"] == STEPS
    assert after["schedulers"]["means"]["last_epoch"] == STEPS


# --- Resumed after the refine, elsewhere; restarted -------------------------------------------

RESTART_AT = 30


@dataclass(frozen=True)
class LaterRuns:
    """Further trainings."""

    moved_to: Path
    from_moved: Training
    """Resumed from a run whose folder was moved there, with a dataset that has no masks."""
    restarted: Training


@pytest.fixture(scope="module")
def later_runs(runs: Runs, workshop: Workshop) -> LaterRuns:
    runs.resumed.finished.ok()
    moved_to = workshop.root / "moved" / "elsewhere"
    moved_to.parent.mkdir()
    shutil.copytree(runs.resumed.run_dir, moved_to)
    hidden = runs.resumed.run_dir.rename(workshop.root / "hidden")
    from_moved, restarted = at_once(
        partial(
            workshop.train,
            "from_moved",
            5,
            *REFINE,
            *("--load-dir", moved_to / "nerfstudio_models"),
        ),
        partial(
            workshop.train,
            "restarted",
            RESTART_AT + 3,
            *("--pipeline.datamanager.refine-steps", RESTART_AT),
            *("--pipeline.datamanager.after-refine", "restart"),
            *("--save-only-latest-checkpoint", "False"),
        ),
    )
    hidden.rename(runs.resumed.run_dir)
    return LaterRuns(moved_to, from_moved, restarted)


def test_a_finished_refine_is_not_redone(later_runs: LaterRuns, workshop: Workshop) -> None:
    run = later_runs.from_moved
    said = run.finished.ok().said
    assert "training goes on with the masks in" in said
    assert "refining masks" not in said
    assert not (run.run_dir / "t3dgs_masks").exists()
    assert run.stage_state(STEPS + 4) == {
        "version": 1,
        "stages_done": 1,
        "run_dir": str(later_runs.moved_to),  # where its own masks are, now and for later runs
        "first_step": 0,
    }
    assert not (workshop.root / "from_moved_data" / "masks").exists()


def test_a_restart_begins_at_the_seed_points(later_runs: LaterRuns, workshop: Workshop) -> None:
    run = later_runs.restarted
    run.finished.ok()
    seeds = make_datamanager(workshop.capture.root).train_dataparser_outputs.metadata
    restarted, later = run.load(RESTART_AT - 1), run.load(RESTART_AT + 2)
    means = "_model.gauss_params.means"
    assert torch.equal(restarted["pipeline"][means], seeds["points3D_xyz"])
    assert not restarted["optimizers"]["means"]["state"]
    assert restarted["schedulers"]["means"]["last_epoch"] == 0
    assert restarted["pipeline"]["datamanager._extra_state"]["first_step"] == RESTART_AT
    assert later["schedulers"]["means"]["last_epoch"] == 3
    moved = (later["pipeline"][means] - seeds["points3D_xyz"]).abs().max()
    assert 0 < moved < 0.1
    assert later["pipeline"]["datamanager._extra_state"]["first_step"] == RESTART_AT


# --- What reads checkpoints -------------------------------------------------------------------


@pytest.fixture(scope="module")
def readers(runs: Runs, workshop: Workshop) -> tuple[Finished, Finished, Finished]:
    """Evaluated, rendered, exported."""
    runs.whole.finished.ok()
    root, config = workshop.root, ("--load-config", runs.whole.config)
    evaluated, rendered, exported = at_once(
        partial(run, "ns-eval", *config, "--output-path", root / "scores.json"),
        partial(
            run,
            *("ns-render", "dataset", *config, "--output-path", root / "renders"),
            *("--rendered-output-names", "rgb", "--image-format", "png", "--split", "test"),
        ),
        partial(run, "ns-export", "gaussian-splat", *config, "--output-dir", root / "splat"),
    )
    return evaluated, rendered, exported


def test_ns_eval(readers: tuple[Finished, ...], workshop: Workshop) -> None:
    readers[0].ok()
    scores = json.loads((workshop.root / "scores.json").read_text())
    assert scores["method_name"] == "t3dgs-splatfacto"
    assert scores["results"]["psnr"] > 20


def test_ns_render(readers: tuple[Finished, ...], workshop: Workshop) -> None:
    readers[1].ok()
    renders = sorted((workshop.root / "renders" / "test" / "rgb").iterdir())
    assert [path.stem for path in renders] == ["eval_0001", "eval_0002", "eval_0003"]
    for path in renders:
        render = np.asarray(Image.open(path), np.float64)[..., :3]
        photo = np.asarray(Image.open(workshop.capture.eval_images / path.name), np.float64)
        assert np.abs(render - photo).mean() < 20


def test_ns_export(readers: tuple[Finished, ...], runs: Runs, workshop: Workshop) -> None:
    readers[2].ok()
    header = (workshop.root / "splat" / "splat.ply").read_bytes()[:400].decode("ascii", "replace")
    exported = int(header.split("element vertex ")[1].split()[0])
    trained = len(runs.whole.load(STEPS - 1)["pipeline"]["_model.gauss_params.means"])
    assert 0.5 * trained < exported <= trained


def stock_pipeline(data: Path) -> Pipeline:
    """Splatfacto as nerfstudio configures it, made to run on a CPU."""
    parser = NerfstudioDataParserConfig(load_3D_points=True, data=data)
    config = VanillaPipelineConfig(
        datamanager=FullImageDatamanagerConfig(dataparser=parser), model=SplatfactoModelConfig()
    )
    with splatfacto_on("cpu"), without_lpips():
        return config.setup(device="cpu", test_mode="test")


def own_pipeline(data: Path) -> Pipeline:
    config = deepcopy(t3dgs_splatfacto.config.pipeline)
    config.datamanager.data = data
    with without_lpips():
        return config.setup(device="cpu", test_mode="test")


def first_render(pipeline: Pipeline) -> torch.Tensor:
    pipeline.eval()
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    with splatfacto_on("cpu"):
        return pipeline.model.get_outputs_for_camera(camera)["rgb"]


def test_stock_splatfacto_reads_our_checkpoints_and_we_read_its(
    runs: Runs, workshop: Workshop, tmp_path: Path
) -> None:
    checkpoint = runs.whole.load(STEPS - 1)
    ours, stock = own_pipeline(workshop.capture.root), stock_pipeline(workshop.capture.root)
    for pipeline in (ours, stock):
        pipeline.load_pipeline(checkpoint["pipeline"], checkpoint["step"])
    assert type(stock.model) is SplatfactoModel
    render = first_render(ours)
    photo = np.asarray(Image.open(workshop.capture.eval_images / "eval_0001.png"))
    assert (render - torch.from_numpy(photo / 255)).abs().mean() < 20 / 255
    assert torch.equal(first_render(stock), render)
    assert ours.datamanager.get_extra_state()["stages_done"] == 1

    torch.save(stock.state_dict(), tmp_path / "stock.ckpt")
    again = own_pipeline(workshop.capture.root)
    again.load_pipeline(torch.load(tmp_path / "stock.ckpt"), checkpoint["step"])
    assert torch.equal(first_render(again), render)
    assert again.datamanager.get_extra_state()["stages_done"] == 0


# --- Help and refusals ------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusals:
    """Commands that train nothing."""

    help: Finished
    two_devices: Training
    unknown_checkpoint: Training
    missing_image: Training


@pytest.fixture(scope="module")
def refusals(workshop: Workshop) -> Refusals:
    def miss_an_image() -> Training:
        data = workshop.copy("incomplete")
        (data / "images" / "frame_00003.png").unlink()
        return train(data, workshop.root / "runs", "missing_image", STEPS, *REFINE)

    unknown = ("--pipeline.datamanager.refiner.sam2-checkpoint", "sam2-hiera-smoll")
    return Refusals(
        *at_once(
            partial(run, "ns-train", "--help"),
            partial(workshop.train, "two_devices", STEPS, "--machine.num-devices", 2),
            partial(workshop.train, "unknown_checkpoint", STEPS, *REFINE, *unknown),
            miss_an_image,
        )
    )


def test_the_method_is_listed(refusals: Refusals) -> None:
    said = refusals.help.ok().said
    assert "t3dgs-splatfacto" in said
    assert "Splatfacto that masks what moves" in said


def test_two_devices_are_refused_before_anything_is_written(refusals: Refusals) -> None:
    training = refusals.two_devices
    assert "trains on one device, but 2 were asked for" in training.finished.refused()
    assert not training.run_dir.exists()


def test_an_unknown_checkpoint_is_refused_before_the_first_step(refusals: Refusals) -> None:
    training = refusals.unknown_checkpoint
    assert "sam2-hiera-smoll" in training.finished.refused()
    assert training.finished.code == 2
    assert not list(training.run_dir.rglob("*.ckpt"))
    assert "Caching" not in training.finished.said  # no training image was read yet


def test_a_missing_image_is_one_line(refusals: Refusals, workshop: Workshop) -> None:
    training = refusals.missing_image
    assert "frame_00003.png, which does not exist" in training.finished.refused()
    complete = files_below(workshop.capture.root)
    complete.pop("images/frame_00003.png")
    assert files_below(workshop.root / "incomplete") == complete
