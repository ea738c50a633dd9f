"""Residuals of training views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig

from t3dgs_masks.plugin.datamanager import T3dgsDatamanager
from t3dgs_masks.plugin.model import T3dgsSplatfactoModel
from t3dgs_masks.plugin.rendering import view_residual
from tests.plugin.scenes import (
    HEIGHT,
    WIDTH,
    make_datamanager,
    make_model,
    make_optimizers,
    write_dataset,
)

WITH_EVERYTHING = {
    "camera_optimizer": CameraOptimizerConfig(mode="SO3xR3"),
    "use_bilateral_grid": True,
    "grid_shape": (4, 4, 2),
}


@pytest.fixture
def datamanager(tmp_path: Path) -> T3dgsDatamanager:
    return make_datamanager(write_dataset(tmp_path / "data"))


def expected(
    model: T3dgsSplatfactoModel, datamanager: T3dgsDatamanager, camera_idx: int
) -> np.ndarray:
    """The residual that a training step has, from the model as it trains."""
    model.train()
    model.step_cb(make_optimizers(model), 0)
    photo = datamanager.cached_train[camera_idx]["image"].float() / 255
    view = datamanager.train_cameras[camera_idx : camera_idx + 1]
    view.metadata = {"cam_idx": camera_idx}
    rgb = model.get_outputs(view)["rgb"].detach()
    return (rgb - photo).abs().mean(dim=-1).numpy()


def test_it_is_the_mean_over_channels(datamanager: T3dgsDatamanager) -> None:
    model = make_model()
    residual = view_residual(model, datamanager, 2)
    assert residual.shape == (HEIGHT, WIDTH)
    assert residual.dtype == np.float32
    assert 0 <= residual.min() < residual.max() <= 1
    np.testing.assert_allclose(residual, expected(model, datamanager, 2), atol=1e-6)


def test_it_is_at_the_pose_and_in_the_colours_that_training_found(
    datamanager: T3dgsDatamanager,
) -> None:
    model = make_model(**WITH_EVERYTHING)
    before = view_residual(model, datamanager, 1)
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment[1, 0] = 0.3
    moved = view_residual(model, datamanager, 1)
    assert np.abs(moved - before).max() > 0.1
    np.testing.assert_allclose(moved, expected(model, datamanager, 1), atol=1e-6)
    with torch.no_grad():
        model.bil_grids.grids[1] *= 0.5
    darker = view_residual(model, datamanager, 1)
    assert np.abs(darker - moved).max() > 0.05
    np.testing.assert_allclose(darker, expected(model, datamanager, 1), atol=1e-6)
    # those of one view are not those of another
    np.testing.assert_allclose(
        view_residual(model, datamanager, 0),
        view_residual(make_model(), datamanager, 0),
        atol=1e-6,
    )


def test_it_is_at_full_resolution(datamanager: T3dgsDatamanager) -> None:
    model = make_model(num_downscales=2)
    model.train()
    assert model._get_downscale_factor() == 4
    residual = view_residual(model, datamanager, 0)
    np.testing.assert_array_equal(residual, view_residual(make_model(), datamanager, 0))


@pytest.mark.parametrize("training", [True, False])
def test_model_and_cameras_are_left_alone(datamanager: T3dgsDatamanager, training: bool) -> None:
    """The strategy reads what the last training step left in `info`."""
    model: Any = make_model(**WITH_EVERYTHING)
    expected(model, datamanager, 0)
    model.train(training)
    info, size = model.info, model.last_size
    cameras = datamanager.train_cameras
    poses = cameras.camera_to_worlds.clone()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    view_residual(model, datamanager, 3)
    assert model.info is info
    assert model.last_size is size
    assert model.training is training
    assert all(module.training is training for module in model.children())
    assert torch.equal(datamanager.train_cameras.camera_to_worlds, poses)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


def test_float_images_give_the_same(tmp_path: Path, datamanager: T3dgsDatamanager) -> None:
    data = write_dataset(tmp_path / "again")
    floats = make_datamanager(data, cache_images_type="float32")
    model = make_model()
    np.testing.assert_allclose(
        view_residual(model, floats, 1), view_residual(model, datamanager, 1), atol=1e-6
    )
