"""``t3dgs-masks refilter``: another choice of objects, from ``masklets.json`` alone.

No network runs and none is loaded: what refine found is all there.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from t3dgs_masks import masks
from t3dgs_masks.config import ExportSettings, RefilterSettings
from t3dgs_masks.datasets.applied_result import AppliedResult, find_applied
from t3dgs_masks.datasets.apply_masks import apply_masks, open_dataset_at
from t3dgs_masks.datasets.mask_folder import open_mask_folder
from t3dgs_masks.errors import UserError
from t3dgs_masks.export_job import exports_of, run_export
from t3dgs_masks.io.images import shown
from t3dgs_masks.io.outputs import (
    OVERLAY,
    PAGE,
    REPORT,
    MaskletFile,
    MaskletRecord,
    NumLabels,
    ResultFolder,
    complete_publish,
    read_masklets,
)
from t3dgs_masks.io.publish import ENTRIES, MARKER, MASK_FOLDER, MASKLETS
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.report.text import duration, printable
from t3dgs_masks.report_job import refresh_report
from t3dgs_masks.types import Rle

KEPT_BY_HAND = "kept by hand"
REJECTED_BY_HAND = "rejected by hand"


@dataclass(frozen=True)
class RefilterSummary:
    """What was changed."""

    result: Path
    now_kept: Sequence[int]
    """Ids of objects that had been rejected."""
    now_rejected: Sequence[int]
    """Ids of objects that had been kept."""
    labels: NumLabels
    transient_share: float
    """Of the pixels, mean over the frames, 0 to 1."""
    applied_to: Path | None
    """The dataset that got the new masks."""
    renewed: Sequence[Path]
    """Exports that were made anew."""


def run_refilter(settings: RefilterSettings) -> RefilterSummary:
    """Judge the objects of a result anew, rewrite its masks, and say what has changed.

    Raises:
        UserError: no such result or objects, or the disk is full. The result is as it was then.
    """
    begin = time.perf_counter()
    result = settings.result
    file = _opened(settings)
    refined = _as_refined(file, result)
    records = _judged(refined, settings)
    applied, notices = find_applied(result, settings.apply)
    share = _rewrite(result, replace(file, masklets=records), refined, settings)
    if (result / PAGE).is_file() and not refresh_report(result):
        notices.append(f"{PAGE} is as it was: `t3dgs-masks report` writes it anew")
    if applied is not None:
        _apply(result, applied)
    renewed = _renew_exports(result, notices) if settings.exports else []
    before = {record.object_id for record in file.masklets if record.kept}
    after = {record.object_id for record in records if record.kept}
    summary = RefilterSummary(
        result,
        sorted(after - before),
        sorted(before - after),
        _labels(records),
        share,
        None if applied is None else applied.data,
        renewed,
    )
    if (result / OVERLAY).is_file():
        notices.append(f"{OVERLAY} shows the objects as they were judged before")
    _print(f"notice: {notice}" for notice in notices)
    _print(_lines(summary, applied, time.perf_counter() - begin))
    return summary


# --- Which objects ----------------------------------------------------------------------------


def _opened(settings: RefilterSettings) -> MaskletFile:
    for flag in ("dilate", "fill_holes", "min_area"):
        value = getattr(settings, flag)
        if value < 0:
            raise UserError(f"--{flag.replace('_', '-')} is {value}; give 0 or more")
    threshold = settings.filter_threshold
    if threshold is not None and not np.isfinite(threshold):
        raise UserError(f"--filter-threshold is {threshold}; give a number")
    result = settings.result
    complete_publish(result)
    for name in (MASKLETS, REPORT, MARKER):
        if not (result / name).is_file():
            raise UserError(
                f"{shown(result)} is no whole result of `t3dgs-masks refine`: it has no {name}"
            )
    return read_masklets(result / MASKLETS)


def _as_refined(file: MaskletFile, result: Path) -> tuple[MaskletRecord, ...]:
    """The objects as refine judged them, whatever was refiltered since."""
    try:
        verdicts = json.loads((result / REPORT).read_bytes())["refiltered"]["as_refined"]
        return tuple(
            replace(
                record,
                kept=bool(verdicts[str(record.object_id)]["kept"]),
                reason=str(verdicts[str(record.object_id)]["reason"]),
            )
            for record in file.masklets
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return file.masklets  # it was not refiltered yet


def _judged(
    refined: Sequence[MaskletRecord], settings: RefilterSettings
) -> tuple[MaskletRecord, ...]:
    """The objects with their new verdicts."""
    known = {record.object_id for record in refined}
    keep = _ids(settings.keep, "keep", known)
    drop = _ids(settings.drop, "drop", known)
    if both := sorted(keep & drop):
        raise UserError(f"object {both[0]} is in --keep and in --drop: leave it out of one of them")
    threshold = settings.filter_threshold
    scored = any(record.transience_score is not None for record in refined)
    if threshold is not None and known and not scored:
        raise UserError(
            "no object has a transience score (the run was promptless), so that there is nothing"
            " for --filter-threshold: use --keep and --drop"
        )

    def judged(record: MaskletRecord) -> MaskletRecord:
        if record.object_id in keep:
            return replace(record, kept=True, reason=KEPT_BY_HAND)
        if record.object_id in drop:
            return replace(record, kept=False, reason=REJECTED_BY_HAND)
        if threshold is None or record.transience_score is None:
            return record
        kept = record.transience_score > threshold
        comparison = "above" if kept else "not above"
        reason = (
            f"transience score {record.transience_score:.4f} is {comparison} {threshold:g}, the"
            " threshold given by hand"
        )
        return replace(record, kept=kept, reason=reason)

    return tuple(map(judged, refined))


def _ids(text: str, flag: str, known: Collection[int]) -> set[int]:
    """The object ids in "3,5"."""
    ids: set[int] = set()
    for part in text.replace(",", " ").split():
        if not (part.isascii() and part.isdigit()):
            raise UserError(f"--{flag} {shown(text)!r}: {shown(part)!r} is no id; give e.g. 3,5")
        ids.add(int(part))
    unknown = sorted(ids - set(known))
    if unknown:
        listed = ", ".join(map(str, sorted(known))) or "none"
        raise UserError(f"--{flag}: there is no object {unknown[0]}; there are {listed}")
    return ids


# --- Masks ------------------------------------------------------------------------------------


def _rewrite(
    result: Path,
    file: MaskletFile,
    refined: Sequence[MaskletRecord],
    settings: RefilterSettings,
) -> float:
    """Put the masks of the kept objects in place of those that are there, with everything that
    tells of them; returns the mean share of transient pixels."""
    found: list[list[Rle]] = [[] for _ in file.frames]
    for record in file.masklets:
        if record.kept:
            for frame_idx, rle in record.segmentations.items():
                found[frame_idx].append(rle)
    shares = []
    folder = ResultFolder.open(result)
    with folder.held(), folder.begin(file.frames, file.height, file.width) as staged:
        for frame_idx, rles in enumerate(found):
            mask = _mask(rles, file, settings)
            shares.append(float(mask.pixels.mean()))
            staged.write_mask(frame_idx, mask)
        staged.write_masklets(file.masklets)
        labels = _labels(file.masklets)
        staged.carry_over(
            REPORT,
            {
                "num_labels": {"kept": labels.kept, "rejected": labels.rejected},
                "refiltered": {
                    "filter_threshold": settings.filter_threshold,
                    "dilate": settings.dilate,
                    "fill_holes": settings.fill_holes,
                    "min_area": settings.min_area,
                    "as_refined": {
                        str(record.object_id): {"kept": record.kept, "reason": record.reason}
                        for record in refined
                    },
                },
            },
        )
        for name in ENTRIES:
            if name not in (MASK_FOLDER, MASKLETS, REPORT):
                staged.carry_over(name)
        staged.publish()
    return float(np.mean(shares)) if shares else 0.0


def _mask(rles: Sequence[Rle], file: MaskletFile, settings: RefilterSettings) -> TransientMask:
    if not rles:
        return TransientMask(np.zeros((file.height, file.width), np.bool_))
    pixels = masks.decode(masks.union(rles))
    pixels = masks.fill_holes(pixels, settings.fill_holes)
    pixels = masks.drop_small(pixels, settings.min_area)
    return TransientMask(pixels).dilated(settings.dilate)


def _labels(records: Sequence[MaskletRecord]) -> NumLabels:
    kept = sum(record.kept for record in records)
    return NumLabels(kept, len(records) - kept)


# --- What was made of the masks ---------------------------------------------------------------


def _apply(result: Path, applied: AppliedResult) -> None:
    try:
        dataset = open_dataset_at(applied.data)
        given = open_mask_folder(result, dataset, notify=lambda _: None)
        apply_masks(applied.data, given, dilate=applied.dilate, include_eval=applied.include_eval)
    except UserError as error:
        raise UserError(
            f"the masks are rewritten, but not applied to the dataset: {error}"
        ) from error


def _renew_exports(result: Path, notices: list[str]) -> list[Path]:
    """Make the exports of this result anew; what cannot be renewed stays, and is said."""
    renewed = []
    for dest, marker in exports_of(result):
        data = marker.get("data")
        again = ExportSettings(
            result=result,
            to=marker.get("to"),
            dest=dest,
            data=None if data is None else Path(data),
            dilate=marker.get("dilate", 0),
        )
        try:
            run_export(again, quiet=True)
        except UserError as error:
            notices.append(f"the export in {shown(dest)} is as it was: {error}")
        else:
            renewed.append(dest)
    return renewed


# --- What is said -----------------------------------------------------------------------------


def _lines(summary: RefilterSummary, applied: AppliedResult | None, seconds: float) -> list[str]:
    changes = [f"object {number} kept" for number in summary.now_kept]
    changes += [f"object {number} rejected" for number in summary.now_rejected]
    lines = [
        f"objects         {summary.labels.kept} kept, {summary.labels.rejected} rejected",
        f"changed         {', '.join(changes) or 'no object'}",
        f"transient area  {summary.transient_share:.1%} of the pixels, on average",
        f"rewritten       {MASK_FOLDER}/ and {MASKLETS} in {shown(summary.result)}"
        f" ({duration(seconds)})",
    ]
    if applied is not None:
        options = f" --dilate {applied.dilate}" if applied.dilate else ""
        options += " --include-eval" if applied.include_eval else ""
        how = f", as before with{options}" if options else ""
        lines.append(f"applied again   to {shown(applied.data)}{how}")
        undo = shlex.quote(shown(applied.data))
        lines.append(f"undo            t3dgs-masks revert --data {undo}")
    lines += [f"exported again  to {shown(dest)}" for dest in summary.renewed]
    return lines


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line, sys.stdout))
