"""``t3dgs-masks evaluate``: masks against the truth, from files to a table and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from t3dgs_masks.config import EvaluateSettings, GivenPolarity
from t3dgs_masks.errors import UserError
from t3dgs_masks.evaluate import FrameScores, SequenceScores, frame_scores, sequence_scores
from t3dgs_masks.io.images import read_planes, scan_folder, shown
from t3dgs_masks.io.prompts import (
    FrameEvidence,
    Polarity,
    decide_polarity,
    looks_like_labels,
    match_names,
    same_proportions,
    spread,
    white_of,
)
from t3dgs_masks.io.publish import MASK_FOLDER, MASKLETS
from t3dgs_masks.io.whole_file import write_whole
from t3dgs_masks.report.text import is_terminal, printable
from t3dgs_masks.types import BoolMask

Notify = Callable[[str], None]

MEASURES = {
    "iou": "transient IoU",
    "precision": "precision",
    "recall": "recall",
    "boundary_f": "boundary F",
    "flicker": "flicker",
    "static_lost": "static area lost",
}
"""Field of the scores -> its name in tables."""

_SAMPLED_FRAMES = 50
_WORST_SHOWN = 5
_PROMPT_MASKS = "masks"
_SMALLER_IS_BETTER = ("flicker", "static_lost")


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    names: Sequence[str]
    """Of the frames that were compared, in order: as the truth calls them."""
    frames: Sequence[FrameScores]
    total: SequenceScores
    coarse_frames: Sequence[FrameScores] | None = None
    coarse_total: SequenceScores | None = None
    notices: Sequence[str] = ()


def run_evaluate(settings: EvaluateSettings) -> Evaluation:
    """Compare masks with the truth, print a table and, if asked to, write JSON.

    Raises:
        UserError: no masks, masks of other frames or proportions, or a polarity that cannot be
            told.
    """
    notices: list[str] = []

    def notify(text: str) -> None:
        notices.append(text)
        print(printable(f"notice: {text}", sys.stderr), file=sys.stderr)

    truth = _MaskFiles.open("gt", settings.gt, settings.gt_polarity, notify)
    predicted = _MaskFiles.open("pred", settings.pred, settings.pred_polarity, notify)
    given = [predicted]
    if settings.coarse is not None:
        given.append(_MaskFiles.open("coarse", settings.coarse, settings.coarse_polarity, notify))
    matches = [masks.matching(truth) for masks in given]
    names = [name for name in truth.files if all(name in match for match in matches)]
    for masks, match in zip(given, matches, strict=True):
        masks.check(match, truth, notify)
    if not names:
        raise UserError(
            f"no frame has a mask in all of {shown(settings.gt)}, {shown(settings.pred)} and"
            f" {shown(settings.coarse or '')}: masks are matched by file name"
        )
    scores = [
        frame_scores(_pairs(masks, match, truth, names))
        for masks, match in zip(given, matches, strict=True)
    ]
    evaluation = Evaluation(
        names,
        scores[0],
        sequence_scores(scores[0]),
        scores[1] if len(scores) > 1 else None,
        sequence_scores(scores[1]) if len(scores) > 1 else None,
        notices,
    )
    if settings.json is not None:  # before the table: an error leaves nothing half said
        _write_json(evaluation, settings.json)
    print_evaluation(evaluation, per_frame=settings.per_frame)
    return evaluation


# --- Masks on disk ----------------------------------------------------------------------------


@dataclass
class _MaskFiles:
    """A folder of masks whose polarity is known; one is read when it is asked for."""

    flag: str
    folder: Path
    files: dict[str, Path]
    """By path below the folder, without suffix; in natural order."""
    polarity: Polarity
    notify: Notify
    told_of_size: bool = False

    @classmethod
    def open(cls, flag: str, given: Path, polarity: GivenPolarity, notify: Notify) -> _MaskFiles:
        """Find the masks in `given`: a result folder, a prompt folder, or the masks themselves."""
        if not given.is_dir():
            raise UserError(f"there is no folder {shown(given)}: --{flag} names a folder of masks")
        is_result = (given / MASKLETS).is_file() and (given / MASK_FOLDER).is_dir()
        inner = MASK_FOLDER if is_result else _PROMPT_MASKS
        folder = given / inner if (given / inner).is_dir() else given
        files = scan_folder(folder).files
        if not files:
            raise UserError(f"{shown(folder)} holds no mask images: --{flag} needs one per frame")
        masks = cls(flag, folder, files, "white-static", notify)
        if polarity != "auto":
            masks.polarity = polarity
        elif not is_result:
            masks.polarity = masks._told_polarity()
        return masks

    def _told_polarity(self) -> Polarity:
        sample = [list(self.files)[i] for i in spread(range(len(self.files)), _SAMPLED_FRAMES)]
        shares = [FrameEvidence(float(self._white(name).mean())) for name in sample]
        try:
            decision = decide_polarity(shares, shown(self.folder))
        except UserError as error:
            raise UserError(
                f"cannot tell by area what white means in the masks of {shown(self.folder)}: give"
                f" --{self.flag}-polarity white-transient or white-static"
            ) from error
        self.notify(f"--{self.flag}: {decision.polarity}, because {decision.reason}")
        return decision.polarity

    def transient(self, name: str) -> BoolMask:
        """[H, W] bool of a mask file, True = transient."""
        white = self._white(name)
        return white if self.polarity == "white-transient" else ~white

    def _white(self, name: str) -> BoolMask:
        planes = read_planes(self.files[name])
        if planes.lossless and looks_like_labels(planes):
            return planes.luminance() > 0  # labels (0, 1, ...), or a palette in dark colours
        return white_of(planes)

    def matching(self, truth: _MaskFiles) -> dict[str, str]:
        """Name of a true mask -> name of the mask of the same frame."""
        names = list(truth.files)
        matching = match_names(names, list(self.files))
        if matching.conflict is not None:
            first, second = (shown(self.files[name]) for name in matching.conflict)
            raise UserError(
                f"{first} and {second} are both a mask of one frame: remove one of them"
            )
        return {names[index]: name for index, name in matching.file_of_frame.items()}

    def check(self, match: dict[str, str], truth: _MaskFiles, notify: Notify) -> None:
        """Say what has no counterpart; nothing matched is an error."""
        if not match:
            raise UserError(
                f"no mask in {shown(self.folder)} is named like one in {shown(truth.folder)}: there"
                f" is {shown(next(iter(self.files)))}, and the first there is"
                f" {shown(next(iter(truth.files)))}"
            )
        without = [name for name in truth.files if name not in match]
        if without:
            notify(
                f"{len(without)} of {len(truth.files)} true masks have no counterpart in"
                f" {shown(self.folder)} and are not compared (the first: {shown(without[0])})"
            )

    def transient_at(self, name: str, size: tuple[int, int]) -> BoolMask:
        """`transient` at a (height, width) of the same proportions."""
        mask = self.transient(name)
        if mask.shape == size:
            return mask
        height, width = mask.shape
        if not same_proportions((height, width), size):
            raise UserError(
                f"{shown(self.files[name])} is {width}x{height}, which has other proportions than"
                f" the true mask's {size[1]}x{size[0]}: make both of the same images"
            )
        if not self.told_of_size:
            self.told_of_size = True
            self.notify(
                f"masks in {shown(self.folder)} are {width}x{height} and are compared at"
                f" {size[1]}x{size[0]}, the size of the true ones (nearest pixel)"
            )
        resized = cv2.resize(
            mask.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT
        )
        return resized.astype(bool)


def _pairs(
    masks: _MaskFiles, match: dict[str, str], truth: _MaskFiles, names: Sequence[str]
) -> Iterator[tuple[BoolMask, BoolMask]]:
    """(mask, true mask) of every frame, at the size of the first true one."""
    size: tuple[int, int] | None = None
    for name in names:
        true_mask = truth.transient(name) if size is None else truth.transient_at(name, size)
        size = (true_mask.shape[0], true_mask.shape[1])
        yield masks.transient_at(match[name], size), true_mask


# --- What is said -----------------------------------------------------------------------------


def _write_json(evaluation: Evaluation, path: Path) -> None:
    contents: dict[str, object] = {
        "total": asdict(evaluation.total),
        "frames": _named(evaluation.names, evaluation.frames),
        "notices": list(evaluation.notices),
    }
    if evaluation.coarse_total is not None and evaluation.coarse_frames is not None:
        contents["coarse"] = {
            "total": asdict(evaluation.coarse_total),
            "frames": _named(evaluation.names, evaluation.coarse_frames),
        }
        contents["change"] = _change(evaluation.coarse_total, evaluation.total)
    text = json.dumps(contents, indent=2, allow_nan=False) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {shown(path)}: {error.strerror or error}") from error


def _named(names: Sequence[str], scores: Sequence[FrameScores]) -> list[dict[str, object]]:
    return [{"name": name, **asdict(score)} for name, score in zip(names, scores, strict=True)]


def _change(coarse: SequenceScores, refined: SequenceScores) -> dict[str, float]:
    return {name: getattr(refined, name) - getattr(coarse, name) for name in MEASURES}


def print_evaluation(
    evaluation: Evaluation, *, per_frame: bool = False, stream: TextIO | None = None
) -> None:
    """Print the totals, and the frames: all of them, or the worst.

    Args:
        evaluation: what to print.
        per_frame: all frames rather than the worst.
        stream: where to; stdout by default.
    """
    output = stream or sys.stdout or StringIO()  # a program may have none
    width = None if is_terminal(output) else 200  # a table in a log is not cut off
    console = Console(file=output, width=width, color_system="auto" if width is None else None)
    console.print(_totals(evaluation))
    shown_frames = list(range(len(evaluation.names)))
    title = "every frame"
    if not per_frame:
        measured = [i for i in shown_frames if evaluation.frames[i].iou is not None]
        shown_frames = sorted(measured, key=lambda i: evaluation.frames[i].iou or 0.0)[
            :_WORST_SHOWN
        ]
        title = f"the {len(shown_frames)} frames of the lowest IoU (--per-frame shows all)"
    if shown_frames:
        console.print(_frames(evaluation, shown_frames, title, output))


def _totals(evaluation: Evaluation) -> Table:
    table = Table(title=f"mean over {evaluation.total.frames} frames", title_justify="left")
    table.add_column("")
    coarse = evaluation.coarse_total
    columns = ("value",) if coarse is None else ("coarse", "refined", "change")
    for column in columns:
        table.add_column(column, justify="right")
    for name, title in MEASURES.items():
        refined = getattr(evaluation.total, name)
        if name in _SMALLER_IS_BETTER:
            title += " (less is better)"
        if coarse is None:
            table.add_row(title, _number(name, refined))
            continue
        before = getattr(coarse, name)
        change = f"{100 * (refined - before):+.2f} %" if name in _SMALLER_IS_BETTER else ""
        table.add_row(
            title,
            _number(name, before),
            _number(name, refined),
            change or f"{refined - before:+.4f}",
        )
    return table


def _frames(evaluation: Evaluation, indices: Sequence[int], title: str, output: TextIO) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("frame")
    coarse = evaluation.coarse_frames
    if coarse is not None:
        table.add_column("coarse IoU", justify="right")
    for name in MEASURES.values():
        table.add_column(name, justify="right")
    for index in indices:
        cells = [Text(printable(shown(evaluation.names[index]), output))]
        if coarse is not None:
            cells.append(Text(_number("iou", coarse[index].iou)))
        score = evaluation.frames[index]
        cells += [Text(_number(name, getattr(score, name))) for name in MEASURES]
        table.add_row(*cells)
    return table


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if name in _SMALLER_IS_BETTER else f"{value:.4f}"
