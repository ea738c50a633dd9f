"""Convolutions of single pixels as the linear maps that they are, for CPUs.

The image encoder keeps the channels of a pixel beside each other, and so does memory attention;
convolutions in between bring them into another order and back. The two finest levels of features
go through two such maps with nothing between them, to 256 channels first and then to 32 and 64:
those are one. And where all objects share the features of a frame, they are mapped once.

The results differ from the stock network's by the order of float32 sums (about 1e-6).
"""

from __future__ import annotations

from collections.abc import Callable

from sam2.modeling.backbones.image_encoder import FpnNeck
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from t3dgs_masks.sam.fast_linear import PackedLinear, merged
from t3dgs_masks.sam.stand_ins import Method, StandIns

_Map = Callable[[Tensor], Tensor]


def fast_projections(model: SAM2Base, left_alone: nn.Module | None = None) -> StandIns:
    """Those of a model's image and memory encoders, to be computed so for a while.

    Args:
        model: any SAM2 model on a CPU in float32, in eval mode, whose weights do not change any
            more.
        left_alone: a part of it that stays as it is.
    """
    spared = set() if left_alone is None else set(left_alone.modules())
    maps: dict[nn.Module, _Map] = {}
    for part in (model.image_encoder.neck, model.memory_encoder):
        for module in part.modules():
            if _is_of_pixels(module) and module not in spared:
                maps[module] = _of_pixels(PackedLinear(*_affine(module)))
    for first, second in _followed(model):
        if first in maps and _is_of_pixels(second):
            maps.update(_merged(first, second))
    methods: list[Method] = [(module, "forward", forward) for module, forward in maps.items()]
    return StandIns(methods)


def _is_of_pixels(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == module.stride == module.dilation == (1, 1)
        and module.padding in (0, (0, 0))
        and module.groups == 1
    )


def _affine(convolution: nn.Module) -> tuple[Tensor, Tensor | None]:
    """[L, C] and [L]."""
    assert isinstance(convolution, nn.Conv2d)
    return convolution.weight.detach()[:, :, 0, 0].contiguous(), convolution.bias


def _of_pixels(linear: PackedLinear) -> _Map:
    """[B, C, h, w] -> [B, L, h, w], a linear map of every pixel."""

    def forward(features: Tensor) -> Tensor:
        images = len(features)
        if images > 1 and features.stride(0) == 0:  # expanded from one
            return forward(features[:1]).expand(images, -1, -1, -1)
        return linear(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return forward


def _followed(model: SAM2Base) -> list[tuple[nn.Module, nn.Module]]:
    """What makes the finest levels of features, and what makes the mask decoder's of them
    (sam2_base.py:forward_image)."""
    neck = model.image_encoder.neck
    if not model.use_high_res_features_in_sam or type(neck) is not FpnNeck:
        return []
    decoder = model.sam_mask_decoder
    # The neck's convolutions are listed from coarse to fine (image_encoder.py:FpnNeck.forward).
    levels = zip(list(neck.convs)[::-1], (decoder.conv_s0, decoder.conv_s1), strict=False)
    return [
        (level.get_submodule("conv"), second)
        for index, (level, second) in enumerate(levels)
        if index not in neck.fpn_top_down_levels  # nothing is added in between
    ]


def _merged(first: nn.Module, second: nn.Module) -> dict[nn.Module, _Map]:
    """The first does the work of both, the second none."""
    return {
        first: _of_pixels(merged(_affine(first), _affine(second))),
        second: lambda features: features,
    }
