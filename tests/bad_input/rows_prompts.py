"""Coarse masks and residuals that are broken, odd, or of something else."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.bad_input.inputs import REFINE_PROMPTS, box, cut, frames, prompts, save, white
from tests.bad_input.malicious import BAIT, Bait
from tests.bad_input.rows_frames import masks_of
from tests.bad_input.table import Table

PROMPTS = Table()
row, accepted = PROMPTS.row, PROMPTS.accepted
WHITE_IS_TRANSIENT = ("--prompt-polarity", "white-transient")


def given(work: Path) -> Path:
    frames(work)
    return prompts(work)


@row("no folder of prompts", r"there is no folder prompts: give one that holds masks/")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return REFINE_PROMPTS


@row("prompts that are a file", r"there is no folder prompts")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "prompts").write_text("masks")
    return REFINE_PROMPTS


@row("an empty folder of masks", r"prompts/masks holds no mask images: put one per frame there")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "prompts/masks").mkdir(parents=True)
    return REFINE_PROMPTS


@row(
    "masks of other frames, in another number",
    r"no mask in .* is named after a frame .* 3 for 2 fr",
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    for index in range(3):
        save(work / f"prompts/masks/other_{index}.png", white(box(index)))
    return REFINE_PROMPTS


@row("masks of other proportions", r"1\.png is 50x50, which has other proportions .* 48x36")
def _(work: Path) -> Sequence[object]:
    save(given(work) / "masks/1.png", white(box(1, 50, 50)))
    return REFINE_PROMPTS


@accepted("masks and residuals at half the size, with a frame left out", check=masks_of("0", "1"))
def _(work: Path) -> Sequence[object]:
    frames(work)
    save(work / "prompts/masks/0.png", white(box(0, 18, 24)))
    save(work / "prompts/diffs/0.png", white(box(0, 18, 24)))
    return REFINE_PROMPTS


@row("a mask of zero bytes", r"cannot read the image prompts/masks/1\.png: it is empty")
def _(work: Path) -> Sequence[object]:
    (given(work) / "masks/1.png").write_bytes(b"")
    return REFINE_PROMPTS


@row("a mask cut short", r"cannot read the image prompts/masks/1\.png: ")
def _(work: Path) -> Sequence[object]:
    cut(given(work) / "masks/1.png", 0.6)
    return REFINE_PROMPTS


@row("two masks of one frame", r"are both a mask of one frame|differ only in their suffix")
def _(work: Path) -> Sequence[object]:
    save(given(work) / "masks/1.jpg", white(box(1)))
    return REFINE_PROMPTS


@row("a residual cut short", r"cannot read the image prompts/diffs/1\.png: ")
def _(work: Path) -> Sequence[object]:
    cut(given(work) / "diffs/1.png", 0.6)
    return REFINE_PROMPTS


@accepted("residuals of NaN and infinity", r"holds NaN or infinite residuals: taken as 0")
def _(work: Path) -> Sequence[object]:
    folder = given(work) / "diffs"
    for index in range(2):
        (folder / f"{index}.png").unlink()
        values = box(index).astype(np.float32) * 0.7
        values[::3, ::3], values[1, 1] = np.nan, np.inf
        np.save(folder / f"{index}.npy", values)
    return REFINE_PROMPTS


def residual(name: str, says: str, values: np.ndarray) -> None:
    """A row with these values as a residual."""

    @row(name, says)
    def _(work: Path) -> Sequence[object]:
        folder = given(work) / "diffs"
        (folder / "1.png").unlink()
        np.save(folder / "1.npy", values, allow_pickle=True)
        return REFINE_PROMPTS


residual("residuals up to 255 as floats", r"holds residuals up to 200", np.full((36, 48), 200.0))
residual(
    "residuals with a sign", r"holds int16: residuals must be floats", np.ones((36, 48), "<i2")
)
residual("complex residuals", r"holds complex64: residuals must be", np.ones((36, 48), "<c8"))
residual("residuals of four dimensions", r"has the shape \(2, 3, 4, 5\)", np.ones((2, 3, 4, 5)))
residual("residuals without pixels", r"has the shape \(0, 48\)", np.ones((0, 48)))
residual("a pickle among the residuals", r"cannot read the residuals", np.array([Bait()], object))


def not_executed(work: Path, _: object) -> None:
    assert not (work / BAIT).exists()


@row("a bare pickle that is called .npy", r"cannot read the residuals .*1\.npy", check=not_executed)
def _(work: Path) -> Sequence[object]:
    folder = given(work) / "diffs"
    (folder / "1.png").unlink()
    (folder / "1.npy").write_bytes(pickle.dumps(Bait()))
    return REFINE_PROMPTS


@row("residuals that declare a terabyte", r"cannot read the residuals .*1\.npy: ")
def _(work: Path) -> Sequence[object]:
    folder = given(work) / "diffs"
    (folder / "1.png").unlink()
    np.save(folder / "1.npy", np.zeros((36, 48)))
    content = (folder / "1.npy").read_bytes()
    shape = b"(36, 48)"
    huge = b"(500000, 500000)"
    at = content.index(shape)
    pad = len(huge) - len(shape)
    content = content[:at] + huge + content[at + len(shape) :].replace(b" " * pad, b"", 1)
    (folder / "1.npy").write_bytes(content)
    return REFINE_PROMPTS


@accepted("masks that cover everything", check=masks_of("0", "1"))
def _(work: Path) -> Sequence[object]:
    folder = given(work) / "masks"
    for index in range(2):
        save(folder / f"{index}.png", np.full((36, 48), 255, np.uint8))
    return (*REFINE_PROMPTS, *WHITE_IS_TRANSIENT)


@accepted("masks that cover nothing", r"all masks looked at are black", check=masks_of("0", "1"))
def _(work: Path) -> Sequence[object]:
    folder = given(work) / "masks"
    for index in range(2):
        save(folder / f"{index}.png", np.zeros((36, 48), np.uint8))
    return REFINE_PROMPTS


@row(
    "masks of which nobody can tell what white means", r"give --prompt-polarity white-transient or"
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    half = np.zeros((36, 48), np.bool_)
    half[:18] = True
    for index in range(2):
        save(work / f"prompts/masks/{index}.png", white(half))
    return REFINE_PROMPTS


@row("masks that declare 60000 x 60000 pixels", r"masks/1\.png: it declares more pixels")
def _(work: Path) -> Sequence[object]:
    from tests.bad_input.inputs import png_that_declares

    (given(work) / "masks/1.png").write_bytes(png_that_declares(60000, 60000))
    return REFINE_PROMPTS
