"""Refines at the right steps, with masks in the batches, the checkpoint and the dataset.

The refine itself is replaced by one that writes given masks; `test_ns_train` runs the real one.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation

from t3dgs_masks.config import RefineSettings
from t3dgs_masks.datasets.apply_masks import revert_masks
from t3dgs_masks.errors import UserError
from t3dgs_masks.plugin import datamanager as module
from t3dgs_masks.plugin.model import REFINED_KEY
from t3dgs_masks.plugin.stages import StageState, stage_folder
from t3dgs_masks.types import BoolMask, FrameSequence
from tests.plugin.scenes import (
    HEIGHT,
    NUM_VIEWS,
    WIDTH,
    make_datamanager,
    make_trainer,
    train_steps,
    write_dataset,
    write_mask,
)

Painter = Callable[[str], BoolMask]  # name of a view -> [H, W] True = transient


def box(rows: slice, columns: slice) -> BoolMask:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[rows, columns] = True
    return mask


BIG = box(np.s_[8:30], np.s_[10:34])
SMALL = box(np.s_[12:20], np.s_[14:22])
USER = box(np.s_[34:], np.s_[:])


class Refines:
    """Stands in for `run_refine`."""

    def __init__(self) -> None:
        self.paint: Painter = lambda name: BIG
        self.settings: list[RefineSettings] = []
        self.names: list[Sequence[str]] = []
        self.during: Callable[[], None] = lambda: None

    def __call__(self, settings: RefineSettings, *, frames: FrameSequence) -> None:
        self.settings.append(settings)
        self.names.append(list(frames.names))
        self.during()
        for name in frames.names:
            file = settings.result_dir / "binary_masks" / f"{name}.png"
            write_mask(file, ~self.paint(name))


@pytest.fixture
def refines(monkeypatch: pytest.MonkeyPatch) -> Refines:
    stand_in = Refines()
    monkeypatch.setattr(module, "run_refine", stand_in)
    return stand_in


class Run:
    """A training run as far as the datamanager takes part in it."""

    def __init__(self, data: Path, run_dir: Path, **options: Any) -> None:
        trainer_options = {
            name: options.pop(name)
            for name in ("load_dir", "load_checkpoint", "max_num_iterations")
            if name in options
        }
        state = options.pop("state", None)
        start = options.pop("start", 0)
        self.datamanager = make_datamanager(data, **{"refine_steps": (10,), **options})
        self.trainer = make_trainer(run_dir, self.datamanager, **trainer_options)
        self.trainer._start_step = start
        if state is not None:
            self.datamanager.set_extra_state(state)

    @property
    def model(self) -> Any:
        return self.trainer.pipeline.model

    def begin(self) -> Run:
        attributes = TrainingCallbackAttributes(
            optimizers=self.trainer.optimizers,
            grad_scaler=None,
            pipeline=self.trainer.pipeline,
            trainer=self.trainer,
        )
        self.callbacks = self.datamanager.get_training_callbacks(attributes)
        return self

    def before(self, *steps: int) -> Run:
        for step in steps:
            for callback in self.callbacks:
                callback.run_callback_at_location(
                    step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION
                )
        return self

    def masks(self) -> dict[int, BoolMask | None]:
        """What the batches of all cameras say is transient."""
        found = {}
        while len(found) < len(self.datamanager.train_dataset):
            _, batch = self.datamanager.next_train(0)
            mask = batch.get("mask")
            if mask is not None:
                assert mask.dtype == torch.bool
                assert mask.shape == (HEIGHT, WIDTH, 1)
            found[batch["image_idx"]] = None if mask is None else ~mask[..., 0].numpy()
        return found

    def checkpoint(self) -> dict[str, Any]:
        (path,) = self.trainer.checkpoint_dir.glob("*.ckpt")
        return torch.load(path, weights_only=True)


def all_are(masks: dict[int, BoolMask | None], expected: BoolMask) -> bool:
    return len(masks) == NUM_VIEWS and all(
        mask is not None and np.array_equal(mask, expected) for mask in masks.values()
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


# --- One refine -------------------------------------------------------------------------------


def test_masks_are_used_from_the_refine_step_on(
    data: Path, tmp_path: Path, refines: Refines
) -> None:
    run = Run(data, tmp_path / "run").begin().before(0, 5, 9)
    assert not refines.settings
    assert list(run.masks().values()) == [None] * NUM_VIEWS
    _, batch = run.datamanager.next_train(0)
    assert REFINED_KEY not in batch
    run.before(10)
    assert refines.names == [[f"f_{idx}" for idx in range(NUM_VIEWS)]]
    assert all_are(run.masks(), BIG)
    _, batch = run.datamanager.next_train(0)
    assert batch[REFINED_KEY] is True
    run.before(11, 12, 99)
    assert len(refines.settings) == 1


def test_every_view_gets_its_own_mask(data: Path, tmp_path: Path, refines: Refines) -> None:
    refines.paint = lambda name: box(np.s_[5:15], np.s_[4 * int(name[-1]) : 4 * int(name[-1]) + 6])
    masks = Run(data, tmp_path / "run").begin().before(10).masks()
    for idx, mask in masks.items():
        np.testing.assert_array_equal(mask, refines.paint(f"f_{idx}"))


def test_the_refine_is_told_what_it_needs(data: Path, tmp_path: Path, refines: Refines) -> None:
    run = Run(data, tmp_path / "run").begin()
    run.datamanager.config.refiner.points_per_batch = 7
    run.before(10)
    (settings,) = refines.settings
    folder = stage_folder(tmp_path / "run", 1)
    assert settings.prompt_dir == folder.prompts
    assert settings.result_dir == folder.refined
    assert settings.prompt_polarity == "white-transient"
    assert (settings.sam2_checkpoint, settings.points_per_batch) == ("tiny-synthetic", 7)
    assert settings.device == "cpu"
    for kind in ("masks", "diffs"):
        assert len(list((folder.prompts / kind).glob("f_*.png"))) == NUM_VIEWS


def test_masks_grow_as_configured(data: Path, tmp_path: Path, refines: Refines) -> None:
    mask = Run(data, tmp_path / "run", dilate=2).begin().before(10).masks()[0]
    assert mask is not None
    assert mask[BIG].all()
    assert mask[6:8, 15:20].all()
    assert not mask[:6].any()


def test_batches_share_nothing_with_the_cache(data: Path, tmp_path: Path, refines: Refines) -> None:
    run = Run(data, tmp_path / "run").begin().before(10)
    run.masks()
    assert all("mask" not in cached for cached in run.datamanager.cached_train)


def test_several_refines(data: Path, tmp_path: Path, refines: Refines) -> None:
    run = Run(data, tmp_path / "run", refine_steps=(10, 20)).begin().before(10)
    refines.paint = lambda name: SMALL
    run.before(19)
    assert all_are(run.masks(), BIG)
    run.before(20)
    assert all_are(run.masks(), SMALL)  # not both: masks may shrink
    assert refines.settings[1].result_dir == stage_folder(tmp_path / "run", 2).refined
    assert run.checkpoint()["state"]["stages_done"] == 2


def test_random_numbers_are_as_without_a_refine(
    data: Path, tmp_path: Path, refines: Refines
) -> None:
    def draw_a_lot() -> None:
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)

    refines.during = draw_a_lot
    run = Run(data, tmp_path / "run").begin()

    def seed_and_draw(steps: Sequence[int]) -> list[float]:
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)
        run.before(*steps)
        return [float(torch.rand(1)), float(np.random.rand()), random.random()]

    assert seed_and_draw([5]) == seed_and_draw([10])
    assert len(refines.settings) == 1


def test_leftovers_of_a_killed_refine_are_removed(
    data: Path, tmp_path: Path, refines: Refines
) -> None:
    leftover = stage_folder(tmp_path / "run", 1).binary_masks / "f_0.png"
    write_mask(leftover, np.zeros((3, 3), np.bool_))
    refines.during = lambda: None if not leftover.exists() else pytest.fail("still there")
    assert all_are(Run(data, tmp_path / "run").begin().before(10).masks(), BIG)


# --- The user's own masks, and ours in the dataset -------------------------------------------


def test_the_users_masks_stay_masked(tmp_path: Path, refines: Refines) -> None:
    data = write_dataset(tmp_path / "data", masks=dict.fromkeys(range(5), ~USER))
    run = Run(data, tmp_path / "run").begin()
    assert all_are(run.masks(), USER)
    run.before(10)
    assert all_are(run.masks(), BIG | USER)
    for coarse in (stage_folder(tmp_path / "run", 1).prompts / "masks").glob("*.png"):
        assert not cv2.imread(str(coarse))[USER].any()  # residuals mean nothing there


@pytest.mark.parametrize("with_user_masks", [False, True])
def test_masks_of_an_earlier_run_do_not_add_up(
    tmp_path: Path, refines: Refines, with_user_masks: bool
) -> None:
    masks = dict.fromkeys(range(5), ~USER) if with_user_masks else None
    data = write_dataset(tmp_path / "data", masks=masks)
    original = (data / "transforms.json").read_bytes()
    nobody = np.zeros_like(USER)
    user = USER if with_user_masks else nobody
    Run(data, tmp_path / "first").begin().before(10)
    second = Run(data, tmp_path / "second").begin()
    assert all_are(second.masks(), BIG | user)  # of the dataset, until there are better ones
    refines.paint = lambda name: SMALL
    second.before(10)
    assert all_are(second.masks(), SMALL | user)
    refines.paint = lambda name: nobody
    third = Run(data, tmp_path / "third").begin().before(10)
    assert all_are(third.masks(), user)
    revert_masks(data)
    assert (data / "transforms.json").read_bytes() == original


def test_masks_are_written_back(data: Path, tmp_path: Path, refines: Refines) -> None:
    Run(data, tmp_path / "run").begin().before(10)
    plain = Run(data, tmp_path / "later", refine_steps=())
    assert all_are(plain.begin().masks(), BIG)
    assert plain.datamanager.cached_eval[0]["mask"].all()


def test_not_written_back_with_a_flag(data: Path, tmp_path: Path, refines: Refines) -> None:
    Run(data, tmp_path / "run", write_back=False).begin().before(10)
    assert sorted(path.name for path in data.iterdir()) == ["images", "transforms.json"]
    assert (stage_folder(tmp_path / "run", 1).refined / "manifest.json").is_file()


def test_training_goes_on_if_the_dataset_cannot_be_written(
    data: Path,
    tmp_path: Path,
    refines: Refines,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("the folder is read-only")

    monkeypatch.setattr(module, "apply_masks", refuse)
    run = Run(data, tmp_path / "run").begin().before(10)
    assert all_are(run.masks(), BIG)
    assert run.checkpoint()["state"]["stages_done"] == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "the dataset keeps its masks, because the folder is read-only" in said
    assert "t3dgs-masks apply --data" in said


def test_a_kill_before_the_checkpoint_redoes_the_stage(
    data: Path, tmp_path: Path, refines: Refines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written before that, the dataset included, is written again."""

    class Killed(BaseException):
        pass

    run = Run(data, tmp_path / "run").begin()
    save = run.trainer.save_checkpoint

    def save_or_die(step: int) -> None:
        if run.datamanager.state.stages_done == 1:
            raise Killed
        save(step)

    run.trainer.save_checkpoint = save_or_die
    with pytest.raises(Killed):
        run.before(10)
    state = run.checkpoint()
    assert (state["step"], state["state"]["stages_done"]) == (9, 0)
    refines.paint = lambda name: SMALL
    again = Run(data, tmp_path / "again", state=state["state"], start=10).begin().before(10)
    assert all_are(again.masks(), SMALL)


# --- Resuming ---------------------------------------------------------------------------------


def test_state_goes_through_a_checkpoint_read_as_weights_only(
    data: Path, tmp_path: Path, refines: Refines
) -> None:
    run = Run(data, tmp_path / "run", after_refine="restart").begin().before(10)
    state = run.checkpoint()["state"]
    assert StageState.from_dict(state) == StageState(1, str(tmp_path / "run"), 10)
    assert "_extra_state" in run.datamanager.state_dict()


def resumed(data: Path, first: Path, run_dir: Path, **options: Any) -> Run:
    state = torch.load(next((first / "nerfstudio_models").glob("*.ckpt")))["state"]
    options = {"load_dir": first / "nerfstudio_models", "start": 10, **options}
    return Run(data, run_dir, state=state, **options)


def test_a_finished_refine_is_not_redone(data: Path, tmp_path: Path, refines: Refines) -> None:
    Run(data, tmp_path / "first", write_back=False).begin().before(10)
    second = resumed(data, tmp_path / "first", tmp_path / "second").begin()
    assert all_are(second.masks(), BIG)
    second.before(10, 11, 50)
    assert len(refines.settings) == 1
    assert second.datamanager.state.run_dir == str(tmp_path / "first")


@pytest.mark.parametrize("by", ["load_dir", "load_checkpoint"])
def test_a_run_that_was_moved(data: Path, tmp_path: Path, refines: Refines, by: str) -> None:
    Run(data, tmp_path / "first", write_back=False).begin().before(10)
    moved = shutil.move(tmp_path / "first", tmp_path / "moved")
    options: dict[str, Any] = {}
    if by == "load_checkpoint":
        checkpoint = next((moved / "nerfstudio_models").glob("*.ckpt"))
        options = {"load_dir": None, "load_checkpoint": checkpoint}
    second = resumed(data, moved, tmp_path / "second", **options).begin()
    assert all_are(second.masks(), BIG)
    second.trainer.save_checkpoint(20)  # and a run that is resumed from that one finds them too
    third = resumed(data, tmp_path / "second", tmp_path / "third").begin()
    assert all_are(third.masks(), BIG)
    assert len(refines.settings) == 1


def test_masks_that_are_gone_are_one_line(
    data: Path, tmp_path: Path, refines: Refines, capsys: pytest.CaptureFixture[str]
) -> None:
    Run(data, tmp_path / "first", write_back=False).begin().before(10)
    shutil.rmtree(tmp_path / "first" / "t3dgs_masks")
    second = resumed(data, tmp_path / "first", tmp_path / "second")
    assert refusal_of(second, capsys).startswith("the masks of stage 1 are no longer in")


def test_masks_of_another_split_are_one_line(
    data: Path, tmp_path: Path, refines: Refines, capsys: pytest.CaptureFixture[str]
) -> None:
    Run(data, tmp_path / "first", write_back=False).begin().before(10)
    larger = write_dataset(tmp_path / "larger", num_frames=7)
    second = resumed(larger, tmp_path / "first", tmp_path / "second")
    assert "2 of 6 training images have no mask" in refusal_of(second, capsys)


def test_a_step_that_was_passed_is_made_up_for(
    data: Path, tmp_path: Path, refines: Refines
) -> None:
    run = Run(data, tmp_path / "run", start=15).begin().before(15)
    assert len(refines.settings) == 1
    assert all_are(run.masks(), BIG)


def test_evaluation_reads_the_state_without_the_masks(data: Path, tmp_path: Path) -> None:
    gone = StageState(2, str(tmp_path / "gone"), 5).as_dict()
    for test_mode in ("test", "inference"):
        datamanager = make_datamanager(data, test_mode=test_mode)
        datamanager.load_state_dict({"_extra_state": gone})
        assert datamanager.state.stages_done == 2
        camera, _ = datamanager.next_eval_image(0)
        assert len(camera) == 1


def test_evaluation_takes_datasets_that_training_refuses(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", evaluation=2)
    (data / "images" / "f_2.png").unlink()
    datamanager = make_datamanager(data, test_mode="test")
    assert len(datamanager.cached_eval) == 2
    with pytest.raises(SystemExit):
        make_datamanager(data)


# --- Restarting -------------------------------------------------------------------------------


@pytest.mark.parametrize("after_refine", ["continue", "restart"])
def test_after_the_refine(data: Path, tmp_path: Path, refines: Refines, after_refine: Any) -> None:
    run = Run(data, tmp_path / "run", after_refine=after_refine).begin()
    seeded = run.model.means.detach().clone()
    train_steps(run.model, run.trainer.optimizers, range(10))
    trained = run.model.means.detach().clone()
    run.before(10)
    expected = seeded if after_refine == "restart" else trained
    assert torch.equal(run.model.means.detach(), expected)
    first_step = 10 if after_refine == "restart" else 0
    assert run.model.first_step == run.datamanager.state.first_step == first_step
    train_steps(run.model, run.trainer.optimizers, range(10, 14))
    second = resumed(data, tmp_path / "run", tmp_path / "second").begin()
    assert second.model.first_step == first_step


# --- Refusals before the first step -----------------------------------------------------------


def refusal_of(run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run.begin()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_an_unknown_checkpoint(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(data, tmp_path / "run")
    run.datamanager.config.refiner.sam2_checkpoint = "sam2-hiera-smoll"
    assert "sam2-hiera-smoll" in refusal_of(run, capsys)
    run.datamanager.config.refiner.sam2_checkpoint = "tiny-synthetic"
    run.datamanager.config.refiner.sam_checkpoint = "vit_x"
    assert "vit_x" in refusal_of(run, capsys)


def test_no_checkpoint_is_looked_for_where_no_refine_is_ahead(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(data, tmp_path / "run", refine_steps=(7000,))
    run.datamanager.config.refiner.sam2_checkpoint = "sam2-hiera-smoll"
    run.begin()
    said = " ".join(capsys.readouterr().out.split())
    assert "no refine, since training ends at step 100" in said


def test_a_refine_before_the_first_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(data, tmp_path / "run", refine_steps=(0,))
    assert "at least 1" in refusal_of(run, capsys)


def test_a_foreign_model(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(data, tmp_path / "run")
    run.trainer.pipeline.model = torch.nn.Linear(1, 1)
    assert "needs its model, not Linear" in refusal_of(run, capsys)


def test_a_dataset_that_is_broken_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "data", masks={1: ~USER})
    with pytest.raises(SystemExit) as caught:
        make_datamanager(data)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "mask_path" in line
