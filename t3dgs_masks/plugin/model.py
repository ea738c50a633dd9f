"""Splatfacto that learns nothing from masked pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from torch import Tensor

from t3dgs_masks.plugin.cpu import lpips_or_nan, splatfacto_on
from t3dgs_masks.plugin.robust import RobustLossConfig, RobustMask

REFINED_KEY = "transients_refined"
"""In a batch: its mask is that of a refine, so that no robust mask is needed beside it."""

_KEEP_WHOLE = 0.999  # a downscaled pixel is kept if none of what it shows is masked


@dataclass
class T3dgsSplatfactoModelConfig(SplatfactoModelConfig):
    """Splatfacto with an exact masked loss and a robust one."""

    _target: type = field(default_factory=lambda: T3dgsSplatfactoModel)
    robust: RobustLossConfig = field(default_factory=RobustLossConfig)
    """The loss before the first refine."""


class T3dgsSplatfactoModel(SplatfactoModel):
    """Splatfacto whose loss is the mean over valid pixels.

    Stock splatfacto multiplies render and photo by the mask: its mean still counts the masked
    pixels, and the windows of its SSIM see a black edge along every mask.
    """

    config: T3dgsSplatfactoModelConfig

    def populate_modules(self) -> None:
        if self.seed_points is not None:
            # The parameters would share the seed points' memory on a CPU, and training would
            # change what `restart` starts from.
            xyz, rgb = self.seed_points
            self.seed_points = (xyz.clone(), rgb)
        with splatfacto_on(self._device()), lpips_or_nan():
            super().populate_modules()
        self.robust_mask = RobustMask(self.config.robust)
        self.first_step = 0
        """Step of the trainer at which these Gaussians were seeded (see `restart`)."""
        self._target: Tensor | None = None  # [h, w, 3], what the loss compares with right now
        self._seeded = {
            name: value.detach().to("cpu", copy=True) for name, value in self.gauss_params.items()
        }

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        with splatfacto_on(self.device):
            return super().get_outputs(camera)

    # --- the loss ---------------------------------------------------------------------------------

    def get_loss_dict(
        self,
        outputs: dict[str, Any],
        batch: dict[str, Any],
        metrics_dict: dict[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """nerfstudio's losses, the image loss being the mean over valid pixels.

        Where the mask is off, render and photo are both the render without its gradient. Those
        pixels add nothing to the L1 sum, a window of the SSIM that reaches over the border sees
        no edge there, and no gradient enters. What is left is to divide by the valid share.
        """
        rgb = outputs["rgb"]  # [h, w, 3]
        photo = self.composite_with_background(
            self.get_gt_img(batch["image"]), outputs["background"]
        )
        keep = self._valid_pixels(rgb.detach(), photo, batch)
        if keep is None:
            return super().get_loss_dict(outputs, batch, metrics_dict)
        self._target = torch.where(keep, photo, rgb.detach())
        try:
            losses = super().get_loss_dict(
                {**outputs, "rgb": torch.where(keep, rgb, rgb.detach())},
                {**{k: v for k, v in batch.items() if k != "mask"}, "image": self._target},
                metrics_dict,
            )
        finally:
            self._target = None
        valid_share = keep.float().mean().clamp_min(1 / keep.numel())
        losses["main_loss"] = losses["main_loss"] / valid_share
        return losses

    def get_gt_img(self, image: Tensor) -> Tensor:
        """The photo at the resolution of the render, [h, w, C] float32."""
        if self._target is not None and image is self._target:
            return image  # made by the loss; it has that resolution already
        return super().get_gt_img(image)

    def _valid_pixels(
        self,
        rgb: Tensor,  # [h, w, 3] float32, without gradient
        photo: Tensor,  # [h, w, 3] float32
        batch: Mapping[str, Any],
    ) -> Tensor | None:
        """[h, w, 1] bool, True = learn from it; None: from all pixels."""
        keep = None
        if "mask" in batch:
            mask = self._downscale_if_required(batch["mask"].to(self.device).float())
            keep = mask > _KEEP_WHOLE
        if self._uses_robust_mask(batch):
            robust = ~self.robust_mask.transient((rgb - photo).abs().mean(dim=-1))[..., None]
            keep = robust if keep is None else keep & robust
        return keep

    def _uses_robust_mask(self, batch: Mapping[str, Any]) -> bool:
        config = self.config.robust
        return (
            self.training
            and config.enabled
            and self.step >= config.warmup_steps
            and not batch.get(REFINED_KEY, False)
        )

    # --- restarting ------------- -----------------------------------------------------------------

    def restart(self, optimizers: Optimizers, step: int) -> None:
        """Put the Gaussians back to the seed points, with fresh optimizers and schedules.

        Learnt camera poses and colour grids stay: they are what stage 1 is good for.

        Args:
            optimizers: the trainer's; changed in place, because callbacks hold on to it.
            step: the trainer's next step; schedules that count steps count from here.
        """
        self.gauss_params = torch.nn.ParameterDict(
            {
                name: torch.nn.Parameter(value.to(self.device, copy=True))
                for name, value in self._seeded.items()
            }
        )
        fresh = Optimizers(optimizers.config, self.get_gaussian_param_groups())
        optimizers.optimizers.update(fresh.optimizers)
        optimizers.schedulers.update(fresh.schedulers)
        optimizers.parameters.update(fresh.parameters)
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)
        self.first_step = step

    def load_state_dict(self, dict: Mapping[str, Any], **kwargs: Any) -> None:
        """Load a checkpoint of any number of Gaussians, into the parameters that there are.

        Splatfacto puts new parameters in their place. The optimizers of a resumed training have
        the old ones, and would train nothing until Gaussians are next split (nerfstudio 1.1.5).
        """
        parameters = {name: parameter for name, parameter in self.gauss_params.items()}
        try:
            super().load_state_dict(dict, **kwargs)
        finally:
            for name, parameter in parameters.items():
                parameter.data = self.gauss_params[name].data
                self.gauss_params[name] = parameter

    def step_cb(self, optimizers: Optimizers, step: int) -> None:
        super().step_cb(optimizers, step - self.first_step)

    def step_post_backward(self, step: int) -> None:
        super().step_post_backward(step - self.first_step)

    def _device(self) -> torch.device:
        """Where the model is going to live; `device` is not known before it is populated."""
        default = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(self.kwargs.get("device", default))
