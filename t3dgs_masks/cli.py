"""The command line: picks the subcommand, runs it, and turns errors into one line."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import tyro

from t3dgs_masks import __version__
from t3dgs_masks.config import (
    ApplySettings,
    DemoSettings,
    EvaluateSettings,
    ExportSettings,
    PrepareSettings,
    PromptsSettings,
    RefilterSettings,
    RefineSettings,
    ReportSettings,
    RevertSettings,
)
from t3dgs_masks.datasets.export_formats import as_help
from t3dgs_masks.errors import UserError
from t3dgs_masks.models_command import ModelsDownload, ModelsList, ModelsPath

USER_ERROR_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130


class Command(Protocol):
    """A parsed subcommand. What is heavy is imported when it runs, so that --help is quick."""

    def run(self) -> object: ...


@dataclass(frozen=True)
class Refine(RefineSettings):
    """Segment what moves through a capture, and write static masks for training.

    With --prompt-dir (coarse masks, residuals) the coarse masks say what to look for. Without it
    every object of the sequence is segmented and masked.
    """

    def run(self) -> None:
        from t3dgs_masks.refine_job import run_refine

        run_refine(self)


@dataclass(frozen=True)
class Prepare(PrepareSettings):
    """Make ordered frames for `refine` out of a dataset, a folder or a video, at a chosen scale.

    manifest.json leads every frame back to its source, split and camera. `refine` takes datasets
    directly as well; this is for a look at the frames, or for refining on another machine.
    """

    def run(self) -> None:
        from t3dgs_masks.prepare_job import run_prepare

        run_prepare(self)


@dataclass(frozen=True)
class Apply(ApplySettings):
    """Write masks into a dataset, so that training on it leaves out what moved.

    nerfstudio: transforms.json gets a mask_path for every frame, and masks/ (masks_2/ and so on
    where there are images_2/) the files. COLMAP: masks/ gets a file for every image. Masks that
    the dataset has already are combined with the new ones and stay as they are. `revert` takes it
    all back.
    """

    def run(self) -> None:
        from t3dgs_masks.apply_job import run_apply

        run_apply(self)


@dataclass(frozen=True)
class Revert(RevertSettings):
    """Take out what `apply` wrote: the dataset is what it was, byte for byte."""

    def run(self) -> None:
        from t3dgs_masks.apply_job import run_revert

        run_revert(self)


@dataclass(frozen=True)
class Prompts(PromptsSettings):
    """Make the prompts of a refine from a trained splatfacto run: residuals of all training views,
    and coarse masks where they stand out.

    The output is also the sequence to refine: it holds the images as training sees them, and a
    manifest by which `apply` finds the way back into the dataset.
    """

    def run(self) -> None:
        if importlib.util.find_spec("nerfstudio") is None:
            raise UserError("prompts needs nerfstudio: pip install 't3dgs_masks[nerfstudio]'")
        from t3dgs_masks.plugin.prompts_job import run_prompts

        run_prompts(self)


@dataclass(frozen=True)
class Demo(DemoSettings):
    """Make a posed capture with walkers and the prompts of a half-trained splat, refine the
    prompts, and compare both with the truth.

    The capture is a nerfstudio dataset (transforms.json, images, clean evaluation views, true
    masks). The packaged small SAM2 refines it unless another checkpoint is given.
    """

    def run(self) -> None:
        from t3dgs_masks.demo_job import run_demo

        run_demo(self)


@dataclass(frozen=True)
class Refilter(RefilterSettings):
    """Choose other objects of a finished result, without running the network again.

    Rewrites the masks from masklets.json alone, in seconds, and with them the dataset that they
    are applied to and the exports. Ids and scores are in masklets.json. Every run begins with what
    refine found and decided, so that options of an earlier one do not carry on, and one without
    options undoes all of them.
    """

    def run(self) -> None:
        from t3dgs_masks.refilter_job import run_refilter

        run_refilter(self)


@dataclass(frozen=True)
class Export(ExportSettings):
    """Write a result's masks as another tool wants them: folder, names and polarity."""

    def run(self) -> None:
        from t3dgs_masks.export_job import run_export

        run_export(self)


@dataclass(frozen=True)
class Evaluate(EvaluateSettings):
    """Compare masks with true ones, per frame and in total.

    Transient IoU, precision and recall; boundary F (DAVIS's, tolerance 0.8 % of the diagonal);
    flicker: the share of pixels whose label changes from frame to frame otherwise than the true
    one does; and the share of the static area that is masked, and so lost to training. Masks are
    matched by file name; those that differ in scale alone are brought to the size of the true ones.
    """

    def run(self) -> None:
        from t3dgs_masks.evaluate_job import run_evaluate

        run_evaluate(self)


@dataclass(frozen=True)
class Report(ReportSettings):
    """Write report.html into a result: its frames and objects on one page, to look at and correct.

    `refine` writes it too. The page needs no network and no server. Objects can be switched on and
    off on it and the threshold moved; it shows the `refilter` command that makes such masks.
    """

    def run(self) -> None:
        from t3dgs_masks.report_job import run_report

        run_report(self)


_LIST = Annotated[ModelsList, tyro.conf.subcommand("list")]
_DOWNLOAD = Annotated[ModelsDownload, tyro.conf.subcommand("download")]
_PATH = Annotated[ModelsPath, tyro.conf.subcommand("path")]
_MODELS = Annotated[
    _LIST | _DOWNLOAD | _PATH,
    tyro.conf.subcommand("models", description="List, fetch and locate SAM checkpoints."),
]
_REFINE = Annotated[Refine, tyro.conf.subcommand("refine")]
_DEMO = Annotated[Demo, tyro.conf.subcommand("demo")]
_PREPARE = Annotated[Prepare, tyro.conf.subcommand("prepare")]
_APPLY = Annotated[Apply, tyro.conf.subcommand("apply")]
_REVERT = Annotated[Revert, tyro.conf.subcommand("revert")]
_PROMPTS = Annotated[Prompts, tyro.conf.subcommand("prompts")]
_EVALUATE = Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
_EXPORT = Annotated[
    Export,
    tyro.conf.subcommand("export", description=f"{inspect.getdoc(Export)}\n\n{as_help()}"),
]
_REFILTER = Annotated[Refilter, tyro.conf.subcommand("refilter")]
_REPORT = Annotated[Report, tyro.conf.subcommand("report")]
_COMMANDS = (
    _REFINE
    | _REPORT
    | _PREPARE
    | _PROMPTS
    | _APPLY
    | _REVERT
    | _REFILTER
    | _EXPORT
    | _EVALUATE
    | _DEMO
    | _MODELS
)


def parse(args: Sequence[str] | None = None) -> Command:
    """The subcommand that `args` (default: the process's own) ask for."""
    return tyro.cli(
        _COMMANDS,  # pyright: ignore[reportArgumentType] (a union of dataclasses is a tyro form)
        prog="t3dgs-masks",
        description="Clean, temporally consistent transient masks for Gaussian Splatting captures.",
        args=args,
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the process's exit code."""
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments == ["--version"]:
        print(__version__)
        return 0
    command = parse(arguments)
    debug = getattr(command, "debug", False)
    try:
        command.run()
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        print("interrupted: no result was written", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except Exception as error:
        if debug:
            traceback.print_exc()
        reason = " ".join(str(error).split()) or "no further word"
        print(
            f"error: unexpected {type(error).__name__}: {reason} (--debug shows where)",
            file=sys.stderr,
        )
        return 1
    return 0


def entry_point() -> None:
    """``t3dgs-masks`` on the PATH."""
    sys.exit(main())
