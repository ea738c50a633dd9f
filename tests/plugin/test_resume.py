"""A resumed training goes on where it was: same Gaussians, same optimizers, and they learn."""

from __future__ import annotations

import torch
from nerfstudio.engine.optimizers import Optimizers

from t3dgs_masks.plugin.model import T3dgsSplatfactoModel
from tests.plugin.scenes import (
    make_model,
    make_optimizers,
    make_seed_points,
    train_steps,
)


def _learning(model: T3dgsSplatfactoModel) -> Optimizers:
    optimizers = make_optimizers(model)
    model.train()
    model.step_cb(optimizers, 0)
    return optimizers


def test_the_optimizers_hold_the_loaded_gaussians():
    trained = make_model(seed_points=make_seed_points(50))
    resumed = make_model(seed_points=make_seed_points(80))
    optimizers = _learning(resumed)
    resumed.load_state_dict(trained.state_dict())
    for name, value in trained.gauss_params.items():
        assert torch.equal(resumed.gauss_params[name], value)
        held = optimizers.optimizers[name].param_groups[0]["params"]
        assert len(held) == 1
        assert held[0] is resumed.gauss_params[name]


def test_a_resumed_training_learns():
    trained = make_model(seed_points=make_seed_points(50))
    resumed = make_model(seed_points=make_seed_points(80))
    optimizers = _learning(resumed)
    resumed.load_state_dict(trained.state_dict())
    train_steps(resumed, optimizers, range(3))
    for name in ("means", "features_dc", "opacities", "scales"):
        assert not torch.equal(resumed.gauss_params[name], trained.gauss_params[name]), name


def test_so_does_one_whose_checkpoint_lacks_a_key():
    """nerfstudio then loads a second time, not strictly."""
    trained = make_model(seed_points=make_seed_points(50)).state_dict()
    del trained["device_indicator_param"]
    resumed = make_model(seed_points=make_seed_points(80))
    optimizers = _learning(resumed)
    try:
        resumed.load_state_dict(dict(trained), strict=True)
    except RuntimeError:
        resumed.load_state_dict(dict(trained), strict=False)
    held = optimizers.optimizers["means"].param_groups[0]["params"][0]
    assert held is resumed.gauss_params["means"]
    assert torch.equal(held, trained["gauss_params.means"])


def test_it_goes_on_as_if_it_had_not_stopped():
    """Optimizer state included: five steps are three steps, a checkpoint and two."""
    straight = make_model()
    train_steps(straight, _learning(straight), range(5))

    first = make_model()
    optimizers = _learning(first)
    train_steps(first, optimizers, range(3))
    saved = {
        "model": first.state_dict(),
        "optimizers": {k: v.state_dict() for k, v in optimizers.optimizers.items()},
        "schedulers": {k: v.state_dict() for k, v in optimizers.schedulers.items()},
    }
    second = make_model()
    resumed = _learning(second)
    second.load_state_dict(saved["model"])
    resumed.load_optimizers(saved["optimizers"])
    resumed.load_schedulers(saved["schedulers"])
    train_steps(second, resumed, range(3, 5))
    for name, value in straight.gauss_params.items():
        torch.testing.assert_close(second.gauss_params[name], value, rtol=0, atol=1e-6)
