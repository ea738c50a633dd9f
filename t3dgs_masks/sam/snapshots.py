"""What a running propagation goes by, as bytes: memories of the frames that it has passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from t3dgs_masks.sam.memory import BatchedMemory


@dataclass(frozen=True)
class BatchSnapshot:
    """Memories of the objects that are tracked as one batch."""

    object_ids: tuple[int, ...]
    propagated: Mapping[int, BatchedMemory]  # frame_idx -> memory


def pack(frame_idx: int, batches: Sequence[BatchSnapshot], *, features_reach: int) -> bytes:
    """A snapshot after `frame_idx`.

    Args:
        frame_idx: the frame that was reached last.
        batches: everything that is remembered.
        features_reach: SAM2 reads the features of so many frames, this one included; of those
            before, it reads the object pointers alone.
    """
    contents = {
        "frame_idx": frame_idx,
        "batches": [
            {
                "object_ids": list(batch.object_ids),
                # They went through bfloat16 when they were made, so that nothing is lost.
                "features": {
                    t: memory.features.to(torch.bfloat16).cpu()
                    for t, memory in batch.propagated.items()
                    if abs(frame_idx - t) < features_reach
                },
                "pointers": {
                    t: memory.object_pointers.cpu()
                    for t, memory in batch.propagated.items()
                    if memory.object_pointers is not None
                },
            }
            for batch in batches
        ],
    }
    buffer = BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def unpack(
    snapshot: bytes, positions: Tensor, dtype: torch.dtype
) -> tuple[int, list[BatchSnapshot]]:
    """What `pack` was given.

    Args:
        snapshot: from `pack`.
        positions: [1, mem_dim, h, w] position encoding of every memory, on the device to go to.
        dtype: of the features.

    Raises:
        ValueError: it is no snapshot.
    """
    try:
        contents: Any = torch.load(BytesIO(snapshot), map_location="cpu", weights_only=True)
        batches = [_batch(batch, positions, dtype) for batch in contents["batches"]]
        return int(contents["frame_idx"]), batches
    except Exception as error:  # whatever the bytes make of torch's reader
        raise ValueError(f"no snapshot of a propagation: {error}") from error


def _batch(told: Mapping[str, Any], positions: Tensor, dtype: torch.dtype) -> BatchSnapshot:
    device = positions.device
    nothing = torch.empty(0, dtype=dtype, device=device)
    features: Mapping[int, Tensor] = told["features"]
    return BatchSnapshot(
        tuple(told["object_ids"]),
        {
            t: BatchedMemory(
                features[t].to(device).to(dtype) if t in features else nothing,
                positions,
                pointers.to(device),
            )
            for t, pointers in told["pointers"].items()
        },
    )
