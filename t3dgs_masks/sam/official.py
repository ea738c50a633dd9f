"""The official `SAM2VideoPredictor` behind the `Tracker` protocol: slow, and the reference.

It restarts, adds every mask again and re-encodes frames as anybody would with the predictor's
public methods; nothing is cached on our side. `Sam2Tracker` is held to its logits by the tests,
and `--tracker official` runs a whole refine with it.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sam2.sam2_video_predictor as video_predictor_module
import torch
from PIL import Image as PilImage
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from t3dgs_masks.masks import decode
from t3dgs_masks.sam.devices import Precision
from t3dgs_masks.sam.frame_reader import image_to_tensor
from t3dgs_masks.sam.tracker import TrackedLogits
from t3dgs_masks.types import FrameSequence, Rle, TrackedFrame

# The predictor draws a progress bar per propagation; a refine starts hundreds of them.
_SILENT_TQDM = functools.partial(video_predictor_module.tqdm, disable=True)


class _LazyImages:
    """Stands in for the [N, 3, S, S] tensor of all frames that the predictor would hold."""

    def __init__(self, frames: FrameSequence, image_size: int) -> None:
        self._frames = frames
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame_idx: int) -> Tensor:
        image = self._frames[frame_idx]
        return image_to_tensor(image, self._image_size)[0]


class OfficialTracker:
    """`Tracker` over the official predictor.

    Args:
        predictor: built with `fill_hole_area=0` (hole filling is a step of the refine).
        frames: the sequence.
        precision: autocast settings of the predictor's device.
    """

    def __init__(
        self, predictor: SAM2VideoPredictor, frames: FrameSequence, precision: Precision
    ) -> None:
        video_predictor_module.tqdm = _SILENT_TQDM
        self._predictor = predictor
        self._frames = frames
        self._precision = precision
        with self._precision.autocast():
            self._state = self._init_state()

    def forget(self) -> None:
        self._predictor.reset_state(self._state)

    def condition(self, frame_idx: int, object_id: int, mask: Rle) -> None:
        with self._precision.autocast():
            self._predictor.add_new_mask(self._state, frame_idx, object_id, decode(mask))

    def propagate(self, start_frame_idx: int, *, reverse: bool = False) -> Iterator[TrackedFrame]:
        for logits in self.propagate_logits(start_frame_idx, reverse=reverse):
            yield logits.thresholded(self._frames.height, self._frames.width)

    def propagate_logits(
        self, start_frame_idx: int, *, reverse: bool = False
    ) -> Iterator[TrackedLogits]:
        """As `propagate`, but yields the predictor's logits."""
        if not self._state["obj_ids"]:
            return
        with self._precision.autocast():
            self._predictor.propagate_in_video_preflight(self._state)
        self._widen_memories()
        if reverse and start_frame_idx == 0:
            # propagate_in_video tracks nothing in reverse from frame 0.
            yield self._step_in_reverse_to_first_frame()
            return
        steps = self._predictor.propagate_in_video(
            self._state, start_frame_idx=start_frame_idx, reverse=reverse
        )
        while True:
            with self._precision.autocast():
                step = next(steps, None)
            if step is None:
                return
            self._widen_memories()
            yield self._logits(step[0])

    def _init_state(self) -> dict[str, Any]:
        """The predictor's own state, but over our frames, read when they are needed.

        init_state wants JPEG files named by number; one frame lets it build its state.
        """
        with tempfile.TemporaryDirectory() as folder:
            PilImage.fromarray(self._frames[0]).save(Path(folder) / "0.jpg")
            state = self._predictor.init_state(folder)
        state["images"] = _LazyImages(self._frames, self._predictor.image_size)
        state["num_frames"] = len(self._frames)
        state["cached_features"] = {}  # of the JPEG, which is not quite the frame
        return state

    def _outputs(self) -> Iterator[tuple[int, dict[int, dict[str, Any]]]]:
        """(object slot, frame_idx -> output) of everything that the state holds."""
        for slot, outputs in self._state["output_dict_per_obj"].items():
            yield slot, {**outputs["non_cond_frame_outputs"], **outputs["cond_frame_outputs"]}

    def _widen_memories(self) -> None:
        """bfloat16 memories as float32 values where there is no autocast.

        The predictor stores memories as bfloat16 and counts on autocast, or on float32 object
        pointers among them, to get them through float32 layers; without either it fails (a frame
        conditioned only from its future). The values stay those of bfloat16.
        """
        if self._precision.autocast_dtype is not None:
            return
        for _, outputs in self._outputs():
            for output in outputs.values():
                output["maskmem_features"] = output["maskmem_features"].float()

    def _step_in_reverse_to_first_frame(self) -> TrackedLogits:
        for slot, outputs in self._outputs():
            if 0 in outputs:
                continue
            per_object = self._state["output_dict_per_obj"][slot]
            with torch.inference_mode(), self._precision.autocast():
                output, _ = self._predictor._run_single_frame_inference(
                    inference_state=self._state,
                    output_dict=per_object,
                    frame_idx=0,
                    batch_size=1,
                    is_init_cond_frame=False,
                    point_inputs=None,
                    mask_inputs=None,
                    reverse=True,
                    run_mem_encoder=True,
                )
            per_object["non_cond_frame_outputs"][0] = output
        return self._logits(0)

    def _logits(self, frame_idx: int) -> TrackedLogits:
        by_object = {
            self._state["obj_idx_to_id"][slot]: outputs[frame_idx]
            for slot, outputs in self._outputs()
        }
        object_ids = tuple(sorted(by_object))
        masks = [by_object[object_id]["pred_masks"][0, 0] for object_id in object_ids]
        scores = [by_object[object_id]["object_score_logits"][0, 0] for object_id in object_ids]
        return TrackedLogits(
            frame_idx, object_ids, torch.stack(masks).float(), torch.stack(scores).float()
        )
