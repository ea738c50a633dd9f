"""Weights in the type that autocast would give them, once instead of in every call.

Under autocast a layer's weights are converted each time that it is called: a third of all
operations of SAM2's image encoder, and a quarter of those of a tracked frame
(`scripts/benchmark.py --pretend-cuda` counts them), each of which has to be started on the device.
What is converted beforehand is the same to the bit, and takes half of the memory.
"""

from __future__ import annotations

from torch import nn

from t3dgs_masks.sam.devices import Precision

# Their weights and biases go into operations that autocast runs in the lower precision
# (https://docs.pytorch.org/docs/stable/amp.html), and nowhere else in SAM1 and SAM2.
_CAST = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def cast_weights(network: nn.Module, precision: Precision) -> None:
    """Convert what autocast would convert, in place; nothing without autocast.

    Args:
        network: SAM1 or SAM2. From then on it runs within `precision.autocast()` alone.
        precision: of the device that it is for.
    """
    if precision.autocast_dtype is None:
        return
    for layer in network.modules():
        if isinstance(layer, _CAST):
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.to(precision.autocast_dtype)
