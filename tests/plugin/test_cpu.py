"""nerfstudio's own SplatfactoModel on the CPU, and nothing left patched."""

from __future__ import annotations

import functools
import http.client
import inspect
import math
import socket
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from urllib.error import URLError

import pytest
import torch
import torchmetrics.image.lpip
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.models import splatfacto
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from torch import Tensor, nn

from t3dgs_masks.plugin import cpu
from t3dgs_masks.plugin.cpu import UnavailableLpips, lpips_or_nan, splatfacto_on

LPIPS = "LearnedPerceptualImagePatchSimilarity"
WIDTH, HEIGHT = 40, 28


@dataclass(frozen=True)
class Patchable:
    """What the blocks may change."""

    has_own_cuda: bool
    cuda: Any
    rasterization: Any
    get_viewmat: Any
    lpips: Any

    @staticmethod
    def now() -> Patchable:
        return Patchable(
            "cuda" in vars(torch.Tensor),
            torch.Tensor.cuda,
            vars(splatfacto)["rasterization"],
            splatfacto.get_viewmat,
            getattr(torchmetrics.image.lpip, LPIPS),
        )


@pytest.fixture(autouse=True)
def nothing_stays_patched():
    before = Patchable.now()
    timeout = socket.getdefaulttimeout()
    yield
    assert Patchable.now() == before
    assert socket.getdefaulttimeout() == timeout


class FakeLpips(nn.Module):
    """LPIPS as far as a checkpoint knows it."""

    def __init__(self, normalize: bool) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)


def failing_with(error: Exception) -> Callable[..., nn.Module]:
    def construct(**_: Any) -> nn.Module:
        raise error

    return construct


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constructing LPIPS fails as it does without a network."""
    monkeypatch.setattr(
        torchmetrics.image.lpip, LPIPS, failing_with(URLError("Name or service not known"))
    )


class Model(SplatfactoModel):
    def populate_modules(self) -> None:
        with splatfacto_on("cpu"), lpips_or_nan():
            super().populate_modules()

    def get_outputs(self, camera: Cameras) -> Any:
        with splatfacto_on(self.device):
            return super().get_outputs(camera)


def make_model(seeded: bool = True, **options: Any) -> Model:
    torch.manual_seed(0)
    config = SplatfactoModelConfig(
        num_downscales=0, num_random=60, random_scale=1.5, sh_degree_interval=1, **options
    )
    colors = torch.randint(0, 255, (60, 3)).float()
    return Model(
        config,
        scene_box=SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]])),
        num_train_data=2,
        seed_points=(torch.rand(60, 3) - 0.5, colors) if seeded else None,
    )


def make_camera() -> Cameras:
    """Two units from the origin, looking at it."""
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = 2.0
    return Cameras(pose, 35.0, 35.0, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)


# --- splatfacto_on --------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("seeded", [True, False], ids=["seed points", "random points"])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_renders(seeded: bool, mode: str) -> None:
    model = make_model(seeded, rasterize_mode=mode).eval()
    outputs = model.get_outputs_for_camera(make_camera())
    assert outputs["rgb"].shape == (HEIGHT, WIDTH, 3)
    assert outputs["accumulation"].max() > 0.1
    seen = outputs["accumulation"][..., 0] > 0.1
    assert ((outputs["depth"][..., 0][seen] - 2.0).abs() < 1.0).all()
    metrics, _ = model.get_image_metrics_and_images(
        outputs, {"image": torch.zeros(HEIGHT, WIDTH, 3)}
    )
    assert math.isnan(cast(float, metrics["lpips"]))
    assert math.isfinite(cast(float, metrics["psnr"]))


@pytest.mark.usefixtures("offline")
def test_trains_and_densifies() -> None:
    model = make_model(
        warmup_length=3, refine_every=4, densify_grad_thresh=1e-6, reset_alpha_every=100
    )
    # There are two images: refining pauses that long, and one interval, after an opacity reset.
    model.train()
    groups = model.get_param_groups()
    optimizers = Optimizers(
        {name: {"optimizer": AdamOptimizerConfig(lr=5e-3), "scheduler": None} for name in groups},
        groups,
    )
    photo = torch.rand(HEIGHT, WIDTH, 3) * 0.2 + 0.4
    losses = []
    for step in range(21):
        model.step_cb(optimizers, step)
        outputs = model.get_outputs(make_camera())
        loss = sum(model.get_loss_dict(outputs, {"image": photo}).values(), torch.zeros(()))
        optimizers.zero_grad_all()
        loss.backward()
        optimizers.optimizer_step_all()
        model.step_post_backward(step)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert model.num_points > 60


@pytest.mark.usefixtures("offline")
def test_camera_optimizer_gets_a_gradient() -> None:
    from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig

    model = make_model(camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"))
    model.step_cb(cast(Optimizers, SimpleNamespace(optimizers={})), 0)
    camera = make_camera()
    camera.metadata = {"cam_idx": 1}
    model.get_outputs(camera)["rgb"][:, : WIDTH // 2].sum().backward()
    adjustment = model.camera_optimizer.pose_adjustment.grad
    assert adjustment is not None
    assert (adjustment[0] == 0).all()
    assert (adjustment[1] != 0).all()


def test_get_viewmat_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    as_written = inspect.unwrap(splatfacto.get_viewmat)
    assert as_written is not splatfacto.get_viewmat

    @functools.wraps(as_written)
    def compiled(_pose: Tensor) -> Tensor:
        raise AssertionError("compiles")

    monkeypatch.setattr(splatfacto, "get_viewmat", compiled)
    with splatfacto_on("cpu"):
        viewmat = splatfacto.get_viewmat(make_camera().camera_to_worlds)
    expected = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]])
    assert torch.equal(viewmat[0], expected)


def test_restores_after_an_exception() -> None:
    before = Patchable.now()

    def fail_inside() -> None:
        with splatfacto_on("cpu"), lpips_or_nan():
            assert Patchable.now() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert Patchable.now() == before


def test_nothing_is_patched_for_cuda() -> None:
    before = Patchable.now()
    for device in ("cuda", "cuda:1", torch.device("cuda", 0)):
        with splatfacto_on(device):
            assert Patchable.now() == before


def test_refuses_other_devices() -> None:
    with pytest.raises(ValueError, match="on cuda or on the cpu, not on mps"), splatfacto_on("mps"):
        pass


def test_nested_blocks() -> None:
    tensor = torch.zeros(2)
    with splatfacto_on("cpu"):
        patched = Patchable.now()
        with splatfacto_on(torch.device("cpu")), splatfacto_on("cuda"):
            assert Patchable.now() == patched
        assert Patchable.now() == patched
        assert tensor.cuda() is tensor
        assert nn.Parameter(tensor).cuda(0, non_blocking=True).device.type == "cpu"


def test_threads_come_and_go_in_any_order() -> None:
    """The first thread to enter leaves first, and takes nothing away from the second."""
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    tensor = torch.zeros(2)
    failures: list[BaseException] = []

    def first() -> None:
        with splatfacto_on("cpu"):
            first_is_in.set()
            assert second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        try:
            assert first_is_in.wait(10)
            with splatfacto_on("cpu"):
                second_is_in.set()
                assert first_is_out.wait(10)
                assert tensor.cuda() is tensor
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert first_is_out.is_set()
    assert not failures


def test_other_threads_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread outside of any block still moves its tensors to the GPU."""
    moved = object()
    monkeypatch.setattr(torch.Tensor, "cuda", lambda _tensor: moved, raising=False)
    results = []
    with splatfacto_on("cpu"):
        thread = threading.Thread(target=lambda: results.append(torch.zeros(1).cuda()))
        thread.start()
        thread.join(20)
    assert results == [moved]


def test_tensors_elsewhere_go_to_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splatfacto, "rasterization", lambda means, **_: ("gsplat", means.device))
    monkeypatch.setattr(splatfacto, "get_viewmat", lambda pose: ("compiled", pose.device))
    elsewhere = torch.zeros(1, 3, 4, device="meta")
    rasterize = cast(Any, splatfacto)
    with splatfacto_on("cpu"):
        assert rasterize.rasterization(means=elsewhere)[0] == "gsplat"
        assert rasterize.get_viewmat(elsewhere)[0] == "compiled"


# --- lpips_or_nan ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        URLError("[Errno -2] Name or service not known"),
        TimeoutError("timed out"),
        PermissionError("read-only"),
        http.client.BadStatusLine("not HTTP"),
        RuntimeError('invalid hash value (expected "7be5be79", got "0")'),
    ],
    ids=lambda error: type(error).__name__,
)
def test_lpips_is_nan_when_it_cannot_be_had(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torchmetrics.image.lpip, LPIPS, failing_with(error))
    with lpips_or_nan():
        lpips = getattr(torchmetrics.image.lpip, LPIPS)(normalize=True)
    assert isinstance(lpips, UnavailableLpips)
    distance = lpips(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    assert distance.shape == ()
    assert distance.isnan()
    assert not lpips.state_dict()
    notice = capsys.readouterr().out
    assert notice.count("LPIPS will be nan") == 1
    if isinstance(error, URLError):
        assert "[Errno -2] Name or service not known" in " ".join(notice.split())


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchmetrics.image.lpip, LPIPS, failing_with(RuntimeError("size mismatch")))
    with pytest.raises(RuntimeError, match="size mismatch"), lpips_or_nan():
        getattr(torchmetrics.image.lpip, LPIPS)(normalize=True)


def test_lpips_itself_is_used_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchmetrics.image.lpip, LPIPS, FakeLpips)
    with lpips_or_nan():
        assert isinstance(getattr(torchmetrics.image.lpip, LPIPS)(normalize=True), FakeLpips)


def test_a_silent_server_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub's download, from a server that accepts a connection and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{server.getsockname()[1]}/alexnet.pth"

    def download(**_: Any) -> nn.Module:
        with urllib.request.urlopen(address):
            raise AssertionError("it answered")

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cpu, "LPIPS_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(torchmetrics.image.lpip, LPIPS, download)
    with server, lpips_or_nan():
        lpips = getattr(torchmetrics.image.lpip, LPIPS)(normalize=True)
    assert isinstance(lpips, UnavailableLpips)


class Pipeline(VanillaPipeline):
    """As much of a pipeline as loads a checkpoint."""

    def __init__(self, model: Model) -> None:
        nn.Module.__init__(self)
        self._model = model
        self.datamanager = cast(Any, nn.Module())


@pytest.mark.parametrize("saved_with", [True, False], ids=["saved with", "saved without"])
@pytest.mark.parametrize("loaded_with", [True, False], ids=["loaded with", "loaded without"])
def test_checkpoints_with_and_without_lpips(
    saved_with: bool, loaded_with: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(with_lpips: bool) -> Model:
        substitute = FakeLpips if with_lpips else failing_with(URLError("offline"))
        monkeypatch.setattr(torchmetrics.image.lpip, LPIPS, substitute)
        return make_model()

    saved, loaded = build(saved_with), build(loaded_with)
    monkeypatch.undo()
    with torch.no_grad():
        saved.gauss_params["means"] += 1.0
    state = Pipeline(saved).state_dict()
    assert any("lpips" in key for key in state) == saved_with
    Pipeline(loaded).load_state_dict(state)
    assert torch.equal(loaded.means, saved.means)
    if saved_with and loaded_with:
        assert torch.equal(cast(Any, loaded.lpips).net.weight, cast(Any, saved.lpips).net.weight)
    # Only what is really missing is an error when loading strictly.
    if saved_with or not loaded_with:
        Pipeline(loaded).load_state_dict(state, strict=True)
