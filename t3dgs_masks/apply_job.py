"""``t3dgs-masks apply`` and ``revert``: masks into a dataset, and the dataset back."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable

from t3dgs_masks.config import ApplySettings, RevertSettings
from t3dgs_masks.datasets.apply_masks import (
    AppliedSummary,
    RevertedSummary,
    apply_masks,
    open_dataset_at,
    recover_dataset,
    revert_masks,
)
from t3dgs_masks.datasets.mask_folder import FolderMasks, open_mask_folder
from t3dgs_masks.io.images import shown
from t3dgs_masks.report.text import printable

_LEAST_STATIC_SHARE = 0.35  # of masks of unknown origin; below, white may mean the opposite


def run_apply(settings: ApplySettings) -> AppliedSummary:
    """Apply a folder of masks to a dataset and print what was done.

    Raises:
        UserError: bad dataset or masks; nothing is changed then.
    """
    notices: list[str] = []
    if recover_dataset(settings.data):
        notices.append("an earlier apply or revert had been cut short; it was undone first")
    dataset = open_dataset_at(settings.data)
    masks = open_mask_folder(settings.masks, dataset, notify=notices.append)
    summary = apply_masks(
        settings.data,
        masks,
        dilate=settings.dilate,
        include_eval=settings.include_eval,
        notify=notices.append,
    )
    notices += _doubts(summary, masks)
    _print(f"notice: {notice}" for notice in notices)
    _print(_applied_lines(summary, settings))
    return summary


def run_revert(settings: RevertSettings) -> RevertedSummary:
    """Take applied masks out of a dataset and print what was done.

    Raises:
        UserError: no such dataset, or files that were changed since; nothing is changed then.
    """
    summary = revert_masks(settings.data, force=settings.force)
    _print(_reverted_lines(summary))
    return summary


def _doubts(summary: AppliedSummary, masks: FolderMasks) -> list[str]:
    static_share = 1 - summary.transient_share
    if masks.is_result or not summary.masked_frames or static_share >= _LEAST_STATIC_SHARE:
        return []
    return [
        f"only {static_share:.0%} of the pixels are kept; if white means transient in these masks,"
        " invert them and apply again (white = keep)"
    ]


def _applied_lines(summary: AppliedSummary, settings: ApplySettings) -> list[str]:
    combined = ""
    if summary.combined_frames:
        combined = f", {summary.combined_frames} of them combined with the dataset's own mask"
    folders = ", ".join(f"{shown(folder)}/" for folder in summary.folders)
    return [
        f"frames          {summary.frames}, {summary.masked_frames} with a mask{combined}",
        f"transient area  {summary.transient_share:.1%} of the pixels of those, on average",
        f"written to      {folders} in {shown(summary.root)}",
        f"train           {_train_command(summary, settings)}",
        f"undo            t3dgs-masks revert --data {shlex.quote(shown(settings.data))}",
    ]


def _train_command(summary: AppliedSummary, settings: ApplySettings) -> str:
    data = shlex.quote(shown(settings.data))
    if summary.layout == "nerfstudio":
        return f"ns-train splatfacto --data {data}"
    model = summary.described_by.relative_to(summary.root).as_posix()
    colmap_path = "" if model == "colmap/sparse/0" else f" --colmap-path {model}"
    return (
        f"ns-train splatfacto --data {data} colmap --masks-path {summary.masks_folder}{colmap_path}"
    )


def _reverted_lines(summary: RevertedSummary) -> list[str]:
    root = shown(summary.root)
    if not summary.was_applied:
        return [f"no masks are applied to {root}: nothing to revert"]
    lines = [f"removed {summary.removed_files} masks from {root}"]
    if summary.kept_edits:
        lines.append("notice: the JSON file was changed since: only the applied masks left it")
    elif not summary.kept_files:
        lines[0] += "; it is as it was"
    if summary.kept_files:
        lines.append(
            f"notice: {len(summary.kept_files)} masks were changed since and are still there, such"
            f" as {shown(summary.kept_files[0])}"
        )
    return lines


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line, sys.stdout))
