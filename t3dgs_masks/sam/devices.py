"""Which device to compute on, and with which numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from t3dgs_masks.errors import UserError

PrecisionName = Literal["auto", "bfloat16", "float32"]

_DEVICE_PATTERN = re.compile(r"(cpu|mps|cuda(:\d+)?)")
_AMPERE = 8  # first CUDA compute capability with bfloat16 and TF32 tensor cores


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device of that name: ``auto`` (CUDA, else MPS, else CPU), ``cuda[:n]``, ``mps``, ``cpu``.

    One that is asked for by name and is not there is a UserError: silently computing on the CPU
    would turn minutes into hours.
    """
    name = str(name).strip().lower()
    if name == "auto":
        return _best_device()
    if not _DEVICE_PATTERN.fullmatch(name):
        raise UserError(f"Unknown device '{name}': choose auto, cuda, cuda:<number>, mps or cpu.")
    device = torch.device(name)
    if device.type == "cuda":
        _check_cuda(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "Device 'mps' was asked for, but PyTorch finds none; use --device auto or cpu."
        )
    return device


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU-only build"
        raise UserError(
            f"Device '{device}' was asked for, but PyTorch ({torch.__version__}, {build}) finds no "
            "CUDA device; use --device auto or cpu."
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        last = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0 only"
        raise UserError(f"There is no device '{device}': this machine has {last}.")


@dataclass(frozen=True)
class Precision:
    """The numbers a network computes with on one device.

    float32 everywhere but on CUDA devices with tensor cores for bfloat16 (compute capability 8
    and up). The code that uses it is the same for both: ``with precision.autocast(): ...``.
    """

    device_type: str
    autocast_dtype: torch.dtype | None = None  # None: float32 throughout
    tf32: bool = False
    reordered_sums: bool = False
    """On CPUs: float32, but sums may be taken in the order that is fastest (`fast_parts`,
    `attention`), where it is otherwise that of the stock network."""

    @property
    def name(self) -> str:
        """``bfloat16`` or ``float32``, for reports."""
        return "float32" if self.autocast_dtype is None else str(self.autocast_dtype).split(".")[1]

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Context in which to run the networks. PyTorch's settings are as before after it, so
        that another network in the process (a splat in training) keeps its own."""
        if self.device_type != "cuda":
            yield
            return
        bfloat16 = self.autocast_dtype is not None
        with _tf32(self.tf32), torch.autocast("cuda", self.autocast_dtype, enabled=bfloat16):
            yield


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul = bool(torch.backends.cuda.matmul.allow_tf32)
    cudnn = bool(torch.backends.cudnn.allow_tf32)
    _set_tf32(allowed, allowed)
    try:
        yield
    finally:
        _set_tf32(matmul, cudnn)


def _set_tf32(matmul: bool, cudnn: bool) -> None:
    """TF32 for the matrix products and convolutions that autocast leaves in float32."""
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = cudnn


def choose_precision(device: torch.device, requested: PrecisionName = "auto") -> Precision:
    """bfloat16 with TF32 where the device has hardware for it, float32 elsewhere.

    ``float32`` forces the stock network's float32 on any device (no TF32, nothing reordered);
    ``bfloat16`` on a device without the hardware is a UserError.
    """
    if requested == "float32":
        return Precision(device.type)
    capable = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= _AMPERE
    if requested == "bfloat16" and not capable:
        raise UserError(
            f"Precision bfloat16 needs a CUDA device of compute capability {_AMPERE}.0 or higher; "
            f"on '{device}' leave it at auto."
        )
    if capable:
        return Precision(device.type, torch.bfloat16, tf32=True)
    return Precision(device.type, reordered_sums=device.type == "cpu")


def set_threads(count: int | None) -> None:
    """Limit PyTorch's CPU threads; None leaves its own choice (all cores, or OMP_NUM_THREADS)."""
    if count is None:
        return
    if count < 1:
        raise UserError(f"The number of threads must be at least 1, not {count}.")
    torch.set_num_threads(count)
