"""What the model learns from, and how it starts again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor

from t3dgs_masks.plugin.cpu import splatfacto_on
from t3dgs_masks.plugin.model import REFINED_KEY, T3dgsSplatfactoModel
from tests.plugin.scenes import (
    HEIGHT,
    NUM_POINTS,
    WIDTH,
    make_camera,
    make_model,
    make_optimizers,
    make_seed_points,
    photo,
    train_steps,
)


def keep_all_but(rows: slice, columns: slice) -> Tensor:
    """[H, W, 1] bool."""
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[rows, columns] = False
    return mask


SPOT = keep_all_but(np.s_[11:25], np.s_[14:30])


def ready(model: T3dgsSplatfactoModel, step: int = 0) -> T3dgsSplatfactoModel:
    model.train()
    model.step_cb(make_optimizers(model), step)
    return model


def loss_and_gradient(
    model: T3dgsSplatfactoModel, batch: dict[str, Any], camera_idx: int = 0
) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient with respect to the render, [h, w, 3]."""
    outputs = model.get_outputs(make_camera(camera_idx))
    outputs["rgb"].retain_grad()
    losses = model.get_loss_dict(outputs, batch)
    model.zero_grad()
    sum(losses.values(), torch.zeros(())).backward()
    assert outputs["rgb"].grad is not None
    return losses["main_loss"].detach(), outputs["rgb"].grad


def render_of(model: T3dgsSplatfactoModel) -> Tensor:
    """[H, W, 3] what the model shows, without gradient."""
    with torch.no_grad():
        render = model.eval().get_outputs(make_camera())["rgb"]
    model.train()
    return render


# --- Masked pixels ----------------------------------------------------------------------------


@pytest.mark.parametrize("ssim_lambda", [0.0, 0.2, 1.0])
def test_masked_pixels_get_no_gradient_at_all(ssim_lambda: float) -> None:
    model = ready(make_model(ssim_lambda=ssim_lambda, background_color="random"))
    _, gradient = loss_and_gradient(model, {"image": photo(), "mask": SPOT})
    masked = ~SPOT[..., 0]
    assert (gradient[masked] == 0).all()
    assert (gradient[~masked] != 0).float().mean() > 0.9


def test_what_the_photo_shows_under_the_mask_changes_nothing() -> None:
    model = ready(make_model())
    image = photo()
    other = torch.where(SPOT, image, 1 - image)
    loss, gradient = loss_and_gradient(model, {"image": image, "mask": SPOT})
    loss_of_other, gradient_of_other = loss_and_gradient(model, {"image": other, "mask": SPOT})
    assert torch.equal(loss, loss_of_other)
    assert torch.equal(gradient, gradient_of_other)


def test_a_render_that_is_right_everywhere_else_is_left_alone() -> None:
    """SSIM windows over the border of the mask see no edge there."""
    model = ready(make_model())
    render = render_of(model)
    image = torch.where(SPOT, render, torch.zeros(3))
    loss, gradient = loss_and_gradient(model, {"image": image, "mask": SPOT})
    assert loss.abs() < 1e-5
    assert gradient.abs().max() < 1e-6


def test_pixels_along_the_border_learn_as_they_would_without_the_mask() -> None:
    """A window that reaches over the border is filled with the render, not with black."""
    model = ready(make_model(ssim_lambda=1.0))
    render = render_of(model)
    image = (render + 0.05 * photo(3)).clamp(0, 1)
    image = torch.where(SPOT, image, render)
    _, masked = loss_and_gradient(model, {"image": image, "mask": SPOT})
    _, whole = loss_and_gradient(model, {"image": image})
    share = SPOT.float().mean()
    torch.testing.assert_close(masked[SPOT[..., 0]] * share, whole[SPOT[..., 0]])


def test_l1_is_the_mean_over_valid_pixels() -> None:
    model = ready(make_model(ssim_lambda=0.0))
    image = photo()
    loss, gradient = loss_and_gradient(model, {"image": image, "mask": SPOT})
    render = render_of(model).numpy().astype(np.float64)
    valid = SPOT[..., 0].numpy()
    errors = np.abs(render - image.numpy())[valid]
    assert float(loss) == pytest.approx(errors.mean(), rel=1e-5)
    # every valid value pulls with the same weight
    np.testing.assert_allclose(np.abs(gradient.numpy()[valid]), 1 / errors.size, rtol=1e-4)


def test_a_quarter_of_the_image_weighs_as_much_as_all_of_it() -> None:
    """The same error everywhere: the mask does not change the loss."""
    model = ready(make_model(ssim_lambda=0.0))
    render = render_of(model)
    image = render + 0.1
    quarter = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    quarter[: HEIGHT // 2, : WIDTH // 2] = True
    for mask in (quarter, SPOT, ~quarter):
        loss, _ = loss_and_gradient(model, {"image": image, "mask": mask})
        assert float(loss) == pytest.approx(0.1, rel=1e-4)


def test_an_image_that_is_masked_everywhere_teaches_nothing() -> None:
    model = make_model()
    optimizers = make_optimizers(model)
    before = {name: value.detach().clone() for name, value in model.gauss_params.items()}
    nothing = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    losses = train_steps(model, optimizers, range(2), {"image": photo(), "mask": nothing})
    assert np.isfinite(losses).all()
    assert np.abs(losses).max() < 1e-2
    for name, value in model.gauss_params.items():
        assert torch.equal(value.detach(), before[name]), name


@pytest.mark.parametrize("as_bytes", [False, True])
def test_without_a_mask_the_loss_is_that_of_splatfacto(as_bytes: bool) -> None:
    model = ready(make_model())
    image = (photo() * 255).to(torch.uint8) if as_bytes else photo()
    outputs = model.get_outputs(make_camera())
    ours = model.get_loss_dict(outputs, {"image": image})
    stock = SplatfactoModel.get_loss_dict(model, outputs, {"image": image})
    assert ours.keys() == stock.keys()
    for name, value in ours.items():
        assert torch.equal(value, stock[name])


def test_a_mask_that_keeps_everything_changes_nothing() -> None:
    model = ready(make_model())
    whole = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    loss, gradient = loss_and_gradient(model, {"image": photo(), "mask": whole})
    unmasked_loss, unmasked = loss_and_gradient(model, {"image": photo()})
    torch.testing.assert_close(loss, unmasked_loss)
    torch.testing.assert_close(gradient, unmasked)


def test_photos_with_alpha_are_put_on_the_background() -> None:
    model = ready(make_model(background_color="white", ssim_lambda=0.0))
    opaque = torch.cat([photo(), torch.ones(HEIGHT, WIDTH, 1)], dim=-1)
    loss, _ = loss_and_gradient(model, {"image": opaque, "mask": SPOT})
    without_alpha, _ = loss_and_gradient(model, {"image": photo(), "mask": SPOT})
    assert torch.equal(loss, without_alpha)
    half = torch.cat([photo(), torch.full((HEIGHT, WIDTH, 1), 0.5)], dim=-1)
    on_white, _ = loss_and_gradient(model, {"image": half, "mask": SPOT})
    mixed, _ = loss_and_gradient(model, {"image": 0.5 * photo() + 0.5, "mask": SPOT})
    torch.testing.assert_close(on_white, mixed)


def test_other_losses_are_not_divided() -> None:
    options = {"use_scale_regularization": True, "max_gauss_ratio": 1.0}
    model = ready(make_model(**options))
    outputs = model.get_outputs(make_camera())
    masked = model.get_loss_dict(outputs, {"image": photo(), "mask": SPOT})
    whole = model.get_loss_dict(outputs, {"image": photo()})
    assert masked["scale_reg"] == whole["scale_reg"]


# --- Downscaled images ------------------------------------------------------------------------


def test_a_small_pixel_that_shows_a_masked_one_is_dropped() -> None:
    model = ready(make_model(num_downscales=1, resolution_schedule=100))
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[10, 21] = False  # in the small image: row 5, column 10
    mask[31, 7] = False  # row 15, column 3
    _, gradient = loss_and_gradient(model, {"image": photo(), "mask": mask})
    assert gradient.shape == (HEIGHT // 2, WIDTH // 2, 3)
    dropped = (gradient == 0).all(dim=-1)
    assert dropped[5, 10]
    assert dropped[15, 3]
    assert dropped.sum() <= 2 + 0.02 * dropped.numel()


def test_at_full_resolution_only_the_masked_pixel_is_dropped() -> None:
    model = ready(make_model(num_downscales=1, resolution_schedule=100), step=100)
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[10, 21] = False
    _, gradient = loss_and_gradient(model, {"image": photo(), "mask": mask})
    assert gradient.shape == (HEIGHT, WIDTH, 3)
    assert (gradient[10, 21] == 0).all()
    assert (gradient[10, 20] != 0).any()


# --- The robust mask --------------------------------------------------------------------------


def with_intruder(model: T3dgsSplatfactoModel) -> tuple[Tensor, Tensor]:
    """The render with something on it that it cannot explain, and where that is ([H, W] bool)."""
    render = render_of(model)
    where = ~SPOT[..., 0]
    noise = 0.01 * torch.randn(render.shape, generator=torch.Generator().manual_seed(1))
    image = (render + noise).clamp(0, 1)
    return torch.where(where[..., None], 1 - render.round(), image), where


def test_what_the_splat_cannot_explain_is_ignored_after_the_warm_up() -> None:
    model = ready(make_model(robust=True))
    warmup = model.config.robust.warmup_steps
    image, where = with_intruder(model)
    inside = torch.zeros_like(where)
    inside[13:23, 16:28] = True
    _, before = loss_and_gradient(model, {"image": image})
    assert (before[inside] != 0).any()
    model.step = warmup - 1
    _, last_before = loss_and_gradient(model, {"image": image})
    assert (last_before[inside] != 0).any()
    model.step = warmup
    _, after = loss_and_gradient(model, {"image": image})
    assert (after[inside] == 0).all()
    assert (after[~where] != 0).float().mean() > 0.8


def test_no_robust_mask_beside_a_refined_one() -> None:
    model = ready(make_model(robust=True), step=10**4)
    image, where = with_intruder(model)
    whole = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    _, gradient = loss_and_gradient(model, {"image": image, "mask": whole, REFINED_KEY: True})
    assert (gradient[where] != 0).any(dim=-1).all()


def test_the_robust_mask_comes_on_top_of_the_users() -> None:
    model = ready(make_model(robust=True), step=10**4)
    image, _ = with_intruder(model)
    corner = keep_all_but(np.s_[:6], np.s_[:6])
    _, gradient = loss_and_gradient(model, {"image": image, "mask": corner})
    assert (gradient[:6, :6] == 0).all()
    assert (gradient[13:23, 16:28] == 0).all()


def test_off_with_a_flag() -> None:
    model = ready(make_model(robust=False), step=10**4)
    image, where = with_intruder(model)
    _, gradient = loss_and_gradient(model, {"image": image})
    assert (gradient[where] != 0).any(dim=-1).all()


def test_not_in_evaluation() -> None:
    model = ready(make_model(robust=True), step=10**4)
    image, _ = with_intruder(model)
    model.eval()
    with torch.no_grad():
        outputs = model.get_outputs(make_camera())
        ours = model.get_loss_dict(outputs, {"image": image})
        stock = SplatfactoModel.get_loss_dict(model, outputs, {"image": image})
    assert torch.equal(ours["main_loss"], stock["main_loss"])


# --- Restarting -------------------------------------------------------------------------------

GROWING = {
    "warmup_length": 3,
    "refine_every": 4,
    "densify_grad_thresh": 1e-6,
    "reset_alpha_every": 100,
}


def test_a_restart_is_a_start() -> None:
    """After it all goes as it did: same parameters, losses, densification and schedules."""
    model = make_model(**GROWING)
    optimizers = make_optimizers(model)
    optimizers_of = optimizers.optimizers
    seeded = {name: value.detach().clone() for name, value in model.gauss_params.items()}
    torch.manual_seed(1)
    first = train_steps(model, optimizers, range(20))
    grown = model.num_points
    assert grown > NUM_POINTS
    trained = model.gauss_params["means"]

    model.restart(optimizers, 20)
    assert model.num_points == NUM_POINTS
    for name, value in model.gauss_params.items():
        assert torch.equal(value.detach(), seeded[name]), name
        assert value.requires_grad
        assert optimizers.optimizers[name].param_groups[0]["params"][0] is value
        assert optimizers.parameters[name][0] is value
        assert not optimizers.optimizers[name].state
    assert optimizers.optimizers is optimizers_of  # the model's strategy holds on to it
    assert optimizers.optimizers["means"].param_groups[0]["lr"] == pytest.approx(5e-3)
    assert model.gauss_params["means"] is not trained

    torch.manual_seed(1)
    second = train_steps(model, optimizers, range(20, 40))
    assert second == first
    assert model.num_points == grown


def test_a_second_restart_starts_from_the_seed_points_too() -> None:
    model = make_model(**GROWING)
    optimizers = make_optimizers(model)
    model.restart(optimizers, 0)
    losses = train_steps(model, optimizers, range(6))
    model.restart(optimizers, 6)
    assert train_steps(model, optimizers, range(6, 12)) == losses


def test_training_leaves_the_seed_points_alone() -> None:
    given = make_seed_points()
    model = make_model(seed_points=given)
    train_steps(model, make_optimizers(model), range(5))
    assert not torch.equal(model.means.detach(), given[0])
    for part, before in zip(given, make_seed_points(), strict=True):
        assert torch.equal(part, before)


def test_what_is_learnt_of_cameras_and_colours_stays() -> None:
    model = make_model(
        camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
        use_bilateral_grid=True,
        grid_shape=(4, 4, 2),
    )
    optimizers = make_optimizers(model)
    assert {"camera_opt", "bilateral_grid"} <= optimizers.optimizers.keys()
    losses = train_steps(model, optimizers, range(8), {"image": photo(), "mask": SPOT})
    assert np.isfinite(losses).all()
    poses = model.camera_optimizer.pose_adjustment.detach().clone()
    grids = model.bil_grids.grids.detach().clone()
    assert poses.any()
    camera_optimizer = optimizers.optimizers["camera_opt"]
    model.restart(optimizers, 8)
    assert torch.equal(model.camera_optimizer.pose_adjustment.detach(), poses)
    assert torch.equal(model.bil_grids.grids.detach(), grids)
    assert optimizers.optimizers["camera_opt"] is camera_optimizer
    assert camera_optimizer.state
    train_steps(model, optimizers, range(8, 12), {"image": photo(), "mask": SPOT})


def test_steps_count_from_the_restart() -> None:
    model = make_model(num_downscales=1, resolution_schedule=10)
    optimizers = make_optimizers(model)
    model.step_cb(optimizers, 15)
    assert model.step == 15
    assert model._get_downscale_factor() == 1
    model.restart(optimizers, 15)
    model.step_cb(optimizers, 15)
    assert model.step == 0
    assert model._get_downscale_factor() == 2


def test_a_checkpoint_of_splatfacto_goes_in_and_out() -> None:
    model, other = make_model(seed_points=make_seed_points(30)), make_model()
    with splatfacto_on("cpu"):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        other.load_state_dict(state)
    assert other.num_points == 30
    assert not [name for name in state if "robust" in name or "seed" in name]
    render = other.eval().get_outputs_for_camera(make_camera())["rgb"]
    assert torch.equal(render, _loaded(model).get_outputs_for_camera(make_camera())["rgb"])


def _loaded(model: T3dgsSplatfactoModel) -> T3dgsSplatfactoModel:
    """At the step at which nerfstudio leaves a model whose checkpoint was loaded."""
    model.step = 30000
    return model.eval()
