"""A whole `refine --device cuda` on a device that is only pretended (`scripts/pretended_cuda.py`),
and whether it is pretended well."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from torch import nn

from scripts.pretended_cuda import PretendedCuda, pretended_cuda
from t3dgs_masks import cli
from t3dgs_masks.synthetic.capture import CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from t3dgs_masks.synthetic.dataset import DatasetPaths, write_nerfstudio
from tests.sam.tiny_sam1 import write_tiny_sam1

pytestmark = pytest.mark.pretended_gpu

NUM_FRAMES = 8
HOST = torch.device("cpu")


# --- the pretended device -------------------------------------------------------------------------


def test_tensors_lie_there_until_they_are_fetched(pretended: PretendedCuda) -> None:
    there = torch.arange(6, device="cuda").float() * 2
    assert there.device == torch.device("cuda", 0)
    assert there.reshape(2, 3)[1].device == there.device
    fetched = there[2:].cpu()
    assert fetched.device == HOST
    assert fetched.tolist() == [4.0, 6.0, 8.0, 10.0]
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("cuda",), {}),
        ((torch.float64,), {}),
        (("cuda", torch.float64), {}),
        (("cuda", torch.float64, True, True), {}),
        ((torch.zeros(1, dtype=torch.int32),), {}),
        ((), {"device": "cuda", "dtype": torch.bool, "copy": True}),
        ((), {"dtype": torch.float32}),
    ],
    ids=str,
)
@pytest.mark.parametrize("begin", ["cpu", "cuda"])
def test_to_goes_where_it_should(pretended: PretendedCuda, begin: str, args, kwargs) -> None:
    tensor = torch.tensor([0.0, 2.5], device=begin)
    moved = tensor.to(*args, **kwargs)
    said = [*args, *kwargs.values()]
    target = "cuda" if "cuda" in said else ("cpu" if torch.is_tensor(said[0]) else begin)
    assert moved.device.type == target
    expected = torch.tensor([0.0, 2.5]).to(
        *(value for value in args if value != "cuda"),
        **{name: value for name, value in kwargs.items() if name == "dtype"},
    )
    assert moved.dtype == expected.dtype
    assert moved.cpu().tolist() == expected.tolist()
    is_same = target == begin and expected.dtype == torch.float32
    assert (moved is tensor) == (is_same and True not in said)


def test_gradients_of_the_host_are_as_ever(pretended: PretendedCuda) -> None:
    weight = torch.ones(2, requires_grad=True)
    weight.to(torch.float64).sum().backward()
    assert weight.grad is not None


def test_writing_into_a_view_writes_into_the_whole(pretended: PretendedCuda) -> None:
    whole = torch.zeros(2, 3, device="cuda")
    assert whole[1].add_(1).device.type == "cuda"
    whole[0, whole[1] > 0] = 5.0
    assert whole.cpu().tolist() == [[5.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("meet", [torch.add, torch.matmul, lambda a, b: torch.cat([a, b])])
def test_host_and_device_do_not_meet(pretended: PretendedCuda, meet) -> None:
    here, there = torch.ones(3, 3), torch.ones(3, 3, device="cuda")
    with pytest.raises(RuntimeError, match="same device"):
        meet(there, here)
    with pytest.raises(RuntimeError, match="same device"):
        here[torch.zeros(1, dtype=torch.long).to("cuda")]
    assert (there + torch.tensor(1.0)).cpu().sum() == 18  # a number is none of them


def test_autocast_is_that_of_cuda(pretended: PretendedCuda) -> None:
    layer = nn.Linear(4, 3).to("cuda")
    assert isinstance(layer.weight, nn.Parameter)
    pixels = torch.ones(2, 4).to("cuda")
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        mapped = layer(pixels)
        assert mapped.dtype == torch.bfloat16
        assert torch.softmax(mapped, dim=-1).dtype == torch.float32
        assert nn.functional.scaled_dot_product_attention(*[pixels[None]] * 3).dtype == (
            torch.bfloat16
        )


def test_what_tensors_hold_is_counted_once_and_until_the_last_is_gone(
    pretended: PretendedCuda,
) -> None:
    whole = torch.zeros(1000, device="cuda")
    part = whole[10:20]
    assert torch.cuda.memory_allocated() == pretended.held_bytes == 4000
    more = whole + 1
    assert pretended.held_bytes == 8000
    del whole, more
    assert pretended.held_bytes == 4000
    assert torch.cuda.max_memory_allocated() == 8000
    del part
    assert pretended.held_bytes == 0
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == 0


def test_it_runs_out_of_memory() -> None:
    with pretended_cuda(total_bytes=1000) as pretended:
        first = torch.zeros(200, device="cuda")
        with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 800 bytes"):
            first + 1
        assert pretended.held_bytes == 800
        del first
        assert torch.ones(200, device="cuda").sum().item() == 200


def causes(pretended: PretendedCuda) -> dict[str, int]:
    """Of the waits so far, which are then forgotten."""
    found: dict[str, int] = {}
    for (cause, _), times in pretended.waits.items():
        found[cause] = found.get(cause, 0) + times
    pretended.waits.clear()
    return found


def test_waits_are_told_with_their_cause_and_place(pretended: PretendedCuda) -> None:
    there = torch.zeros(4, device="cuda")
    assert causes(pretended) == {}
    there.to("cpu")
    assert [place.split(":")[0] for _, place in pretended.waits] == ["test_pretended_cuda.py"]
    assert causes(pretended) == {"download": 1}
    torch.ones(3).to("cuda")
    torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert causes(pretended) == {"upload": 1}
    assert there.sum().item() == 0.0
    assert causes(pretended) == {"value": 1}
    assert len(there.nonzero()) == 0
    assert len(there[there > 1]) == 0
    assert causes(pretended) == {"size": 2}
    assert len(there[[0, 2]]) == 2
    assert causes(pretended) == {"upload": 1}


def test_nothing_stays_of_it() -> None:
    with pretended_cuda():
        assert torch.cuda.is_available()
        with pytest.raises(RuntimeError, match="nothing needs to be pretended"):
            pretended_cuda().__enter__()
    assert not torch.cuda.is_available()
    assert torch.zeros(2).device == HOST


# --- refine ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refined:
    """What one call of the command line did."""

    report: dict
    transient: np.ndarray  # [N, H, W] bool
    held_bytes: int
    """By the device afterwards."""


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> DatasetPaths:
    spec = CaptureSpec(seed=5, num_frames=NUM_FRAMES, height=96, width=128, num_walkers=2)
    captured = make_capture(spec)
    prompts = half_trained_prompts(captured, seed=5)
    return write_nerfstudio(captured, prompts, tmp_path_factory.mktemp("capture"))


def refine(
    capture: DatasetPaths, out: Path, *args: object, device: str, prompts: bool = True
) -> Refined:
    given = ["refine", "--video-path", capture.images, "--result-dir", out, "--device", device]
    given += ["--sam2-checkpoint", "tiny-synthetic", *args]
    if prompts:
        given += ["--prompt-dir", capture.prompts, "--prompt-polarity", "white-transient"]
    assert cli.main([str(arg) for arg in given]) == 0
    gc.collect()
    masks = [
        np.asarray(PilImage.open(path)) == 0 for path in sorted((out / "binary_masks").iterdir())
    ]
    report = json.loads((out / "report.json").read_text())
    return Refined(report, np.stack(masks), torch.cuda.memory_allocated())


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_refine_on_it_in_float32_is_refine_on_the_cpu(
    capture: DatasetPaths, tmp_path: Path
) -> None:
    exact = ("--precision", "float32")
    on_cpu = refine(capture, tmp_path / "cpu", *exact, device="cpu")
    with pretended_cuda():
        on_device = refine(capture, tmp_path / "cuda", *exact, device="cuda")
    # Attention sums in another order there.
    assert iou(on_device.transient, on_cpu.transient) > 0.995
    assert on_device.report["counts"] == on_cpu.report["counts"]
    assert on_device.report["peak_vram_mb"] > 10  # the network alone
    assert on_device.held_bytes == 0


def test_refine_on_it_in_bfloat16_differs_by_edges(capture: DatasetPaths, tmp_path: Path) -> None:
    on_cpu = refine(capture, tmp_path / "cpu", device="cpu")
    with pretended_cuda():
        on_device = refine(capture, tmp_path / "cuda", device="cuda")
    assert on_device.report["device"] == "cuda bfloat16"
    assert iou(on_device.transient, on_cpu.transient) > 0.95


@pytest.mark.parametrize("proposer", ["sam2", "sam1"])
def test_promptless_on_it(capture: DatasetPaths, tmp_path: Path, proposer: str) -> None:
    args: list[object] = ["--start-points-per-side", 4, "--prompt-points-per-side", 2]
    if proposer == "sam1":
        args += ["--sam-checkpoint", write_tiny_sam1(tmp_path / "sam1.pth")]
        args += ["--pred-iou-thresh", 0, "--stability-score-thresh", 0]
    with pretended_cuda():
        on_device = refine(capture, tmp_path / "cuda", *args, device="cuda", prompts=False)
    assert len(on_device.transient) == NUM_FRAMES
    calls = on_device.report["counts"]
    assert calls["image_encoder"] == NUM_FRAMES
    assert calls["proposer_image_encoder"] == (NUM_FRAMES if proposer == "sam1" else 0)


def test_with_little_memory_the_masks_are_the_same_and_no_frame_is_encoded_twice(
    capture: DatasetPaths, tmp_path: Path
) -> None:
    exact = ("--precision", "float32")
    with pretended_cuda() as device:
        plenty = refine(capture, tmp_path / "plenty", *exact, device="cuda")
        most = device.peak_bytes
    with pretended_cuda(int(0.8 * most)):
        little = refine(capture, tmp_path / "little", *exact, device="cuda")
    assert iou(little.transient, plenty.transient) > 0.995
    assert little.report["counts"]["image_encoder"] == NUM_FRAMES
