"""Automatic masks from point prompts, by SAM1 or by SAM2.

Both run their package's own mask generator on the points they are given. The SAM2 proposer takes
the image features from the tracker's cache, so its proposals cost no image encoding.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.utils.amg import MaskData
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from t3dgs_masks.config import ProposalConfig
from t3dgs_masks.sam.devices import Precision
from t3dgs_masks.sam.memory import FrameFeatureCache
from t3dgs_masks.types import FrameSequence, Image, Proposal


class _CachedFeaturePredictor(SAM2ImagePredictor):
    """An image predictor whose "set image" looks the frame's features up."""

    def __init__(self, model: SAM2Base, features: FrameFeatureCache) -> None:
        super().__init__(model)
        self._cache = features
        self._frame_idx: int | None = None

    def choose_frame(self, frame_idx: int) -> None:
        """The frame that the next `set_image` stands for."""
        self._frame_idx = frame_idx

    def set_image(self, image: Image) -> None:  # type: ignore[override]
        """As sam2_image_predictor.py:set_image, with features from the cache."""
        if self._frame_idx is None:
            raise AssertionError("choose_frame comes first")
        self.reset_predictor()
        self._orig_hw = [image.shape[:2]]
        *high_res, embedding = self._cache[self._frame_idx].levels
        if self.model.directly_add_no_mem_embed:
            embedding = embedding + self.model.no_mem_embed.view(1, -1, 1, 1)
        self._features = {"image_embed": embedding, "high_res_feats": high_res}
        self._is_image_set = True


class _Sam2MaskGenerator(SAM2AutomaticMaskGenerator):
    """SAM2's mask generator over cached features.

    It removes small regions on the CPU, as SAM1's does; SAM2's own way needs a CUDA extension
    that most installs lack and silently skips it there.
    """

    def __init__(
        self, model: SAM2Base, features: FrameFeatureCache, config: ProposalConfig
    ) -> None:
        super().__init__(
            model,
            points_per_side=None,
            point_grids=[np.zeros((0, 2))],
            points_per_batch=config.points_per_batch,
            pred_iou_thresh=config.pred_iou_thresh,
            stability_score_thresh=config.stability_score_thresh,
            box_nms_thresh=config.box_nms_thresh,
        )
        self.min_mask_region_area = config.min_mask_region_area
        self.predictor: _CachedFeaturePredictor = _CachedFeaturePredictor(model, features)

    def _generate_masks(self, image: Image) -> MaskData:
        data = super()._generate_masks(image)
        if self.min_mask_region_area > 0:
            nms_thresh = max(self.box_nms_thresh, self.crop_nms_thresh)
            data = self.postprocess_small_regions(data, self.min_mask_region_area, nms_thresh)
        return data


class Sam2Proposer:
    """`Proposer` with the tracker's own network and frame features.

    Args:
        model: a SAM2 model in eval mode.
        features: the feature cache, shared with the tracker.
        precision: autocast settings of the model's device.
        config: thresholds.
    """

    def __init__(
        self,
        model: SAM2Base,
        features: FrameFeatureCache,
        precision: Precision,
        config: ProposalConfig,
    ) -> None:
        self._features = features
        self._precision = precision
        with warnings.catch_warnings():
            # SAM2 scripts image transforms in there, which cached features never need.
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            warnings.filterwarnings(
                "ignore", "`torch.jit.script` is deprecated", DeprecationWarning
            )
            self._generator = _Sam2MaskGenerator(model, features, config)

    def propose(self, frame_idx: int, points_xy: NDArray[np.float32]) -> list[Proposal]:
        if not len(points_xy):
            return []
        frames = self._features.frames
        # The generator reads nothing of the image but its shape.
        image = np.empty((frames.height, frames.width, 3), dtype=np.uint8)
        self._generator.predictor.choose_frame(frame_idx)
        self._generator.point_grids = [_normalised(points_xy, frames)]
        with torch.inference_mode(), self._precision.autocast():
            return _as_proposals(self._generator.generate(image))


class Sam1Proposer:
    """`Proposer` with a SAM1 network of its own; its image encoder runs once per call.

    Args:
        model: a SAM1 model in eval mode.
        frames: the sequence.
        config: thresholds.
    """

    def __init__(self, model: Sam, frames: FrameSequence, config: ProposalConfig) -> None:
        self._frames = frames
        self._generator = SamAutomaticMaskGenerator(
            model,
            points_per_side=None,
            point_grids=[np.zeros((0, 2))],
            points_per_batch=config.points_per_batch,
            pred_iou_thresh=config.pred_iou_thresh,
            stability_score_thresh=config.stability_score_thresh,
            box_nms_thresh=config.box_nms_thresh,
            min_mask_region_area=config.min_mask_region_area,
        )

    def propose(self, frame_idx: int, points_xy: NDArray[np.float32]) -> list[Proposal]:
        if not len(points_xy):
            return []
        self._generator.point_grids = [_normalised(points_xy, self._frames)]
        with torch.inference_mode():
            return _as_proposals(self._generator.generate(self._frames[frame_idx]))


def _normalised(points_xy: NDArray[np.float32], frames: FrameSequence) -> NDArray[np.float64]:
    """[P, 2] pixels -> [P, 2] in units of the frame's width and height, as point grids are."""
    return points_xy.astype(np.float64) / (frames.width, frames.height)


def _as_proposals(records: list[dict[str, Any]]) -> list[Proposal]:
    return [
        Proposal(
            mask=record["segmentation"].astype(bool),
            predicted_iou=record["predicted_iou"],
            stability_score=record["stability_score"],
            point_xy=tuple(record["point_coords"][0]),
        )
        for record in records
    ]
