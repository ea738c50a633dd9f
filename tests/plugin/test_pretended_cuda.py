"""The plugin on a device that is only pretended (`scripts/pretended_cuda.py`): where its tensors
lie, and that the masks are those of the CPU. gsplat's kernels are not part of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models import splatfacto
from torch import Tensor
from torch.utils._pytree import tree_map

from scripts.pretended_cuda import PretendedCuda
from t3dgs_masks import cli
from t3dgs_masks.plugin import cpu_rasterizer
from t3dgs_masks.plugin.cpu import without_lpips
from t3dgs_masks.plugin.model import (
    REFINED_KEY,
    T3dgsSplatfactoModel,
    T3dgsSplatfactoModelConfig,
)
from tests.plugin.scenes import (
    HEIGHT,
    NUM_VIEWS,
    WIDTH,
    datamanager_config,
    make_seed_points,
    make_trainer,
    write_dataset,
)

pytestmark = pytest.mark.pretended_gpu

DEVICE = torch.device("cuda", 0)


def rasterize_on_the_host(*args: Any, **kwargs: Any) -> Any:
    """In place of gsplat's kernels, which take tensors of the device alone and return such."""

    def fetched(value: Any) -> Any:
        if isinstance(value, Tensor):
            assert value.device == DEVICE
            return value.cpu()
        return value

    rendered = cpu_rasterizer.rasterization(*tree_map(fetched, args), **tree_map(fetched, kwargs))
    return tree_map(lambda value: value.to(DEVICE) if torch.is_tensor(value) else value, rendered)


@pytest.fixture
def splats_there(pretended: PretendedCuda) -> Iterator[None]:
    as_written = inspect.unwrap(splatfacto.get_viewmat)  # for no compiler knows of the device
    with (
        mock.patch.object(splatfacto, "rasterization", rasterize_on_the_host),
        mock.patch.object(splatfacto, "get_viewmat", as_written),
    ):
        yield


def model_there(robust: bool) -> T3dgsSplatfactoModel:
    config = T3dgsSplatfactoModelConfig(num_downscales=0, background_color="black")
    config.robust.enabled = robust
    config.robust.warmup_steps = 0
    with without_lpips():
        model = T3dgsSplatfactoModel(
            config,
            scene_box=SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]])),
            num_train_data=NUM_VIEWS,
            device=str(DEVICE),
            seed_points=make_seed_points(),
        )
    return model.to(DEVICE)


@torch.no_grad()
def loss_of(model: T3dgsSplatfactoModel, camera: Any, batch: dict[str, Any]) -> float:
    outputs = model.eval().get_outputs(camera)
    losses = model.train().get_loss_dict(outputs, batch)
    assert all(loss.device == DEVICE for loss in losses.values())
    return float(sum(losses.values(), torch.zeros((), device=DEVICE)).item())


@pytest.mark.parametrize("cache", ["cpu", "gpu"])
def test_a_refine_during_training(splats_there: None, tmp_path: Path, cache: str) -> None:
    keep = np.ones((HEIGHT, WIDTH), np.bool_)  # the user's own mask
    keep[34:] = False
    data = write_dataset(tmp_path / "data", masks=dict.fromkeys(range(5), keep))
    config = datamanager_config(
        data, refine_steps=(10,), cache_images=cache, after_refine="restart"
    )
    datamanager = config.setup(device=str(DEVICE), test_mode="val")
    model = model_there(robust=True)
    trainer: Any = make_trainer(tmp_path / "run", datamanager, model)
    (refine,) = datamanager.get_training_callbacks(
        TrainingCallbackAttributes(
            optimizers=trainer.optimizers,
            grad_scaler=None,
            pipeline=trainer.pipeline,
            trainer=trainer,
        )
    )
    model.step_cb(trainer.optimizers, 9)
    camera, batch = datamanager.next_train(9)
    assert batch["image"].device == camera.device == DEVICE
    assert loss_of(model, camera, batch) > 0
    model.gauss_params["means"].data = model.gauss_params["means"].data + 1.0
    refine.run_callback_at_location(10, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
    assert model.means.device == DEVICE
    assert torch.equal(model.means.detach().cpu(), make_seed_points()[0])  # restarted
    model.step_cb(trainer.optimizers, 10)
    camera, batch = datamanager.next_train(10)
    assert batch[REFINED_KEY]
    assert batch["mask"].shape == (HEIGHT, WIDTH, 1)
    assert not batch["mask"][34:].any()  # the user's own mask counts as before
    assert loss_of(model, camera, batch) > 0
    assert len(list((data / "masks").rglob("*.png"))) == NUM_VIEWS + 1


def test_prompts_of_a_trained_run(splat_demo, tmp_path: Path, request) -> None:
    """Trained on the CPU, rendered on the device."""
    asked = ["prompts", "--load-config", str(splat_demo.config("unmasked")), "--output-dir"]
    assert cli.main([*asked, str(tmp_path / "cpu"), "--device", "cpu"]) == 0
    request.getfixturevalue("splats_there")
    assert cli.main([*asked, str(tmp_path / "cuda"), "--device", "cuda"]) == 0
    for kind in ("masks", "diffs"):
        there = sorted((tmp_path / "cuda" / kind).glob("*.png"))
        assert len(there) == 40
        for path in there:
            pixels = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED).astype(np.int32)
                      for file in (path, tmp_path / "cpu" / kind / path.name)]  # fmt: skip
            assert (np.abs(pixels[0] - pixels[1]) > 2).mean() < 0.001
