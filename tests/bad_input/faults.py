"""Ways in which the machine itself fails, installed in the process that runs the command line."""

from __future__ import annotations

from typing import Any


def room_for(most: int) -> None:
    """The mask decoder runs out of memory above so many prompts at once."""
    import torch
    from sam2.modeling.sam.mask_decoder import MaskDecoder

    decode = MaskDecoder.forward

    def weighed(self: MaskDecoder, *args: Any, **kwargs: Any) -> object:
        if len(kwargs["sparse_prompt_embeddings"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return decode(self, *args, **kwargs)

    MaskDecoder.forward = weighed  # pyright: ignore[reportAttributeAccessIssue]
