"""One refine during training, from views to masks, and the state that outlives the process.

RUN/t3dgs_masks/stage_01/prompts/    coarse masks and residuals of the training views
RUN/t3dgs_masks/stage_01/refined/    result folder of the refine
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STATE_VERSION = 1
STAGES_FOLDER = "t3dgs_masks"


@dataclass(frozen=True)
class StageFolder:
    """Where the files of one stage are."""

    root: Path

    @property
    def prompts(self) -> Path:
        return self.root / "prompts"

    @property
    def refined(self) -> Path:
        return self.root / "refined"

    @property
    def binary_masks(self) -> Path:
        return self.refined / "binary_masks"


def stage_folder(run_dir: Path, stage: int) -> StageFolder:
    """The folder of a stage (from 1) of the run in `run_dir`."""
    return StageFolder(run_dir / STAGES_FOLDER / f"stage_{stage:02d}")


@dataclass(frozen=True)
class StageState:
    """What a checkpoint says about stages. Masks stay on disk."""

    stages_done: int = 0
    """How many refines are finished; also the number of the stage whose masks are in use."""
    run_dir: str = ""
    """The run that made those masks, absolute; empty before the first refine."""
    first_step: int = 0
    """Step at which the Gaussians were (re)seeded."""

    def due_stage(self, refine_steps: Sequence[int], step: int) -> int | None:
        """The stage that has to be refined before `step`, if one has to. Steps that a resumed
        run has passed already are made up for by one refine."""
        passed = sum(step >= refine_step for refine_step in refine_steps)
        return passed if passed > self.stages_done else None

    def find_run(self, other_run_dirs: Sequence[Path]) -> Path | None:
        """The run folder that holds the masks in use: where it was, or else one of
        `other_run_dirs` (it may have been moved). None if they are nowhere."""
        for run_dir in (Path(self.run_dir), *other_run_dirs):
            if stage_folder(run_dir, self.stages_done).binary_masks.is_dir():
                return run_dir
        return None

    def as_dict(self) -> dict[str, Any]:
        """Primitives only: `torch.load` reads checkpoints as weights only."""
        return {"version": STATE_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> StageState:
        return cls(
            stages_done=int(state["stages_done"]),
            run_dir=str(state["run_dir"]),
            first_step=int(state["first_step"]),
        )
