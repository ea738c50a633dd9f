"""Flags that are unknown, contradict each other, or have values that make no sense."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bad_input.inputs import PREPARE, REFINE, box, frames, prompts, save, white
from tests.bad_input.table import Table
from tests.datasets.scenes_to_mask import write_scene
from tests.results import write_result

FLAGS = Table()
row = FLAGS.row


def refine(name: str, says: str, *arguments: object) -> None:
    """A row with these arguments added to a good refine."""

    @row(name, says)
    def _(work: Path) -> Sequence[object]:
        frames(work)
        prompts(work)
        return (*REFINE, *arguments)


def bare(name: str, says: str, *arguments: object) -> None:
    """A row of these arguments alone."""

    @row(name, says)
    def _(work: Path) -> Sequence[object]:
        return arguments


refine("an unknown flag", r"Unrecognized options: --nope; t3dgs-masks refine --help", "--nope")
refine("a flag with a typing error", r"Unrecognized options: --reslution", "--reslution", 4)
refine("a flag without its value", r"--resolution", "--resolution")
refine("a word too many", r"Unrecognized options: frames2", "frames2")
refine(
    "a number that is a word", r"Error parsing --every: invalid literal .*'two'", "--every", "two"
)
refine("a number that is a fraction", r"--memory-size.*'2\.5'", "--memory-size", "2.5")
refine(
    "a choice that is none",
    r"invalid choice 'half' for argument '--precision'",
    "--precision",
    "half",
)
refine("a preset that does not exist", r"no preset|there is no|gone", "--preset", "gone")
bare("no command", r"Expected one of .refine, report, prepare")
bare("an unknown command", r"Unrecognized options: refin; Available subcommands", "refin")
bare("a refine of nothing", r"Missing from t3dgs-masks refine: --video-path", "refine")
bare("an apply without masks", r"Missing from t3dgs-masks apply: --masks", "apply", "--data", "x")
bare(
    "an export to an unknown tool",
    r"invalid choice 'x' for argument '--to'",
    "export",
    "r",
    "--to",
    "x",
)

refine(
    "SAM1 proposals without a SAM1", r"--proposer sam1 needs --sam-checkpoint", "--proposer", "sam1"
)
refine(
    "SAM2 proposals with a SAM1", r"--proposer sam2 has no use for --sam-checkpoint",
    "--proposer", "sam2", "--sam-checkpoint", "vit_b",
)  # fmt: skip
refine(
    "a polarity of no masks", r"--prompt-polarity is about the masks in --prompt-dir",
    "--prompt-polarity", "white-static",
)  # fmt: skip
refine(
    "an end before the start", r"--end 1 leaves no frame after --start 1", "--start", 1, "--end", 1
)
refine(
    "a device that is not there",
    r"Device 'cuda:7' was asked for|no device 'cuda:7'",
    "--device",
    "cuda:7",
)
refine("a device that is none", r"Unknown device 'gpu'", "--device", "gpu")
refine(
    "numbers that the device lacks",
    r"bfloat16 needs a CUDA device",
    "--device",
    "cpu",
    "--precision",
    "bfloat16",
)

OUT_OF_RANGE: dict[str, Sequence[object]] = {
    "--memory-size": (0, -1),
    "--lambda-ref": ("nan", -0.1, 1.1),
    "--lambda-val": ("nan", 2),
    "--lambda-merge": ("inf", -1),
    "--filter-threshold": ("nan", "-inf"),
    "--start-points-per-side": (0, 100000),
    "--prompt-points-per-side": (-3,),
    "--num-iterations": (-1,),
    "--fill-hole-area": (-1,),
    "--seed": (-1,),
    "--pred-iou-thresh": ("nan", 88),
    "--stability-score-thresh": ("nan",),
    "--box-nms-thresh": (-0.5,),
    "--points-per-batch": (0,),
    "--min-mask-region-area": (-1,),
    "--fps": (0, -5, "nan", "inf", 1e9),
    "--threads": (0, 10**9),
    "--feature-cache-gb": (-1, "nan", "inf"),
    "--every": (0, -2),
    "--start": (-1,),
    "--end": (0, -7),
    "--resolution": (0, -720),
}
for flag, values in OUT_OF_RANGE.items():
    for value in values:
        refine(f"{flag} {value}", rf"^error: {flag} {value}|^error: {flag} is ", f"{flag}={value}")


def on_result(name: str, says: str, *arguments: object) -> None:
    """A row on a whole result."""

    @row(name, says)
    def _(work: Path) -> Sequence[object]:
        write_result(work / "result", ["0", "1"], kept={1: True, 2: False})
        return arguments


on_result(
    "refilter --dilate -1", r"--dilate is -1; give 0 or more", "refilter", "result", "--dilate=-1"
)
on_result(
    "refilter --fill-holes -1", r"--fill-holes is -1; give", "refilter", "result", "--fill-holes=-1"
)
on_result(
    "refilter --min-area -1", r"--min-area is -1; give", "refilter", "result", "--min-area=-1"
)
on_result(
    "refilter of NaN", r"--filter-threshold is nan", "refilter", "result", "--filter-threshold=nan"
)
on_result(
    "refilter of no id", r"'one' is no id; give e\.g\. 3,5", "refilter", "result", "--keep", "one"
)
on_result(
    "refilter of unknown ids",
    r"there is no object 9; there are 1, 2",
    "refilter",
    "result",
    "--drop",
    "9",
)
on_result(
    "refilter both ways", r"object 1 is in --keep and in --drop",
    "refilter", "result", "--keep", "1", "--drop", "1",
)  # fmt: skip
on_result(
    "refilter and apply to nothing",
    r"does not lead to a dataset",
    "refilter",
    "result",
    "--apply",
    "yes",
)
on_result(
    "an export to nowhere",
    r"export needs a result folder, --to .* and --dest",
    "export",
    "result",
    "--to",
    "t3dgs",
)
on_result(
    "export --dilate -1", r"--dilate -1 is below 0",
    "export", "result", "--to", "t3dgs", "--dest", "out", "--dilate=-1",
)  # fmt: skip


def demo(name: str, says: str, *arguments: object) -> None:
    bare(name, says, "demo", "--output-dir", "demo", *arguments)


demo("a demo of no frames", r"--num-frames is 0; it has to be", "--num-frames=0")
demo("a demo of no walkers", r"--num-walkers is -1; it has to be", "--num-walkers=-1")
demo("a demo of a negative seed", r"--seed is -1; it has to be", "--seed=-1")
demo("a demo with few training steps", r"--train-steps is 3", "--train", "--train-steps=3")
demo("a demo at no scale", r"--train-scale is nan", "--train", "--train-scale=nan")


@row("apply --dilate -1", r"--dilate -1 is below 0")
def _(work: Path) -> Sequence[object]:
    write_scene(work / "scene")
    save(work / "masks/f_0.png", white(~box(0)))
    return ("apply", "--data", "scene", "--masks", "masks", "--dilate=-1")


def _all_masked(work: Path, _: object) -> None:
    assert (work / "scene/masks/f_0.png").is_file()


@row(
    "apply --dilate 1000000000",
    "written to",
    code=0,
    may_change=r"scene/transforms\.json",
    check=_all_masked,
)
def _(work: Path) -> Sequence[object]:
    write_scene(work / "scene")
    save(work / "masks/f_0.png", white(~box(0)))
    return ("apply", "--data", "scene", "--masks", "masks", "--dilate=1000000000")


@row("prompts of NaN", r"--outlier-sigmas is nan; it has to be")
def _(work: Path) -> Sequence[object]:
    return ("prompts", "--load-config", "c.yml", "--output-dir", "out", "--outlier-sigmas=nan")


@row("prepare --every 0", r"--every 0: give a step of at least 1")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return (*PREPARE, "--every=0")


@row("prepare --resolution -1", r"--resolution -1: give a length of at least 1")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return (*PREPARE, "--resolution=-1")
