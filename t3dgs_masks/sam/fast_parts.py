"""All of SAM2's parts that a CPU can compute in fewer operations, or faster ones.

Memory attention is not among them: the tracker decides on it (`attention`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sam2.modeling.sam2_base import SAM2Base

from t3dgs_masks.sam.compilation import is_compiled
from t3dgs_masks.sam.fast_decoder import fast_decoder
from t3dgs_masks.sam.fast_linear import FastLinears, can_be_fast
from t3dgs_masks.sam.fast_projections import fast_projections
from t3dgs_masks.sam.fused_norms import fused_norms
from t3dgs_masks.sam.fuser_blocks import fast_fusers
from t3dgs_masks.sam.hiera_blocks import fast_blocks
from t3dgs_masks.sam.stand_ins import StandIns


class FastParts:
    """Lets a model compute with sums in any order for a while; its weights must not change any
    more.

    Args:
        model: any SAM2 model, in eval mode. Where it does not lie on a CPU in float32, this changes
            nothing. An image encoder that is compiled is left alone.
    """

    def __init__(self, model: SAM2Base) -> None:
        compiled = model.image_encoder if is_compiled(model) else None
        self._linears = FastLinears(model, compiled)
        self._others: list[StandIns] = []
        if can_be_fast(model):
            self._others += [
                fused_norms(model),
                fast_projections(model, compiled),
                fast_fusers(model),
                fast_decoder(model.sam_mask_decoder),
            ]
            if compiled is None:
                self._others.append(fast_blocks(model))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A block, in inference mode, in which it does; blocks may be nested. Hooks of the network
        and its large parts run as ever, those of layers within them do not."""
        with self._linears.in_place(), ExitStack() as stack:
            for parts in self._others:
                stack.enter_context(parts.in_place())
            yield
