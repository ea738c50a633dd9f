"""Checkpoints around a refine survive a kill at any moment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from t3dgs_masks.plugin.checkpointing import save_whole_checkpoint


class Killed(BaseException):
    """Stands in for the end of the process."""


def make_trainer(folder: Path, content: str, *, latest_only: bool = True) -> SimpleNamespace:
    def save_checkpoint(step: int) -> None:
        trainer.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        path = trainer.checkpoint_dir / f"step-{step:09d}.ckpt"
        with path.open("wb") as file:
            file.write(b"PK half of it")
            file.flush()
            if content == "killed":
                raise Killed
            file.seek(0)
            torch.save({"content": content}, file)

    trainer = SimpleNamespace(
        checkpoint_dir=folder,
        save_checkpoint=save_checkpoint,
        config=SimpleNamespace(save_only_latest_checkpoint=latest_only),
    )
    return trainer


def content_of(folder: Path, step: int) -> str:
    return torch.load(folder / f"step-{step:09d}.ckpt")["content"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for content in ("before", "after"):
        trainer = make_trainer(folder, content)
        save_whole_checkpoint(trainer, 99)
        assert trainer.checkpoint_dir == folder
        assert content_of(folder, 99) == content
    assert names(folder) == ["step-000000099.ckpt"]
    assert names(tmp_path) == ["models"]


def test_a_kill_while_it_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    save_whole_checkpoint(make_trainer(folder, "before"), 99)
    with pytest.raises(Killed):
        save_whole_checkpoint(make_trainer(folder, "killed"), 99)
    assert content_of(folder, 99) == "before"
    assert names(folder) == ["step-000000099.ckpt"]  # resuming takes all names there for its own


def test_what_a_kill_left_is_not_in_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with pytest.raises(Killed):
        save_whole_checkpoint(make_trainer(folder, "killed"), 99)
    save_whole_checkpoint(make_trainer(folder, "after"), 99)
    assert content_of(folder, 99) == "after"
    assert names(tmp_path) == ["models"]


def test_an_error_gives_the_trainer_its_folder_back(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "models", "killed")
    with pytest.raises(Killed):
        save_whole_checkpoint(trainer, 99)
    assert trainer.checkpoint_dir == tmp_path / "models"


@pytest.mark.parametrize("latest_only", [True, False])
def test_older_ones_go_or_stay_as_configured(tmp_path: Path, latest_only: bool) -> None:
    folder = tmp_path / "models"
    for step in (10, 20):
        save_whole_checkpoint(make_trainer(folder, "any", latest_only=latest_only), step)
    kept = (
        ["step-000000020.ckpt"] if latest_only else ["step-000000010.ckpt", "step-000000020.ckpt"]
    )
    assert names(folder) == kept
