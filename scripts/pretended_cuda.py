"""A CUDA device that is not there: tensors that say they lie on one, and are worked out on the CPU.

For machines without a GPU. Whatever runs under `pretended_cuda()` goes every way that it would go
with CUDA, and this much can be told of it:

- Host and device tensors that meet in one operation are refused, as CUDA refuses them.
- Autocast is PyTorch's own, so that every value has the type that it would have.
- What tensors hold on the device, byte by byte, now and at most; where that is more than there is,
  it runs out of memory.
- How many operations would be started there.
- Where the host would wait for the device, or the device for the host, and how often.

It tells nothing of times, of kernels and the order of their sums, of what they need besides their
results, and of what the driver and PyTorch's allocator add. Nothing that needs a gradient runs.

A tensor of the device holds its values in one of the CPU, the way of PyTorch's own "wrapper
subclasses" (torch/testing/_internal/two_tensor.py is the smallest of them, and FakeTensor the
largest). `_Operations` sees every operation below autocast, also those that C++ begins by itself;
`_Calls` sees what Python asks for before PyTorch looks for a driver.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Wait = Literal["upload", "download", "value", "size"]
"""Why the host waits: values go to the device from memory that is not pinned; they come from there;
Python asks for one; how large a result is depends on values."""

_DEVICE = torch.device("cuda", 0)
_HOST = torch.device("cpu")
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
# One operation here, as with CUDA's fused kernels: scores take no memory. (In inference mode.)
_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
_MASKING = (torch.bool, torch.uint8)
_HERE = Path(__file__).name


@dataclass
class PretendedCuda:
    """What is known of the device."""

    total_bytes: int
    held_bytes: int = 0
    """By tensors, now."""
    peak_bytes: int = 0
    """The most of it since the beginning, or since `torch.cuda.reset_peak_memory_stats`."""
    operations: int = 0
    """That compute or copy something: each has to be started, which is what small ones take their
    time for."""
    waits: Counter[tuple[Wait, str]] = field(default_factory=Counter)
    """By cause, and by the line outside of PyTorch that brought it about: "module.py:12"."""
    _holders: dict[int, int] = field(default_factory=dict)  # storage -> tensors that show it

    def hold(self, tensor: _DeviceTensor) -> None:
        """Count what it shows, until it is gone.

        Raises:
            torch.OutOfMemoryError: there is no room for it.
        """
        storage = tensor.values.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._holders:
            if self.held_bytes + size > self.total_bytes:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size} bytes of the pretended device's "
                    f"{self.total_bytes}, of which {self.held_bytes} are in use."
                )
            self.held_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        self._holders[key] = self._holders.get(key, 0) + 1
        # It keeps the storage for as long, so that no other gets its key.
        tensor.holding = weakref.finalize(tensor, self._release, storage, size)

    def _release(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self.held_bytes -= size

    def wait(self, cause: Wait) -> None:
        """Take down that the line outside of PyTorch that is running brings a wait about."""
        self.waits[cause, _caller()] += 1

    def restart_counts(self) -> None:
        """Of operations and waits."""
        self.operations = 0
        self.waits.clear()

    def restart_peak(self) -> None:
        self.peak_bytes = self.held_bytes


_now: PretendedCuda | None = None


@contextmanager
def pretended_cuda(total_bytes: int = 12 << 30) -> Iterator[PretendedCuda]:
    """While the block runs, PyTorch has one CUDA device (compute capability 8.6).

    Networks that it leaves behind on the device are of no use afterwards.

    Args:
        total_bytes: the size of its memory. Beyond, it raises `torch.OutOfMemoryError`.

    Raises:
        RuntimeError: there is a real one, or blocks are nested.
    """
    global _now
    if torch.cuda.is_available():
        raise RuntimeError("there is a CUDA device; nothing needs to be pretended")
    torch._C._ensureCUDADeviceGuardSet()  # what looks for a driver with every operation, otherwise
    device = PretendedCuda(total_bytes)
    with ExitStack() as stack:
        for owner, name, value in _replaced(device):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_Operations())
        stack.enter_context(_Calls())
        _now = device
        try:
            yield device
        finally:
            _now = None


def _replaced(device: PretendedCuda) -> list[tuple[Any, str, Any]]:
    """What PyTorch is to say of its devices."""
    properties = SimpleNamespace(total_memory=device.total_bytes)
    said: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "get_device_capability": lambda _=None: (8, 6),
        "get_device_properties": lambda _=None: properties,
        "memory_allocated": lambda _=None: device.held_bytes,
        "max_memory_allocated": lambda _=None: device.peak_bytes,
        "reset_peak_memory_stats": lambda _=None: device.restart_peak(),
        "synchronize": lambda _=None: None,
        "empty_cache": lambda: None,
        "get_rng_state": lambda _=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
    }
    return [
        *((torch.cuda, name, value) for name, value in said.items()),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.Tensor, "pin_memory", lambda tensor, _=None: tensor),
    ]


class _DeviceTensor(Tensor):
    """A tensor of the device."""

    values: Tensor
    """On the CPU; the same storage for every view of it."""
    holding: weakref.finalize[..., _DeviceTensor]
    """Lets go of it, when called or when the tensor is gone."""

    @staticmethod
    def __new__(cls, values: Tensor) -> _DeviceTensor:
        # One that is made in inference mode could not be a view of one that was made before.
        with torch.inference_mode(False):
            tensor = Tensor._make_wrapper_subclass(
                cls,
                values.shape,
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                device=_DEVICE,
            )
        tensor.values = values
        _device().hold(tensor)
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _operate(func, args, kwargs or {})  # in threads, which know no modes

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.values!r} on {_DEVICE}"

    def __format__(self, spec: str) -> str:
        return format(self.values, spec)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _operate(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What would look for a driver before it becomes an operation."""

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch._has_compatible_shallow_copy_type:  # type: ignore[attr-defined]
            return False  # so that a module takes parameters of the device as they are
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if func is Tensor.cuda:
            return _to(args[0], _DEVICE)
        if func == _SET_DATA and isinstance(args[0], _DeviceTensor):
            return _take_data(args[0], args[1])
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _with_lists_there(args[0], args[1]), *args[2:])
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _HOST
            if func in (torch.tensor, torch.as_tensor):
                _device().wait("upload")
            return tree_map(_there, func(*args, **kwargs))
        return func(*args, **kwargs)


def _operate(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation, on tensors of the host or on tensors of the device."""
    name = func.name()
    if func is not _ATTENTION and _is_composite(func):
        with _Operations():  # each of the operations that it consists of
            return func._op_dk(_COMPOSITE, *args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _DeviceTensor)]
    if func is torch.ops.aten._to_copy.default:
        return _converted(args[0], kwargs)
    if func is torch.ops.aten.copy_.default:
        return _copied(*args[:2], is_waited_for=not (kwargs or dict(enumerate(args))).get(2))
    if not there and not _is_cuda(kwargs.get("device")):
        return func(*args, **kwargs)
    if torch.Tag.inplace_view in func.tags:
        raise NotImplementedError(f"{name} on the pretended device")
    _refuse_mixture(name, args, tensors, there)
    _device().operations += not (func.is_view or name == "aten::_unsafe_view")
    _take_down_waits(func, name, args)
    # What an operation writes into it also returns.
    known = {id(tensor.values): tensor for tensor in there}
    result = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    return tree_map(lambda v: known[id(v)] if id(v) in known else _there(v), result)


def _take_data(tensor: _DeviceTensor, source: Tensor) -> None:
    """`tensor.data = source`."""
    if not isinstance(source, _DeviceTensor):
        raise NotImplementedError("data that moves to another device")
    tensor.data = source
    tensor.holding()
    tensor.values = source.values
    _device().hold(tensor)


def _to(tensor: Tensor, *wanted: Any, **named: Any) -> Tensor:
    """`Tensor.to`, in all forms of its arguments."""
    device, dtype = named.get("device"), named.get("dtype")
    for value in wanted:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, Tensor):
            device, dtype = value.device, value.dtype
        elif isinstance(value, (str, torch.device)):
            device = value
    target = tensor.device if device is None else torch.device(device)
    if target.type == tensor.device.type == "cpu":
        return tensor.to(*wanted, **named)
    flags = [value for value in wanted if isinstance(value, bool)]
    non_blocking, copy = (*flags, *[False] * (2 - len(flags)))
    copy = named.get("copy", copy)
    if target.type == tensor.device.type and dtype in (None, tensor.dtype) and not copy:
        return tensor
    non_blocking = named.get("non_blocking", non_blocking)
    return _converted(tensor, {"dtype": dtype, "device": target, "non_blocking": non_blocking})


def _converted(tensor: Tensor, asked: Any) -> Tensor:
    """`aten::_to_copy`: another type, another device, or both."""
    asked = dict(asked)
    device, is_waited_for = asked.pop("device", None), not asked.pop("non_blocking", False)
    asked.pop("pin_memory", None)
    target = tensor.device if device is None else torch.device(device)
    _take_down_way(tensor.device, target, is_waited_for)
    _device().operations += "cuda" in (tensor.device.type, target.type)
    values = torch.ops.aten._to_copy.default(_here(tensor).detach(), **asked)
    return _there(values) if target.type == "cuda" else values


def _copied(into: Tensor, source: Tensor, *, is_waited_for: bool) -> Tensor:
    """`aten::copy_`."""
    _take_down_way(source.device, into.device, is_waited_for)
    _device().operations += "cuda" in (source.device.type, into.device.type)
    _here(into).copy_(_here(source))
    return into


def _with_lists_there(tensor: Tensor, index: Any) -> Any:
    """Of an index, lists as tensors on the device, if `tensor` is there: PyTorch takes them there
    each time."""
    parts = index if isinstance(index, tuple) else (index,)
    if not isinstance(tensor, _DeviceTensor) or not any(isinstance(part, list) for part in parts):
        return index
    _device().wait("upload")
    return tuple(_there(torch.tensor(part)) if isinstance(part, list) else part for part in parts)


def _refuse_mixture(
    name: str, args: Any, tensors: Sequence[Tensor], there: Sequence[Tensor]
) -> None:
    """As CUDA does: next to a tensor of the device, there may be numbers of the host, and indices
    into it."""
    if not there or len(there) == len(tensors):
        return
    others = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.dim() > 0]
    if _is_indexing(name) and isinstance(args[0], _DeviceTensor):
        indices = [id(index) for index in args[1]]
        others = [tensor for tensor in others if id(tensor) not in indices]
    if others:
        shapes = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} of {shapes}")


def _take_down_waits(func: Any, name: str, args: Any) -> None:
    device = _device()
    if torch.Tag.data_dependent_output in func.tags:
        device.wait("value")
    elif _is_indexing(name):
        indices = [index for index in args[1] if index is not None]
        if any(index.device.type == "cpu" for index in indices):
            device.wait("upload")
        if any(index.dtype in _MASKING for index in indices):
            device.wait("size")
    elif torch.Tag.dynamic_output_shape in func.tags or name == "torchvision::nms":
        device.wait("size")


def _take_down_way(source: torch.device, target: torch.device, is_waited_for: bool) -> None:
    if source.type == target.type:
        return
    if target.type == "cpu":
        _device().wait("download")
    elif is_waited_for:
        _device().wait("upload")


def _is_composite(func: Any) -> bool:
    """Whether it is but a row of others, in C++."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE)
    return has_kernel and _COMPOSITE not in func.py_kernels


def _is_indexing(name: str) -> bool:
    return name.split(".")[0] in ("aten::index", "aten::index_put_", "aten::_index_put_impl_")


def _is_cuda(device: Any) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def _here(value: Any) -> Any:
    """What an argument is on the host."""
    if isinstance(value, _DeviceTensor):
        return value.values
    return _HOST if _is_cuda(value) else value


def _there(value: Any) -> Any:
    """A tensor of the host, as one of the device."""
    on_host = isinstance(value, Tensor) and not isinstance(value, _DeviceTensor)
    return _DeviceTensor(value) if on_host else value


def _device() -> PretendedCuda:
    if _now is None:
        raise RuntimeError("the pretended device is gone")
    return _now


def _caller() -> str:
    """Outside of PyTorch and of this module."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if path.name != _HERE and "torch" not in path.parts:
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
