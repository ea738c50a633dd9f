"""Results that have nowhere to go: places in the way, read-only ones, and full disks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bad_input.command_line import Circumstances, Outcome
from tests.bad_input.inputs import (
    PREPARE,
    REFINE,
    REFINE_PROMPTS,
    box,
    frames,
    prompts,
    save,
    white,
)
from tests.bad_input.rows_frames import as_nobody
from tests.bad_input.table import PROGRESS, Table
from tests.datasets.scenes_to_mask import NAMES, write_scene
from tests.results import write_result

PLACES = Table()
row, accepted = PLACES.row, PLACES.accepted


def refine_to(out: str, video: str = "frames") -> Sequence[object]:
    return (*REFINE, "--video-path", video, "--result-dir", out)


def disk(size: int):
    """``full/`` is a disk of so many bytes."""

    def circumstances(work: Path) -> Circumstances:
        (work / "full").mkdir()
        return Circumstances(full_disk=(work / "full", size))

    return circumstances


@row("the result folder inside the frames", r"frames/out lies inside the input folder frames")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return refine_to("frames/out")


@row("the result folder inside the frames, by a link", r"lies inside the input folder frames")
def _(work: Path) -> Sequence[object]:
    (work / "elsewhere").symlink_to(frames(work))
    return refine_to("elsewhere/out")


@row("the result folder is that of the frames", r"lies inside the input folder")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return refine_to("frames")


@row(
    "the frames are part of an earlier result", r"is part of an earlier result in .* would be repl"
)
def _(work: Path) -> Sequence[object]:
    write_result(work / "out", ["0", "1"])
    return refine_to("out", "out/binary_masks")


@row("the prompts inside the result folder", r"part of an earlier result|would be replaced")
def _(work: Path) -> Sequence[object]:
    frames(work)
    save(work / "out/binary_masks/0.png", white(box(0)))
    return (
        *refine_to("out"),
        "--prompt-dir",
        "out/binary_masks",
        "--prompt-polarity",
        "white-transient",
    )


@row("the result folder is a file", r"out is a file; --result-dir needs a folder")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "out").write_text("mine")
    return refine_to("out")


@row("the result folder below a file", r"cannot .*result folder .*file/out: Not a directory")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "file").write_text("mine")
    return refine_to("file/out")


@row("the result folder is a device", r"/dev/full is a file; --result-dir needs a folder")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return refine_to("/dev/full")


@row("the result folder is a link to itself", r"cannot .*result folder .*out: ")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "out").symlink_to("out")
    return refine_to("out")


@row("the result folder is a link to nothing", r"cannot .*result folder .*out: ")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "out").symlink_to("gone")
    return refine_to("out")


@row(
    "a name in the result folder that is too long", r"cannot .*result folder .*: File name too long"
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    return refine_to("r" * 300)


@row("files of the same names that are not ours", r"masklets\.json was not written by t3dgs-masks")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "out").mkdir()
    (work / "out/masklets.json").write_text("mine")
    return refine_to("out")


@row(
    "a result folder that may not be written to",
    r"cannot write to the result folder .*: Permission",
    circumstances=as_nobody,
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "out").mkdir(mode=0o555)
    return refine_to("out")


@row(
    "a result folder in a place that may not be written to",
    r"cannot write to the result folder .*: Perm",
    circumstances=as_nobody,
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    return refine_to("out")


@row(
    "a full disk under the result",
    r"the disk is full; free some space|disk I/O error",
    circumstances=disk(8192),
    may_change=PROGRESS,
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    return refine_to("full/out")


@row(
    "a full disk under the result's video",
    r"the disk is full|No space left|File too large|cannot write",
    circumstances=disk(16384),
    may_change=PROGRESS,
)
def _(work: Path) -> Sequence[object]:
    for index in range(2):
        save(work / f"frames/{index}.png", _noise(index))
    args = [arg for arg in refine_to("full/out") if arg != "--no-overlay"]
    return args


def _noise(seed: int):
    import numpy as np

    return np.random.default_rng(seed).integers(0, 255, (360, 480, 3), np.uint8)


@row(
    "a full disk under prepare",
    r"the disk is full; free some space|(No space left|File too large)",
    circumstances=disk(8192),
)
def _(work: Path) -> Sequence[object]:
    for index in range(3):
        save(work / f"frames/{index}.png", _noise(index))
    return (*PREPARE, "--output-dir", "full/out")


@row(
    "a full disk under prepare, scaled",
    r"the disk is full; free some space|(No space left|File too large)",
    circumstances=disk(8192),
)
def _(work: Path) -> Sequence[object]:
    for index in range(3):
        save(work / f"frames/{index}.png", _noise(index))
    return (*PREPARE, "--output-dir", "full/out", "--resolution", 200)


@row(
    "a full disk under the demo",
    r"the disk is full|No space left|too large",
    circumstances=disk(65536),
)
def _(work: Path) -> Sequence[object]:
    return ("demo", "--output-dir", "full/demo", "--num-frames", 2)


@row(
    "a full disk under an export",
    r"the disk is full|No space left|too large",
    circumstances=disk(4096),
)
def _(work: Path) -> Sequence[object]:
    write_result(work / "out", [f"{index}" for index in range(80)])
    return ("export", "out", "--to", "coco", "--dest", "full/masks")


@row(
    "scores that do not fit on the disk",
    r"cannot write full/scores\.json: (No space left|File too large)",
    circumstances=disk(4096),
)
def _(work: Path) -> Sequence[object]:
    for folder in ("pred", "gt"):
        for index in range(40):
            save(work / folder / f"{index}.png", white(~box(index)))
    return ("evaluate", "--pred", "pred", "--gt", "gt", "--json", "full/scores.json")


def _is_printed(work: Path, outcome: Outcome) -> None:
    assert '"total"' in outcome.out
    assert (work / "stdout").is_symlink()


@accepted("scores to a device", "total", check=_is_printed)
def _(work: Path) -> Sequence[object]:
    for folder in ("pred", "gt"):
        save(work / folder / "0.png", white(~box(0)))
    (work / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    return ("evaluate", "--pred", "pred", "--gt", "gt", "--json", "stdout")


@row("scores in a folder that is not there", r"cannot write gone/scores\.json: No such file")
def _(work: Path) -> Sequence[object]:
    for folder in ("pred", "gt"):
        for index in range(2):
            save(work / folder / f"{index}.png", white(~box(index)))
    return ("evaluate", "--pred", "pred", "--gt", "gt", "--json", "gone/scores.json")


@row(
    "a dataset that may not be written to",
    r"cannot change the dataset scene.*Permission denied",
    circumstances=as_nobody,
)
def _(work: Path) -> Sequence[object]:
    write_scene(work / "scene")
    for name in NAMES:
        save(work / "masks" / f"{Path(name).stem}.png", white(~box(0)))
    (work / "scene").chmod(0o555)
    return ("apply", "--data", "scene", "--masks", "masks")


@row("prepare into the frames", r"--output-dir .*frames/out lies among the frames")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return (*PREPARE, "--output-dir", "frames/out")


@row("prepare into a folder of other files", r"holds mine\.txt, which `prepare` did not write")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "out").mkdir()
    (work / "out/mine.txt").write_text("mine")
    return PREPARE


@row("prepare into a file", r"out is a file: give --output-dir a folder")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "out").write_text("mine")
    return PREPARE


@accepted("a result folder of other files", "results")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "out").mkdir()
    (work / "out/mine.txt").write_text("mine")
    return refine_to("out")


@row(
    "an earlier result, and a run that fails",
    r"cannot read the image .*1\.png",
    may_change=PROGRESS,
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    prompts(work)
    (work / "frames/1.png").write_bytes((work / "frames/1.png").read_bytes()[:150])
    write_result(work / "out", ["0", "1"])
    return REFINE_PROMPTS
