"""Checkpoints at a refine, whole or absent."""

from __future__ import annotations

import shutil

from nerfstudio.engine.trainer import Trainer


def save_whole_checkpoint(trainer: Trainer, step: int) -> None:
    """Save what `trainer.save_checkpoint(step)` saves, but under a temporary name first: the
    checkpoints before and after a refine have the same step, and a kill must leave one of them.

    Args:
        trainer: the running trainer.
        step: the last finished step; training resumes at the next.
    """
    final = trainer.checkpoint_dir
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    trainer.checkpoint_dir = partial
    try:
        trainer.save_checkpoint(step)
    finally:
        trainer.checkpoint_dir = final
    final.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:09d}.ckpt"
    (partial / name).replace(final / name)
    partial.rmdir()
    if trainer.config.save_only_latest_checkpoint:
        for other in final.glob("*.ckpt"):
            if other.name != name:
                other.unlink()
