"""Counts what really went through the networks, with hooks on their modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from t3dgs_masks.types import NetworkCalls


@dataclass
class NetworkCounter:
    """Adds up the calls of every module it watches, until it is closed."""

    calls: NetworkCalls = field(default_factory=NetworkCalls)
    _handles: list[RemovableHandle] = field(default_factory=list)

    def watch_sam2(self, model: nn.Module) -> None:
        """Watch a SAM2 model's four networks."""
        self._watch(model.get_submodule("image_encoder"), "image_encoder", per_image=True)
        self._watch(model.get_submodule("memory_encoder"), "memory_encoder")
        self._watch(model.get_submodule("memory_attention"), "memory_attention")
        self._watch(model.get_submodule("sam_mask_decoder"), "mask_decoder")

    def watch_sam1(self, model: nn.Module) -> None:
        """Watch a SAM1 model that makes proposals."""
        self._watch(model.get_submodule("image_encoder"), "proposer_image_encoder", per_image=True)
        self._watch(model.get_submodule("mask_decoder"), "mask_decoder")

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _watch(self, module: nn.Module, name: str, *, per_image: bool = False) -> None:
        def count(_: nn.Module, args: tuple[Any, ...], __: Any) -> None:
            first = args[0] if args else None
            amount = first.shape[0] if per_image and isinstance(first, Tensor) else 1
            setattr(self.calls, name, getattr(self.calls, name) + amount)

        self._handles.append(module.register_forward_hook(count))
