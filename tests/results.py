"""A result of `refine` with known objects, as its command leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from t3dgs_masks.datasets.manifest import Manifest, manifest_of
from t3dgs_masks.datasets.opening import open_dataset
from t3dgs_masks.io.outputs import MaskletRecord, NumLabels, Report, ResultFolder, RunIdentity
from t3dgs_masks.masks import TransientMask, encode
from t3dgs_masks.types import BoolMask, NetworkCalls
from tests.datasets.scenes_to_mask import HEIGHT, WIDTH, box


def patch(index: int, number: int) -> BoolMask:
    """What object `number` (from 1) covers on a frame: a square that moves to the right."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    top, left = 2 + 8 * (number - 1), (3 * index + 5 * number) % (WIDTH - 6)
    mask[top : top + 6, left : left + 6] = True
    return mask


def write_result(
    out: Path,
    names: Sequence[str],
    *,
    kept: Mapping[int, bool] | None = None,
    scores: Mapping[int, float | None] | None = None,
    manifest: Manifest | None = None,
) -> Path:
    """Masks, masklets, report, marker and, if there is one, the manifest.

    Args:
        out: the result folder.
        names: of the frames.
        kept: object id -> whether it is kept; each covers its `patch` on every frame. None: one
            kept object that covers each frame's `box`.
        scores: object id -> its transience score; 0.1 per id without it.
        manifest: where the frames came from.
    """
    if kept is None:
        shapes = {1: {i: box(i) for i in range(len(names))}}
        kept = {1: True}
    else:
        shapes = {number: {i: patch(i, number) for i in range(len(names))} for number in kept}
    records = [
        MaskletRecord(
            number,
            kept[number],
            "as refine has it",
            (scores or {}).get(number, 0.1 * number),
            {i: encode(mask) for i, mask in of_frame.items()},
        )
        for number, of_frame in shapes.items()
    ]
    with ResultFolder.open(out).begin(names, HEIGHT, WIDTH) as staged:
        for i in range(len(names)):
            union = np.zeros((HEIGHT, WIDTH), np.bool_)
            for number in kept:
                if kept[number]:
                    union |= shapes[number][i]
            staged.write_mask(i, TransientMask(union))
        staged.write_masklets(records)
        labels = NumLabels(sum(kept.values()), len(kept) - sum(kept.values()))
        staged.write_report(
            Report(labels, 1.5, len(names), {"forward": 1.0}, NetworkCalls(), "cpu", {"sam2": "x"})
        )
        if manifest is not None:
            staged.write_manifest(manifest.to_json())
        staged.write_config(RunIdentity({"seed": 0}, {"frames": "ab"}, {"sam2": "cd"}))
        staged.publish()
    return out


def scene_manifest(root: Path) -> Manifest:
    """Of all training frames of a dataset, as `refine` makes it."""
    dataset = open_dataset(root)
    assert dataset is not None
    return manifest_of(dataset, [frame for frame in dataset.frames if frame.split != "eval"])
