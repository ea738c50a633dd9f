"""The command line: picks the subcommand, runs it, and turns errors into one line."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

import tyro

from t3dgs_masks import __version__
from t3dgs_masks.cli_errors import (
    INTERRUPTED_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    exit_code_of,
    usage_in_one_line,
)
from t3dgs_masks.cli_help import settings_registry
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
from t3dgs_masks.openmp import let_threads_rest
from t3dgs_masks.presets import DEFAULT_PRESET, presets_help, read_preset
from t3dgs_masks.settings_checks import check_coarse

__all__ = ["INTERRUPTED_EXIT_CODE", "USER_ERROR_EXIT_CODE", "entry_point", "main", "parse"]

_DESCRIPTION = (
    "Clean, temporally consistent transient masks for Gaussian Splatting captures.\n\n"
    "t3dgs-masks COMMAND --help tells all about a command; --version prints the version."
)


class Command(Protocol):
    """A parsed subcommand. What is heavy is imported when it runs, so that --help is quick."""

    def run(self) -> object: ...


@dataclass(frozen=True)
class Refine(RefineSettings):
    """Segment what moves through a capture, and write static masks for training.

    With --prompt-dir (coarse masks, residuals) the coarse masks say what to look for. Without it
    every object of the sequence is segmented and masked.
    """

    preset: str = DEFAULT_PRESET
    """Settings to begin with: fast, default, best, or a YAML file of your own; copy one of
    configs/presets to start from. Flags given beside it win. With --help, the defaults shown are
    those of the preset."""

    def run(self) -> None:
        from t3dgs_masks.refine_job import run_refine

        run_refine(self.settings())

    def settings(self) -> RefineSettings:
        """Without the preset, which has done its work: a result is known by its settings."""
        return RefineSettings(**{f.name: getattr(self, f.name) for f in fields(RefineSettings)})


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
        check_coarse(self.coarse)
        if not self.load_config.is_file():
            raise UserError(
                f"cannot read {self.load_config}: there is no such file; --load-config names a"
                " config.yml"
            )
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

    The page needs no network and no server, and `refine` writes it too. Objects can be switched on
    and off on it and the threshold moved; it shows the `refilter` command that makes such masks.
    """

    def run(self) -> None:
        from t3dgs_masks.report_job import run_report

        run_report(self)


_COMMANDS: Mapping[str, type[Command]] = {
    "refine": Refine,
    "report": Report,
    "prepare": Prepare,
    "prompts": Prompts,
    "apply": Apply,
    "revert": Revert,
    "refilter": Refilter,
    "export": Export,
    "evaluate": Evaluate,
    "demo": Demo,
}
_MODELS = Annotated[
    Annotated[ModelsList, tyro.conf.subcommand("list")]
    | Annotated[ModelsDownload, tyro.conf.subcommand("download")]
    | Annotated[ModelsPath, tyro.conf.subcommand("path")],
    tyro.conf.subcommand("models", description="List, fetch and locate SAM checkpoints."),
]


def parse(args: Sequence[str] | None = None) -> Command:
    """The subcommand that `args` (default: the process's own) ask for.

    Raises:
        UserError: the arguments make no sense, or name a preset that cannot be used.
        SystemExit: help was asked for, and printed.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    chosen = arguments[0] if arguments else ""
    commands: Any = _MODELS
    for name, kind in reversed(list(_COMMANDS.items())):
        text = _description(kind) if name == chosen else _summary(kind)
        default = _unset_refine(arguments) if name == chosen == "refine" else tyro.MISSING
        described = tyro.conf.subcommand(name, default=default, description=text)
        commands = Annotated[kind, described] | commands
    known = chosen in _COMMANDS or chosen == "models"
    with usage_in_one_line(f"t3dgs-masks {chosen} --help" if known else "t3dgs-masks --help"):
        return tyro.cli(
            commands,
            prog="t3dgs-masks",
            description=_DESCRIPTION,
            args=arguments,
            registry=settings_registry(),
        )


def _summary(kind: type[Command]) -> str:
    """What the list of commands says of one."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _description(kind: type[Command]) -> str:
    """What the help of a command says of it."""
    table = {Refine: presets_help, Export: as_help}.get(kind, str)()
    return "\n\n".join(filter(None, [inspect.getdoc(kind), table]))


def _unset_refine(arguments: Sequence[str]) -> Refine:
    """A `refine` without inputs, with the settings of the preset among the arguments."""
    defaults = read_preset(_preset_in(arguments)).applied_to(Refine(Path(), Path()))
    assert isinstance(defaults, Refine)
    required = {"video_path": tyro.MISSING, "result_dir": tyro.MISSING}
    return replace(defaults, **required)


def _preset_in(arguments: Sequence[str]) -> str:
    """The last one, as everywhere on a command line."""
    preset = DEFAULT_PRESET
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if flag.startswith("--preset="):
            preset = flag.partition("=")[2]
        elif flag == "--preset":
            preset = following or preset
    return preset


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the process's exit code."""
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments == ["--version"]:
        print(__version__)
        return 0
    return exit_code_of(lambda: parse(arguments).run(), debug="--debug" in arguments)


def entry_point() -> None:
    """``t3dgs-masks`` on the PATH."""
    let_threads_rest()
    sys.exit(main())
