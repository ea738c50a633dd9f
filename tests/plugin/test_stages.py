"""What a run remembers of its refines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t3dgs_masks.plugin.stages import StageState, stage_folder


@pytest.mark.parametrize(
    ("done", "step", "due"),
    [
        (0, 0, None),
        (0, 99, None),
        (0, 100, 1),
        (1, 100, None),
        (1, 299, None),
        (1, 300, 2),
        (2, 300, None),
        (2, 9999, None),
        (0, 150, 1),  # resumed past the first
        (0, 400, 2),  # resumed past both: one refine makes up for them
    ],
)
def test_a_stage_is_due_when_a_step_is_reached_or_passed(
    done: int, step: int, due: int | None
) -> None:
    assert StageState(stages_done=done).due_stage((100, 300), step) == due


def test_steps_may_be_given_in_any_order_and_not_at_all() -> None:
    assert StageState().due_stage((300, 100), 120) == 1
    assert StageState().due_stage((), 10**6) is None


@given(st.lists(st.integers(1, 50), max_size=4, unique=True), st.integers(0, 60))
def test_every_step_is_refined_once_wherever_a_run_is_resumed(steps: list, resumed_at: int) -> None:
    done = []
    state = StageState()
    for step in range(resumed_at, 61):
        stage = state.due_stage(steps, step)
        if stage is not None:
            done.append(step)
            state = StageState(stages_done=stage)
    passed = sum(step <= resumed_at for step in steps)
    later = sorted(step for step in steps if step > resumed_at)
    assert done == ([resumed_at] if passed else []) + later


def test_folders_of_stages(tmp_path: Path) -> None:
    folder = stage_folder(tmp_path, 2)
    assert folder.root == tmp_path / "t3dgs_masks" / "stage_02"
    assert folder.binary_masks == folder.root / "refined" / "binary_masks"
    assert folder.prompts == folder.root / "prompts"


def test_state_goes_through_a_checkpoint_read_as_weights_only(tmp_path: Path) -> None:
    state = StageState(stages_done=2, run_dir="/some/where", first_step=300)
    torch.save(state.as_dict(), tmp_path / "state.ckpt")
    assert StageState.from_dict(torch.load(tmp_path / "state.ckpt", weights_only=True)) == state


def test_masks_are_looked_for_where_the_run_was_and_then_elsewhere(tmp_path: Path) -> None:
    here, moved = tmp_path / "here", tmp_path / "moved"
    state = StageState(stages_done=1, run_dir=str(here))
    assert state.find_run([moved]) is None
    stage_folder(moved, 1).binary_masks.mkdir(parents=True)
    assert state.find_run([moved]) == moved
    stage_folder(here, 1).binary_masks.mkdir(parents=True)
    assert state.find_run([moved]) == here
