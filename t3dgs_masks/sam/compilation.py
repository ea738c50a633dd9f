"""`--compile`: the image encoder through torch.compile, as SAM2's own option does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base

from t3dgs_masks.sam.devices import Precision


def is_compiled(model: SAM2Base) -> bool:
    """Whether `compile_image_encoder` has been here."""
    return "forward" in vars(model.image_encoder)


@torch.inference_mode()
def compile_image_encoder(
    model: SAM2Base, precision: Precision, backend: str | Callable[..., Any] = "inductor"
) -> str | None:
    """Compile the image encoder for one frame of the model's size (sam2_base.py: the same, for
    `compile_image_encoder` in a configuration), and run it once, so that it fails now if at all.

    It alone is compiled: it always sees one shape, where memory attention sees a new one with
    every further memory, and would be compiled again for each.

    Returns:
        None, or in one line why the network stays as it was: there is no compiler, or the
        installed PyTorch cannot compile for this device.
    """
    # Without CUDA graphs: those write all frames' features into the same memory, and we keep them.
    tuned = backend == "inductor" and precision.device_type == "cuda"
    mode = "max-autotune-no-cudagraphs" if tuned else None
    encoder = model.image_encoder
    side = model.image_size
    try:
        encoder.forward = torch.compile(  # type: ignore[method-assign]  # as SAM2Base does it
            encoder.forward, backend=backend, mode=mode, fullgraph=True, dynamic=False
        )
        with precision.autocast():
            model.forward_image(torch.zeros(1, 3, side, side, device=model.device))
    except Exception as error:  # a compiler that is not there, or fails, raises anything at all
        vars(encoder).pop("forward", None)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return reason[0]
    return None
