"""Writing masks into a dataset so that trainers pick them up, and taking them out again.

Two layouts: nerfstudio's (``transforms.json`` gets a ``mask_path`` for every frame) and that of
nerfstudio's COLMAP parser (a mask beside every image name). The user's own masks are combined with
the new ones and never touched: where ``masks/`` is theirs, ours go to ``masks_t3dgs/``. A record
in ``.t3dgs_masks/`` holds what was there before; see `transaction` for what a kill does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t3dgs_masks.datasets.apply_record import RECORD, AppliedRecord, changed_files, read_record
from t3dgs_masks.datasets.colmap import IMAGES_FOLDER
from t3dgs_masks.datasets.dataset import Dataset
from t3dgs_masks.datasets.mask_writer import (
    AppliedSummary,
    FrameMask,
    MaskSource,
    MaskWriter,
    Notify,
)
from t3dgs_masks.datasets.nerfstudio import TRANSFORMS_NAME
from t3dgs_masks.datasets.opening import open_dataset
from t3dgs_masks.datasets.transaction import Transaction, locked, recover
from t3dgs_masks.datasets.transforms_file import (
    transforms_name,
    transforms_state,
    whole_original,
    without_ours,
)
from t3dgs_masks.datasets.transforms_text import set_mask_paths
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown

__all__ = [
    "AppliedSummary",
    "FrameMask",
    "MaskSource",
    "RevertedSummary",
    "apply_masks",
    "open_dataset_at",
    "recover_dataset",
    "revert_masks",
]


@dataclass(frozen=True)
class RevertedSummary:
    """What `revert_masks` did."""

    root: Path
    was_applied: bool
    """False: there was nothing to revert."""
    removed_files: int = 0
    kept_files: Sequence[str] = ()
    """Our masks that were changed since; they are still there, relative to `root`."""
    kept_edits: bool = False
    """The JSON file was changed since; only our entries were taken out of it."""


def apply_masks(
    data: Path,
    masks: MaskSource,
    *,
    dilate: int = 0,
    include_eval: bool = False,
    notify: Notify | None = None,
) -> AppliedSummary:
    """Write masks into a dataset: after it, trainers that read it leave transients out.

    Masks of an earlier apply are replaced; what the user had before is combined with the new ones
    (static where both are). Evaluation frames, and frames without a mask, are all static but for
    the user's own mask. Killed or failed, the dataset is as it was, at the latest when the next
    apply or revert begins.

    Args:
        data: the dataset's folder, or its JSON file.
        masks: a mask for each frame.
        dilate: pixels of the full-size image that transients grow by (4-connected steps); the
            user's own masks do not grow.
        include_eval: use the masks of evaluation frames too.
        notify: takes one-line notices for the user.

    Raises:
        UserError: no such dataset, a mask that does not fit, files changed since an earlier apply,
            or the file system does not allow it. Nothing was changed then.
    """
    if dilate < 0:
        raise UserError(f"--dilate {dilate} is below 0: transients can only grow")
    root = _root_of(data)
    with locked(root):
        recover(root)
        dataset = open_dataset_at(data)
        record = read_record(root)
        if record is not None:
            _refuse_another(dataset, record)
            _refuse_changes(root, record)
        writer = MaskWriter(dataset, record, masks, dilate, include_eval, notify or _ignore)
        return writer.run()


def revert_masks(data: Path, *, force: bool = False) -> RevertedSummary:
    """Take out what `apply_masks` wrote: the dataset is what it was, byte for byte.

    Args:
        data: the dataset's folder, or its JSON file.
        force: go on if files were changed since. What was changed is kept: a JSON file loses our
            entries alone, and masks that someone drew on stay where they are.

    Raises:
        UserError: files were changed since, or the file system does not allow it. Nothing was
            changed then.
    """
    root = _root_of(data)
    with locked(root):
        recover(root)
        record = read_record(root)
        if record is None:
            return RevertedSummary(root, was_applied=False)
        if not force:
            _refuse_changes(root, record)
        kept = changed_files(root, record)
        removed = [name for name in record.files if name not in kept]
        with Transaction(root) as transaction:
            kept_edits = _revert_transforms(root, record, transaction)
            transaction.remove(RECORD)
            if record.transforms is not None:
                transaction.remove(record.original_transforms)
            for name in removed:
                transaction.remove(name)
            transaction.remove_folders(list(record.folders))
            transaction.commit()
        return RevertedSummary(root, True, len(removed), kept, kept_edits)


def recover_dataset(data: Path) -> bool:
    """Take back what a killed apply or revert left half done.

    Args:
        data: the dataset's folder, or its JSON file.

    Returns:
        Whether there was something to take back.

    Raises:
        UserError: the file system does not allow it.
    """
    root = _root_of(data)
    with locked(root):
        return recover(root)


def open_dataset_at(data: Path) -> Dataset:
    """The posed dataset at `data`, a folder or a JSON file.

    Raises:
        UserError: there is none, or it is broken.
    """
    dataset = open_dataset(data)
    if dataset is None:
        raise UserError(
            f"{shown(data)} is no dataset that masks can be applied to: it needs {TRANSFORMS_NAME},"
            f" or {IMAGES_FOLDER}/ and a COLMAP model in sparse/0"
        )
    return dataset


def _ignore(_: str) -> None:
    pass


def _root_of(data: Path) -> Path:
    root = data.parent if data.suffix == ".json" else data
    if not root.is_dir():
        raise UserError(f"there is no folder {shown(root)}: --data names a dataset's folder")
    return root


# --- What stands in the way -------------------------------------------------------------------


def _refuse_another(dataset: Dataset, record: AppliedRecord) -> None:
    """One dataset of a folder at a time."""
    transforms = transforms_name(dataset) if dataset.kind == "nerfstudio" else None
    if (dataset.kind, transforms) == (record.layout, record.transforms):
        return
    applied_to = record.transforms or "the COLMAP project"
    raise UserError(
        f"masks are applied to {shown(applied_to)} in {shown(dataset.root)} already: run"
        f" `t3dgs-masks revert --data {shown(dataset.root)}` first"
    )


def _refuse_changes(root: Path, record: AppliedRecord) -> None:
    """Nothing that the user changed since gets lost."""
    advice = (
        f"`t3dgs-masks revert --force --data {shown(root)}` takes the applied masks out and keeps"
        " that change"
    )
    if transforms_state(root, record) == "changed":
        assert record.transforms is not None
        raise UserError(
            f"{shown(root / record.transforms)} was changed since masks were applied; {advice}"
        )
    changed = changed_files(root, record)
    if changed:
        raise UserError(
            f"{shown(root / changed[0])} was changed since masks were applied ({len(changed)} such"
            f" files); {advice}"
        )
    if transforms_state(root, record) == "applied" and whole_original(root, record) is None:
        raise UserError(
            f"{shown(root / record.original_transforms)}, the copy from before masks were applied,"
            f" is gone or damaged; {advice}"
        )


def _revert_transforms(root: Path, record: AppliedRecord, transaction: Transaction) -> bool:
    """Bring back the JSON file; returns whether the present one's other changes were kept."""
    state = transforms_state(root, record)
    if state in ("none", "before"):
        return False
    assert record.transforms is not None
    original = whole_original(root, record)
    if state in ("applied", "gone") and original is not None:
        transaction.put(record.transforms, original)
        return False
    path = root / record.transforms
    advice = f"repair it, or replace it by {shown(root / record.original_transforms)}"
    try:
        text = path.read_bytes().decode("utf-8")
        without = set_mask_paths(text, without_ours(json.loads(text), record))
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not valid JSON any more: {advice}") from error
    transaction.write(record.transforms, without.encode("utf-8"), like=path)
    return True
