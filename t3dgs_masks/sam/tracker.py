"""SAM2 as a mask tracker over `SAM2Base`, with memory as an explicit value.

The official `SAM2VideoPredictor` re-encodes a frame each time a mask is added to it and runs
every object on its own. Here features and conditioning memories come from caches that outlive a
restart, and objects whose memories lie on the same frames go through memory attention, mask
decoder and memory encoder as one batch. The results are the official predictor's, up to the
rounding of batched arithmetic (`sam/official.py` is what the tests compare with).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from t3dgs_masks import bits
from t3dgs_masks.sam import snapshots
from t3dgs_masks.sam.attention import LeanMemoryAttention
from t3dgs_masks.sam.devices import Precision
from t3dgs_masks.sam.memory import (
    BatchedMemory,
    FrameFeatureCache,
    FrameMemory,
    MemoryBank,
    StartCache,
    default_device_cache_bytes,
)
from t3dgs_masks.sam.out_of_memory import with_relief
from t3dgs_masks.sam.packing import packed, unpacked
from t3dgs_masks.types import BitMask, Rle, TrackedFrame, TrackedObject

_MASK_INPUT_BYTES = 64 << 20
_MASKS_AT_FRAME_SIZE = 16  # so many at once, as logits or to be resized: 133 MB at 1080p


@dataclass(frozen=True)
class TrackedLogits:
    """Network output for all tracked objects on one frame, before thresholding."""

    frame_idx: int
    object_ids: tuple[int, ...]  # ascending
    mask_logits: Tensor  # [K, S/4, S/4] float32, at the mask decoder's resolution
    object_score_logits: Tensor  # [K] float32

    def at_size(self, height: int, width: int) -> Tensor:
        """[K, height, width] float32 logits, upsampled as sam2_video_predictor.py:
        _get_orig_video_res_output does."""
        return F.interpolate(
            self.mask_logits[:, None], size=(height, width), mode="bilinear", align_corners=False
        )[:, 0]

    def thresholded(self, height: int, width: int) -> TrackedFrame:
        """The masks, logit > 0, at frame size."""
        masks: list[BitMask] = []
        for part in self.mask_logits.split(_MASKS_AT_FRAME_SIZE):
            masks += packed(replace(self, mask_logits=part).at_size(height, width) > 0)
        scores = self.object_score_logits.cpu().tolist()
        return TrackedFrame(
            self.frame_idx,
            tuple(
                TrackedObject(object_id, mask, score)
                for object_id, mask, score in zip(self.object_ids, masks, scores, strict=True)
            ),
        )


@dataclass
class _Batch:
    """Objects conditioned on the same frames: one batch for every network call."""

    object_ids: tuple[int, ...]
    conditioning_masks: dict[int, list[Rle]]  # frame_idx -> mask per object
    conditioning: dict[int, BatchedMemory] = field(default_factory=dict)
    propagated: dict[int, BatchedMemory] = field(default_factory=dict)

    def halves(self) -> tuple[_Batch, _Batch]:
        """The first half of the objects, and the others; there are at least two."""
        middle = len(self.object_ids) // 2
        return self._part(slice(0, middle)), self._part(slice(middle, None))

    def _part(self, slots: slice) -> _Batch:
        return _Batch(
            self.object_ids[slots],
            {frame_idx: masks[slots] for frame_idx, masks in self.conditioning_masks.items()},
            {frame_idx: memory.part(slots) for frame_idx, memory in self.conditioning.items()},
            {frame_idx: memory.part(slots) for frame_idx, memory in self.propagated.items()},
        )


@dataclass
class _Running:
    """A propagation, between two frames."""

    batches: list[_Batch]
    reverse: bool
    frame_idx: int | None = None
    """The frame that was reached last."""
    outputs: list[dict[str, Tensor]] | None = None
    """What the network said there, per batch; None once memories were made of it."""


class Sam2Tracker:
    """`ResumableTracker` over any SAM2 model.

    What goes through the network together decides how its sums are rounded. Here that follows from
    the conditioning masks alone and not from what the caches hold, so that a propagation which is
    started anew in another process gives the same bits.

    Args:
        model: a SAM2 model in eval mode.
        features: the sequence's feature cache; share it with a `Sam2Proposer`.
        precision: autocast settings of the model's device.
        bank: conditioning memories; keeps its content over `forget()`.
    """

    def __init__(
        self,
        model: SAM2Base,
        features: FrameFeatureCache,
        precision: Precision,
        bank: MemoryBank | None = None,
    ) -> None:
        self._model = model
        self._features = features
        self._precision = precision
        if bank is None:
            bank = MemoryBank(default_device_cache_bytes(model.device) or None)
        self._bank = bank
        self._attention: LeanMemoryAttention | None = None
        if LeanMemoryAttention.fits(model.memory_attention):
            self._attention = LeanMemoryAttention(model.memory_attention, precision.reordered_sums)
        # Memory, object pointer and output of a mask all begin with it at the network's size.
        self._mask_inputs: StartCache[Rle, Tensor] = StartCache(
            _MASK_INPUT_BYTES, lambda mask: mask.nbytes
        )
        # object_id -> frame_idx -> mask, in the order they were given
        self._conditioning: dict[int, dict[int, Rle]] = {}
        # Of the propagation that was started last
        self._groups: dict[int, tuple[Rle, ...]] = {}  # frame_idx -> all masks given there
        self._running: _Running | None = None

    def forget(self) -> None:
        self._conditioning = {}
        self._running = None

    def condition(self, frame_idx: int, object_id: int, mask: Rle) -> None:
        self._conditioning.setdefault(object_id, {})[frame_idx] = mask

    def propagate(self, start_frame_idx: int, *, reverse: bool = False) -> Iterator[TrackedFrame]:
        return self._thresholded(self.propagate_logits(start_frame_idx, reverse=reverse), reverse)

    def propagate_logits(
        self, start_frame_idx: int, *, reverse: bool = False
    ) -> Iterator[TrackedLogits]:
        """As `propagate`, but yields logits.

        The memory of a frame is encoded only when the frame after it is asked for, so a single
        step (the final pass) costs no memory encoding of its own.
        """
        batches = self._group_by_layout()
        if not batches:
            return
        with_relief(lambda: self._encode_conditioning(batches), self._freeing_once())
        yield from self._steps(_Running(batches, reverse), start_frame_idx)

    def snapshot(self) -> bytes | None:
        """All that the running propagation goes by, apart from what it was conditioned on: what
        SAM2 still reads of the frames that it has passed. None if none is running."""
        running = self._running
        if running is None or running.frame_idx is None:
            return None
        self._remember(running)
        return snapshots.pack(
            running.frame_idx,
            [
                snapshots.BatchSnapshot(batch.object_ids, batch.propagated)
                for batch in running.batches
            ],
            features_reach=(self._model.num_maskmem - 1)
            * self._model.memory_temporal_stride_for_eval,
        )

    def resume(self, snapshot: bytes, *, reverse: bool = False) -> Iterator[TrackedFrame]:
        """Go on after the frame of a snapshot, to the bit as the propagation would have, instead of
        `propagate`; conditioned as then.

        Raises:
            ValueError: it is no snapshot, or one of other objects.
        """
        batches = self._group_by_layout()
        if not batches:
            raise ValueError("nothing to track was given")
        with_relief(lambda: self._encode_conditioning(batches), self._freeing_once())
        positions = self._bank.positions
        assert positions is not None  # there is at least one memory
        frame_idx, saved = snapshots.unpack(snapshot, positions, self._memory_dtype())
        if [one.object_ids for one in saved] != [batch.object_ids for batch in batches]:
            raise ValueError("a snapshot of other objects")
        for batch, one in zip(batches, saved, strict=True):
            batch.propagated = dict(one.propagated)
        steps = self._steps(_Running(batches, reverse), frame_idx + (-1 if reverse else 1))
        return self._thresholded(steps, reverse)

    def _thresholded(self, steps: Iterator[TrackedLogits], reverse: bool) -> Iterator[TrackedFrame]:
        """Masks at frame size; while they are at work on, a GPU is with the next frame already."""
        frames = self._features.frames
        for logits in steps:
            tracked = logits.thresholded(frames.height, frames.width)
            self._features.begin(logits.frame_idx + (-1 if reverse else 1))
            yield tracked

    def _steps(self, running: _Running, first: int) -> Iterator[TrackedLogits]:
        self._running = running
        last = 0 if running.reverse else len(self._features.frames) - 1
        step = -1 if running.reverse else 1
        for frame_idx in range(first, last + step, step):
            self._remember(running)
            running.batches, running.outputs = self._track_all(
                running.batches, frame_idx, reverse=running.reverse
            )
            running.frame_idx = frame_idx
            yield _merge_batches(frame_idx, running.batches, running.outputs)

    def _remember(self, running: _Running) -> None:
        """Make memories of the frame that a propagation reached last, if that was not done."""
        outputs, running.outputs = running.outputs, None
        if outputs is None or running.frame_idx is None:
            return
        for batch, output in zip(running.batches, outputs, strict=True):
            remember = partial(self._remember_batch, batch, running.frame_idx, output)
            with_relief(remember, self._freeing_once())
            self._drop_unreachable(batch, running.frame_idx, reverse=running.reverse)

    def _track_all(
        self, batches: list[_Batch], frame_idx: int, *, reverse: bool
    ) -> tuple[list[_Batch], list[dict[str, Tensor]]]:
        """One step of all batches: (batches, their outputs). Where memory is short, batches are
        halved, and stay so for the frames that follow."""
        remaining, done = deque(batches), list[_Batch]()
        outputs: list[dict[str, Tensor]] = []
        free_caches = self._freeing_once()

        def halve() -> bool:
            if free_caches():
                return True
            if len(remaining[0].object_ids) < 2:
                return False
            remaining.extendleft(reversed(remaining.popleft().halves()))
            return True

        while remaining:
            output = with_relief(
                lambda: self._track(remaining[0], frame_idx, reverse=reverse), halve
            )
            outputs.append(output)
            done.append(remaining.popleft())
        return done, outputs

    def _freeing_once(self) -> Callable[[], bool]:
        """What gives back, when first called, the device's memory that only speed needs; False:
        there was none, or it was given back before."""
        measures = [self._features.leave_device, self._bank.clear, self._mask_inputs.clear]

        def free() -> bool:
            freed = [measure() for measure in measures]
            measures.clear()
            return any(freed)

        return free

    def _group_by_layout(self) -> list[_Batch]:
        """Objects by the frames that they are conditioned on."""
        layouts: dict[tuple[int, ...], list[int]] = {}
        for object_id in sorted(self._conditioning):
            layouts.setdefault(tuple(self._conditioning[object_id]), []).append(object_id)
        return [
            _Batch(
                tuple(object_ids),
                {
                    frame_idx: [self._conditioning[k][frame_idx] for k in object_ids]
                    for frame_idx in layout
                },
            )
            for layout, object_ids in layouts.items()
        ]

    def _encode_conditioning(self, batches: list[_Batch]) -> None:
        """Fill every batch's conditioning memories, encoding those that the bank lacks."""
        self._bank.begin_start()
        self._mask_inputs.begin_start()
        groups: dict[int, dict[Rle, None]] = {}
        for batch in batches:
            for frame_idx, masks in batch.conditioning_masks.items():
                groups.setdefault(frame_idx, {}).update(dict.fromkeys(masks))
        self._groups = {frame_idx: tuple(masks) for frame_idx, masks in groups.items()}
        dtype = self._memory_dtype()
        for frame_idx, group in self._groups.items():
            memory = self._bank.get(frame_idx, group) or self._encode_masks(frame_idx, group)
            positions = self._bank.positions
            assert positions is not None  # there is at least this memory
            for batch in batches:
                if frame_idx in batch.conditioning_masks:
                    rows = self._rows(batch, frame_idx)
                    batch.conditioning[frame_idx] = BatchedMemory(
                        _picked(memory.features, rows).to(dtype), positions
                    )
        for batch in batches:  # in the order in which they were given, which is that of attention
            batch.conditioning = {t: batch.conditioning[t] for t in batch.conditioning_masks}

    def _rows(self, batch: _Batch, frame_idx: int) -> list[int]:
        """Where the masks of a batch are among all those of a conditioning frame."""
        row_of = {mask: row for row, mask in enumerate(self._groups[frame_idx])}
        return [row_of[mask] for mask in batch.conditioning_masks[frame_idx]]

    @torch.inference_mode()
    def _encode_masks(self, frame_idx: int, masks: tuple[Rle, ...]) -> FrameMemory:
        """Memory of all masks that are given on one frame, put into the bank.

        What sam2_video_predictor.py does in add_new_mask and propagate_in_video_preflight.
        """
        model = self._model
        given = self._as_given(masks)
        features = self._features.batched(frame_idx, len(masks))
        with self._features.computing():
            # From the low-resolution logits and not from the mask itself, as the official
            # predictor does: it is what its conditioning memories look like.
            high_res = F.interpolate(
                given["pred_masks"],
                size=(model.image_size, model.image_size),
                mode="bilinear",
                align_corners=False,
            )
            memory_features, positions = model._encode_new_memory(
                current_vision_feats=features.vision_feats,
                feat_sizes=features.sizes,
                pred_masks_high_res=high_res,
                object_score_logits=given["object_score_logits"],
                is_mask_from_pts=True,
            )
        self._bank.positions = positions[-1][:1]
        memory = FrameMemory(memory_features.to(torch.bfloat16))
        self._bank.put(frame_idx, masks, memory)
        return memory

    def _fill_in_pointers(self, batch: _Batch, frame_idx: int, *, reverse: bool) -> None:
        """Object pointers of those conditioning memories that a step at `frame_idx` reads.

        SAM2 reads them from the past alone (sam2_base.py:_prepare_memory_conditioned_features),
        so a frame that only ever conditions from the future costs no mask decoder call.
        """
        model = self._model
        from_past_only = (
            model.only_obj_ptrs_in_the_past_for_eval and model.max_cond_frames_in_attn == -1
        )
        for conditioning_idx, memory in batch.conditioning.items():
            is_past = conditioning_idx >= frame_idx if reverse else conditioning_idx <= frame_idx
            if memory.object_pointers is None and (is_past or not from_past_only):
                rows = self._rows(batch, conditioning_idx)
                pointers = _picked(self._pointers(conditioning_idx), rows)
                batch.conditioning[conditioning_idx] = replace(memory, object_pointers=pointers)

    def _pointers(self, frame_idx: int) -> Tensor:
        """[G, C] object pointers of all masks given on one frame, from the bank or new."""
        group = self._groups[frame_idx]
        memory = self._bank.get(frame_idx, group)
        if memory is not None and memory.object_pointers is not None:
            return memory.object_pointers
        pointers = self._point_at(frame_idx, group)
        if memory is not None:
            self._bank.put(frame_idx, group, replace(memory, object_pointers=pointers))
        return pointers

    def _point_at(self, frame_idx: int, masks: Sequence[Rle]) -> Tensor:
        """[G, C] new object pointers, in parts where memory is short."""
        parts = deque([masks])
        done: list[Tensor] = []

        def halve() -> bool:
            part = parts.popleft()
            middle = len(part) // 2
            parts.extendleft((part[middle:], part[:middle]) if middle else (part,))
            return middle > 0

        while parts:
            done.append(with_relief(lambda: self._point_at_once(frame_idx, parts[0]), halve))
            parts.popleft()
        return torch.cat(done)

    @torch.inference_mode()
    def _point_at_once(self, frame_idx: int, masks: Sequence[Rle]) -> Tensor:
        """[G, C]: what sam2_video_predictor.py does in add_new_mask."""
        features = self._features.batched(frame_idx, len(masks))
        with self._features.computing():
            output = self._model.track_step(
                frame_idx=frame_idx,
                is_init_cond_frame=True,
                current_vision_feats=features.vision_feats,
                current_vision_pos_embeds=features.vision_pos_embeds,
                feat_sizes=features.sizes,
                point_inputs=None,
                mask_inputs=self._mask_inputs_of(masks),
                output_dict={},
                num_frames=len(self._features.frames),
                run_mem_encoder=False,
            )
        return output["obj_ptr"]

    def _mask_inputs_of(self, masks: Sequence[Rle]) -> Tensor:
        """[G, 1, S, S] float32 in {0, 1}: add_new_mask's resizing."""
        found = {mask: self._mask_inputs.get(mask) for mask in masks}
        known = {mask: resized for mask, resized in found.items() if resized is not None}
        missing = [mask for mask in found if mask not in known]
        for begin in range(0, len(missing), _MASKS_AT_FRAME_SIZE):
            part = missing[begin : begin + _MASKS_AT_FRAME_SIZE]
            at_frame_size = unpacked([bits.decode(mask) for mask in part], self._model.device)
            for mask, resized in zip(part, self._resized(at_frame_size).split(1), strict=True):
                # A copy: one that stays known would hold the memory of all.
                known[mask] = resized.clone()
                self._mask_inputs.put(mask, known[mask])
        return torch.cat([known[mask] for mask in masks]).float()

    def _resized(self, masks: Tensor) -> Tensor:
        """[G, H, W] bool -> [G, 1, S, S] bool."""
        size = self._model.image_size
        if masks.shape[1:] == (size, size):
            return masks[:, None]
        resized = F.interpolate(
            masks[:, None].float(),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return resized >= 0.5

    @torch.inference_mode()
    def _track(self, batch: _Batch, frame_idx: int, *, reverse: bool) -> dict[str, Tensor]:
        """One step of one batch; SAM2Base's own output without a memory yet."""
        if frame_idx in batch.conditioning_masks:
            return self._as_given(batch.conditioning_masks[frame_idx])
        self._fill_in_pointers(batch, frame_idx, reverse=reverse)
        features = self._features.batched(frame_idx, len(batch.object_ids))
        with self._features.computing(), self._lean_attention():
            return self._model.track_step(
                frame_idx=frame_idx,
                is_init_cond_frame=False,
                current_vision_feats=features.vision_feats,
                current_vision_pos_embeds=features.vision_pos_embeds,
                feat_sizes=features.sizes,
                point_inputs=None,
                mask_inputs=None,
                output_dict={
                    "cond_frame_outputs": {
                        t: memory.as_output() for t, memory in batch.conditioning.items()
                    },
                    "non_cond_frame_outputs": {
                        t: memory.as_output() for t, memory in batch.propagated.items()
                    },
                },
                num_frames=len(self._features.frames),
                track_in_reverse=reverse,
                run_mem_encoder=False,
            )

    def _lean_attention(self) -> AbstractContextManager[None]:
        return (
            nullcontext() if self._attention is None else self._attention.in_place_in(self._model)
        )

    def _as_given(self, masks: Sequence[Rle]) -> dict[str, Tensor]:
        """On a conditioning frame the output is the mask that was given
        (sam2_base.py:_use_mask_as_output: logits of -10 and +10)."""
        inputs = self._mask_inputs_of(masks)
        high_res = inputs * 20.0 - 10.0
        size = self._model.image_size // 4
        low_res = F.interpolate(
            high_res, size=(size, size), mode="bilinear", align_corners=False, antialias=True
        )
        appears = inputs.flatten(1).any(dim=1, keepdim=True).float()
        return {"pred_masks": low_res, "object_score_logits": appears * 20.0 - 10.0}

    @torch.inference_mode()
    def _remember_batch(self, batch: _Batch, frame_idx: int, output: dict[str, Tensor]) -> None:
        """Encode what was propagated to `frame_idx`, for the frames that follow."""
        if frame_idx in batch.conditioning_masks:
            return
        features = self._features.batched(frame_idx, len(batch.object_ids))
        with self._features.computing():
            memory_features, positions = self._model._encode_new_memory(
                current_vision_feats=features.vision_feats,
                feat_sizes=features.sizes,
                pred_masks_high_res=output["pred_masks_high_res"],
                object_score_logits=output["object_score_logits"],
                is_mask_from_pts=False,
            )
        # Through bfloat16, as the official predictor stores it.
        rounded = memory_features.to(torch.bfloat16).to(self._memory_dtype())
        batch.propagated[frame_idx] = BatchedMemory(rounded, positions[-1][:1], output["obj_ptr"])

    def _drop_unreachable(self, batch: _Batch, frame_idx: int, *, reverse: bool) -> None:
        """Forget propagated memories that no later frame can read any more."""
        model = self._model
        reach = max(
            model.num_maskmem * model.memory_temporal_stride_for_eval,
            model.max_obj_ptrs_in_encoder,
        )
        batch.propagated.pop(frame_idx + reach if reverse else frame_idx - reach, None)

    def _memory_dtype(self) -> torch.dtype:
        """Autocast takes bfloat16 memories as they are; float32 layers need float32."""
        return self._precision.autocast_dtype or torch.float32


def _merge_batches(
    frame_idx: int, batches: list[_Batch], outputs: list[dict[str, Tensor]]
) -> TrackedLogits:
    object_ids = [object_id for batch in batches for object_id in batch.object_ids]
    order = sorted(range(len(object_ids)), key=object_ids.__getitem__)
    mask_logits = torch.cat([output["pred_masks"][:, 0] for output in outputs])
    score_logits = torch.cat([output["object_score_logits"][:, 0] for output in outputs])
    return TrackedLogits(
        frame_idx,
        tuple(object_ids[slot] for slot in order),
        _picked(mask_logits, order).float(),
        _picked(score_logits, order).float(),
    )


def _picked(rows: Tensor, order: Sequence[int]) -> Tensor:
    """[n, ...] -> [len(order), ...], those rows in that order; there is at least one.

    By slices: an index would be copied to the device each time, which waits for it.
    """
    first = order[0]
    if list(order) == list(range(first, first + len(order))):
        return rows[first : first + len(order)]
    return torch.stack([rows[row] for row in order])
