"""nerfstudio's schedule, in numbers that a checkpoint may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler

from t3dgs_masks.plugin.method import t3dgs_splatfacto
from t3dgs_masks.plugin.schedulers import PlainFloatDecaySchedulerConfig

SETTINGS = [
    {"lr_final": 1e-5, "max_steps": 50},
    {"lr_final": None, "max_steps": 40, "warmup_steps": 30},
    {"lr_final": 5e-7, "max_steps": 60, "warmup_steps": 20, "lr_pre_warmup": 0},
    {"lr_final": 1e-4, "max_steps": 60, "warmup_steps": 20, "ramp": "linear"},
]


def schedule(config: ExponentialDecaySchedulerConfig, lr: float = 1e-2) -> tuple[Adam, LRScheduler]:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = Adam([parameter], lr=lr)
    return optimizer, config.setup().get_scheduler(optimizer, lr_init=lr)


def learning_rates(config: ExponentialDecaySchedulerConfig, steps: int) -> list[float]:
    optimizer, scheduler = schedule(config)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("settings", SETTINGS)
def test_learning_rates_are_those_of_nerfstudio(settings: dict) -> None:
    ours = learning_rates(PlainFloatDecaySchedulerConfig(**settings), 80)
    assert ours == learning_rates(ExponentialDecaySchedulerConfig(**settings), 80)
    assert len(set(ours)) > 20
    assert {type(rate) for rate in ours} == {float}


def test_state_goes_through_a_checkpoint_read_as_weights_only(tmp_path: Path) -> None:
    config = PlainFloatDecaySchedulerConfig(lr_final=1e-5, max_steps=50)
    optimizer, scheduler = schedule(config)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state.ckpt")
    of_optimizer, of_scheduler = torch.load(tmp_path / "state.ckpt", weights_only=True)
    resumed, resumed_scheduler = schedule(config)
    resumed.load_state_dict(of_optimizer)
    resumed_scheduler.load_state_dict(of_scheduler)
    for _ in range(5):
        for one in (optimizer, scheduler, resumed, resumed_scheduler):
            one.step()
        assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_the_method_has_no_other_schedules() -> None:
    used = [
        group["scheduler"]
        for group in t3dgs_splatfacto.config.optimizers.values()
        if group["scheduler"]
    ]
    assert len(used) == 3
    assert {type(scheduler) for scheduler in used} == {PlainFloatDecaySchedulerConfig}
