"""Kept objects as annotations: COCO's JSON, and that of the SA-V dataset."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco

from t3dgs_masks import masks
from t3dgs_masks.io.outputs import MaskletFile, MaskletRecord
from t3dgs_masks.types import Rle

CATEGORY = "transient"

_SMALL, _MEDIUM = 32**2, 96**2  # pixels; SA-V's buckets of sizes


def as_coco(file: MaskletFile, image_names: Sequence[str]) -> dict[str, Any]:
    """COCO's detection format: one annotation for every frame that an object is on.

    ``track_id`` is the object's id; all are of the one category.

    Args:
        file: the masklets; rejected ones are left out.
        image_names: `file_name` of every frame.
    """
    numbers = count(1)
    annotations = [
        {
            "id": next(numbers),
            "image_id": frame_idx + 1,
            "category_id": 1,
            "track_id": masklet.object_id,
            "segmentation": _rle(rle),
            "area": masks.area(rle),
            "bbox": _box(rle),
            "iscrowd": 0,
        }
        for masklet in _kept(file)
        for frame_idx, rle in sorted(masklet.segmentations.items())
    ]
    images = [
        {"id": number, "file_name": name, "width": file.width, "height": file.height}
        for number, name in enumerate(image_names, start=1)
    ]
    return {
        "info": {"description": "transient objects, by t3dgs_masks"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": CATEGORY, "supercategory": CATEGORY}],
    }


def as_sav(file: MaskletFile, video_id: str) -> dict[str, Any]:
    """SA-V's format for one video, every frame annotated: ``masklet[frame][object]`` is an RLE."""
    kept = _kept(file)
    nothing = masks.encode(np.zeros((file.height, file.width), np.bool_))
    num_frames, pixels = len(file.frames), file.height * file.width
    areas = [[masks.area(rle) for rle in each.segmentations.values()] for each in kept]
    sizes = [float(np.mean(each)) if each else 0.0 for each in areas]
    return {
        "video_id": video_id,
        "video_duration": None,  # seconds; images have no frame rate
        "video_frame_count": float(num_frames),
        "video_height": float(file.height),
        "video_width": float(file.width),
        "video_resolution": float(pixels),
        "video_environment": [],
        "video_split": "",
        "masklet": [
            [_rle(each.segmentations.get(frame_idx, nothing)) for each in kept]
            for frame_idx in range(num_frames)
        ],
        "masklet_id": [each.object_id for each in kept],
        "masklet_size_rel": [size / pixels for size in sizes],
        "masklet_size_abs": sizes,
        "masklet_size_bucket": [
            "small" if size < _SMALL else "medium" if size < _MEDIUM else "large" for size in sizes
        ],
        "masklet_visibility_changes": [_visibility_changes(each, num_frames) for each in kept],
        "masklet_first_appeared_frame": [min(each.segmentations, default=0) for each in kept],
        "masklet_frame_count": [num_frames] * len(kept),
        "masklet_edited_frame_count": [0] * len(kept),
        "masklet_type": ["auto"] * len(kept),
        "masklet_stability_score": None,
        "masklet_num": len(kept),
    }


def _kept(file: MaskletFile) -> list[MaskletRecord]:
    return [masklet for masklet in file.masklets if masklet.kept]


def _rle(rle: Rle) -> dict[str, Any]:
    return {"size": [rle.height, rle.width], "counts": rle.counts.decode("ascii")}


def _box(rle: Rle) -> list[float]:
    """[x, y, width, height], pixels."""
    encoded: Any = {"size": [rle.height, rle.width], "counts": rle.counts}
    return [float(value) for value in coco.toBbox(encoded)]


def _visibility_changes(masklet: MaskletRecord, num_frames: int) -> int:
    """How often an object goes or comes back after it was first seen."""
    first = min(masklet.segmentations, default=num_frames)
    visible = [frame_idx in masklet.segmentations for frame_idx in range(first, num_frames)]
    return sum(now != before for before, now in pairwise(visible))
