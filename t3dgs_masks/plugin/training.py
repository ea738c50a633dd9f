"""`ns-train` in this process: many trainings one after the other, with nerfstudio loaded once."""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.scripts import train as ns_train
from nerfstudio.utils import profiler, writer

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown


def train(arguments: Sequence[str], log: Path) -> Path:
    """Run one training to its end.

    Args:
        arguments: of `ns-train`.
        log: file that takes what it prints.

    Returns:
        Its ``config.yml``.

    Raises:
        UserError: it failed; the log says why.
        KeyboardInterrupt: it was interrupted.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as said, _no_writers_left():
        said.write(" ".join(["ns-train", *arguments]) + "\n")
        said.flush()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                config = tyro.cli(AnnotatedBaseConfigUnion, args=list(arguments))
                ns_train.main(config)
        except Exception as error:
            traceback.print_exc(file=said)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"the training failed ({reason}); see {shown(log)}") from error
        except SystemExit as end:
            raise UserError(f"ns-train does not take these arguments; see {shown(log)}") from end
    last = config.get_checkpoint_dir() / f"step-{config.max_num_iterations - 1:09d}.ckpt"
    if not last.is_file():  # nerfstudio swallows Ctrl+C
        raise KeyboardInterrupt
    return config.get_base_dir() / "config.yml"


@contextlib.contextmanager
def _no_writers_left():
    """nerfstudio keeps its log writers for the life of a process, which is one training there."""
    try:
        yield
    finally:
        writer.EVENT_WRITERS.clear()
        profiler.PROFILER.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
