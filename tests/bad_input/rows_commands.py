"""Every command without what it works on, or with something else in its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bad_input.inputs import box, cut, save, white
from tests.bad_input.malicious import BAIT
from tests.bad_input.table import Table
from tests.results import write_result

COMMANDS = Table()
row, accepted = COMMANDS.row, COMMANDS.accepted

EXPORT = ("export", "result", "--to", "t3dgs", "--dest", "out")
EVALUATE = ("evaluate", "--pred", "pred", "--gt", "gt")


def missing(command: str, says: str, *arguments: object) -> None:
    @row(f"{command} of nothing", says)
    def _(work: Path) -> Sequence[object]:
        return (command, *arguments)


missing(
    "prepare", r"there is no folder or video file gone", "--data", "gone", "--output-dir", "out"
)
missing("refilter", r"gone is no whole result of `t3dgs-masks refine`: it has no", "gone")
missing("report", r"gone.* (is no|has no|there is no)|there is no.*gone", "gone")
missing("export", r"gone is no result of", "gone", "--to", "t3dgs", "--dest", "out")
missing("evaluate", r"there is no folder gt: --gt names a folder", "--pred", "pred", "--gt", "gt")
missing(
    "prompts",
    r"cannot read gone\.yml: there is no such file",
    "--load-config",
    "gone.yml",
    "--output-dir",
    "out",
)
missing("models", r"There is no checkpoint called 'gone'", "path", "gone")


def result(work: Path) -> Path:
    return write_result(work / "result", ["0", "1"], kept={1: True, 2: False})


@row("a refilter of masklets cut short", r"masklets\.json is not valid JSON; run")
def _(work: Path) -> Sequence[object]:
    cut(result(work) / "masklets.json", 0.5)
    return ("refilter", "result")


@row("a refilter of masklets with broken runs", r"masklets\.json is not a masklet file.*run-length")
def _(work: Path) -> Sequence[object]:
    file = result(work) / "masklets.json"
    text = file.read_text()
    at = text.index('"counts":"') + len('"counts":"')
    file.write_text(text[:at] + "ooooooooo1" + text[at:])
    return ("refilter", "result")


@row("a refilter of masklets that lead out", r"would put a mask outside of the result folder")
def _(work: Path) -> Sequence[object]:
    file = result(work) / "masklets.json"
    file.write_text(file.read_text().replace('["0","1"]', '["0","../../1"]'))
    return ("refilter", "result")


@row(
    "an export of masklets of a million by a million pixels",
    r"masklets\.json is not a masklet file|segmentation of size",
)
def _(work: Path) -> Sequence[object]:
    file = result(work) / "masklets.json"
    file.write_text(file.read_text().replace('"video_height":36', '"video_height":1000000'))
    return ("export", "result", "--to", "coco", "--dest", "out")


@row("an export of masks cut short", r"cannot read .*1\.png")
def _(work: Path) -> Sequence[object]:
    cut(result(work) / "binary_masks/1.png", 0.5)
    return EXPORT


@row("an export over what others wrote", r"mine\.txt")
def _(work: Path) -> Sequence[object]:
    result(work)
    (work / "out").mkdir()
    (work / "out/mine.txt").write_text("mine")
    return EXPORT


@row("an export into the result's masks", r"out|binary_masks")
def _(work: Path) -> Sequence[object]:
    result(work)
    return ("export", "result", "--to", "t3dgs", "--dest", "result/binary_masks/out")


@row("an export to a file", r"out")
def _(work: Path) -> Sequence[object]:
    result(work)
    (work / "out").write_text("mine")
    return EXPORT


@row("a manifest that is no JSON", r"manifest\.json is not valid JSON: make its folder again")
def _(work: Path) -> Sequence[object]:
    (result(work) / "manifest.json").write_text("{")
    return EXPORT


@row(
    "masks to evaluate without a single frame in common", r"no mask in pred is named like one in gt"
)
def _(work: Path) -> Sequence[object]:
    save(work / "pred/a.png", white(~box(0)))
    save(work / "gt/b.png", white(~box(0)))
    return EVALUATE


@row("masks to evaluate of other proportions", r"pred/a\.png is 50x50, which has other proportions")
def _(work: Path) -> Sequence[object]:
    save(work / "pred/a.png", white(~box(0, 50, 50)))
    save(work / "gt/a.png", white(~box(0)))
    return EVALUATE


@row("masks to evaluate that are empty files", r"cannot read the image (pred|gt)/a\.png")
def _(work: Path) -> Sequence[object]:
    save(work / "pred/a.png", white(~box(0)))
    save(work / "gt/a.png", white(~box(0)))
    (work / "pred/a.png").write_bytes(b"")
    return EVALUATE


@row("a report on a result cut short", r"masklets\.json|report\.json")
def _(work: Path) -> Sequence[object]:
    cut(result(work) / "masklets.json", 0.5)
    return ("report", "result")


@row("a report with frames of something else", r"frames|images|video")
def _(work: Path) -> Sequence[object]:
    result(work)
    save(work / "frames/x.png", white(box(0, 20, 20)))
    return ("report", "result", "--video-path", "frames")


@row(
    "a config.yml that calls code",
    r"config\.yml is not .*: it asks for os\.mkdir, which was not called",
    check=lambda work, _: _not_executed(work),
)
def _(work: Path) -> Sequence[object]:
    (work / "config.yml").write_text(f"!!python/object/apply:os.mkdir [{BAIT}]\n")
    return ("prompts", "--load-config", "config.yml", "--output-dir", "out")


def _not_executed(work: Path) -> None:
    assert not (work / BAIT).exists()


@row("a prepared folder whose manifest lists other frames", r"holds none of the frames|manifest")
def _(work: Path) -> Sequence[object]:
    save(work / "frames/images/a.png", white(box(0)))
    text = (
        '{"program": "t3dgs_masks", "version": 1, "root": "/", "kind": "folder", "frames": ['
        '{"name": "b", "source": "b.png", "split": null, "camera": null, "undistorted": null}]}'
    )
    (work / "frames/manifest.json").write_text(text)
    return ("refine", "--video-path", "frames", "--result-dir", "out")
