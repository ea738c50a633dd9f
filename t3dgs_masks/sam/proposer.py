"""Automatic masks from point prompts, by SAM1 or by SAM2.

Both run their package's own mask generator on the points they are given. The SAM2 proposer takes
the image features from the tracker's cache, so its proposals cost no image encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from numpy.typing import NDArray
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.utils.amg import MaskData, batched_mask_to_box, calculate_stability_score
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torch import Tensor, nn

from t3dgs_masks import bits
from t3dgs_masks.config import ProposalConfig
from t3dgs_masks.sam.devices import Precision
from t3dgs_masks.sam.memory import FrameFeatureCache
from t3dgs_masks.sam.out_of_memory import with_relief
from t3dgs_masks.sam.packing import packed
from t3dgs_masks.sam.upsampled import Enlarger
from t3dgs_masks.types import BitMask, FrameSequence, Image, Proposal

_MASKS_AT_FRAME_SIZE = 16
_MASKS_AT_ONCE = 32  # small ones
_WORTH_IT = 4  # times as many pixels as the small masks have, from which on not to enlarge pays


@dataclass(frozen=True)
class _Enlarged:
    """P masks at frame size."""

    stability: Tensor  # [P] float32
    boxes: Tensor  # [P, 4] int64 left, top, right, bottom
    masks: list[BitMask]


class _KeepSize:
    """Stands in for SAM2Transforms where masks are not to be enlarged."""

    @staticmethod
    def postprocess_masks(masks: Tensor, _: tuple[int, int]) -> Tensor:
        return masks


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

    def predict_small(self, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Three mask logits [P, 3, h, w] at the decoder's resolution, and their predicted IoU
        [P, 3], for point prompts [P, 1, 2] in the network's own pixels with labels [P, 1]."""
        # The predictor's own method, so that the network is called as ever; all it is kept from
        # is to enlarge what comes out.
        transforms = self._transforms
        self._transforms: Any = _KeepSize()
        try:
            masks, ious, _ = self._predict(
                coords, labels, multimask_output=True, return_logits=True
            )
        finally:
            self._transforms = transforms
        return masks, ious


class _Sam2MaskGenerator(SAM2AutomaticMaskGenerator):
    """SAM2's mask generator over cached features.

    The stock one brings every mask to frame size and encodes it before it looks for duplicates.
    Here only those that are left in the end get there; of the others, hundreds or thousands, no
    more is worked out than what decides about them (`upsampled`). It removes small regions on the
    CPU, as SAM1's does; SAM2's own way needs a CUDA extension that most installs lack and silently
    skips it there.
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
        self._enlargers: dict[tuple[tuple[int, int], tuple[int, int]], Enlarger] = {}
        self._small: list[Tensor] = []  # [h, w] logits of the image at hand, on the host

    def _generate_masks(self, image: Image) -> MaskData:
        self._small = []
        data = super()._generate_masks(image)
        small, self._small = self._small, []
        left = [small[slot] for slot in data["rles"] if isinstance(slot, int)]
        if left:
            size = (image.shape[0], image.shape[1])
            parts = torch.stack(left).split(_MASKS_AT_FRAME_SIZE)
            found = [self._at_frame_size(part, size) for part in parts]
            data["rles"] = [_uncompressed(mask) for one in found for mask in one.masks]
            data["stability_score"] = torch.cat([one.stability for one in found]).cpu().numpy()
        if self.min_mask_region_area > 0:
            nms_thresh = max(self.box_nms_thresh, self.crop_nms_thresh)
            data = self.postprocess_small_regions(data, self.min_mask_region_area, nms_thresh)
        return data

    def _process_batch(  # type: ignore[override]  # sizes and boxes are of the whole image
        self, points: NDArray[np.float64], im_size: tuple[int, int], *_: object, **__: object
    ) -> MaskData:
        """As automatic_mask_generator.py:_process_batch does it for a whole image, where no box
        can touch the edge of a crop. Masks stay small, and wait on the host; as "rles" come their
        places among them."""
        pixels = torch.as_tensor(points, dtype=torch.float32, device=self.predictor.device)
        coords = self.predictor._transforms.transform_coords(
            pixels, normalize=True, orig_hw=im_size
        )
        labels = torch.ones(len(coords), dtype=torch.int, device=coords.device)
        logits, ious = self.predictor.predict_small(coords[:, None, :], labels[:, None])
        points_of = pixels.repeat_interleave(logits.shape[1], dim=0)
        data = MaskData(
            logits=logits.flatten(0, 1).float(), iou_preds=ious.flatten(0, 1), points=points_of
        )
        if self.pred_iou_thresh > 0:
            data.filter(data["iou_preds"] > self.pred_iou_thresh)
        judged = [self._judged(part, im_size) for part in data["logits"].split(_MASKS_AT_ONCE)]
        data["boxes"] = torch.cat([boxes for _, boxes in judged])
        data.filter(torch.cat([is_stable for is_stable, _ in judged]))
        data["rles"] = list(range(len(self._small), len(self._small) + len(data["logits"])))
        self._small += data["logits"].cpu()
        del data["logits"]
        return data

    def _judged(self, logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """([P] whether they are stable, [P, 4] int64 boxes) of [P, h, w] logits at frame size."""
        small = (logits.shape[1], logits.shape[2])
        bounds = None
        if size[0] * size[1] > _WORTH_IT * small[0] * small[1]:
            bounds = self._enlarger(small, size, logits.device).bounds(logits)
        if bounds is None:
            found = [self._at_frame_size(part, size) for part in logits.split(_MASKS_AT_FRAME_SIZE)]
            stability = torch.cat([one.stability for one in found])
            return self._is_stable(stability), torch.cat([one.boxes for one in found])
        (least_inner, least_outer), (most_inner, most_outer) = bounds.areas
        is_stable = self._is_stable(least_inner / most_outer)
        boxes = bounds.boxes[0]
        is_open = is_stable != self._is_stable(most_inner / least_outer)
        is_open |= (boxes != bounds.boxes[1]).any(dim=1)
        for slot in is_open.nonzero()[:, 0]:
            exact = self._at_frame_size(logits[slot, None], size)
            is_stable[slot] = self._is_stable(exact.stability)[0]
            boxes[slot] = exact.boxes[0]
        return is_stable, boxes

    def _is_stable(self, stability: Tensor) -> Tensor:
        if self.stability_score_thresh <= 0:
            return torch.ones_like(stability, dtype=torch.bool)
        return stability >= self.stability_score_thresh

    def _at_frame_size(self, logits: Tensor, size: tuple[int, int]) -> _Enlarged:
        """[P, h, w] logits at frame size."""
        device = self.predictor.device
        full = F.interpolate(
            logits[:, None].to(device), size, mode="bilinear", align_corners=False
        )[:, 0]
        stability = calculate_stability_score(
            full, self.mask_threshold, self.stability_score_offset
        )
        masks = full > self.mask_threshold
        return _Enlarged(stability, batched_mask_to_box(masks), packed(masks))

    def _enlarger(
        self, small: tuple[int, int], large: tuple[int, int], device: torch.device
    ) -> Enlarger:
        if (small, large) not in self._enlargers:
            levels = [self.mask_threshold + s * self.stability_score_offset for s in (1, -1)]
            self._enlargers[small, large] = Enlarger(small, large, tuple(levels), device)
        return self._enlargers[small, large]


def _uncompressed(mask: BitMask) -> dict[str, Any]:
    """Run lengths as lists of numbers, as SAM's generators have them."""
    return {"size": [mask.height, mask.width], "counts": bits.run_lengths(mask).tolist()}


@contextmanager
def _without_scripting() -> Iterator[None]:
    """While the block runs, nothing is compiled by TorchScript: SAM2 does that with image
    transforms that cached features never need, in half a second."""
    script = torch.jit.script
    torch.jit.script = lambda module: module
    try:
        yield
    finally:
        torch.jit.script = script


class Sam2Proposer:
    """`Proposer` with the tracker's own network and frame features.

    Args:
        model: a SAM2 model in eval mode.
        features: the feature cache, shared with the tracker.
        config: thresholds.
    """

    def __init__(
        self,
        model: SAM2Base,
        features: FrameFeatureCache,
        config: ProposalConfig,
    ) -> None:
        self._features = features
        with _without_scripting():
            self._generator = _Sam2MaskGenerator(model, features, config)

    def propose(self, frame_idx: int, points_xy: NDArray[np.float32]) -> list[Proposal]:
        if not len(points_xy):
            return []
        frames = self._features.frames
        # The generator reads nothing of the image but its shape.
        image = np.empty((frames.height, frames.width, 3), dtype=np.uint8)
        self._generator.predictor.choose_frame(frame_idx)
        self._generator.point_grids = [_normalised(points_xy, frames)]

        def generate() -> list[Proposal]:
            with torch.inference_mode(), self._features.computing():
                return _as_proposals(self._generator.generate(image))

        def relieve() -> bool:
            return self._features.leave_device() or _halve_batch(self._generator, len(points_xy))

        return with_relief(generate, relieve)


class Sam1Proposer:
    """`Proposer` with a SAM1 network of its own; its image encoder runs once per call.

    Args:
        model: a SAM1 model in eval mode.
        frames: the sequence.
        config: thresholds.
        precision: autocast settings of the model's device. What the mask decoder says is float32
            in any case, as in SAM2: masks are enlarged from it.
    """

    def __init__(
        self, model: Sam, frames: FrameSequence, config: ProposalConfig, precision: Precision
    ) -> None:
        self._frames = frames
        self._precision = precision
        if precision.autocast_dtype is not None:
            model.mask_decoder.register_forward_hook(_as_float32)
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

        def generate() -> list[Proposal]:
            with torch.inference_mode(), self._precision.autocast():
                return _as_proposals(self._generator.generate(self._frames[frame_idx]))

        return with_relief(generate, lambda: _halve_batch(self._generator, len(points_xy)))


def _as_float32(_: nn.Module, __: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.float() for part in output)


def _halve_batch(
    generator: SAM2AutomaticMaskGenerator | SamAutomaticMaskGenerator, num_points: int
) -> bool:
    """Take half as many points at a time from now on; False: it is one already."""
    in_use = min(generator.points_per_batch, num_points)
    generator.points_per_batch = max(1, in_use // 2)
    return in_use > 1


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
