"""Lets nerfstudio's splatfacto run without CUDA, and without a network connection.

nerfstudio 1.1.5 calls gsplat's CUDA kernels, moves tensors with a bare `.cuda()` and compiles
`get_viewmat` (nerfstudio/models/splatfacto.py). The blocks below replace exactly that, and only
while a model that lives on the CPU is inside of one.
"""

from __future__ import annotations

import http.client
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchmetrics.image.lpip
from nerfstudio.models import splatfacto
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from t3dgs_masks.plugin import cpu_rasterizer

LPIPS_TIMEOUT_SECONDS = 5.0
"""How long one attempt to connect, or one silence during a download, may last."""


class _SharedPatch:
    """Replaces one attribute for as long as at least one block is open, in whichever thread.

    The viewer renders from a thread of its own while training goes on, so the last block to close
    restores the attribute, not the one that set it.

    Args:
        owner: the module or class.
        name: the attribute.
        replace: given the original, what stands in for it.
    """

    def __init__(self, owner: Any, name: str, replace: Callable[[Any], Any]) -> None:
        self._owner = owner
        self._name = name
        self._replace = replace
        self._lock = threading.Lock()
        self._open_blocks = 0
        self._original: Any = None
        self._is_inherited = False

    def __enter__(self) -> None:
        with self._lock:
            if self._open_blocks == 0:
                self._original = getattr(self._owner, self._name)
                self._is_inherited = self._name not in vars(self._owner)
                setattr(self._owner, self._name, self._replace(self._original))
            self._open_blocks += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open_blocks -= 1
            if self._open_blocks > 0:
                return
            if self._is_inherited:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, self._original)


class _ThreadDepth(threading.local):
    """How many blocks the calling thread has open."""

    depth = 0


_inside = _ThreadDepth()


def _stay_inside_blocks(cuda: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`Tensor.cuda` that does nothing in threads inside a block, and its work in others."""

    def stay(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if _inside.depth > 0 else cuda(tensor, *args, **kwargs)

    return stay


def _rasterize_by_device(gsplat_rasterization: Callable[..., Any]) -> Callable[..., Any]:
    def rasterization(means: Tensor, *args: Any, **kwargs: Any) -> Any:
        on_cpu = means.device.type == "cpu"
        return (cpu_rasterizer.rasterization if on_cpu else gsplat_rasterization)(
            means, *args, **kwargs
        )

    return rasterization


def _viewmat_by_device(compiled: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`get_viewmat` as it was written, for the CPU.

    The compiled one takes seconds on its first call and fails where there is no C++ compiler.
    """
    as_written = inspect.unwrap(compiled)

    def get_viewmat(camera_to_world: Tensor) -> Tensor:
        on_cpu = camera_to_world.device.type == "cpu"
        return (as_written if on_cpu else compiled)(camera_to_world)

    return get_viewmat


_TENSOR_CUDA = _SharedPatch(torch.Tensor, "cuda", _stay_inside_blocks)
_RASTERIZATION = _SharedPatch(splatfacto, "rasterization", _rasterize_by_device)
_GET_VIEWMAT = _SharedPatch(splatfacto, "get_viewmat", _viewmat_by_device)


@contextmanager
def splatfacto_on(device: torch.device | str) -> Iterator[None]:
    """A block in which SplatfactoModel's own methods work on `device`.

    Wrap `populate_modules` and `get_outputs` in it. On CUDA gsplat's own kernels are used and
    nothing is patched. On the CPU, whether or not there is a CUDA device besides,
    `Tensor.cuda()` leaves tensors where they are, gsplat's rasterization is replaced by
    :mod:`t3dgs_masks.plugin.cpu_rasterizer` and `get_viewmat` runs uncompiled. Blocks may be nested
    and may be open in several threads at once; everything is restored when the last one closes.

    Args:
        device: where the model is, or is about to be moved to.

    Raises:
        ValueError: the device is neither CUDA nor the CPU.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        yield
        return
    if kind != "cpu":
        raise ValueError(f"splatfacto runs on cuda or on the cpu, not on {kind}")
    with _TENSOR_CUDA, _RASTERIZATION, _GET_VIEWMAT:
        _inside.depth += 1
        try:
            yield
        finally:
            _inside.depth -= 1


class UnavailableLpips(nn.Module):
    """Stands in for LPIPS where its network cannot be had: every distance is NaN.

    It has no parameters, and takes no notice of those of a checkpoint that was written with LPIPS,
    so that such a checkpoint loads strictly. The reverse, a checkpoint without LPIPS into a model
    that has it, is what nerfstudio's `Pipeline.load_state_dict` falls back to non-strict for.
    """

    def forward(self, images: Tensor, _others: Tensor) -> Tensor:
        """[B, 3, H, W] twice -> [] NaN, on the same device."""
        return torch.full((), torch.nan, device=images.device)

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None:
        """Reports no unexpected keys: there is nothing here that they could belong to."""


@contextmanager
def _default_socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _lpips_if_available(lpips_class: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def construct(*args: Any, **kwargs: Any) -> nn.Module:
        try:
            # torch.hub opens the connection without a timeout of its own.
            with _default_socket_timeout(LPIPS_TIMEOUT_SECONDS):
                return lpips_class(*args, **kwargs)
        except (OSError, http.client.HTTPException) as error:
            # urllib's URLError, timeouts and a read-only cache folder are all OSErrors.
            reason: Exception = error
        except RuntimeError as error:
            # torch.hub checks the file's hash: a download that broke off, or a log-in page.
            if "invalid hash value" not in str(error):
                raise
            reason = error
        # URLError wraps the reason, which alone fits on a line.
        reason = getattr(reason, "reason", reason)
        CONSOLE.log(f"LPIPS will be nan, its network is not available: {reason}", markup=False)
        return UnavailableLpips()

    return construct


_LPIPS = _SharedPatch(
    torchmetrics.image.lpip, "LearnedPerceptualImagePatchSimilarity", _lpips_if_available
)


@contextmanager
def lpips_or_nan() -> Iterator[None]:
    """A block in which models can be built offline.

    torchmetrics downloads AlexNet when LPIPS is constructed. If that fails, one line says so, and
    :class:`UnavailableLpips` takes its place; training does not need it.
    """
    with _LPIPS:
        yield


_NO_LPIPS = _SharedPatch(
    torchmetrics.image.lpip,
    "LearnedPerceptualImagePatchSimilarity",
    lambda _: lambda *args, **kwargs: UnavailableLpips(),
)


@contextmanager
def without_lpips() -> Iterator[None]:
    """A block in which models are built without LPIPS, for uses that do not measure it."""
    with _NO_LPIPS:
        yield
