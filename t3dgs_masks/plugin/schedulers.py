"""A learning rate schedule whose checkpoints every torch can read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from nerfstudio.engine.schedulers import ExponentialDecayScheduler, ExponentialDecaySchedulerConfig
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR


class PlainFloatDecayScheduler(ExponentialDecayScheduler):
    """nerfstudio's exponential decay, with Python floats for learning rates.

    The original computes with numpy and so leaves `np.float64` in the optimizers' state, which
    `torch.load` refuses from torch 2.6 on: no checkpoint could be resumed, evaluated or exported.
    """

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        # nerfstudio's formula, from a schedule of an optimizer that nobody uses.
        unused = SGD([torch.zeros(1, requires_grad=True)], lr=lr_init)
        factor: Callable[[int], float] = super().get_scheduler(unused, lr_init).lr_lambdas[0]  # pyright: ignore
        return LambdaLR(optimizer, lr_lambda=lambda step: float(factor(step)))


@dataclass
class PlainFloatDecaySchedulerConfig(ExponentialDecaySchedulerConfig):
    """Configuration of the schedule; fields are nerfstudio's."""

    _target: type = field(default_factory=lambda: PlainFloatDecayScheduler)
