"""Choice of device and precision, on machines that have and that lack the hardware."""

from __future__ import annotations

import pytest
import torch

from t3dgs_masks.errors import UserError
from t3dgs_masks.sam.devices import Precision, choose_precision, resolve_device, set_threads


def _pretend(
    monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False, capability: int = 9
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 0))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(1, True, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_auto_takes_the_fastest(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str
) -> None:
    _pretend(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_device("auto").type == expected


def test_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, cuda=2, mps=True)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("CPU") == torch.device("cpu")
    assert resolve_device("mps") == torch.device("mps")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "cuda", "problem"),
    [
        ("cuda", 0, "finds no CUDA device"),
        ("cuda:3", 2, "cuda:0 to cuda:1"),
        ("cuda:1", 1, "cuda:0 only"),
        ("mps", 0, "finds none"),
        ("gpu", 1, "Unknown device 'gpu'"),
        ("cuda:-1", 1, "Unknown device"),
        ("", 1, "Unknown device"),
    ],
)
def test_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, name: str, cuda: int, problem: str
) -> None:
    _pretend(monkeypatch, cuda=cuda)
    with pytest.raises(UserError, match=problem) as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)


def test_precision_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, cuda=1)
    cuda = torch.device("cuda")
    assert choose_precision(cuda) == Precision("cuda", torch.bfloat16, tf32=True)
    assert choose_precision(cuda, "float32") == Precision("cuda")
    assert choose_precision(torch.device("mps")) == Precision("mps")
    assert choose_precision(torch.device("cpu")).name == "float32"
    assert choose_precision(cuda).name == "bfloat16"

    _pretend(monkeypatch, cuda=1, capability=7)
    assert choose_precision(cuda) == Precision("cuda")
    with pytest.raises(UserError, match="compute capability 8"):
        choose_precision(cuda, "bfloat16")


def test_the_cpu_computes_in_float32() -> None:
    precision = choose_precision(torch.device("cpu"))
    with precision.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert not torch.is_autocast_enabled("cpu")
    assert product.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_settings_hold_inside_only() -> None:
    # The switches exist without a CUDA device too.
    def settings() -> tuple[object, ...]:
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return (torch.is_autocast_enabled("cuda"), *tf32)

    before = settings()
    with Precision("cuda", torch.bfloat16, tf32=True).autocast():
        inside = settings()
    # PyTorch itself turns autocast off, with a warning, where there is no CUDA device.
    assert inside == (torch.cuda.is_available(), True, True)
    with Precision("cuda").autocast():
        assert settings() == (False, False, False)
    assert settings() == before


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == 1
        set_threads(None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UserError, match="at least 1"):
        set_threads(0)
